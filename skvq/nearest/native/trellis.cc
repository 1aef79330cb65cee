// Viterbi's search: the path through a trellis whose levels are nearest to a row.
//
// A path is a sequence of windows of so many bits of a stream: window w = (s << k) | u
// of a step follows state s with the k new bits u, and leaves the state w mod S.  With
// subsets (Ungerboeck 1982) a window stands for every fourth level of the feature's
// alphabet, of which the nearest is taken; without, for a level of its own (bitshift
// trellis).  A step costs (x - level)^2.  Of the 2^k windows t + j S that lead to a
// state t, the one with the least sum of costs survives, of equals the first; the
// survivors of all steps, read backwards from the best last state, are the path.
//
// Rows lie in the lanes, so a step is a loop over the states without any exchange
// between lanes: with subsets, two windows lead to a state, which takes two additions,
// a minimum, a comparison, and the store of a bit for each lane.  The costs of old and
// new states, S vectors each, stay in the cache.  What bounds it is how many operations
// and stores there are, so bits are stored two words at a time.
//
// Zen 3 at 2.4 GHz, AVX2, cycles: 2 bits and 8, 32 and 256 states, a scalar: forward
// 3.3, 8.3 and 58, back 5.8 to 6.4, packing .8; bitshift, a window of 8 rows: 1.6 to
// 2.2, whatever the step and up to 2^16 windows.
//
// Every operation is rounded by itself, as NumPy does it, so the paths are NumPy's.

#include "rows.h"

extern "C" {

// Data that all rows share; Python has the same structure.
struct SkvqTrellis {
  int64_t n_features;
  int64_t n_steps;          // features that have bits
  int64_t n_states;         // S
  int64_t step_bits;        // k
  int64_t has_subsets;      // whether windows have these, or levels of their own
  const int64_t *feature;   // (n_steps,) in order
  const int64_t *rate;      // (n_features,) in bits
  // Levels of all features; those of windows t + j S by t, and then by j.
  const void *levels;
  const int64_t *level_begin;  // (n_features,)
  // With subsets: between levels i and i + 4, the value from which on the second is
  // nearer.
  const void *edges;
  const int64_t *edge_begin;  // (n_features,)
  double scale;               // that levels and edges have
  int32_t type;               // of levels, edges and rows
};

// The arguments for some rows.
struct SkvqViterbi {
  const void *x;
  int64_t n_rows, row_stride, column_stride;  // in bytes
  int64_t ends;                               // one of `Ends`
  const int64_t *states;  // (n_rows,) where paths begin and end, if given; or null
  int64_t as_levels;      // whether codes are places in the alphabets
  void *codes;            // (n_rows, n_features)
  int64_t code_bytes;
  double *distances;  // (n_rows,)
  int64_t exact;      // whether distances are wanted, or only if they are numbers
};
}

namespace {

enum Ends { kFree, kTailBiting, kGiven };

// The kind of a step: bits in a trellis of subsets, a known number or any; bits of a
// window with a level of its own; or none.
enum Kind { kAnyRate = 0, kWindow = -1, kNoBits = -2 };

// Parity checks by the bits of the state (Ungerboeck 1982, table I), as in Python.
constexpr int kChecks[9][2] = {
    {},         {},          {05, 02},     {013, 04},   {023, 04},
    {045, 010}, {0103, 024}, {0235, 0126}, {0515, 0362}};

// The subset of a window.
constexpr int subset(int state_bits, int window) {
  return 2 * __builtin_parity(window & kChecks[state_bits][0]) +
         __builtin_parity(window & kChecks[state_bits][1]);
}

// A store to one buffer of costs must not look like a load from the other, as it does
// where addresses differ by a multiple of 4 KB.
constexpr int64_t kApart = 5 * 64 + 128;

template <class T>
struct Paths {
  using V = typename Vector<T>::type;
  using Word = LaneBits<T>;
  using Integer = typename Int<T>::type;
  using Integers = typename Vector<T>::mask;
  static constexpr int W = lanes<T>;

  const SkvqTrellis &trellis;
  T *x;              // (n_features, W), scaled
  T *costs[2];       // (S, W), before a step and after it, in turn
  Word *bits;        // (n_steps, S, k), of j where window t + j S has survived
  uint8_t *subsets;  // (2 S,) of windows
  int64_t *ends;     // (W,) where each path is to begin and to end

