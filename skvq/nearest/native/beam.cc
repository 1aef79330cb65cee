// Beam search: of all sums of a row's partial sums and codewords, the best few.
//
// Codewords lie in the lanes here, since all scores are kept: the best few of a row are
// looked for among them.  A score is the cost of a partial sum so far, plus half the
// squared norm of the codeword, minus its product with the residual of the sum.  That is
// a chain of multiply-adds in the order of the features.  With look-up, the chain is
// computed once for a row, with the residual that all its sums have in common, and the
// products of their further codewords are looked up and added in the order of the tables.
//
// Sums stay in the order of their codes, so that neighbours begin with the same ones,
// and their common part is added once: for 8 x 256 codewords and 32 sums, two fifths of
// the additions remain.

#include "rows.h"

// A prepared table.  See backends/native.py.
struct Stage {
  int32_t type;
  int32_t d;
  int64_t n_codewords;
  int64_t n_panels;
  const void *panels;     // [panel][d][kPanel]
  const void *constants;  // [panel][kPanel], +inf behind the last
  const void *rows;       // [n_codewords][d]
};

// Input and output of a choice for some rows.
struct Choice {
  int64_t n;
  int64_t n_sums;
  int64_t width;         // sums to choose
  int32_t is_sorted;     // by score, not by sum and codeword
  double slack;          // share of the reach within which distances decide, not scores
  const double *costs;   // [n_sums][n], squared norms, or what stands for them
  const double *least;   // [n], of the costs of a row
  const double *reach;   // [n], the squares that are rounded
  int64_t *parent;       // [n][width]
  int64_t *code;         // [n][width]
  double *errors;        // [width][n], costs of the chosen sums
  uint8_t *settled;      // [n], whether distances decided; null if nobody asks
};

// Sums as the codes that they are made of, and their tables.
struct PartialSums {
  int64_t n_tables;
  const void *x;                 // [n][d], the rows
  const int32_t *codes;          // [n][n_sums][n_tables]
  const void *const *rows;       // [n_tables], [size of the table][d]
  const void *const *products;   // [n_tables], with those of the next table, each as
                                 // long as its padded scores
  const void *given;             // [n][d], rows that no centre was subtracted from, and
  const void *const *exact;      // [n_tables + 1], tables that none was; or null
};

namespace {

// Residuals that meet a panel of codewords at a time.
constexpr int kResiduals = kVectorBytes == 64 ? 6 : kVectorBytes == 32 ? 6 : 5;

// Scores are padded to a multiple of so many vectors, of which the smallest are kept.
constexpr int kMinima = 256 / kVectorBytes;
template <class T>
constexpr int unit = kMinima *lanes<T>;

template <class T, int R>
SKVQ_INLINE void score_panel(const T *x, int d, const T *panel, const T *constants,
                             const T *costs, T *scores, int64_t apart) {
  typedef typename Vector<T>::type V;
  V score[R][kPanelVectors];
  for (int r = 0; r < R; r++)
    for (int e = 0; e < kPanelVectors; e++)
      score[r][e] = load(constants + e * lanes<T>) + all<V>(costs[r]);
  for (int k = 0; k < d; k++) {
    V c[kPanelVectors];
    for (int e = 0; e < kPanelVectors; e++)
      c[e] = load(panel + (int64_t(k) * kPanelVectors + e) * lanes<T>);
    for (int r = 0; r < R; r++) {
      V v = all<V>(x[int64_t(r) * d + k]);
      for (int e = 0; e < kPanelVectors; e++)
        score[r][e] = subtract_product(v, c[e], score[r][e]);
    }
  }
  for (int r = 0; r < R; r++)
    for (int e = 0; e < kPanelVectors; e++)
      store(scores + r * apart + e * lanes<T>, score[r][e]);
}

SKVQ_INLINE int64_t multiple(int64_t n, int64_t of) { return (n + of - 1) / of * of; }

// A bit for each lane.
template <class T>
SKVQ_INLINE uint64_t bits(typename Vector<T>::mask is) {
#if defined(__AVX512F__)
  return sizeof(T) == 4 ? uint64_t(_mm512_movepi32_mask(__m512i(is)))
                        : uint64_t(_mm512_movepi64_mask(__m512i(is)));
#elif defined(__AVX2__)
  return sizeof(T) == 4 ? unsigned(_mm256_movemask_ps(__m256(is)))
                        : unsigned(_mm256_movemask_pd(__m256d(is)));
#else
  uint64_t found = 0;
  for (int l = 0; l < lanes<T>; l++) found |= uint64_t(is[l] & 1) << l;
  return found;
#endif
}

template <class T>
SKVQ_INLINE uint64_t up_to(const T *values, T bound) {
  return bits<T>(load(values) <= all<typename Vector<T>::type>(bound));
}

// Returns how many of n numbers, a multiple of a vector, are at most a bound.
template <class T>
SKVQ_INLINE int64_t count_up_to(const T *values, int64_t n, T bound) {
  int64_t count = 0;
  for (int64_t at = 0; at < n; at += lanes<T>)
    count += __builtin_popcountll(up_to(values + at, bound));
  return count;
}

// Bounds of the k smallest of some numbers: at most k are up to `low`, or more that are
// equal; k or more are up to `high`.
template <class T>
struct Bounds {
  T low, high;

