// The caller's rows, of any type and strides, copied to tiles feature by feature.

#pragma once

#include "lanes.h"

namespace {

// Types of the caller's numbers, by the numbers that Python gives them.
enum Type : int32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kUint64,
  kInt64,
  kFloat16,
  kFloat32,
  kFloat64
};

template <class T>
constexpr Type type_of = sizeof(T) == 4 ? kFloat32 : kFloat64;

}  // namespace

// A matrix of the caller.  Strides are in bytes, and may be zero or negative.
struct Rows {
  const char *x;
  int64_t n;
  int64_t row;
  int64_t column;
  int32_t type;
  int32_t d;
};

namespace {

template <class S, class T>
SKVQ_INLINE void convert_row(const char *from, int64_t column, int d, T *to) {
  S value;
  if (column == int64_t(sizeof(S))) {
    for (int k = 0; k < d; k++) {
      memcpy(&value, from + k * int64_t(sizeof(S)), sizeof(S));
      to[k] = T(value);
    }
    return;
  }
  for (int k = 0; k < d; k++) {
    memcpy(&value, from + k * column, sizeof(S));
    to[k] = T(value);
  }
}

template <class S, class T>
void convert_rows(const char *from, const Rows &rows, int m, int d, T *to) {
  for (int r = 0; r < m; r++)
    convert_row<S>(from + r * rows.row, rows.column, d, to + int64_t(r) * d);
}

// Copies some features of m rows into an (m, d) array of T.
template <class T>
void copy_rows(const Rows &rows, int64_t first, int m, int begin, int d, T *to) {
  const char *from = rows.x + first * rows.row + begin * rows.column;
  switch (rows.type) {
    case kUint8:
      return convert_rows<uint8_t>(from, rows, m, d, to);
    case kInt8:
      return convert_rows<int8_t>(from, rows, m, d, to);
    case kUint16:
      return convert_rows<uint16_t>(from, rows, m, d, to);
    case kInt16:
      return convert_rows<int16_t>(from, rows, m, d, to);
    case kUint32:
      return convert_rows<uint32_t>(from, rows, m, d, to);
    case kInt32:
      return convert_rows<int32_t>(from, rows, m, d, to);
    case kUint64:
      return convert_rows<uint64_t>(from, rows, m, d, to);
    case kInt64:
      return convert_rows<int64_t>(from, rows, m, d, to);
    case kFloat16:
      return convert_rows<_Float16>(from, rows, m, d, to);
    case kFloat32:
      return convert_rows<float>(from, rows, m, d, to);
    default:
      return convert_rows<double>(from, rows, m, d, to);
  }
}

// Returns some features of m rows, stride numbers apart: the caller's own where they
// lie as T one after the other, otherwise a copy in `memory`, (m, d).
template <class T>
SKVQ_INLINE const T *rows_of(const Rows &rows, int64_t first, int m, int begin, int d,
                             T *memory, int64_t *stride) {
  constexpr int64_t size = sizeof(T);
  bool aligned = reinterpret_cast<uintptr_t>(rows.x) % size == 0 && rows.row % size == 0;
  if (aligned && rows.type == type_of<T> && (rows.column == size || rows.d == 1)) {
    *stride = rows.row / size;
    return reinterpret_cast<const T *>(rows.x + first * rows.row +
                                       begin * rows.column);
  }
  copy_rows(rows, first, m, begin, d, memory);
  *stride = d;
  return memory;
}

// Asks for some features of m rows, if there are so many, before they are needed; if
// those before them have not asked for the same line of the cache.
SKVQ_INLINE void prefetch_rows(const Rows &rows, int64_t first, int m, int begin, int d) {
  constexpr int64_t line = 64;
  const int64_t n_bytes = d * rows.column;
  if (n_bytes <= 0 || begin * rows.column % line >= n_bytes) return;
  for (int r = 0; r < m && first + r < rows.n; r++) {
    const char *from = rows.x + (first + r) * rows.row + begin * rows.column;
    for (int64_t at = 0; at < n_bytes; at += line) __builtin_prefetch(from + at, 0, 2);
  }
}

// -- transposition ---------------------------------------------------------------------

// Eight rows of eight floats into as many columns.
SKVQ_INLINE void transpose_eight(Vector<float, 8>::type (&rows)[8]) {
  typedef Vector<float, 8>::type V;
  V a[8], b[8];
  for (int i = 0; i < 4; i++) {
    V x = rows[2 * i], y = rows[2 * i + 1];
    b[2 * i] = __builtin_shufflevector(x, y, 0, 8, 1, 9, 4, 12, 5, 13);
    b[2 * i + 1] = __builtin_shufflevector(x, y, 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int half = 0; half < 2; half++)
    for (int e = 0; e < 2; e++) {
      V x = b[half * 4 + e], y = b[half * 4 + 2 + e];
      int at = half * 4 + e * 2;
      a[at] = __builtin_shufflevector(x, y, 0, 1, 8, 9, 4, 5, 12, 13);
      a[at + 1] = __builtin_shufflevector(x, y, 2, 3, 10, 11, 6, 7, 14, 15);
    }
  for (int k = 0; k < 4; k++) {
    V x = a[k], y = a[4 + k];
    rows[k] = __builtin_shufflevector(x, y, 0, 1, 2, 3, 8, 9, 10, 11);
    rows[k + 4] = __builtin_shufflevector(x, y, 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// Eight rows of eight floats, or four of four doubles, into as many columns.
SKVQ_INLINE void transpose_block(const float *from, int64_t stride, float *to,
                                 int64_t apart) {
  Vector<float, 8>::type rows[8];
  for (int i = 0; i < 8; i++) rows[i] = load<float, 8>(from + i * stride);
  transpose_eight(rows);
  for (int k = 0; k < 8; k++) store(to + k * apart, rows[k]);
}

SKVQ_INLINE void transpose_block(const double *from, int64_t stride, double *to,
                                 int64_t apart) {
  typedef Vector<double, 4>::type V;
  V a[4], b[4];
  for (int i = 0; i < 4; i++) a[i] = load<double, 4>(from + i * stride);
  for (int i = 0; i < 2; i++) {
    V x = a[2 * i], y = a[2 * i + 1];
    b[2 * i] = __builtin_shufflevector(x, y, 0, 4, 2, 6);
    b[2 * i + 1] = __builtin_shufflevector(x, y, 1, 5, 3, 7);
  }
  for (int e = 0; e < 2; e++) {
    V x = b[e], y = b[2 + e];
    store(to + e * apart, __builtin_shufflevector(x, y, 0, 1, 4, 5));
    store(to + (e + 2) * apart, __builtin_shufflevector(x, y, 2, 3, 6, 7));
  }
}

// Writes m rows into a tile, [k][tile_rows]; missing rows become zeros.
template <class T>
__attribute__((noinline)) void transpose(const T *from, int64_t stride, int m, int d, T *tile) {
  constexpr int n = tile_rows<T>, side = sizeof(T) == 4 ? 8 : 4;
  int r = 0;
  for (; r + side <= m; r += side) {
    const T *rows = from + r * stride;
    int64_t k = 0;
    for (; k + side <= d; k += side)
      transpose_block(rows + k, stride, tile + k * n + r, n);
    for (; k < d; k++)
      for (int i = 0; i < side; i++) tile[k * n + r + i] = rows[i * stride + k];
  }
  for (; r < n; r++)
    for (int k = 0; k < d; k++)
      tile[int64_t(k) * n + r] = r < m ? from[r * stride + k] : T(0);
}

// Subtracts the centre from the rows of a tile, scales them, returns squared norms.
template <class T>
__attribute__((noinline)) void centre_tile(T *tile, int d, const T *centre, T scale, T *norms) {
  typedef typename Vector<T>::type V;
  constexpr int n = tile_rows<T>;
  V sums[kVectors];
  for (int g = 0; g < kVectors; g++) sums[g] = V{};
  for (int k = 0; k < d; k++)
    for (int g = 0; g < kVectors; g++) {
      T *at = tile + int64_t(k) * n + g * lanes<T>;
      V v = (load(at) - all<V>(centre[k])) * all<V>(scale);
      store(at, v);
      sums[g] = multiply_add(v, v, sums[g]);
    }
  for (int g = 0; g < kVectors; g++) store(norms + g * lanes<T>, sums[g]);
}

}  // namespace