  Paths(const SkvqTrellis &t, Scratch memory) : trellis(t) {
    const int64_t S = t.n_states;
    x = memory.take<T>(t.n_features * W);
    costs[0] = memory.take<T>(S * W + kApart / int64_t(sizeof(T)));
    costs[1] = costs[0] + S * W + kApart / int64_t(sizeof(T));
    memory.take<T>(S * W);
    ends = memory.take<int64_t>(W);
    subsets = memory.take<uint8_t>(2 * S);
    bits = memory.take<Word>(t.n_steps * S * t.step_bits);
  }

  static int64_t bytes(const SkvqTrellis &t) {
    const int64_t S = t.n_states;
    return (t.n_features * W + 2 * S * W) * int64_t(sizeof(T)) + kApart +
           W * int64_t(sizeof(int64_t)) + 2 * S +
           t.n_steps * S * t.step_bits * int64_t(sizeof(Word)) + 7 * 64;
  }

  const T *levels(int64_t feature) const {
    return static_cast<const T *>(trellis.levels) + trellis.level_begin[feature];
  }
  const T *edges(int64_t feature) const {
    return static_cast<const T *>(trellis.edges) + trellis.edge_begin[feature];
  }

  // Rows feature by feature; the last one fills the lanes that are left.
  void pack(const SkvqViterbi &task, int64_t first) {
    const T scale = T(trellis.scale);
    const int64_t last = task.n_rows - 1;
    for (int lane = 0; lane < W; ++lane) {
      const int64_t row = first + lane < last ? first + lane : last;
      const char *from = static_cast<const char *>(task.x) + row * task.row_stride;
      for (int64_t j = 0; j < trellis.n_features; ++j) {
        T value;
        memcpy(&value, from + j * task.column_stride, sizeof(T));
        x[j * W + lane] = value * scale;
      }
      ends[lane] = task.states ? task.states[row] : 0;
    }
  }

  // Every path begins where it is to begin; with `any`, in any state.
  void begin(T *cost, bool any) const {
    for (int64_t s = 0; s < trellis.n_states; ++s)
      for (int lane = 0; lane < W; ++lane)
        cost[s * W + lane] = any || ends[lane] == s ? T(0) : infinity<T>;
  }

  // -- one step forward ---------------------------------------------------------------

  // The place in a subset of the level that is nearest to a value.
  static int64_t place(const T *edge, int64_t rate, T value) {
    int64_t passed = 0;
    for (int64_t half = int64_t(1) << (rate - 1) >> 1; half; half >>= 1)
      passed += value >= edge[4 * (passed + half - 1)] ? half : 0;
    return passed;
  }

  // What the nearest level of each subset costs.
  template <int kind>
  void branch(int64_t feature, V value, V (&cost)[4]) const {
    for (int q = 0; q < 4; ++q) {
      const T *level = levels(feature) + q, *edge = edges(feature) + q;
      V nearest = all<V>(level[0]);
      if constexpr (kind != kAnyRate) {
        for (int i = 4; i < 4 << (kind - 1); i += 4)
          nearest = value >= all<V>(edge[i - 4]) ? all<V>(level[i]) : nearest;
      } else {
        const int64_t rate = trellis.rate[feature];
        for (int lane = 0; lane < W; ++lane)
          nearest[lane] = level[4 * place(edge, rate, value[lane])];
      }
      const V gap = value - nearest;
      cost[q] = V(gap * gap);
    }
  }

  void branch(int64_t feature, V value, V (&cost)[4]) const {
    switch (trellis.rate[feature]) {
      case 1: return branch<1>(feature, value, cost);
      case 2: return branch<2>(feature, value, cost);
      case 3: return branch<3>(feature, value, cost);
      case 4: return branch<4>(feature, value, cost);
      case 5: return branch<5>(feature, value, cost);
      case 6: return branch<6>(feature, value, cost);
      default: return branch<kAnyRate>(feature, value, cost);
    }
  }