  // Halves their distance in each turn, until just k are below or no number is between.
  SKVQ_INLINE_MEMBER void narrow(const T *values, int64_t n, int64_t k, int turns) {
    while (turns-- > 0) {
      T middle = low + (high - low) * T(0.5);
      if (!(low < middle && middle < high)) return;
      int64_t found = count_up_to(values, n, middle);
      (found < k ? low : high) = middle;
      if (found == k) low = middle;
    }
  }
  // Replaces a lower bound that does not hold.
  SKVQ_INLINE_MEMBER void lower(const T *values, int64_t n, int64_t k, T least) {
    if (count_up_to(values, n, low) < k) return;
    high = low;
    low = least;
  }
};

// Picks the k smallest of n numbers, in their order; of equals the first.  Returns the
// largest of them, and the smallest of the others.  A vector behind them is written to.
template <class T>
SKVQ_INLINE Bounds<T> pick(T *values, int64_t n, int64_t k, T least, Bounds<T> bounds,
                           int64_t *picked) {
  const int64_t padded = multiple(n, lanes<T>);
  for (int64_t i = n; i < padded; i++) values[i] = infinity<T>;
  int64_t ties = k;
  if (n > k) {
    // Set for both bounds: the least may be enough by itself, too.
    bounds.lower(values, padded, k, least);
    bounds.lower(values, padded, k, least);
    bounds.narrow(values, padded, k, 1 << 12);
    ties -= count_up_to(values, padded, bounds.low);
  }
  Bounds<T> found = {-infinity<T>, infinity<T>};
  int64_t m = 0;
  for (int64_t i = 0; i < n; i++) {
    T v = values[i];
    bool is_below = v <= bounds.low, is_tie = !is_below && v <= bounds.high && ties > 0;
    bool is_taken = (is_below || is_tie) && m < k;
    ties -= is_tie;
    found.low = is_taken && v > found.low ? v : found.low;
    found.high = !is_taken && v < found.high ? v : found.high;
    picked[m] = i;
    m += is_taken;
  }
  // NaN is not taken; such rows are searched again.
  for (; m < k; m++) picked[m] = 0;
  return found;
}

// Sorts some numbers by what they stand for; of equals the first stays the first.
template <class T>
void sort(const T *values, int64_t n, int64_t *order, int64_t *other) {
  int64_t *from = order;
  for (int64_t half = 1; half < n; half *= 2) {
    for (int64_t begin = 0; begin < n; begin += 2 * half) {
      int64_t middle = begin + half < n ? begin + half : n;
      int64_t end = middle + half < n ? middle + half : n;
      int64_t i = begin, j = middle;
      for (int64_t k = begin; k < end; k++)
        other[k] = i < middle && (j == end || !(values[from[j]] < values[from[i]]))
                       ? from[i++]
                       : from[j++];
    }
    int64_t *before = from;
    from = other;
    other = before;
  }
  if (from != order) memcpy(order, from, n * sizeof(*order));
}

// What the best few candidates of a row are found with.  A place is 2^32 times the
// number of a sum, plus a codeword.
template <class T>
struct Candidates {
  int64_t n_sums, size, m;
  T *scores;         // [n_sums][size]
  T *minima;         // [n_sums][size / unit][lanes], of each unit of scores
  T *own_minima;     // [n_sums][lanes], of all scores of a sum
  T *values;         // of those that may be among the best
  double *exact;     // distances of those that rounding may have put in another order
  int64_t *places, *picked, *near, *chosen;

