// The k rows of packed codes with the smallest sums of table entries, exactly.
//
// The score of row i is factor_i * (t_0[c_i0] + t_1[c_i1] + ...) + offset_i, added in
// this order and rounded at each step, in the tables' type, as NumPy does it.  Few rows
// need that: a sum of bytes that saturates at 255, each entry rounded down, is a lower
// bound, and only the rows that pass it are added up.
//
// Codes lie in blocks of 256 rows, byte by byte: (n_blocks, n_bytes, 256).  Each column
// is within a byte.  A byte is looked up whole in a table of 256 bytes, or, where no
// column crosses its middle, by halves in two tables of 16; both are in registers.
// Rows are scanned in tiles, each with tables of bytes for the bound at its beginning,
// so that 254 is the largest sum that may pass.
//
// What bounds it: for the codes of 8 bits of one column, two shuffles and a blend for
// 64 rows with AVX-512 VBMI, and 46 instructions for 32 rows with AVX2; for those of 4
// bits, a shuffle, and the memory that codes are read from.  1,000,000 rows of 8 and 16
// codes of 8 bits, and of 16 of 4, take 1.4, 2.8 and .5 ms with AVX2 (EPYC of the third
// generation, one thread).

#include "bytes.h"
#include "rows.h"

namespace {

constexpr int kBlock = 256;
// Rows of the first tile, and of those that follow it.
constexpr int64_t kFirstTile = 1024, kTile = 1 << 17;
// Vectors of rows beside each other.
constexpr int kBeside = 4;
constexpr int kStep = kBeside * kVectorBytes;
static_assert(kBlock % kStep == 0, "a block is cut in steps");
constexpr int kMost = 254;

// Where a column is: its code is (byte >> shift) & mask, its table begins at `start`,
// and has `size` entries.
struct Column {
  int32_t byte, shift, mask, start, size;
};

// The arguments of a scan; Python has the same structure (backends/native_scan.py).
struct Task {
  const uint8_t *blocks;
  // Rows have the numbers `first`, `first` + 1, ...
  int64_t n_rows, first, n_bytes;
  const Column *columns;
  int64_t n_columns;
  // Terms of each row, padded to whole blocks, or null.  A factor needs an offset.
  const void *factor, *offset;
  const void *tables;  // (n_queries, n_entries)
  int64_t n_entries, n_queries, k;
  // Heaps, (n_queries, k), of what was found before: infinity and the largest number
  // stand for nothing.
  double *scores;
  int64_t *rows;
  void *scratch;
  int32_t type;  // of factor, offset and tables
};

// -- the k best ------------------------------------------------------------------------

// A heap with the worst at its top.  The caller fills it with infinite scores.
struct Best {
  double *scores;
  int64_t *rows;
  int64_t k;

  double bound() const { return scores[0]; }

  // Replaces the worst entry by a better one.
  void offer(double score, int64_t row) {
    if (!is_worse(0, score, row)) return;
    int64_t at = 0;
    for (;;) {
      int64_t below = 2 * at + 1;
      if (below >= k) break;
      below += below + 1 < k && is_worse(below + 1, scores[below], rows[below]);
      if (!is_worse(below, score, row)) break;
      scores[at] = scores[below], rows[at] = rows[below];
      at = below;
    }
    scores[at] = score, rows[at] = row;
  }