  // From two states each to two states: number z to n of a block.  Of the four windows
  // 2z, 2z + 1, 2z + S and 2z + 1 + S, the outer two have one subset and the inner two
  // another, for the first check begins and ends in a one, and the second in zeros.
  template <int state_bits, int z, int n>
  SKVQ_INLINE void butterflies(const T *__restrict from, T *__restrict to,
                               Word *__restrict survived, const V (&cost)[4]) {
    if constexpr (z < n) {
      constexpr int q = subset(state_bits, 2 * z);
      constexpr int64_t half = (int64_t(1) << state_bits) / 2;
      const V outer = cost[q], inner = cost[q ^ 2];
      const V a = load(from + z * W), b = load(from + (z + half) * W);
      const V a0 = a + outer, a1 = a + inner, b0 = b + inner, b1 = b + outer;
      store(to + 2 * z * W, smaller(b0, a0));
      store(to + (2 * z + 1) * W, smaller(b1, a1));
      // Stored at once, since stores take longest.
      const Word which[2] = {less<T>(b0, a0), less<T>(b1, a1)};
      memcpy(survived + 2 * z, which, sizeof(which));
      butterflies<state_bits, z + 1, n>(from, to, survived, cost);
    }
  }

  template <int state_bits>
  void step_subsets(int64_t feature, const T *from, T *to, Word *survived) const {
    constexpr int half = (1 << state_bits) / 2, n = half < 8 ? half : 8;
    const V value = load(x + feature * W);
    V cost[4];
    branch(feature, value, cost);
    for (int i = 0; i < half; i += n) {
      // Parities add up: the block's subsets are those of the first one, but for this.
      const int q = subset(state_bits, 2 * i);
      const V own[4] = {cost[q], cost[q ^ 1], cost[q ^ 2], cost[q ^ 3]};
      T *next = to + 2 * i * W;
      butterflies<state_bits, 0, n>(from + i * W, next, survived + 2 * i, own);
    }
  }

  // The least sum of costs of some windows, and of which: the bits of its number, each
  // as a word of a bit for each lane.
  struct Survivor {
    V cost;
    uint64_t which;
  };

  // The first of the best of the windows that lead to a state, from states with costs
  // `before`: in pairs, pairs of pairs, and so on.
  template <int k>
  SKVQ_INLINE Survivor survivor(const V *before, const T *level, V value) {
    if constexpr (k == 0) {
      const V gap = value - all<V>(level[0]);
      return {before[0] + V(gap * gap), 0};
    } else {
      constexpr int half = 1 << (k - 1), word = 8 * sizeof(Word);
      constexpr uint64_t each = word == 8 ? 0x0101010101010101 : 0x0001000100010001;
      const Survivor low = survivor<k - 1>(before, level, value);
      const Survivor high = survivor<k - 1>(before + half, level + half, value);
      const uint64_t now = less<T>(high.cost, low.cost), all_bits = now * each;
      const uint64_t which = (high.which & all_bits) | (low.which & ~all_bits);
      return {smaller(high.cost, low.cost), which | now << (k - 1) * word};
    }
  }

  template <int k>
  void step_windows(int64_t feature, const T *from, T *to, Word *survived) const {
    constexpr int n = 1 << k;
    const int64_t apart = trellis.n_states >> k;
    const T *level = levels(feature);
    const V value = load(x + feature * W);
    for (int64_t i = 0; i < apart; ++i) {
      V before[n];
      for (int j = 0; j < n; ++j) before[j] = load(from + (i + j * apart) * W);
      for (int64_t t = i * n; t < (i + 1) * n; ++t) {
        const Survivor found = survivor<k>(before, level + t * n, value);
        store(to + t * W, found.cost);
        memcpy(survived + t * k, &found.which, k * sizeof(Word));
      }
    }
  }

  // Step `place` of the path; `feature` is the one that it takes.
  void step(int64_t place, int64_t feature, const T *from, T *to) const {
    Word *survived = bits + place * trellis.n_states * trellis.step_bits;
    if (trellis.has_subsets) {
      switch (trellis.n_states) {
        case 4: return step_subsets<2>(feature, from, to, survived);
        case 8: return step_subsets<3>(feature, from, to, survived);
        case 16: return step_subsets<4>(feature, from, to, survived);
        case 32: return step_subsets<5>(feature, from, to, survived);
        case 64: return step_subsets<6>(feature, from, to, survived);
        case 128: return step_subsets<7>(feature, from, to, survived);
        default: return step_subsets<8>(feature, from, to, survived);
      }
    }
    switch (trellis.step_bits) {
      case 1: return step_windows<1>(feature, from, to, survived);
      case 2: return step_windows<2>(feature, from, to, survived);
      case 3: return step_windows<3>(feature, from, to, survived);
      default: return step_windows<4>(feature, from, to, survived);
    }
  }