  static int64_t most(int64_t n_sums, int64_t size) {
    return n_sums * size + unit<T> + unit<double>;
  }
  static int64_t bytes(int64_t n_sums, int64_t size) {
    return most(n_sums, size) * (2 * int64_t(sizeof(T)) + 5 * 8) + 4 * 64;
  }
  Candidates(int64_t n_sums, int64_t size, Scratch &scratch)
      : n_sums(n_sums), size(size), m(0), scores(nullptr) {
    const int64_t n = most(n_sums, size);
    minima = scratch.take<T>(n);
    own_minima = minima + n_sums * (size / kMinima);
    values = scratch.take<T>(n);
    exact = scratch.take<double>(n);
    places = scratch.take<int64_t>(4 * n);
    picked = places + n;
    near = picked + n;
    chosen = near + n;
  }

  // Makes the scores of a sum: those without its last codeword, the products with that,
  // if there are any, and what the sum has cost.
  template <bool has_products>
  SKVQ_INLINE_MEMBER void add(int64_t s, const T *own, const T *products, T cost) {
    typedef typename Vector<T>::type V;
    V lowest = all<V>(infinity<T>);
    T *to = scores + s * size, *low = minima + s * (size / kMinima);
    for (int64_t k = 0; k < size; k += unit<T>, low += lanes<T>) {
      V v[kMinima];
      for (int e = 0; e < kMinima; e++) {
        v[e] = load(own + k + e * lanes<T>);
        if (has_products) v[e] += load(products + k + e * lanes<T>);
        v[e] += all<V>(cost);
        store(to + k + e * lanes<T>, v[e]);
      }
      V of_unit = least<kMinima>(v);
      store(low, of_unit);
      lowest = smaller(of_unit, lowest);
    }
    store(own_minima + s * lanes<T>, lowest);
  }

  // Gathers what may be among the k best, in the order of the places, and picks them.
  SKVQ_INLINE_MEMBER Bounds<T> gather(int64_t k, T room) {
    typedef typename Vector<T>::type V;
    const bool are_enough = n_sums * lanes<T> >= 4 * k;
    const T *lows = are_enough ? own_minima : minima;
    const int64_t n = n_sums * (are_enough ? lanes<T> : size / kMinima);
    V lowest = all<V>(infinity<T>), highest = -lowest;
    for (int64_t at = 0; at < n; at += lanes<T>) {
      V v = load(lows + at);
      lowest = smaller(v, lowest);
      // Except for the scores of the padding.
      highest = larger(v < all<V>(infinity<T>) ? v : highest, highest);
    }
    T least = infinity<T>, bound = largest<T>;
    Bounds<T> bounds = {least, -least};
    for (int l = 0; l < lanes<T>; l++) {
      least = lowest[l] < least ? lowest[l] : least;
      bounds.high = highest[l] > bounds.high ? highest[l] : bounds.high;
    }
    bounds.low = least;
    if (count_up_to(lows, n, bounds.high) >= k) {
      bounds.lower(lows, n, k, least);
      bounds.narrow(lows, n, k, 8);
      // Whatever the score of the k-th is, all within the room from it are here.
      bound = bounds.high + room < bound ? bounds.high + room : bound;
    }
    m = 0;
    for (int64_t s = 0; s < n_sums; s++) {
      if (!up_to(own_minima + s * lanes<T>, bound)) continue;
      for (int64_t at = 0; at < size; at += unit<T>) {
        const T *own = scores + s * size + at;
        if (!up_to(minima + (s * size + at) / kMinima, bound)) continue;
        uint64_t some = 0;
        for (int e = 0; e < kMinima; e++)
          some |= up_to(own + e * lanes<T>, bound) << (e * lanes<T>);
        for (; some; some &= some - 1) {
          int64_t at_bit = __builtin_ctzll(some);
          values[m] = own[at_bit];
          places[m++] = s << 32 | (at + at_bit);
        }
      }
    }
    // The row holds NaN.
    if (!m) places[0] = 0, values[0] = infinity<T>;
    bounds.high = bound;
    return pick(values, m, k, least, bounds, picked);
  }

