// Iterated conditional modes by look-up: the best codeword of one table, while those of
// all others are held, for many steps.
//
// The score of codeword c of a table, 1/2 ||c||^2 - (x - sum of the others).c, is a part
// that depends on the row alone, computed once, plus the products of c with each of the
// others, which are looked up: m - 1 additions per codeword instead of d products.

#include "rows.h"

// The products of the codewords of m tables.  See backends/native.py.
struct Pairs {
  int32_t type;
  int32_t n_tables;
  const int64_t *sizes;          // [n_tables]
  const int64_t *starts;         // [n_tables + 1], first score of each table in a row
  const void *const *products;   // [j][o], (size of o, padded size of j); o != j
};

namespace {

constexpr int kMostTables = 64;
// Vectors of scores at a time; each set has a best of its own.
constexpr int kSets = kPanelVectors;

// Returns the best codeword of table j, and how far the second best score is from it.
template <class T>
SKVQ_INLINE int64_t best_of_table(const Pairs &pairs, int j, const T *own,
                                  const int64_t *codes, T *gap) {
  typedef typename Vector<T>::type V;
  typedef typename Vector<T>::mask M;
  const T *others[kMostTables];
  int n_others = 0;
  const int64_t width = pairs.starts[j + 1] - pairs.starts[j];
  for (int o = 0; o < pairs.n_tables; o++)
    if (o != j)
      others[n_others++] =
          static_cast<const T *>(pairs.products[j * pairs.n_tables + o]) +
          codes[o] * width;
  V best[kSets], second[kSets];
  M at[kSets];
  for (int e = 0; e < kSets; e++) {
    best[e] = second[e] = all<V>(infinity<T>);
    at[e] = M{};
  }
  for (int64_t k = 0; k < width; k += panel_width<T>) {
    V score[kSets];
    for (int e = 0; e < kSets; e++) score[e] = load(own + k + e * lanes<T>);
    for (int o = 0; o < n_others; o++)
      for (int e = 0; e < kSets; e++) score[e] += load(others[o] + k + e * lanes<T>);
    M here = M{} + typename Int<T>::type(k);
    for (int e = 0; e < kSets; e++) {
      second[e] = smaller(second[e], larger(score[e], best[e]));
      M is_less = score[e] < best[e];
      at[e] = is_less ? here : at[e];
      best[e] = smaller(score[e], best[e]);
    }
  }
  // The least of all, the first among equals.
  for (int e = 1; e < kSets; e++) {
    M place = at[e] + typename Int<T>::type(e * lanes<T>);
    M is_less = (best[e] < best[0]) | ((best[e] == best[0]) & (place < at[0]));
    second[0] = smaller(smaller(second[0], second[e]), larger(best[0], best[e]));
    at[0] = is_less ? place : at[0];
    best[0] = smaller(best[0], best[e]);
  }
  T bests[lanes<T>], seconds[lanes<T>], found = infinity<T>, next = infinity<T>;
  typename Int<T>::type places[lanes<T>];
  store(bests, best[0]);
  store(seconds, second[0]);
  memcpy(places, &at[0], sizeof(at[0]));
  int64_t code = pairs.sizes[j];
  for (int l = 0; l < lanes<T>; l++) {
    int64_t place = places[l] + l;
    bool better = bests[l] < found || (bests[l] == found && place < code);
    T loser = better ? found : bests[l];
    loser = seconds[l] < loser ? seconds[l] : loser;
    next = loser < next ? loser : next;
    found = better ? bests[l] : found;
    code = better ? place : code;
  }
  *gap = next - found;
  // The caller checks for scores that are NaN.
  return code < pairs.sizes[j] ? code : 0;
}

// Prefetches the products that a row is about to look up, which are far apart.
template <class T>
SKVQ_INLINE void prefetch(const Pairs &pairs, int j, const int64_t *codes) {
  const int64_t width = pairs.starts[j + 1] - pairs.starts[j];
  for (int o = 0; o < pairs.n_tables; o++) {
    if (o == j) continue;
    const T *row = static_cast<const T *>(pairs.products[j * pairs.n_tables + o]) +
                   codes[o] * width;
    for (int64_t k = 0; k < width; k += 64 / int64_t(sizeof(T)))
      __builtin_prefetch(row + k);
  }
}

template <class T>
void improve(const Pairs &pairs, int64_t n, const T *scores, int64_t *codes,
             const int64_t *order, int64_t n_steps, int64_t first_judged, const T *room,
             uint8_t *state) {
  const int64_t width = pairs.starts[pairs.n_tables];
  // A table after the other for a few rows: its products stay in the cache.
  constexpr int64_t some = 32;
  for (int64_t first = 0; first < n; first += some) {
    int64_t last = first + some < n ? first + some : n;
    for (int64_t s = 0; s < n_steps; s++) {
      int j = int(order[s]);
      for (int64_t i = first; i < last; i++) {
        int64_t *own = codes + i * pairs.n_tables;
        if (i + 1 < last) prefetch<T>(pairs, j, own + pairs.n_tables);
        T gap;
        own[j] = best_of_table(pairs, j, scores + i * width + pairs.starts[j], own, &gap);
        // This is false for NaN.
        if (s >= first_judged && !(gap > room[i])) state[i] = 2;
      }
    }
  }
}

}  // namespace

// Takes the best codeword of the tables in an order, each in place of the one before.
// From one step on, rows whose second best score is within their room are marked.
SKVQ_API void skvq_improve(const Pairs *pairs, int64_t n, const void *scores,
                           int64_t *codes, const int64_t *order, int64_t n_steps,
                           int64_t first_judged, const void *room, uint8_t *state) {
  FloatMode mode;
  if (pairs->type == kFloat32)
    improve(*pairs, n, static_cast<const float *>(scores), codes, order, n_steps,
            first_judged, static_cast<const float *>(room), state);
  else
    improve(*pairs, n, static_cast<const double *>(scores), codes, order, n_steps,
            first_judged, static_cast<const double *>(room), state);
}
