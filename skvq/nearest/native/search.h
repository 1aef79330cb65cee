// The nearest codeword of a tile of rows, and the second best score.
//
// The score of a codeword c is 1/2 ||c - m||^2 - (x - m).(c - m), where m is the centre of
// the table: half its squared distance, up to a term that is the same for all c.  Rows
// lie in the lanes, and each codeword is broadcast.  A group of codewords competes by
// the least of its scores.  Only for the best group of each row, the same chain of
// multiply-adds finds which codeword it was and how near the others came.

#pragma once

#include "rows.h"

namespace {

// States of the rows of a tile, as in backends/base.py.
enum State : uint8_t { kSure = 0, kCoarse = 1, kDoubtful = 2, kOutOfReach = 3 };

}  // namespace

// Prepared tables of equally many codewords.  See backends/native.py.
struct Codebook {
  int32_t type;
  int32_t width;         // features of a table
  int64_t n_codewords;   // distinct ones of each table
  int64_t n_tables;
  int32_t direct;        // whether scores are the squared distances themselves
  int32_t halved;        // whether distances are half of the squared ones
  const void *groups;    // [table][group][width][kGroup]
  const void *constants; // [table][group][kGroup], +inf behind the last; 8 more
  const void *centre;    // [table][width]
  const void *scale;     // [table]
  const int64_t *first;  // [table][n_codewords], index of each; NULL: its own
  const void *exact;     // [table][n_codewords][width], as given; NULL: unknown
  const void *offset;    // [width], of inner products: what rows were moved by
  int32_t resolves;      // whether near scores are to be decided by distances
  double share;          // see `Margin` in tables.py
  double slack;
  double rounded;
  double near;           // distances below which are too coarse
  double level;          // of inner products: what is added to those with the offset
  double reach;          // and the largest squared norm of the codewords
  // See integers.h; NULL: there are none.
  const int32_t *words;  // [table][group][pair of features][kGroup]
  const int32_t *halves; // [table][group][kGroup]
  const float *per_unit; // [table]
  const float *lost;     // [table]
};

namespace {

// The best of some codewords, for each row of a tile.
template <class T>
struct Best {
  T best[tile_rows<T>];
  T second[tile_rows<T>];
  typename Int<T>::type group[tile_rows<T>];