 private:
  bool is_worse(int64_t at, double score, int64_t row) const {
    return scores[at] > score || (scores[at] == score && rows[at] > row);
  }
};

// -- one query -------------------------------------------------------------------------

template <class T>
struct Scan {
  const uint8_t *blocks;
  int64_t n_bytes, n_columns;
  const Column *columns;
  const T *factor, *offset;  // of each row, or null; no factor without offset
  const T *table;
  // The least of each column, the sums of these and of the largest magnitudes.
  double *least;
  double all_least, reach;
  uint8_t *bytes;  // tables of bytes, 256 for each byte of the codes
  bool *halves;    // whether a byte is looked up by halves
};

template <class T>
T score_of(const Scan<T> &scan, int64_t row) {
  const uint8_t *codes =
      scan.blocks + row / kBlock * kBlock * scan.n_bytes + row % kBlock;
  T sum = 0;
  for (int64_t j = 0; j < scan.n_columns; ++j) {
    const Column &column = scan.columns[j];
    const int code = codes[column.byte * kBlock] >> column.shift & column.mask;
    sum += scan.table[column.start + code];
  }
  if (scan.factor) sum *= scan.factor[row];
  if (scan.offset) sum += scan.offset[row];
  return sum + T(0);  // -0 becomes 0
}

template <class T>
void measure(Scan<T> &scan) {
  using V = typename Vector<T>::type;
  scan.all_least = scan.reach = 0;
  for (int64_t j = 0; j < scan.n_columns; ++j) {
    const T *t = scan.table + scan.columns[j].start;
    const int size = scan.columns[j].size;
    T least = t[0], most = t[0];
    if (size >= lanes<T>) {
      V lows = load<T>(t), highs = lows;
      // The last vector may have some of the one before it.
      for (int v = lanes<T>; v < size; v += lanes<T>) {
        const V some = load<T>(t + (v + lanes<T> <= size ? v : size - lanes<T>));
        lows = smaller(lows, some), highs = larger(highs, some);
      }
      for (int i = 0; i < lanes<T>; ++i) {
        least = lows[i] < least ? lows[i] : least;
        most = highs[i] > most ? highs[i] : most;
      }
    }
    for (int v = 1; size < lanes<T> && v < size; ++v) {
      least = t[v] < least ? t[v] : least;
      most = t[v] > most ? t[v] : most;
    }
    scan.least[j] = double(least);
    scan.all_least += double(least);
    scan.reach += double(-least > most ? -least : most);
  }
}

// -- lower bounds ----------------------------------------------------------------------

// Bytes for n of the values of a part of a byte, which begins at bit `up`: how far the
// entries are above the least of their columns, together, in units of 1 / scale.
template <class T>
void fill(const Scan<T> &scan, int64_t begin, int64_t end, int n, int up, double scale,
          uint8_t *to) {
  double sums[256];
  for (int i = 0; i < n; ++i) sums[i] = 0;
  for (int64_t j = begin; j < end; ++j) {
    const Column &column = scan.columns[j];
    const T *t = scan.table + column.start;
    const double least = scan.least[j];
    if (column.mask == n - 1) {
      for (int i = 0; i < column.size; ++i) sums[i] += double(t[i]) - least;
      continue;
    }
    for (int i = 0; i < n; ++i) {
      const int code = i << up >> column.shift & column.mask;
      sums[i] += code < column.size ? double(t[code]) - least : 0;
    }
  }
  for (int i = 0; i < n; ++i) {
    const double scaled = sums[i] * scale;
    to[i] = uint8_t(int(scaled < 255 ? scaled : 255));
  }
}

template <class T>
void make_tables(const Scan<T> &scan, double scale) {
  scale *= 1 - 0x1p-40;  // rounding makes nothing larger
  int64_t begin = 0;
  for (int64_t b = 0; b < scan.n_bytes; ++b) {
    int64_t middle = begin, end = begin;
    bool halves = true;
    for (; end < scan.n_columns && scan.columns[end].byte == b; ++end) {
      if (scan.columns[end].shift >= 4)
        ++middle;
      else
        halves &= scan.columns[end].mask << scan.columns[end].shift < 16;
    }
    uint8_t *to = scan.bytes + 256 * b;
    scan.halves[b] = halves;
    if (halves) {
      fill(scan, middle, end, 16, 0, scale, to);
      fill(scan, begin, middle, 16, 4, scale, to + 16);
    } else {
      fill(scan, begin, end, 256, 0, scale, to);
      prepare_256(to);
    }
    begin = end;
  }
}

// The rounding error of a sum of so many terms, as a share of their reach, and of the
// quantities computed from it below.  Rows come in order, so that only a score below the
// bound is better, and what is rounded to less is less.  So the exact sum of a better
// row is at most (bound - offset) / factor and n + 10 roundings of the reach: n in the
// sum and the product, and those of this quotient, which is no more than twice the
// reach where it matters, and of its difference from the base.
template <class T>
double rounding(int64_t n_terms) {
  return double(2 * n_terms + 16) * (sizeof(T) == 4 ? 0x1p-24 : 0x1p-53);
}

// The largest sums of table entries with which rows have scores up to a bound; `most`
// stands for all that are larger.
template <class T, bool kFactor>
SKVQ_INLINE typename Vector<T>::type allowed(const Scan<T> &scan, int64_t row, T bound,
                                             T most) {
  using V = typename Vector<T>::type;
  V sums = bound - load<T>(scan.offset + row);
  if (kFactor) {
    const V factor = load<T>(scan.factor + row);
    sums = factor > 0 ? sums / factor : all<V>(most);
  }
  return larger(smaller(sums, all<V>(most)), all<V>(-most));
}

// The largest of those, of rows whose scores grow with their sums; or -infinity, where
// no row can have such a score.
template <class T, bool kFactor>
double most_allowed(const Scan<T> &scan, int64_t begin, int64_t end, T bound, T most,
                    double base) {
  using V = typename Vector<T>::type;
  V largest = all<V>(-most), least = all<V>(T(1));
  // Beyond the end, rows have what the caller has filled the block with.
  for (int64_t row = begin; row < end; row += lanes<T>) {
    V sums = allowed<T, kFactor>(scan, row, bound, most);
    if (kFactor) {
      const V factor = load<T>(scan.factor + row);
      sums = factor > 0 ? sums : all<V>(-most);
      least = smaller(least, factor);
    }
    largest = larger(largest, sums);
  }
  double found = double(-most);
  bool all_grow = true;
  for (int i = 0; i < lanes<T>; ++i) {
    found = double(largest[i]) > found ? double(largest[i]) : found;
    all_grow &= least[i] > 0;
  }
  return all_grow && found < base ? -infinity<double> : found;
}

// The largest sums of bytes that kStep rows may have.
template <class T, bool kFactor>
SKVQ_INLINE void byte_limits(const Scan<T> &scan, int64_t row, T bound, T most, T base,
                             T scale, uint8_t *to) {
  using V = typename Vector<T>::type;
  using Floats = Vector<float, lanes<T>>;
  using Narrow = typename Vector<uint8_t, lanes<T>>::type;
  for (int i = 0; i < kStep; i += lanes<T>) {
    V sums = (allowed<T, kFactor>(scan, row + i, bound, most) - base) * scale;
    sums = larger(smaller(sums + T(.01), all<V>(T(255))), V{});
    const auto single = __builtin_convertvector(sums, typename Floats::type);
    const auto whole = __builtin_convertvector(single, typename Floats::mask);
    store<uint8_t>(to + i, __builtin_convertvector(whole, Narrow));
  }
}

// The bounds of kStep rows.
template <class T>
SKVQ_INLINE void add_bytes(const Scan<T> &scan, int64_t row, Bytes *sums) {
  const uint8_t *codes =
      scan.blocks + row / kBlock * kBlock * scan.n_bytes + row % kBlock;
  for (int i = 0; i < kBeside; ++i) sums[i] = Bytes{};
  for (int64_t b = 0; b < scan.n_bytes; ++b, codes += kBlock) {
    const uint8_t *table = scan.bytes + 256 * b;
    Bytes x[kBeside];
    for (int i = 0; i < kBeside; ++i) x[i] = load<uint8_t>(codes + i * kVectorBytes);
    if (scan.halves[b]) {
      const Bytes low = table_16(table), high = table_16(table + 16);
      for (int i = 0; i < kBeside; ++i) {
        sums[i] = add_saturating(sums[i], look_up_16(low, x[i] & 15));
        sums[i] = add_saturating(sums[i], look_up_16(high, x[i] >> 4));
      }
    } else {
      look_up_256<kBeside>(table, x);
      for (int i = 0; i < kBeside; ++i) sums[i] = add_saturating(sums[i], x[i]);
    }
  }
}

// Rows from `begin`, a multiple of kStep, to `end`; row 0 has the number `first`.
template <class T, bool kOffset, bool kFactor>
void scan_tile(const Scan<T> &scan, int64_t begin, int64_t end, int64_t first,
               Best &best) {
  const double room = rounding<T>(scan.n_columns);
  const double base = scan.all_least - room * scan.reach;
  const T most = T(4 * scan.reach);
  double bound = best.bound();
  const double largest =
      kOffset ? most_allowed<T, kFactor>(scan, begin, end, T(bound), most, base)
      : bound < base ? -infinity<double> : bound;
  if (largest == -infinity<double>) return;
  const double tiny = sizeof(T) == 4 ? 1e-30 : 1e-280;
  const double scale = kMost / (largest - base > tiny ? largest - base : tiny);
  make_tables(scan, scale);

  alignas(64) uint8_t limits[kStep];
  memset(limits, kMost, kStep);
  for (int64_t row = begin; row < end; row += kStep) {
    Bytes sums[kBeside];
    add_bytes(scan, row, sums);
    if (kOffset)
      byte_limits<T, kFactor>(scan, row, T(bound), most, T(base), T(scale), limits);
    uint64_t passed[kBeside], any = 0;
    for (int i = 0; i < kBeside; ++i) {
      passed[i] = at_most(sums[i], load<uint8_t>(limits + i * kVectorBytes));
      any |= passed[i];
    }
    if (__builtin_expect(!any, 1)) continue;
    for (int i = 0; i < kBeside; ++i) {
      for (uint64_t mask = passed[i]; mask; mask &= mask - 1) {
        const int64_t at = row + i * kVectorBytes + __builtin_ctzll(mask);
        if (at >= end) return;
        best.offer(double(score_of(scan, at)), first + at);
      }
    }
    if (best.bound() == bound) continue;
    bound = best.bound();
    if (!kOffset) {
      const double sum = (bound - base) * scale;
      if (sum < 0) return;
      memset(limits, sum < kMost ? int(sum) : kMost, kStep);
    }
  }
}

template <class T>
void scan_rows(const Scan<T> &scan, int64_t n_rows, int64_t first, Best &best) {
  int64_t row = 0;
  // Until there are k rows, every row is among the best.
  const bool is_new = best.bound() == infinity<double>;
  for (; row < n_rows && (row % kStep || best.bound() == infinity<double>); ++row)
    best.offer(double(score_of(scan, row)), first + row);
  const auto scan_some = !scan.offset  ? scan_tile<T, false, false>
                         : scan.factor ? scan_tile<T, true, true>
                                       : scan_tile<T, true, false>;
  for (int64_t tile = is_new ? kFirstTile : kTile; row < n_rows;) {
    const int64_t end = row + tile < n_rows ? row + tile : n_rows;
    scan_some(scan, row, end, first, best);
    row = end;
    tile = 4 * tile < kTile ? 4 * tile : kTile;
  }
}

template <class T>
void scan_queries(const Task &task) {
  Scratch scratch(task.scratch);
  Scan<T> scan;
  scan.blocks = task.blocks, scan.n_bytes = task.n_bytes;
  scan.columns = task.columns, scan.n_columns = task.n_columns;
  scan.factor = static_cast<const T *>(task.factor);
  scan.offset = static_cast<const T *>(task.offset);
  scan.least = scratch.take<double>(task.n_columns);
  scan.bytes = scratch.take<uint8_t>(256 * task.n_bytes);
  scan.halves = scratch.take<bool>(task.n_bytes);
  for (int64_t q = 0; q < task.n_queries; ++q) {
    scan.table = static_cast<const T *>(task.tables) + q * task.n_entries;
    measure(scan);
    Best best = {task.scores + q * task.k, task.rows + q * task.k, task.k};
    scan_rows(scan, task.n_rows, task.first, best);
  }
}

// -- blocks ----------------------------------------------------------------------------

// The bytes of the first or the last halves of a and b in turn.
SKVQ_INLINE Sixteen first_halves(Sixteen a, Sixteen b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22,
                                 7, 23);
}
SKVQ_INLINE Sixteen last_halves(Sixteen a, Sixteen b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14,
                                 30, 15, 31);
}