  // Chooses again between candidates that rounding may have put in another order, by
  // distances.
  template <class Distance>
  __attribute__((noinline)) void settle(int64_t k, Bounds<T> edge,
                                        const Distance &distance) {
    int64_t n_near = 0, n_sure = 0;
    Bounds<double> bounds = {infinity<double>, -infinity<double>};
    for (int64_t i = 0; i < m; i++) {
      n_sure += values[i] < edge.low;
      if (values[i] < edge.low || values[i] > edge.high) continue;
      double found = distance(places[i] >> 32, uint32_t(places[i]));
      bounds.low = found < bounds.low ? found : bounds.low;
      bounds.high = found > bounds.high ? found : bounds.high;
      near[n_near] = i;
      exact[n_near++] = found;
    }
    pick(exact, n_near, k - n_sure, bounds.low, bounds, chosen);
    int64_t taken = 0, j = 0;
    for (int64_t i = 0; i < m && taken < k; i++) {
      bool is_chosen = j < k - n_sure && near[chosen[j]] == i;
      j += is_chosen;
      if (is_chosen || values[i] < edge.low) picked[taken++] = i;
    }
  }

  // Finds the best few, and writes them for row i.
  template <class Distance>
  SKVQ_INLINE_MEMBER void find(const Choice &choice, int64_t i, int64_t n_codewords,
                               const Distance &distance) {
    const int64_t k = choice.width;
    T room = T(choice.slack * choice.reach[i]);
    // NaN leaves no room.
    room = room > 0 && room < largest<T> ? room : T(0);
    Bounds<T> found = gather(k, room);
    Bounds<T> edge = {found.high - room, found.low + room};
    const bool is_near = room > 0 && found.high <= edge.high;
    if (is_near) settle(k, edge, distance);
    if (choice.settled) choice.settled[i] = is_near;
    if (choice.is_sorted) sort(values, k, picked, chosen);
    for (int64_t j = 0; j < k; j++) {
      int64_t place = places[picked[j]];
      int64_t code = uint32_t(place);
      choice.parent[i * k + j] = place >> 32;
      choice.code[i * k + j] = code < n_codewords ? code : 0;
      choice.errors[j * choice.n + i] = choice.least[i] + 2 * double(values[picked[j]]);
    }
  }
};

// Half of a sum's cost above the best of its row: the full costs would swamp the terms
// that are added.
template <class T>
SKVQ_INLINE T cost_of(const Choice &choice, int64_t i, int64_t s) {
  return T(0.5 * (choice.costs[s * choice.n + i] - choice.least[i]));
}

// Number of rows whose sums are several times the residuals that meet a panel.
SKVQ_INLINE int64_t some_rows(int64_t n_sums) {
  return 1 + (4 * kResiduals - 1) / n_sums;
}

template <class T>
int64_t scores_of(const Stage &stage) {
  return multiple(stage.n_codewords, unit<T>);
}

// Writes the scores of all codewords for some rows.
template <class T>
void score_rows(const Stage &stage, int64_t n, const T *rows, T *scores, int64_t apart) {
  const T *panels = static_cast<const T *>(stage.panels);
  const T *constants = static_cast<const T *>(stage.constants), none[kResiduals] = {};
  const int d = stage.d;
  for (int64_t q = 0; q < stage.n_panels; q++) {
    const T *panel = panels + q * panel_width<T> * d;
    const T *constant = constants + q * panel_width<T>;
    T *to = scores + q * panel_width<T>;
    int64_t r = 0;
    for (; r + kResiduals <= n; r += kResiduals)
      score_panel<T, kResiduals>(rows + r * d, d, panel, constant, none, to + r * apart,
                                 apart);
    for (; r + 2 <= n; r += 2)
      score_panel<T, 2>(rows + r * d, d, panel, constant, none, to + r * apart, apart);
    for (; r < n; r++)
      score_panel<T, 1>(rows + r * d, d, panel, constant, none, to + r * apart, apart);
  }
}

// Memory for the scores of some rows, infinite where there is no codeword.
template <class T>
T *score_memory(const Stage &stage, int64_t n, Scratch &scratch) {
  const int64_t size = scores_of<T>(stage);
  T *own = scratch.take<T>(n * size);
  for (int64_t r = 0; r < n; r++)
    for (int64_t k = stage.n_panels * panel_width<T>; k < size; k++)
      own[r * size + k] = infinity<T>;
  return own;
}

template <class T>
void choose(const Stage &stage, const Choice &choice, const T *rest, Scratch scratch) {
  const int d = stage.d;
  const int64_t n_sums = choice.n_sums, size = scores_of<T>(stage);
  const T *codewords = static_cast<const T *>(stage.rows);
  const int64_t some = some_rows(n_sums);
  T *own = score_memory<T>(stage, some * n_sums, scratch);
  Candidates<T> candidates(n_sums, size, scratch);
  for (int64_t first = 0; first < choice.n; first += some) {
    int64_t m = choice.n - first < some ? choice.n - first : some;
    score_rows(stage, m * n_sums, rest + first * n_sums * d, own, size);
    for (int64_t r = 0; r < m; r++) {
      const int64_t i = first + r;
      candidates.scores = own + r * n_sums * size;
      for (int64_t s = 0; s < n_sums; s++)
        candidates.template add<false>(s, candidates.scores + s * size, nullptr,
                                       cost_of<T>(choice, i, s));
      candidates.find(choice, i, stage.n_codewords, [=](int64_t s, int64_t code) {
        return squared_distance(rest + (i * n_sums + s) * d, codewords + code * d, d);
      });
    }
  }
}

// Adds a multiple of codewords to rows.
template <class T>
SKVQ_INLINE void add_codeword(const T *x, const T *c, T sign, int d, T *to) {
  typedef typename Vector<T>::type V;
  int k = 0;
  for (; k + lanes<T> <= d; k += lanes<T>)
    store(to + k, multiply_add(load(c + k), all<V>(sign), load(x + k)));
  for (; k < d; k++) to[k] = multiply_add(c[k], sign, x[k]);
}

template <class T>
void advance(const Stage &stage, int64_t n, int64_t n_sums, int64_t width,
             const T *rest, const int64_t *parent, const int64_t *code, T *next,
             double *norms) {
  const int d = stage.d;
  const T *rows = static_cast<const T *>(stage.rows);
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < width; j++) {
      int64_t at = i * width + j;
      const T *x = rest + (i * n_sums + (parent ? parent[at] : 0)) * d;
      T *to = next + at * d;
      add_codeword(x, rows + code[at] * d, T(-1), d, to);
      if (norms) norms[at] = squared_distance<T, T>(to, nullptr, d);
    }
}

