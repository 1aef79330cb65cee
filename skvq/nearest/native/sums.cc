// Sums of the rows of each code, in float64 and in the order of the rows.

#include "rows.h"

namespace {

// Adds a row, times its weight, to a sum.
template <class T>
SKVQ_INLINE void add_row(const T *x, int d, double weight, double *sum) {
  constexpr int n = lanes<double>;
  typedef typename Vector<double>::type V;
  int k = 0;
  for (; k + n <= d; k += n) {
    V v = __builtin_convertvector((load<T, n>(x + k)), V);
    store(sum + k, multiply_add(v, all<V>(weight), load(sum + k)));
  }
  for (; k < d; k++) sum[k] = multiply_add(double(x[k]), weight, sum[k]);
}

constexpr int kRows = 16;

template <class T>
void add_up(const Rows &rows, const int64_t *codes, const double *weights, double *sums,
            double *counts, T *memory) {
  const int d = rows.d;
  for (int64_t first = 0; first < rows.n; first += kRows) {
    int m = int(rows.n - first < kRows ? rows.n - first : kRows);
    int64_t stride;
    const T *x = rows_of(rows, first, m, 0, d, memory, &stride);
    for (int r = 0; r < m; r++) {
      int64_t code = codes[first + r];
      double weight = weights ? weights[first + r] : 1.0;
      add_row(x + r * stride, d, weight, sums + code * d);
      counts[code] += weight;
    }
  }
}

}  // namespace

// Bytes of scratch memory that sums of rows of so many features take.
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
