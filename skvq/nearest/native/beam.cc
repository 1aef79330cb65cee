// Beam search: of all sums of a row's partial sums and codewords, the best few.
//
// Codewords lie in the lanes here, since all scores are kept: the best few of a row are
// looked for among them.  A score is what a partial sum has cost so far, and a half norm
// of the codeword, less a chain of multiply-adds in the order of the features.

#include "rows.h"

// A table made ready.  See backends/native.py.
struct Stage {
  int32_t type;
  int32_t d;
  int64_t n_codewords;
  int64_t n_panels;
  const void *panels;     // [panel][d][kPanel]
  const void *constants;  // [panel][kPanel], +inf behind the last
  const void *rows;       // [n_codewords][d]
};

namespace {

// Residuals that meet a panel of codewords at a time.
constexpr int kResiduals = kVectorBytes == 64 ? 6 : kVectorBytes == 32 ? 6 : 5;
constexpr int kPanelVectors = kVectorBytes == 64 ? 4 : 2;
template <class T>
constexpr int panel_width = kPanelVectors *lanes<T>;

// Candidates share so many vectors of minima, which bound the best few.
constexpr int kMinima = 8;

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

// A candidate: its score and its place.
template <class T>
struct Candidate {
  T score;
  int64_t place;

  SKVQ_INLINE_MEMBER bool before(const Candidate &other) const {
    return score < other.score || (score == other.score && place < other.place);
  }
};

// Puts the k smallest of n candidates in front, in any order.
template <class T>
void select_few(Candidate<T> *c, int64_t n, int64_t k) {
  int64_t low = 0, high = n - 1;
  while (low < high) {
    Candidate<T> pivot = c[low + (high - low) / 2];
    int64_t i = low, j = high;
    while (i <= j) {
      while (c[i].before(pivot)) i++;
      while (pivot.before(c[j])) j--;
      if (i <= j) {
        Candidate<T> other = c[i];
        c[i++] = c[j];
        c[j--] = other;
      }
    }
    if (k - 1 <= j)
      high = j;
    else if (k - 1 >= i)
      low = i;
    else
      return;
  }
}

// Sorts candidates; there are few, or they are nearly sorted.
template <class T>
void sort(Candidate<T> *c, int64_t n) {
  if (n > 64) {
    // By halves, each in its place.
    select_few(c, n, n / 2);
    sort(c, n / 2);
    sort(c + n / 2, n - n / 2);
    return;
  }
  for (int64_t i = 1; i < n; i++) {
    Candidate<T> one = c[i];
    int64_t j = i - 1;
    for (; j >= 0 && one.before(c[j]); j--) c[j + 1] = c[j];
    c[j + 1] = one;
  }
}

template <class T>
SKVQ_INLINE int count_below(const typename Vector<T>::type *minima, T bound) {
  typedef typename Vector<T>::type V;
  typedef typename Vector<T>::mask M;
  M count = M{};
  for (int e = 0; e < kMinima; e++) count -= M(minima[e] <= all<V>(bound));
  int sum = 0;
  for (int l = 0; l < lanes<T>; l++) sum += int(count[l]);
  return sum;
}

// A bound that at least k of n scores keep, and not many more.  The scores are a multiple
// of a vector, and behind the last they are infinite.
template <class T>
SKVQ_INLINE T bound_of_few(const T *scores, int64_t n, int64_t k) {
  typedef typename Vector<T>::type V;
  constexpr int step = kMinima * lanes<T>;
  if (k > step / 2 || n < 2 * step) return infinity<T>;
  V minima[kMinima];
  for (int e = 0; e < kMinima; e++) minima[e] = load(scores + e * lanes<T>);
  int64_t at = step;
  for (; at + step <= n; at += step)
    for (int e = 0; e < kMinima; e++)
      minima[e] = smaller(minima[e], load(scores + at + e * lanes<T>));
  for (int e = 0; at < n; at += lanes<T>, e++)
    minima[e] = smaller(minima[e], load(scores + at));
  T low = infinity<T>, high = -infinity<T>;
  for (int e = 0; e < kMinima; e++)
    for (int l = 0; l < lanes<T>; l++) {
      T v = minima[e][l];
      low = v < low ? v : low;
      high = v > high && v < infinity<T> ? v : high;
    }
  if (k == 1) return low;
  if (count_below<T>(minima, high) < k) return infinity<T>;
  // Half the distance to the bound in each turn; a bound that k keep stays one.
  for (int turn = 0; turn < 9; turn++) {
    T middle = low + (high - low) * T(0.5);
    if (count_below<T>(minima, middle) >= k)
      high = middle;
    else
      low = middle;
  }
  return high;
}

// Puts the k smallest of a row's scores in front, in their order.
template <class T>
SKVQ_INLINE void smallest_few(const T *scores, int64_t n, int64_t k,
                              Candidate<T> *candidates) {
  typedef typename Vector<T>::type V;
  typedef typename Vector<T>::mask M;
  T bound = bound_of_few(scores, n, k);
  int64_t m = 0;
  for (int64_t at = 0; at < n; at += lanes<T>) {
    M is_below = M(load(scores + at) <= all<V>(bound));
#if defined(__AVX512F__)
    uint64_t some = sizeof(T) == 4
                        ? uint64_t(_mm512_movepi32_mask(__m512i(is_below)))
                        : uint64_t(_mm512_movepi64_mask(__m512i(is_below)));
#elif defined(__AVX2__)
    uint64_t some = sizeof(T) == 4 ? unsigned(_mm256_movemask_ps(__m256(is_below)))
                                   : unsigned(_mm256_movemask_pd(__m256d(is_below)));
#else
    uint64_t some = 0;
    for (int l = 0; l < lanes<T>; l++) some |= uint64_t(is_below[l] & 1) << l;
#endif
    while (some) {
      int l = __builtin_ctzll(some);
      some &= some - 1;
      candidates[m++] = {scores[at + l], at + l};
    }
  }
  // What is no number is no candidate; such rows are searched again.
  for (; m < k; m++) candidates[m] = {infinity<T>, 0};
  if (m > k) select_few(candidates, m, k);
  sort(candidates, k);
}

template <class T>
void choose(const Stage &stage, int64_t n, int64_t n_sums, const T *rest, const T *costs,
            int64_t width, int64_t *parent, int64_t *code, T *scores, Scratch scratch) {
  const int d = stage.d;
  const int64_t size = stage.n_panels * panel_width<T>, all_scores = n_sums * size;
  // Rows whose residuals are several times as many as meet a panel at a time.
  int64_t some_rows = 1 + (4 * kResiduals - 1) / n_sums;
  T *own = scratch.take<T>(some_rows * all_scores);
  Candidate<T> *candidates = scratch.take<Candidate<T>>(all_scores);
  const T *panels = static_cast<const T *>(stage.panels);
  const T *constants = static_cast<const T *>(stage.constants);
  for (int64_t first = 0; first < n; first += some_rows) {
    int64_t m = n - first < some_rows ? n - first : some_rows;
    const T *x = rest + first * n_sums * d, *cost = costs + first * n_sums;
    for (int64_t q = 0; q < stage.n_panels; q++) {
      const T *panel = panels + q * panel_width<T> * d;
      const T *constant = constants + q * panel_width<T>;
      T *to = own + q * panel_width<T>;
      int64_t r = 0;
      for (; r + kResiduals <= m * n_sums; r += kResiduals)
        score_panel<T, kResiduals>(x + r * d, d, panel, constant, cost + r,
                                   to + r * size, size);
      for (; r + 2 <= m * n_sums; r += 2)
        score_panel<T, 2>(x + r * d, d, panel, constant, cost + r, to + r * size, size);
      for (; r < m * n_sums; r++)
        score_panel<T, 1>(x + r * d, d, panel, constant, cost + r, to + r * size, size);
    }
    for (int64_t r = 0; r < m; r++) {
      smallest_few(own + r * all_scores, all_scores, width, candidates);
      int64_t at = (first + r) * width;
      for (int64_t j = 0; j < width; j++) {
        int64_t place = candidates[j].place, own_code = place % size;
        parent[at + j] = place / size;
        code[at + j] = own_code < stage.n_codewords ? own_code : 0;
        scores[at + j] = candidates[j].score;
      }
    }
  }
}

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
    for (; r < n; r++)
      score_panel<T, 1>(rows + r * d, d, panel, constant, none, to + r * apart, apart);
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

}  // namespace