// The number of codes with which two sums begin alike, at most n.
SKVQ_INLINE int64_t shared(const int32_t *a, const int32_t *b, int64_t n) {
  int64_t k = 0;
  while (k < n && a[k] == b[k]) k++;
  return k;
}

template <class T, bool is_sum>
SKVQ_INLINE void combine(const T *a, const T *b, T *to, int64_t n) {
  int64_t k = 0;
  for (; k + lanes<T> <= n; k += lanes<T>)
    store(to + k, is_sum ? load(a + k) + load(b + k) : load(a + k) - load(b + k));
  for (; k < n; k++) to[k] = is_sum ? a[k] + b[k] : a[k] - b[k];
}

// Writes the residuals of a row after 1, 2, ..., `end` codes of a path, d numbers each.
// Returns the last.
template <class T>
SKVQ_INLINE const T *leave(const PartialSums &paths, int64_t i, const int32_t *path,
                           int64_t begin, int64_t end, int d, T *left) {
  const T *from = static_cast<const T *>(paths.x) + i * d;
  if (begin) from = left + (begin - 1) * d;
  for (int64_t o = begin; o < end; o++) {
    const T *codewords = static_cast<const T *>(paths.rows[o]);
    combine<T, false>(from, codewords + path[o] * int64_t(d), left + o * d, d);
    from = left + o * d;
  }
  return from;
}

// The products of a path's codeword of one table with those of the next table.
template <class T>
SKVQ_INLINE const T *products_of(const PartialSums &paths, const int32_t *path,
                                 int64_t o, int64_t size) {
  return static_cast<const T *>(paths.products[o]) + path[o] * size;
}

// Prefetches the products that a path is about to look up, which are far apart.
template <class T>
SKVQ_INLINE void prefetch(const PartialSums &paths, const int32_t *path, int64_t begin,
                          int64_t size) {
  for (int64_t o = begin; o < paths.n_tables; o++) {
    const T *products = products_of<T>(paths, path, o, size);
    for (int64_t k = 0; k < size; k += 64 / int64_t(sizeof(T)))
      __builtin_prefetch(products + k);
  }
}

// Rows whose scores are made at a time, for all of their sums.
constexpr int64_t kScoredRows = 4 * kResiduals;
// Number of sums ahead whose products are prefetched.
constexpr int64_t kAhead = 8;