  SKVQ_INLINE_MEMBER void clear() {
    for (int r = 0; r < tile_rows<T>; r++) {
      best[r] = second[r] = infinity<T>;
      group[r] = 0;
    }
  }
};

// What scores are sums of: products of features, squares of their differences, or two
// products of integers at a time.
enum Terms { kProducts, kSquares, kPairs };

// Scores of a group of codewords for the rows of a tile.  D: their width, 0: any.
template <class T, int D, Terms terms, class V>
SKVQ_INLINE void group_scores(const T *tile, int d, const T *group, const T *constants,
                              V (&score)[kGroup][kVectors]) {
  for (int j = 0; j < kGroup; j++) {
    V h = all<V>(constants[j]);
    for (int g = 0; g < kVectors; g++) score[j][g] = h;
  }
  const int width = D ? D : d;
  // Rows are loaded anew for each group: there are no registers left to keep them in.
  asm volatile("" : "+r"(tile));
  for (int k = 0; k < width; k++) {
    V x[kVectors];
    for (int g = 0; g < kVectors; g++)
      x[g] = load(tile + int64_t(k) * tile_rows<T> + g * lanes<T>);
    for (int j = 0; j < kGroup; j++) {
      V c = all<V>(group[int64_t(k) * kGroup + j]);
      for (int g = 0; g < kVectors; g++) {
        if constexpr (terms == kSquares) {
          V gap = x[g] - c;
          score[j][g] = multiply_add(gap, gap, score[j][g]);
        } else if constexpr (terms == kPairs) {
          score[j][g] = add_pairs(x[g], c, score[j][g]);
        } else {
          score[j][g] = subtract_product(x[g], c, score[j][g]);
        }
      }
    }
  }
}

// Looks for the best of the groups from `low` to `high`.
template <class T, int D, Terms terms>
SKVQ_INLINE void search_groups(const T *tile, int d, const T *groups, const T *constants,
                               int64_t low, int64_t high, Best<T> &found) {
  typedef typename Vector<T>::type V;
  typedef typename Vector<T>::mask M;
  const int width = D ? D : d;
  V best[kVectors], second[kVectors];
  M group[kVectors];
  for (int g = 0; g < kVectors; g++) {
    best[g] = load(found.best + g * lanes<T>);
    second[g] = load(found.second + g * lanes<T>);
    group[g] = M(load(reinterpret_cast<T *>(found.group) + g * lanes<T>));
  }
  for (int64_t q = low; q < high; q++) {
    V score[kGroup][kVectors];
    group_scores<T, D, terms>(tile, d, groups + q * width * kGroup,
                               constants + q * kGroup, score);
    M here = M{} + typename Int<T>::type(q);
    for (int g = 0; g < kVectors; g++) {
      V own[kGroup];
      for (int j = 0; j < kGroup; j++) own[j] = score[j][g];
      V least_of_group = least<kGroup>(own);
      second[g] = smaller(second[g], larger(least_of_group, best[g]));
      M is_less = least_of_group < best[g];
      group[g] = is_less ? here : group[g];
      best[g] = smaller(least_of_group, best[g]);
    }
  }
  for (int g = 0; g < kVectors; g++) {
    store(found.best + g * lanes<T>, best[g]);
    store(found.second + g * lanes<T>, second[g]);
    store(reinterpret_cast<T *>(found.group) + g * lanes<T>, V(group[g]));
  }
}

// -- one row: codewords in the lanes ---------------------------------------------------

// Scores of one group, in the first kGroup of eight lanes; more than one register where
// these are narrow.
template <class T>
struct Eight {
  static constexpr int width = lanes<T> < 8 ? lanes<T> : 8;
  static constexpr int parts = 8 / width;
  typedef typename Vector<T, width>::type V;
  typedef typename Vector<T, width>::mask M;
  V v[parts];
};

template <class T>
SKVQ_INLINE Eight<T> load_eight(const T *from) {
  Eight<T> found;
  for (int p = 0; p < Eight<T>::parts; p++)
    found.v[p] = load<T, Eight<T>::width>(from + p * Eight<T>::width);
  return found;
}

// Adds the contribution of a feature to scores.
template <bool Direct, class T>
SKVQ_INLINE void add_feature(Eight<T> &score, T x, const T *codewords) {
  typedef typename Eight<T>::V V;
  for (int p = 0; p < Eight<T>::parts; p++) {
    V c = load<T, Eight<T>::width>(codewords + p * Eight<T>::width);
    if constexpr (Direct) {
      V gap = all<V>(x) - c;
      score.v[p] = multiply_add(gap, gap, score.v[p]);
    } else {
      score.v[p] = subtract_product(all<V>(x), c, score.v[p]);
    }
  }
}

// The first of a group's scores that is no larger than the best of them; and the second
// best, of the group and of what was known before.
template <class T>
SKVQ_INLINE int settled(const Eight<T> &score, T best, T *second) {
  T own[8];
  for (int p = 0; p < Eight<T>::parts; p++) store(own + p * Eight<T>::width, score.v[p]);
  int at = kGroup - 1;
  for (int j = kGroup - 2; j >= 0; j--) at = own[j] <= best ? j : at;
  own[at] = *second;
  T next = own[0];
  for (int j = 1; j < kGroup; j++) next = own[j] < next ? own[j] : next;
  *second = next;
  return at;
}

#if defined(__AVX2__)
SKVQ_INLINE float least_of_eight(__m256 s) {
  __m128 v = _mm_min_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  v = _mm_min_ps(v, _mm_movehl_ps(v, v));
  v = _mm_min_ss(v, _mm_movehdup_ps(v));
  return _mm_cvtss_f32(v);
}

SKVQ_INLINE int settled(const Eight<float> &score, float best, float *second) {
  constexpr unsigned group = (1u << kGroup) - 1;
  const __m256 s = __m256(score.v[0]);
  __m256 is_best = _mm256_cmp_ps(s, _mm256_set1_ps(best), _CMP_LE_OQ);
  int at = __builtin_ctz((unsigned(_mm256_movemask_ps(is_best)) & group) | 1u << (kGroup - 1));
  const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  __m256i here = _mm256_cmpeq_epi32(places, _mm256_set1_epi32(at));
  // Lanes beyond the group hold no scores.
  here = _mm256_or_si256(here, _mm256_cmpgt_epi32(places, _mm256_set1_epi32(kGroup - 1)));
  *second = least_of_eight(
      _mm256_blendv_ps(s, _mm256_set1_ps(*second), _mm256_castsi256_ps(here)));
  return at;
}
#endif

}  // namespace