  // -- and back -----------------------------------------------------------------------

  // The window that leads a lane to a state.
  int64_t window(int64_t place, int64_t state, int lane) const {
    const int64_t k = trellis.step_bits;
    const Word *survived = bits + (place * trellis.n_states + state) * k;
    int64_t which = 0;
    for (int64_t b = 0; b < k; ++b) which |= int64_t(survived[b] >> lane & 1) << b;
    return state + which * trellis.n_states;
  }

  // The first of the best last states.
  void best(const T *cost, int64_t *state) const {
    V least = load(cost);
    Integers found{};
    for (int64_t s = 1; s < trellis.n_states; ++s) {
      const V other = load(cost + s * W);
      const auto now = other < least;
      found = now ? found - found + Integer(s) : found;
      least = now ? other : least;
    }
    for (int lane = 0; lane < W; ++lane) state[lane] = found[lane];
  }

  // After the sequence with its halves exchanged: the state between its last feature
  // and its first, where the path is to begin and to end.
  void set_seam(const T *cost) {
    const int64_t first = trellis.n_steps - trellis.n_steps / 2;
    best(cost, ends);
    for (int64_t place = trellis.n_steps; place-- > first;)
      for (int lane = 0; lane < W; ++lane)
        ends[lane] = window(place, ends[lane], lane) >> trellis.step_bits;
  }

  // One step back: the code, or place in the alphabet, of each lane, and what the level
  // adds to the distance; of a feature without bits, whether the value is a number.
  template <int kind, bool exact, class Code>
  void back(int64_t number, int64_t feature, bool as_levels, int64_t *__restrict state,
            Code *__restrict code, const int64_t *__restrict row,
            double *__restrict sum) const {
    const int rate = kind > 0 ? kind : int(trellis.rate[feature]);
    const T *level = levels(feature), *edge = edges(feature), *value = x + feature * W;
    const int64_t S = trellis.n_states;
    const Word *__restrict survived = bits + number * S;
    const uint8_t *__restrict subset = subsets;
    for (int lane = 0; lane < W; ++lane) {
      int64_t at = 0, level_at = 0, found = 0;
      if constexpr (kind >= 0) {
        const int64_t s = state[lane], w = s + int64_t(survived[s] >> lane & 1) * S;
        const int64_t q = subset[w];
        int64_t within = 0;
        if constexpr (kind == 2)
          within = value[lane] >= edge[q];
        else if constexpr (kind != 1)
          within = place(edge + q, rate, value[lane]);
        found = (s & 1) << (rate - 1) | within;
        level_at = at = 4 * within + q;
        state[lane] = w >> 1;
      } else if constexpr (kind == kWindow) {
        at = window(number, state[lane], lane);
        level_at = (at & (S - 1)) << rate | at >> __builtin_ctzll(S);
        found = at & ((1 << rate) - 1);
        state[lane] = at >> rate;
      }
      code[row[lane]] = Code(as_levels ? at : found);
      if constexpr (exact) {
        const double gap = double(value[lane]) - double(level[level_at]);
        sum[lane] += gap * gap;
      } else if constexpr (kind == kNoBits) {
        sum[lane] += value[lane] - value[lane];
      }
    }
  }

  template <bool exact, class Code>
  void trace(const SkvqViterbi &task, int64_t first, int n, int64_t *state,
             double *sum) const {
    const int64_t d = trellis.n_features;
    Code *codes = static_cast<Code *>(task.codes) + first * d;
    int64_t number = trellis.n_steps, row[W];
    // Lanes that are left hold the last row once more.
    for (int lane = 0; lane < W; ++lane) row[lane] = (lane < n ? lane : n - 1) * d;
    const bool as_levels = task.as_levels;
    for (int64_t j = d; j-- > 0;) {
      const int64_t rate = trellis.rate[j];
      number -= rate > 0;
      if (rate == 0)
        back<kNoBits, exact>(number, j, as_levels, state, codes + j, row, sum);
      else if (!trellis.has_subsets)
        back<kWindow, exact>(number, j, as_levels, state, codes + j, row, sum);
      else if (rate == 1)
        back<1, exact>(number, j, as_levels, state, codes + j, row, sum);
      else if (rate == 2)
        back<2, exact>(number, j, as_levels, state, codes + j, row, sum);
      else
        back<kAnyRate, exact>(number, j, as_levels, state, codes + j, row, sum);
    }
  }