template <class T>
void choose_by_look_up(const Stage &stage, const Choice &choice,
                       const PartialSums &paths, Scratch scratch) {
  const int d = stage.d;
  const int64_t n_sums = choice.n_sums, size = scores_of<T>(stage), j = paths.n_tables;
  const T *codewords = static_cast<const T *>(stage.rows);
  T *own = score_memory<T>(stage, kScoredRows, scratch);
  T *sums = scratch.take<T>(n_sums * size), *rest = scratch.take<T>(kScoredRows * d);
  T *levels = scratch.take<T>(j * size), *left = scratch.take<T>(j * d);
  int64_t common[kScoredRows];
  Candidates<T> candidates(n_sums, size, scratch);
  candidates.scores = sums;
  for (int64_t first = 0; first < choice.n; first += kScoredRows) {
    int64_t m = choice.n - first < kScoredRows ? choice.n - first : kScoredRows;
    // The residual of the first codes, with which all sums of a row begin.
    for (int64_t r = 0; r < m; r++) {
      const int32_t *path = paths.codes + (first + r) * n_sums * j;
      common[r] = shared(path, path + (n_sums - 1) * j, j);
      memcpy(rest + r * d, leave(paths, first + r, path, 0, common[r], d, left),
             d * sizeof(T));
    }
    score_rows(stage, m, rest, own, size);
    const int32_t *end = paths.codes + (first + m) * n_sums * j;
    for (int64_t r = 0; r < m; r++) {
      const int64_t i = first + r;
      const int32_t *codes = paths.codes + i * n_sums * j, *path = codes;
      for (int64_t s = 0; s < n_sums; s++, path += j) {
        const int32_t *later = path + kAhead * j;
        if (later < end)
          prefetch<T>(paths, later, shared(later - j, later, j - 1), size);
        const T *from = own + r * size;
        int64_t o = s ? shared(path - j, path, j - 1) : common[r];
        if (o > common[r]) from = levels + (o - 1) * size;
        for (; o < j - 1; o++) {
          combine<T, true>(from, products_of<T>(paths, path, o, size),
                           levels + o * size, size);
          from = levels + o * size;
        }
        T cost = cost_of<T>(choice, i, s);
        if (common[r] == j)
          candidates.template add<false>(s, from, nullptr, cost);
        else
          candidates.template add<true>(s, from, products_of<T>(paths, path, o, size),
                                        cost);
      }
      candidates.find(choice, i, stage.n_codewords, [&](int64_t s, int64_t code) {
        if (paths.given)
          return distance_from_sum(static_cast<const T *>(paths.given) + i * d, d,
                                   paths.exact, j + 1, codes + s * j, j, code);
        const T *rest = leave(paths, i, codes + s * j, 0, j, d, left);
        return squared_distance(rest, codewords + code * d, d);
      });
    }
  }
}

template <class T>
void errors(const PartialSums &paths, int64_t n, int64_t n_sums, int d, double *norms,
            Scratch scratch) {
  const int64_t last = paths.n_tables - 1;
  T *left = scratch.take<T>(paths.n_tables * d);
  for (int64_t i = 0; i < n; i++)
    for (int64_t s = 0; s < n_sums; s++) {
      const int32_t *path = paths.codes + (i * n_sums + s) * paths.n_tables;
      int64_t begin = s ? shared(path, path - paths.n_tables, last) : 0;
      const T *rest = leave(paths, i, path, begin, last, d, left), *codeword = nullptr;
      if (last >= 0)
        codeword = static_cast<const T *>(paths.rows[last]) + path[last] * int64_t(d);
      norms[s * n + i] = squared_distance(rest, codeword, d);
    }
}

}  // namespace

// Codewords of a panel of this type, as they are to be packed.
SKVQ_API int32_t skvq_panel(int32_t type) {
  return type == kFloat64 ? panel_width<double> : panel_width<float>;
}

// Numbers that the products of a codeword with those of a table are padded to.
SKVQ_API int32_t skvq_unit(int32_t type) {
  return type == kFloat64 ? unit<double> : unit<float>;
}