// Eight bytes, and zeros.
SKVQ_INLINE Sixteen eight(const uint8_t *from) {
  typedef uint64_t Halves __attribute__((vector_size(16)));
  uint64_t first;
  memcpy(&first, from, 8);
  return Sixteen(Halves{first, 0});
}

// Halves how many columns each of N vectors is of, and doubles the rows.
template <int N>
SKVQ_INLINE void spread(Sixteen *v) {
  if constexpr (N > 1) {
    for (int i = 0; i < N / 2; ++i) {
      const Sixteen a = v[i], b = v[i + N / 2];
      v[i] = first_halves(a, b);
      v[i + N / 2] = last_halves(a, b);
    }
    spread<N / 2>(v);
    spread<N / 2>(v + N / 2);
  }
}

// Puts eight bytes of sixteen rows into their places.
SKVQ_INLINE void transpose(const uint8_t *rows, int64_t stride, uint8_t *to) {
  Sixteen v[8];
  for (int i = 0; i < 8; ++i)
    v[i] = first_halves(eight(rows + i * stride), eight(rows + (i + 8) * stride));
  spread<8>(v);
  for (int b = 0; b < 8; ++b) store(to + b * kBlock, v[b]);
}

}  // namespace

// The k best of some rows, for each of some tables.
SKVQ_API void skvq_scan(const Task *task) {
  const FloatMode mode;
  (task->type == kFloat32 ? scan_queries<float> : scan_queries<double>)(*task);
}