  template <class Code>
  void finish(const SkvqViterbi &task, int64_t first, const T *cost) const {
    const int n = task.n_rows - first < W ? int(task.n_rows - first) : W;
    int64_t state[W];
    double reached[W], sum[W] = {};
    if (task.ends == kFree)
      best(cost, state);
    else
      memcpy(state, ends, sizeof(state));
    for (int lane = 0; lane < W; ++lane) reached[lane] = cost[state[lane] * W + lane];
    if (task.exact)
      trace<true, Code>(task, first, n, state, sum);
    else
      trace<false, Code>(task, first, n, state, sum);
    // If costs overflow, the result is not a path.
    for (int lane = 0; lane < n; ++lane) {
      const double cost = task.exact ? 0 * reached[lane] : reached[lane];
      task.distances[first + lane] = cost + sum[lane];
    }
  }

  void finish_as(const SkvqViterbi &task, int64_t first, const T *cost) const {
    switch (task.code_bytes) {
      case 1: return finish<uint8_t>(task, first, cost);
      case 2: return finish<uint16_t>(task, first, cost);
      case 4: return finish<uint32_t>(task, first, cost);
      default: return finish<uint64_t>(task, first, cost);
    }
  }

  // Steps `start` to `stop` for the rows from the first on that fill the lanes.
  void run(const SkvqViterbi &task, int64_t first, int64_t start, int64_t stop) {
    const int64_t n = trellis.n_steps, half = n / 2;
    // Once through the sequence with its halves exchanged, if paths are tail-biting.
    const int64_t before = task.ends == kTailBiting ? n : 0;
    if (start == 0) {
      const int state_bits = __builtin_ctzll(trellis.n_states);
      for (int w = 0; trellis.has_subsets && w < 2 << state_bits; ++w)
        subsets[w] = uint8_t(subset(state_bits, w));
      pack(task, first);
      begin(costs[0], before > 0);
    }
    for (int64_t number = start; number < stop; ++number) {
      T *from = costs[number & 1], *to = costs[~number & 1];
      if (before && number == before) {
        set_seam(from);
        begin(from, false);
      }
      int64_t place = number - before, turned = place;
      if (number < before) {
        place = number;
        turned = place + half < n ? place + half : place + half - n;
      }
      step(place, trellis.feature[turned], from, to);
    }
    if (stop == before + n) finish_as(task, first, costs[stop & 1]);
  }
};

template <class T>
void viterbi(const SkvqTrellis &trellis, const SkvqViterbi &task, void *memory,
             int64_t start, int64_t stop) {
  const FloatMode mode;
  Paths<T> rows(trellis, Scratch(memory));
  for (int64_t first = 0; first < task.n_rows; first += lanes<T>)
    rows.run(task, first, start, stop);
}

}  // namespace

// Bytes of scratch memory that a search takes.
SKVQ_API int64_t skvq_viterbi_scratch(const SkvqTrellis *trellis) {
  return trellis->type == kFloat32 ? Paths<float>::bytes(*trellis)
                                   : Paths<double>::bytes(*trellis);
}

// Rows of a type that lie in the lanes together.
SKVQ_API int64_t skvq_viterbi_rows(int32_t type) {
  return type == kFloat32 ? lanes<float> : lanes<double>;
}

// Take steps `start` to `stop` of n_steps, or of twice as many if paths are
// tail-biting.  Of more rows than lie in the lanes together, all steps are taken at
// once; of others a call may take some, and the next one, with the same memory, those
// that follow.
SKVQ_API void skvq_viterbi(const SkvqTrellis *trellis, const SkvqViterbi *task,
                           void *memory, int64_t start, int64_t stop) {
  (trellis->type == kFloat32 ? viterbi<float> : viterbi<double>)(*trellis, *task, memory,
                                                                 start, stop);
}
