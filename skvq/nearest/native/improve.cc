// Iterated conditional modes by look-up: the best codeword of one table, while those of
// all others are held, for many steps.
//
// The score of codeword c of a table, 1/2 ||c||^2 - (x - sum of the others).c, is a part
// that depends on the row alone, computed once, plus the products of c with each of the
// others, which are looked up: m - 1 additions per codeword instead of d products.
//
// Products come from far memory, at random, so a step takes as long as their bytes do.
// Therefore they are added up in words of 16 bits first.  Whatever all codewords of a
// table have in common does not decide between them: the least of each row of products
// is subtracted, and what is left is rounded down to multiples of a step.  A sum of m
// words is then below the score by less than m steps, and few codewords remain within
// that of the best: mostly one, which needs no scores at all.  (With steps of half the
// size, sums of the best reach the largest word too often.)

#include "rows.h"

// The products of the codewords of m tables.  See backends/native.py.
struct Pairs {
  int32_t type;
  int32_t n_tables;
  const int64_t *sizes;          // [n_tables]
  const int64_t *starts;         // [n_tables + 1], first score of each table in a row,
                                 // a multiple of kUnit
  const void *const *products;   // [j][o], (size of o, padded size of j); o != j
  uint16_t *const *words;        // the same, in words
  double *steps;                 // [n_tables], that words of its scores count
};

// Rows, and the sums that are to come nearer to them.
struct Improved {
  int64_t n;
  int64_t d;
  const void *scores;            // [n][starts[n_tables]], +inf behind those of a table
  uint16_t *words;               // the same, in words
  const void *room;              // [n], within which scores may be in another order
  const double *least;           // [n], distances up to which float64 does not tell
  const void *given;             // [n][d], rows, and
  const void *const *exact;      // [n_tables], tables, without the centres' rounding
  int64_t *codes;                // [n][n_tables]
  uint8_t *state;                // [n], set to 2 where a choice is not sure
};

namespace {

constexpr int kMostTables = 64;
// Vectors of scores at a time; each set has a best of its own.
constexpr int kSets = kPanelVectors;
// Words of a vector, and what stands for all numbers of so many steps or more.  A sum that
// is less has no such term.
constexpr int kWords = kVectorBytes / 2;
constexpr int kLargest = 65535;
// Codewords that are looked at together, and those that are one by one.
constexpr int kUnit = 64;
constexpr int kMostNear = 32;

typedef uint16_t Words __attribute__((vector_size(kVectorBytes)));
typedef uint16_t LooseWords
    __attribute__((vector_size(kVectorBytes), aligned(2), may_alias));

SKVQ_INLINE Words load_words(const uint16_t *from) {
  return *reinterpret_cast<const LooseWords *>(from);
}

// Sums that would be larger than the largest number are that.
SKVQ_INLINE Words add_words(Words a, Words b) {
#if defined(__AVX512BW__)
  return Words(_mm512_adds_epu16(__m512i(a), __m512i(b)));
#elif defined(__AVX2__)
  return Words(_mm256_adds_epu16(__m256i(a), __m256i(b)));
#else
  Words sum = a + b;
  return sum | Words(sum < a);
#endif
}

SKVQ_INLINE Words smaller_words(Words a, Words b) {
#if defined(__AVX512BW__)
  return Words(_mm512_min_epu16(__m512i(a), __m512i(b)));
#elif defined(__AVX2__)
  return Words(_mm256_min_epu16(__m256i(a), __m256i(b)));
#else
  return a < b ? a : b;
#endif
}

// The smallest word of a vector.
SKVQ_INLINE unsigned least_word(Words v) {
#if defined(__AVX2__)
#if defined(__AVX512BW__)
  __m256i half = _mm256_min_epu16(_mm512_castsi512_si256(__m512i(v)),
                                  _mm512_extracti64x4_epi64(__m512i(v), 1));
#else
  __m256i half = __m256i(v);
#endif
  __m128i quarter = _mm_min_epu16(_mm256_castsi256_si128(half),
                                  _mm256_extracti128_si256(half, 1));
  return unsigned(_mm_extract_epi16(_mm_minpos_epu16(quarter), 0));
#else
  unsigned found = v[0];
  for (int l = 1; l < kWords; l++) found = v[l] < found ? v[l] : found;
  return found;
#endif
}

// A table of a row, and the codewords of the other tables, which are held.
template <class T>
struct Held {
  const Pairs &pairs;
  const int64_t *codes;
  int64_t from, j, size, width;
  const T *own;  // scores without the others

