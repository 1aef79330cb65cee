// Cells of numbers, each among the edges of its own column.
//
// Rows are taken as one run of numbers, whatever their width, so that all lanes are full.
// The data of columns are repeated until they fill a whole number of registers: a
// period of positions.  Codes are computed as 32-bit integers in scratch
// memory and narrowed from there.
//
// Comparisons decide which edges a number has reached, so all processors agree.
// Arithmetic only finds where to begin to compare, by steps that are monotone in the
// number.

#include "rows.h"

// Where numbers are cut, by column: at any edges.  See backends/native_levels.py.
struct Edges {
  int32_t type;
  int64_t period;         // positions
  int64_t count;          // of edges to compare with, without buckets
  const void *edges;      // [count][period], NaN where a column has fewer; with buckets,
                          // those of each column, and NaN as far as a search may read
  const int64_t *begin;   // [d], where those of the column begin
  const void *start;      // [period], the first bucket's least number
  const void *per_unit;   // [period], buckets to the unit
  const void *last;       // [period], the last bucket
  const int32_t *buckets; // edges before each bucket; NULL: there are none
  const int64_t *first;   // [d], where those of the column begin
  int32_t step;           // the first of the binary search in a bucket
};

// ... in equal parts.  See `EqualCells` in backends/levels.py.
struct EqualCells {
  int32_t type;
  int64_t period;
  const void *start;      // [period], from where cells are counted
  const void *per_unit;   // [period], cells to the unit
  const void *most;       // [period], the last cell, as a number of the type
  double doubt;           // what a place may be too low by
  const double *low;      // [period], and three more: what edges are computed from
  const double *width;
  const double *size;
  const double *last;
};

