// The nearest codeword by integers of 16 bits: a processor multiplies and adds twice as
// many of them, and most rows are so much nearer to one codeword than to all others that
// this is enough.  Codes are those of the multiply-adds of floats, since rows of which
// that is not known are searched again.
//
// Rows and codewords, relative to the centre, are multiplied by the same number and
// rounded.  Squared distances of what they have become are then sums of integers that are
// exact, and by the triangle inequality each distance is off by no more than the length
// of what rounding has taken from the row, plus that of the codeword.  A codeword is
// nearer than another if it is so for all that this leaves open, and by more than what
// rounding makes of the scores of floats.

#pragma once

#include "search.h"

namespace {

// The longest codeword becomes one of this length, and rows that become longer than the
// other are left.  Squares of their distances then fit into 32 bits without a sign,
// scores into 32 with one, and features into 16.
constexpr double kLongest = 27000;
constexpr float kLongestRow = 32700;
// Up to this many features, lengths of what is lost are small beside those, and float
// is good enough to sum them.
constexpr int64_t kMostIntegers = 4096;
// Added to what is lost: some times the rounding of lengths up to 60,000 in float.
constexpr float kLostToFloat = 0.05f;

// A table in integers.
struct Integers {
  const int32_t *words;   // [group][pair of features][kGroup]; NULL: there is none
  const int32_t *halves;  // [group][kGroup], of squared norms
  float per_unit;         // what numbers are multiplied by
  float lost;             // most that a codeword has lost, and that lengths of floats do
};

// A tile in integers.
struct RoundedTile {
  int32_t *words;    // [pair of features][tile_rows]
  int32_t *squares;  // of the rows' lengths
  float *lost;       // squared lengths of what the rows have lost
  int n_pairs;
};

// Subtracts the centre from the rows of a tile, scales them, and returns their squared
// norms, as `centre_tile` does, but keeps them only if that is asked for; and rounds them.
template <class T>
__attribute__((noinline)) void round_tile(T *tile, int d, const T *centre, T scale,
                                          T *norms, bool are_kept, T per_unit,
                                          const RoundedTile &to) {
  typedef typename Vector<T>::type V;
  typedef Vector<int32_t>::type I;
  constexpr int n = tile_rows<T>;
  // What it is added to has no digits behind the point.
  const V whole = all<V>(T(3 << 22));
  I sums[kVectors];
  V squares[kVectors], errors[kVectors];
  for (int g = 0; g < kVectors; g++) {
    sums[g] = I{};
    squares[g] = errors[g] = V{};
  }
  for (int k = 0; k < d; k += 2)
    for (int g = 0; g < kVectors; g++) {
      T *at = tile + int64_t(k) * n + g * lanes<T>;
      V a = (load(at) - all<V>(centre[k])) * all<V>(scale), b = V{};
      squares[g] = multiply_add(a, a, squares[g]);
      if (are_kept) store(at, a);
      if (k + 1 < d) {
        b = (load(at + n) - all<V>(centre[k + 1])) * all<V>(scale);
        squares[g] = multiply_add(b, b, squares[g]);
        if (are_kept) store(at + n, b);
      }
      a *= all<V>(per_unit);
      b *= all<V>(per_unit);
      V p = (a + whole) - whole, q = (b + whole) - whole;
      a -= p;
      b -= q;
      errors[g] = multiply_add(a, a, errors[g]);
      errors[g] = multiply_add(b, b, errors[g]);
      I low = __builtin_convertvector(p, I), high = __builtin_convertvector(q, I);
      I both = (low & 0xffff) | (high << 16);
      sums[g] = add_pairs(both, both, sums[g]);
      store(to.words + int64_t(k / 2) * n + g * lanes<T>, both);
    }
  for (int g = 0; g < kVectors; g++) {
    store(norms + g * lanes<T>, squares[g]);
    store(to.squares + g * lanes<T>, sums[g]);
    store(to.lost + g * lanes<T>, errors[g]);
  }
}

// A place in a group takes the last bits of a score, of which it changes nothing that
// matters.
constexpr int32_t kPlaceBits = 7;

// Finds the best codeword of the best group of each row, and its number; the second best
// score is then that of the codewords of this group, too.
template <class T>
__attribute__((noinline)) void settle_integers(const Integers &table,
                                               const RoundedTile &tile,
                                               Best<int32_t> &found, int64_t *code) {
  typedef Vector<int32_t, 8>::type I;
  typedef typename Vector<T, 8>::type V;
  constexpr int n = tile_rows<T>, several = 8;
  static_assert(n % several == 0, "rows beyond the tile would be read");
  for (int r = 0; r < n; r += several) {
    I score[several];
    const int32_t *groups[several];
    for (int e = 0; e < several; e++) {
      int64_t q = found.group[r + e];
      score[e] = load<int32_t, 8>(table.halves + q * kGroup);
      groups[e] = table.words + q * kGroup * tile.n_pairs;
    }
    for (int p = 0; p < tile.n_pairs; p++)
      for (int e = 0; e < several; e++)
        score[e] = add_pairs(all<I>(tile.words[int64_t(p) * n + r + e]),
                             load<int32_t, 8>(groups[e] + int64_t(p) * kGroup), score[e]);
    V columns[several];
    for (int e = 0; e < several; e++) columns[e] = V(score[e]);
    transpose_eight(columns);
    I low = all<I>(infinity<int32_t>), high = load<int32_t, 8>(found.second + r);
    for (int j = 0; j < kGroup; j++) {
      I own = (I(columns[j]) & ~kPlaceBits) | j;
      high = smaller(high, larger(own, low));
      low = smaller(own, low);
    }
    store(found.best + r, low);
    store(found.second + r, high);
    I group = load<int32_t, 8>(found.group + r);
    for (int e = 0; e < several; e++)
      code[r + e] = int64_t(group[e]) * kGroup + (low[e] & kPlaceBits);
  }
}

// Writes the squared distances of a tile to its codes, at most; and by how much half of
// those to other codewords are larger, at least: zero or less if that is not known.
template <class T>
SKVQ_INLINE void bound_distances(const Integers &table, const RoundedTile &tile,
                                 const Best<int32_t> &found, const T *norms, T *distances,
                                 T *ahead) {
  typedef typename Vector<T>::type V;
  typedef Vector<uint32_t>::type U;
  const T unit = 1 / table.per_unit, area = unit * unit;
  const V longest = all<V>(kLongestRow * kLongestRow * area);
  for (int at = 0; at < tile_rows<T>; at += lanes<T>) {
    const U square = U(load(tile.squares + at));
    const U best = U(load(found.best + at) | kPlaceBits);
    const U second = U(load(found.second + at) | kPlaceBits);
    const U near = square + (best + best);
    U far = square + (second + second);
    // The last bits of twice the score, and of the halves of odd squares, may be less.
    constexpr uint32_t more = 2 * kPlaceBits + 1;
    far = far > more ? far - more : U{};
    V left = square_root(load(tile.lost + at)) + all<V>(table.lost);
    V most = square_root(__builtin_convertvector(near, V)) + left;
    V least = square_root(__builtin_convertvector(far, V)) - left;
    V by = (least - most) * (least + most) * all<V>(T(0.5) * area);
    store(ahead + at, load(norms + at) <= longest ? by : V{});
    store(distances + at, most * most * all<V>(area));
  }
}

// Rounds a table of [-C^T; constants], (width + 1, size).  Returns whether that can be
// done: not if scores of the table are something else than distances, nor if its
// codewords are so short, or long, that their squares are at the ends of floats.
template <class T>
bool pack_integers(const T *weights, int64_t size, int64_t width, bool direct,
                   int32_t *words, int32_t *halves, float *per_unit, float *lost) {
  const int64_t n_pairs = (width + 1) / 2;
  double longest = 0, worst = 0;
  for (int64_t first = 0; first < size; first += kGroup) {
    const int m = int(size - first < kGroup ? size - first : kGroup);
    double norm[kGroup] = {};
    for (int64_t k = 0; k < width; k++)
      for (int j = 0; j < m; j++) {
        double w = weights[k * size + first + j];
        norm[j] += w * w;
      }
    for (int j = 0; j < m; j++) {
      double more = double(weights[width * size + first + j]) - 0.5 * norm[j];
      // No more than the rounding of features and constants.
      if (!direct && !((more < 0 ? -more : more) <= 0x1p-22 * norm[j])) return false;
      longest = norm[j] > longest ? norm[j] : longest;
    }
  }
  if (!(longest > 1e-20 && longest < 1e30) || width > kMostIntegers) return false;
  *per_unit = float(kLongest / __builtin_sqrt(longest));
  const double by = *per_unit;
  for (int64_t first = 0; first < size; first += kGroup) {
    const int m = int(size - first < kGroup ? size - first : kGroup);
    int32_t *group = words + first * n_pairs;
    memset(group, 0, size_t(n_pairs) * kGroup * sizeof(*group));
    int64_t square[kGroup] = {};
    double gone[kGroup] = {};
    for (int64_t k = 0; k < width; k++)
      for (int j = 0; j < m; j++) {
        double w = double(weights[k * size + first + j]) * by;
        const int32_t whole = int32_t(w < 0 ? w - 0.5 : w + 0.5);
        square[j] += int64_t(whole) * whole;
        gone[j] += (w - whole) * (w - whole);
        group[k / 2 * kGroup + j] |=
            int32_t(k % 2 ? uint32_t(whole) << 16 : uint32_t(whole) & 0xffff);
      }
    for (int j = 0; j < kGroup; j++) {
      halves[first + j] = j < m ? int32_t((square[j] + 1) / 2) : infinity<int32_t>;
      worst = gone[j] > worst ? gone[j] : worst;
    }
  }
  *lost = float(__builtin_sqrt(worst)) + kLostToFloat;
  return true;
}

}  // namespace