  Held(const Pairs &pairs, const Improved &rows, int64_t i, int64_t j)
      : pairs(pairs), codes(rows.codes + i * pairs.n_tables),
        from(i * pairs.starts[pairs.n_tables] + pairs.starts[j]), j(j),
        size(pairs.sizes[j]), width(pairs.starts[j + 1] - pairs.starts[j]),
        own(static_cast<const T *>(rows.scores) + from) {}

  // The products, or their words, with the codeword of another table.
  SKVQ_INLINE_MEMBER const T *products(int64_t o) const {
    const void *all = pairs.products[j * pairs.n_tables + o];
    return static_cast<const T *>(all) + codes[o] * width;
  }
  SKVQ_INLINE_MEMBER const uint16_t *words(int64_t o) const {
    return pairs.words[j * pairs.n_tables + o] + codes[o] * width;
  }
  T score(int64_t k) const {
    T sum = own[k];
    for (int64_t o = 0; o < pairs.n_tables; o++)
      if (o != j) sum += products(o)[k];
    return sum;
  }
};

// Codewords that may be the best, and what is known of the best two scores.
template <class T>
struct BestOfTable {
  int64_t code;
  T score, next;

  SKVQ_INLINE_MEMBER void take(int64_t k, T found) {
    bool better = found < score;
    T loser = better ? score : found;
    next = loser < next ? loser : next;
    code = better ? k : code;
    score = better ? found : score;
  }
};

// A bit for each of kUnit sums that is up to a bound.
SKVQ_INLINE uint64_t up_to_word(const uint16_t *sums, Words bound) {
  uint64_t found = 0;
#if defined(__AVX512BW__)
  for (int e = 0; e < 2; e++)
    found |= uint64_t(_mm512_cmple_epu16_mask(__m512i(load_words(sums + e * kWords)),
                                              __m512i(bound)))
             << (e * kWords);
#elif defined(__AVX2__)
  for (int e = 0; e < 4; e += 2) {
    Words low = load_words(sums + e * kWords), high = load_words(sums + (e + 1) * kWords);
    __m256i both = _mm256_packs_epi16(
        _mm256_cmpeq_epi16(__m256i(smaller_words(low, bound)), __m256i(low)),
        _mm256_cmpeq_epi16(__m256i(smaller_words(high, bound)), __m256i(high)));
    both = _mm256_permute4x64_epi64(both, 0xd8);
    found |= uint64_t(unsigned(_mm256_movemask_epi8(both))) << (e * kWords);
  }
#else
  for (int k = 0; k < kUnit; k++) found |= uint64_t(sums[k] <= bound[0]) << k;
#endif
  return found;
}

// Finds codewords whose words come near to the least, and returns how many there are; 0
// if words do not tell.
template <class T>
SKVQ_INLINE int near_words(const Held<T> &held, const uint16_t *own, double step,
                           T room, uint16_t *sums, int32_t *near) {
  const uint16_t *others[kMostTables];
  int n_others = 0;
  for (int o = 0; o < held.pairs.n_tables; o++)
    if (o != held.j) others[n_others++] = held.words(o);
  constexpr int n = kUnit / kWords;
  Words low[n];
  for (int e = 0; e < n; e++) low[e] = Words{} + uint16_t(-1);
  for (int64_t k = 0; k < held.width; k += kUnit) {
    Words sum[n];
    for (int e = 0; e < n; e++) sum[e] = load_words(own + k + e * kWords);
    for (int o = 0; o < n_others; o++)
      for (int e = 0; e < n; e++)
        sum[e] = add_words(sum[e], load_words(others[o] + k + e * kWords));
    for (int e = 0; e < n; e++) {
      *reinterpret_cast<LooseWords *>(sums + k + e * kWords) = sum[e];
      low[e] = smaller_words(low[e], sum[e]);
    }
  }
  for (int e = 1; e < n; e++) low[0] = smaller_words(low[0], low[e]);
  // Each term was rounded down, and scores themselves are rounded by less than a step.
  double most = double(least_word(low[0])) + n_others + 2;
  if (room > 0) most += double(room) / step + 1;
  if (!(most < kLargest)) return 0;
  const Words bound = Words{} + uint16_t(most);
  // Without a branch for where the only one is, which nobody could predict.
  int64_t count = 0, place = 0;
  for (int64_t k = 0; k < held.width; k += kUnit) {
    const uint64_t some = up_to_word(sums + k, bound);
    count += __builtin_popcountll(some);
    place += some ? k + __builtin_ctzll(some) : 0;
  }
  near[0] = int32_t(place);
  if (count == 1) return 1;
  if (count > kMostNear) return 0;
  count = 0;
  for (int64_t k = 0; k < held.width; k += kUnit)
    for (uint64_t some = up_to_word(sums + k, bound); some; some &= some - 1)
      near[count++] = int32_t(k + __builtin_ctzll(some));
  return int(count);
}

// Finds the best of all codewords by their scores.
template <class T>
__attribute__((noinline)) BestOfTable<T> best_of_all(const Held<T> &held) {
  typedef typename Vector<T>::type V;
  typedef typename Vector<T>::mask M;
  V best[kSets], second[kSets];
  M at[kSets];
  for (int e = 0; e < kSets; e++) {
    best[e] = second[e] = all<V>(infinity<T>);
    at[e] = M{};
  }
  for (int64_t k = 0; k < held.width; k += panel_width<T>) {
    V score[kSets];
    for (int e = 0; e < kSets; e++) score[e] = load(held.own + k + e * lanes<T>);
    for (int64_t o = 0; o < held.pairs.n_tables; o++) {
      if (o == held.j) continue;
      const T *products = held.products(o) + k;
      for (int e = 0; e < kSets; e++) score[e] += load(products + e * lanes<T>);
    }
    M here = M{} + typename Int<T>::type(k);
    for (int e = 0; e < kSets; e++) {
      second[e] = smaller(second[e], larger(score[e], best[e]));
      M is_less = score[e] < best[e];
      at[e] = is_less ? here : at[e];
      best[e] = smaller(score[e], best[e]);
    }
  }
  BestOfTable<T> found = {held.size, infinity<T>, infinity<T>};
  for (int e = 0; e < kSets; e++)
    for (int l = 0; l < lanes<T>; l++) {
      int64_t place = int64_t(at[e][l]) + e * lanes<T> + l;
      T score = best[e][l], next = second[e][l];
      bool better = score < found.score || (score == found.score && place < found.code);
      T loser = better ? found.score : score;
      loser = next < loser ? next : loser;
      found.next = loser < found.next ? loser : found.next;
      found.code = better ? place : found.code;
      found.score = better ? score : found.score;
    }
  // The caller checks for scores that are NaN.
  if (found.code >= held.size) found.code = 0;
  return found;
}

// Decides between scores that rounding may have put in another order, by distances.
// Marks the row if they do not tell either.
template <class T>
__attribute__((noinline)) int64_t settle(const Improved &rows, int64_t i,
                                         const Held<T> &held, T most, bool is_judged,
                                         const int32_t *near, int n_near) {
  const int d = int(rows.d);
  const T *x = static_cast<const T *>(rows.given) + i * d;
  int64_t code = -1;
  double least = infinity<double>;
  const int64_t n = n_near ? n_near : held.size;
  for (int64_t e = 0; e < n; e++) {
    const int64_t k = n_near ? near[e] : e;
    if (!(held.score(k) <= most)) continue;
    double distance = distance_from_sum(x, d, rows.exact, held.pairs.n_tables,
                                        held.codes, held.j, k);
    if (code >= 0 && !(distance < least)) continue;
    code = k;
    least = distance;
  }
  // This is true for NaN.
  if (is_judged && !(least > rows.least[i])) rows.state[i] = 2;
  return code < 0 ? held.codes[held.j] : code;
}

template <class T>
SKVQ_INLINE int64_t choose(const Pairs &pairs, const Improved &rows, int64_t i, int j,
                           bool is_judged, uint16_t *sums) {
  const Held<T> held(pairs, rows, i, j);
  const T room = static_cast<const T *>(rows.room)[i];
  int32_t near[kMostNear];
  const int n_near =
      near_words(held, rows.words + held.from, pairs.steps[j], room, sums, near);
  if (n_near == 1) return near[0];
  BestOfTable<T> best = {-1, infinity<T>, infinity<T>};
  for (int e = 0; e < n_near; e++) best.take(near[e], held.score(near[e]));
  if (best.code < 0) best = best_of_all(held);
  // The comparison is false for NaN.
  if (best.next - best.score > room) return best.code;
  return settle(rows, i, held, best.score + room, is_judged, near, n_near);
}

// Prefetches the words that a row is about to look up, which are far apart.
SKVQ_INLINE void prefetch(const Pairs &pairs, const Improved &rows, int64_t i, int j) {
  const int64_t width = pairs.starts[j + 1] - pairs.starts[j];
  const int64_t *codes = rows.codes + i * pairs.n_tables;
  for (int o = 0; o < pairs.n_tables; o++) {
    if (o == j) continue;
    const uint16_t *row =
        pairs.words[int64_t(j) * pairs.n_tables + o] + codes[o] * width;
    for (int64_t k = 0; k < width; k += 32) __builtin_prefetch(row + k);
  }
  const uint16_t *own = rows.words + i * pairs.starts[pairs.n_tables] + pairs.starts[j];
  for (int64_t k = 0; k < width; k += 32) __builtin_prefetch(own + k);
}

template <class T>
void improve(const Pairs &pairs, const Improved &rows, const int64_t *order,
             int64_t n_steps, bool is_judged, uint16_t *sums) {
  // A table after the other for a few rows: its products stay in the cache.
  constexpr int64_t some = 32;
  for (int64_t first = 0; first < rows.n; first += some) {
    int64_t last = first + some < rows.n ? first + some : rows.n;
    for (int64_t s = 0; s < n_steps; s++) {
      const int j = int(order[s]);
      for (int64_t i = first; i < last; i++) {
        if (i + 1 < last) prefetch(pairs, rows, i + 1, j);
        rows.codes[i * pairs.n_tables + j] =
            choose<T>(pairs, rows, i, j, is_judged, sums);
      }
    }
  }
}

// Writes numbers above the least of them in steps, rounded down; what is more than the
// largest word is that.
template <class T>
SKVQ_INLINE void in_words(const T *from, int64_t n, T least, double step, uint16_t *to) {
  for (int64_t k = 0; k < n; k++) {
    double steps = (double(from[k]) - double(least)) / step;
    to[k] = uint16_t(steps < kLargest ? steps : kLargest);
  }
}

template <class T>
SKVQ_INLINE T least_of(const T *numbers, int64_t n) {
  T found = infinity<T>;
  for (int64_t k = 0; k < n; k++) found = numbers[k] < found ? numbers[k] : found;
  return found;
}

template <class T>
void pack_pairs(const Pairs &pairs) {
  const int m = pairs.n_tables;
  for (int j = 0; j < m; j++) {
    const int64_t size = pairs.sizes[j], width = pairs.starts[j + 1] - pairs.starts[j];
    double range = 0;
    for (int o = 0; o < m; o++) {
      const T *rows = static_cast<const T *>(pairs.products[int64_t(j) * m + o]);
      double most = 0;
      for (int64_t v = 0; o != j && v < pairs.sizes[o]; v++) {
        const T *row = rows + v * width;
        const double least = least_of(row, size);
        for (int64_t k = 0; k < size; k++) {
          // Also at least the numbers themselves, whose rounding is to be below a step.
          double here = double(row[k]) - (least < 0 ? least : 0.0);
          most = here > most ? here : most;
        }
        most = -least > most ? -least : most;
      }
      range += most;
    }
    // No sum of products is larger than the largest word.
    const double step = range > 0 && range < infinity<double> ? range / kLargest : 1;
    pairs.steps[j] = step;
    for (int o = 0; o < m; o++) {
      const T *rows = static_cast<const T *>(pairs.products[int64_t(j) * m + o]);
      uint16_t *words = pairs.words[int64_t(j) * m + o];
      for (int64_t v = 0; o != j && v < pairs.sizes[o]; v++) {
        const T *row = rows + v * width;
        in_words(row, size, least_of(row, size), step, words + v * width);
        for (int64_t k = size; k < width; k++) words[v * width + k] = 0;
      }
    }
  }
}

template <class T>
void pack_scores(const Pairs &pairs, const Improved &rows) {
  const int64_t apart = pairs.starts[pairs.n_tables];
  for (int64_t i = 0; i < rows.n; i++)
    for (int j = 0; j < pairs.n_tables; j++) {
      const int64_t from = i * apart + pairs.starts[j], size = pairs.sizes[j];
      const T *own = static_cast<const T *>(rows.scores) + from;
      uint16_t *to = rows.words + from;
      T least = least_of(own, size), most = least < 0 ? -least : least;
      for (int64_t k = 0; k < size; k++) most = own[k] > most ? own[k] : most;
      // Where rounding of the scores comes near to a step, words do not tell; NaN too.
      const bool is_told = double(most) < pairs.steps[j] * 262144;
      in_words(own, size, is_told ? least : -infinity<T>, pairs.steps[j], to);
      for (int64_t k = size; k < pairs.starts[j + 1] - pairs.starts[j]; k++)
        to[k] = kLargest;
    }
}

}  // namespace

