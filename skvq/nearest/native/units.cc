// Rows divided by their norms.
//
// A row is scaled by the power of two that brings its largest number near to one, which
// is exact, so that squares neither overflow nor vanish; their sum is of float64.

#include "rows.h"

namespace {

constexpr int kUnitRows = 16;

// A power of two that brings a number near one; for denormals, the largest there is.
SKVQ_INLINE float power_beside(float largest) {
  uint32_t bits;
  memcpy(&bits, &largest, sizeof(bits));
  const uint32_t exponent = bits >> 23;
  bits = (exponent < 254 ? 254 - exponent : 1) << 23;
  memcpy(&largest, &bits, sizeof(bits));
  return largest;
}
SKVQ_INLINE double power_beside(double largest) {
  uint64_t bits;
  memcpy(&bits, &largest, sizeof(bits));
  const uint64_t exponent = bits >> 52;
  bits = (exponent < 2046 ? 2046 - exponent : 1) << 52;
  memcpy(&largest, &bits, sizeof(bits));
  return largest;
}

template <class T>
T largest_of(const T *x, int d) {
  typedef typename Vector<T>::type V;
  V most = {};
  int k = 0;
  for (; k + lanes<T> <= d; k += lanes<T>) {
    const V v = load(x + k);
    most = larger(larger(v, -v), most);
  }
  T found = 0;
  for (int l = 0; l < lanes<T>; l++) found = most[l] > found ? most[l] : found;
  for (; k < d; k++) {
    const T size = x[k] < 0 ? -x[k] : x[k];
    found = size > found ? size : found;
  }
  return found;
}

template <class T>
void divide(const T *__restrict x, int d, T *__restrict unit) {
  const T scale = power_beside(largest_of(x, d));
  for (int k = 0; k < d; k++) unit[k] = x[k] * scale;
  const T norm = T(__builtin_sqrt(squared_distance(unit, static_cast<T *>(nullptr), d)));
  // Zero divided by zero gives NaN.
  for (int k = 0; k < d; k++) unit[k] /= norm;
}

template <class T>
void divide_rows(const Rows &rows, T *units, T *memory) {
  const int d = rows.d;
  for (int64_t first = 0; first < rows.n; first += kUnitRows) {
    const int m = int(rows.n - first < kUnitRows ? rows.n - first : kUnitRows);
    int64_t stride;
    const T *x = rows_of(rows, first, m, 0, d, memory, &stride);
    for (int r = 0; r < m; r++) divide(x + r * stride, d, units + (first + r) * d);
  }
}

}  // namespace

// Bytes of scratch memory that rows of so many features take.
SKVQ_API int64_t skvq_unit_rows_scratch(int64_t d) { return kUnitRows * d * 8 + 64; }

// Divides rows by their norms, into (n, d) of float64 or float32; those of zeros become
// NaN.
SKVQ_API void skvq_unit_rows(const Rows *rows, int32_t type, void *units,
                             void *scratch) {
  FloatMode mode;
  if (type == kFloat64)
    divide_rows(*rows, static_cast<double *>(units), Scratch(scratch).take<double>(0));
  else
    divide_rows(*rows, static_cast<float *>(units), Scratch(scratch).take<float>(0));
}
