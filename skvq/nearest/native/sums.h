// Sums of the rows of each code, in float64 and in the order of the rows.

#pragma once

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

// Calls visit(i, x) for each row, of T.
template <class T, class Visit>
SKVQ_INLINE void visit_rows(const Rows &rows, T *memory, const Visit &visit) {
  for (int64_t first = 0; first < rows.n; first += kRows) {
    int m = int(rows.n - first < kRows ? rows.n - first : kRows);
    int64_t stride;
    prefetch_rows(rows, first + 2 * kRows, kRows, 0, rows.d);
    const T *x = rows_of(rows, first, m, 0, rows.d, memory, &stride);
    for (int r = 0; r < m; r++) visit(first + r, x + r * stride);
  }
}

template <class T>
void add_up(const Rows &rows, const int64_t *codes, const double *weights, double *sums,
            double *counts, T *memory) {
  visit_rows(rows, memory, [&](int64_t i, const T *x) SKVQ_INLINE_LAMBDA {
    double weight = weights ? weights[i] : 1.0;
    add_row(x, rows.d, weight, sums + codes[i] * rows.d);
    counts[codes[i]] += weight;
  });
}

}  // namespace