// Codewords of a panel of this type, as they are to be packed.
SKVQ_API int32_t skvq_panel(int32_t is_double) {
  return is_double ? panel_width<double> : panel_width<float>;
}

SKVQ_API int64_t skvq_choose_scratch(const Stage *stage, int64_t n_sums) {
  int32_t is_double = stage->type == kFloat64;
  int64_t size = stage->n_panels * skvq_panel(is_double) * n_sums;
  int64_t some_rows = 1 + (4 * kResiduals - 1) / n_sums;
  return size * (some_rows * (is_double ? 8 : 4) + 16) + 2 * 64;
}

// Finds the best of a row's n_sums partial sums, continued by a codeword each.
SKVQ_API void skvq_choose(const Stage *stage, int64_t n, int64_t n_sums,
                          const void *rest, const void *costs, int64_t width,
                          int64_t *parent, int64_t *code, void *scores, void *scratch) {
  FloatMode mode;
  if (stage->type == kFloat64)
    choose(*stage, n, n_sums, static_cast<const double *>(rest),
           static_cast<const double *>(costs), width, parent, code,
           static_cast<double *>(scores), Scratch(scratch));
  else
    choose(*stage, n, n_sums, static_cast<const float *>(rest),
           static_cast<const float *>(costs), width, parent, code,
           static_cast<float *>(scores), Scratch(scratch));
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
SKVQ_API void skvq_move(int32_t is_double, int64_t n, int64_t d, void *rows,
                        const void *codewords, const int64_t *codes, int32_t sign) {
  FloatMode mode;
  for (int64_t i = 0; i < n; i++) {
    if (is_double) {
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