namespace {

constexpr int64_t kTileNumbers = 16384;

template <class T>
using Codes = typename Vector<int32_t, lanes<T>>::type;

// The place of each number among equal parts of a range.
template <class T>
SKVQ_INLINE typename Vector<T>::type place(const T *x, const void *start,
                                           const void *per_unit, const void *last,
                                           int64_t at) {
  typedef typename Vector<T>::type V;
  V v = load(x) - load(static_cast<const T *>(start) + at);
  v *= load(static_cast<const T *>(per_unit) + at);
  // This order puts NaN, a product of infinity and zero, into the first cell.
  return smaller(larger(v, V{}), load(static_cast<const T *>(last) + at));
}

// How many edges are reached; of many edges, in which bucket that is decided.
template <class T>
SKVQ_INLINE Codes<T> cells(const Edges &cut, int64_t at, const T *x) {
  typedef typename Vector<T>::type V;
  if (cut.buckets)
    return __builtin_convertvector(place(x, cut.start, cut.per_unit, cut.last, at),
                                   Codes<T>);
  const T *edges = static_cast<const T *>(cut.edges) + at;
  const V v = load(x);
  typename Vector<T>::mask found = {};
  for (int64_t e = 0; e < cut.count; e++) found -= v >= load(edges + e * cut.period);
  return __builtin_convertvector(found, Codes<T>);
}

// Searches the edges of the bucket of each number; column by column, whose tables are
// then in the nearest cache.  First: the first step, 0: any.
template <class T, int First>
__attribute__((noinline)) void settle(const Edges &cut, const T *x, int64_t n,
                                      int64_t d, int32_t *found) {
  const int64_t first = First ? First : cut.step;
  for (int64_t j = 0; j < d; j++) {
    const T *edges = static_cast<const T *>(cut.edges) + cut.begin[j];
    const int32_t *buckets = cut.buckets + cut.first[j];
    for (int64_t i = j; i < n; i += d) {
      // By address, since a branch would be guessed wrongly half of the time.
      const T *below = edges + buckets[found[i]];
      for (int64_t step = first; step; step >>= 1)
        below += -int64_t(x[i] >= below[step - 1]) & step;
      found[i] = int32_t(below - edges);
    }
  }
}

// Computes the cells, and compares with the edge above where rounding could matter.
template <class T>
SKVQ_INLINE Codes<T> cells(const EqualCells &cut, int64_t at, const T *x) {
  typedef typename Vector<T>::type V;
  const V own = place(x, cut.start, cut.per_unit, cut.most, at);
  Codes<T> found = __builtin_convertvector(own, Codes<T>);
  const V above = __builtin_convertvector(found, V) + all<V>(T(1));
  constexpr LaneBits<T> every = LaneBits<T>((1u << lanes<T>) - 1);
  if (less<T>(own + all<V>(T(cut.doubt)), above) == every) return found;
  for (int l = 0; l < lanes<T>; l++) {
    const int64_t j = at + l;
    double upper = found[l] + 1.0;
    upper -= double(x[l]) < cut.low[j] + upper * cut.width[j] / cut.size[j];
    found[l] = int32_t(upper < cut.last[j] ? upper : cut.last[j]);
  }
  return found;
}

template <class T, class Cut>
SKVQ_INLINE void over_run(const Cut &cut, const T *x, int64_t n, int32_t *found) {
  int64_t at = 0;
  for (int64_t i = 0; i < n; i += lanes<T>) {
    store(found + i, cells(cut, at, x + i));
    at += lanes<T>;
    if (at == cut.period) at = 0;
  }
}

template <class T>
void find_tile(const Edges &cut, const T *x, int64_t n, int64_t d, int32_t *found) {
  over_run(cut, x, n, found);
  if (!cut.buckets) return;
  if (cut.step == 1)
    settle<T, 1>(cut, x, n, d, found);
  else
    settle<T, 0>(cut, x, n, d, found);
}

template <class T>
void find_tile(const EqualCells &cut, const T *x, int64_t n, int64_t, int32_t *found) {
  over_run(cut, x, n, found);
}

template <class C>
void narrow(const int32_t *from, int64_t n, void *codes, int64_t begin) {
  C *to = static_cast<C *>(codes) + begin;
  for (int64_t i = 0; i < n; i++) to[i] = C(from[i]);
}

template <class T, class Cut>
void find(const Cut &cut, const Rows &rows, void *codes, int64_t code_bytes,
          Scratch scratch) {
  const int64_t d = rows.d, size = sizeof(T);
  // Whole periods, so that the next tile begins with one.
  const int64_t unit = cut.period / d;
  const int64_t tile = (kTileNumbers / cut.period + 1) * unit;
  T *memory = scratch.take<T>(tile * d);
  int32_t *found = scratch.take<int32_t>(tile * d);
  const bool is_run = rows.type == type_of<T> && rows.row == d * size &&
                      (rows.column == size || d == 1) &&
                      reinterpret_cast<uintptr_t>(rows.x) % size == 0;
  for (int64_t first = 0; first < rows.n; first += tile) {
    const int64_t m = rows.n - first < tile ? rows.n - first : tile, n = m * d;
    const T *x = memory;
    if (is_run && n % lanes<T> == 0)
      x = reinterpret_cast<const T *>(rows.x + first * rows.row);
    else
      copy_rows(rows, first, int(m), 0, int(d), memory);
    // The part of the last register beyond the rows.
    for (int64_t i = n; i % lanes<T>; i++) memory[i] = 0;
    find_tile(cut, x, n, d, found);
    switch (code_bytes) {
      case 1:
        narrow<uint8_t>(found, n, codes, first * d);
        break;
      case 2:
        narrow<uint16_t>(found, n, codes, first * d);
        break;
      case 4:
        narrow<uint32_t>(found, n, codes, first * d);
        break;
      default:
        narrow<uint64_t>(found, n, codes, first * d);
    }
  }
}

template <class Cut>
void find_any(const Cut &cut, const Rows &rows, void *codes, int64_t code_bytes,
              void *scratch) {
  FloatMode mode;
  if (cut.type == kFloat32)
    find<float>(cut, rows, codes, code_bytes, Scratch(scratch));
  else
    find<double>(cut, rows, codes, code_bytes, Scratch(scratch));
}

}  // namespace

// Numbers of type T in a register, of which a period has a whole number.
SKVQ_API int64_t skvq_cells_lanes(int32_t type) {
  return type == kFloat64 ? lanes<double> : lanes<float>;
}

// Bytes of scratch memory that a search with such a period takes.
SKVQ_API int64_t skvq_cells_scratch(int64_t period) {
  return (kTileNumbers + period) * 12 + 4 * 64;
}

// Counts the edges that the numbers of rows have reached; codes (n, d).
SKVQ_API void skvq_cells_between(const Edges *cut, const Rows *rows, void *codes,
                                 int64_t code_bytes, void *scratch) {
  find_any(*cut, *rows, codes, code_bytes, scratch);
}

// Finds the equal cells of the numbers of rows; codes (n, d).
SKVQ_API void skvq_equal_cells(const EqualCells *cut, const Rows *rows, void *codes,
                               int64_t code_bytes, void *scratch) {
  find_any(*cut, *rows, codes, code_bytes, scratch);
}