// Bytes for a choice with so many sums of so many codes; of none, by their residuals.
SKVQ_API int64_t skvq_choose_scratch(const Stage *stage, int64_t n_sums,
                                     int64_t n_tables) {
  bool is_double = stage->type == kFloat64;
  int64_t size = is_double ? scores_of<double>(*stage) : scores_of<float>(*stage);
  int64_t rows = kScoredRows + some_rows(n_sums) * n_sums + n_sums + n_tables;
  int64_t numbers = rows * size + (n_tables + kScoredRows) * stage->d;
  return numbers * (is_double ? 8 : 4) + 8 * 64 +
         (is_double ? Candidates<double>::bytes(n_sums, size)
                    : Candidates<float>::bytes(n_sums, size));
}

// Finds the best sums of each row, its partial sums continued by one codeword, from
// their residuals (n, n_sums, d).
SKVQ_API void skvq_choose(const Stage *stage, const Choice *choice, const void *rest,
                          void *scratch) {
  FloatMode mode;
  if (stage->type == kFloat64)
    choose(*stage, *choice, static_cast<const double *>(rest), Scratch(scratch));
  else
    choose(*stage, *choice, static_cast<const float *>(rest), Scratch(scratch));
}

// Finds the same from the products that it looks up.
SKVQ_API void skvq_choose_by_look_up(const Stage *stage, const Choice *choice,
                                     const PartialSums *paths, void *scratch) {
  FloatMode mode;
  if (stage->type == kFloat64)
    choose_by_look_up<double>(*stage, *choice, *paths, Scratch(scratch));
  else
    choose_by_look_up<float>(*stage, *choice, *paths, Scratch(scratch));
}

// Writes the squared norms (n_sums, n) of the residuals of sums.
SKVQ_API void skvq_errors(const Stage *stage, int64_t n, int64_t n_sums,
                          const PartialSums *paths, double *norms, void *scratch) {
  FloatMode mode;
  if (stage->type == kFloat64)
    errors<double>(*paths, n, n_sums, stage->d, norms, Scratch(scratch));
  else
    errors<float>(*paths, n, n_sums, stage->d, norms, Scratch(scratch));
}

// Writes the codes (n, width, n_tables + 1) of the chosen sums.
SKVQ_API void skvq_extend(int64_t n, int64_t n_sums, int64_t n_tables, int64_t width,
                          const int32_t *codes, const int64_t *parent,
                          const int64_t *code, int32_t *to) {
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = i * width; j < (i + 1) * width; j++) {
      const int32_t *from = codes + (i * n_sums + parent[j]) * n_tables;
      for (int64_t o = 0; o < n_tables; o++) *to++ = from[o];
      *to++ = int32_t(code[j]);
    }
}

// Writes the scores of all codewords of a table for rows, (n, padded size), `apart`
// numbers apart.
SKVQ_API void skvq_scores(const Stage *stage, int64_t n, const void *rows, void *scores,
                          int64_t apart) {
  FloatMode mode;
  if (stage->type == kFloat64)
    score_rows(*stage, n, static_cast<const double *>(rows),
               static_cast<double *>(scores), apart);
  else
    score_rows(*stage, n, static_cast<const float *>(rows), static_cast<float *>(scores),
               apart);
}

// Subtracts the chosen codewords from the residuals of their sums; returns squared norms,
// if they are asked for.
SKVQ_API void skvq_advance(const Stage *stage, int64_t n, int64_t n_sums, int64_t width,
                           const void *rest, const int64_t *parent, const int64_t *code,
                           void *next, double *norms) {
  FloatMode mode;
  if (stage->type == kFloat64)
    advance(*stage, n, n_sums, width, static_cast<const double *>(rest), parent, code,
            static_cast<double *>(next), norms);
  else
    advance(*stage, n, n_sums, width, static_cast<const float *>(rest), parent, code,
            static_cast<float *>(next), norms);
}

// Adds codewords, times 1 or -1, to rows where they are.
SKVQ_API void skvq_move(int32_t type, int64_t n, int64_t d, void *rows,
                        const void *codewords, const int64_t *codes, int32_t sign) {
  FloatMode mode;
  for (int64_t i = 0; i < n; i++) {
    if (type == kFloat64) {
      double *x = static_cast<double *>(rows) + i * d;
      add_codeword(x, static_cast<const double *>(codewords) + codes[i] * d,
                   double(sign), int(d), x);
    } else {
      float *x = static_cast<float *>(rows) + i * d;
      add_codeword(x, static_cast<const float *>(codewords) + codes[i] * d, float(sign),
                   int(d), x);
    }
  }
}