// Bytes of scratch memory that a scan takes.
SKVQ_API int64_t skvq_scan_scratch(int64_t n_bytes, int64_t n_columns) {
  return 8 * n_columns + 257 * n_bytes + 256;
}

// Puts rows of bytes, `stride` apart, into blocks; what is left of the last is zero.
SKVQ_API void skvq_scan_blocks(const uint8_t *rows, int64_t stride, int64_t n_rows,
                               int64_t n_bytes, uint8_t *blocks) {
  if (n_rows % kBlock)
    memset(blocks + n_rows / kBlock * kBlock * n_bytes, 0, size_t(kBlock * n_bytes));
  for (int64_t row = 0; row < n_rows; row += 16, rows += 16 * stride) {
    uint8_t *to = blocks + row / kBlock * kBlock * n_bytes + row % kBlock;
    if (row + 16 <= n_rows && n_bytes >= 8) {
      for (int64_t b = 0; b < n_bytes; b += 8) {
        const int64_t at = b + 8 <= n_bytes ? b : n_bytes - 8;
        transpose(rows + at, stride, to + at * kBlock);
      }
      continue;
    }
    const int64_t n = row + 16 <= n_rows ? 16 : n_rows - row;
    for (int64_t b = 0; b < n_bytes; ++b)
      for (int64_t i = 0; i < n; ++i) to[b * kBlock + i] = rows[i * stride + b];
  }
}