// Writes the squared distances (n,) of rows from their sums.
SKVQ_API void skvq_sum_errors(const Pairs *pairs, const Improved *rows, double *errors) {
  FloatMode mode;
  const int d = int(rows->d), m = pairs->n_tables;
  for (int64_t i = 0; i < rows->n; i++) {
    const int64_t *codes = rows->codes + i * m;
    if (pairs->type == kFloat32)
      errors[i] = distance_from_sum(static_cast<const float *>(rows->given) + i * d, d,
                                    rows->exact, m, codes, -1, 0);
    else
      errors[i] = distance_from_sum(static_cast<const double *>(rows->given) + i * d, d,
                                    rows->exact, m, codes, -1, 0);
  }
}

// Makes the words of the products, and their steps.
SKVQ_API void skvq_pack_pairs(const Pairs *pairs) {
  FloatMode mode;
  if (pairs->type == kFloat32)
    pack_pairs<float>(*pairs);
  else
    pack_pairs<double>(*pairs);
}

// Makes the words of the scores of rows.
SKVQ_API void skvq_pack_scores(const Pairs *pairs, const Improved *rows) {
  FloatMode mode;
  if (pairs->type == kFloat32)
    pack_scores<float>(*pairs, *rows);
  else
    pack_scores<double>(*pairs, *rows);
}

// Takes the best codeword of the tables in an order, each in place of the one before.
// Near scores are told apart by distances; if it is judged, rows where these do not tell
// either are marked.  Scratch: 2 bytes for each score of the largest table.
SKVQ_API void skvq_improve(const Pairs *pairs, const Improved *rows,
                           const int64_t *order, int64_t n_steps, int32_t is_judged,
                           void *scratch) {
  FloatMode mode;
  uint16_t *sums = static_cast<uint16_t *>(scratch);
  if (pairs->type == kFloat32)
    improve<float>(*pairs, *rows, order, n_steps, is_judged, sums);
  else
    improve<double>(*pairs, *rows, order, n_steps, is_judged, sums);
}
