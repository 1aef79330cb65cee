// Sums of the rows of each code; and squared distances of rows from theirs.

#include "sums.h"

namespace {

template <class T>
void gaps(const Rows &rows, const double *codewords, const int64_t *codes, double *found,
          T *memory) {
  visit_rows(rows, memory, [&](int64_t i, const T *x) SKVQ_INLINE_LAMBDA {
    found[i] = squared_distance(x, codewords + (codes ? codes[i] : i) * rows.d, rows.d);
  });
}

}  // namespace

// Bytes of scratch memory that rows of so many features take here.
SKVQ_API int64_t skvq_sums_scratch(int64_t d) { return kRows * d * 8 + 64; }

// Adds rows to the sums (n_codewords, d) and weights to the counts (n_codewords,) of
// their codes.
SKVQ_API void skvq_sums(const Rows *rows, const int64_t *codes, const double *weights,
                        double *sums, double *counts, void *scratch) {
  FloatMode mode;
  if (rows->type == kFloat32)
    add_up(*rows, codes, weights, sums, counts, Scratch(scratch).take<float>(0));
  else
    add_up(*rows, codes, weights, sums, counts, Scratch(scratch).take<double>(0));
}

// Finds the squared distances, in float64, of rows from the codewords of their codes; or,
// without codes, from the same rows of others.
SKVQ_API void skvq_squared_gaps(const Rows *rows, const double *codewords,
                                const int64_t *codes, double *found, void *scratch) {
  FloatMode mode;
  if (rows->type == kFloat32)
    gaps(*rows, codewords, codes, found, Scratch(scratch).take<float>(0));
  else
    gaps(*rows, codewords, codes, found, Scratch(scratch).take<double>(0));
}
