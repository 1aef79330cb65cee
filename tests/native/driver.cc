// Runs the kernels on data that integers make, and prints a hash of what they find.
//
// Compiled with the kernels for any instruction set, by any compiler, the output is the
// same to the last character.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../skvq/nearest/native/beam.cc"
#include "../../skvq/nearest/native/bits.cc"
#include "../../skvq/nearest/native/cells.cc"
#include "../../skvq/nearest/native/improve.cc"
#include "../../skvq/nearest/native/search.cc"
#include "../../skvq/nearest/native/sums.cc"
#include "../../skvq/nearest/native/trellis.cc"
#include "../../skvq/nearest/native/units.cc"

namespace {

// A generator of integers (Marsaglia 2003), and numbers of few digits made of them.
struct Generator {
  uint64_t state;

  uint64_t next() {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  }
  double number() { return double(int64_t(next() >> 44) - (1 << 19)) / 1024; }
};

struct Hash {
  uint64_t value = 14695981039346656037u;

  void add(const void *memory, int64_t n) {
    const unsigned char *bytes = static_cast<const unsigned char *>(memory);
    for (int64_t i = 0; i < n; i++) value = (value ^ bytes[i]) * 1099511628211u;
  }
};

template <class T>
T *zeros(int64_t n) {
  // One at least, so that there is an address.
  return static_cast<T *>(calloc(n > 0 ? size_t(n) : 1, sizeof(T)));
}

template <class T>
T *numbers(Generator &g, int64_t n) {
  T *found = zeros<T>(n);
  for (int64_t i = 0; i < n; i++) found[i] = T(g.number());
  return found;
}

// Tables as backends/native.py packs them, without a centre.
template <class T>
struct Packed {
  Codebook book;
  T *rows, *groups, *constants, *centre, *scale;

  Packed(Generator &g, int64_t n_tables, int64_t size, int d, bool direct) {
    int64_t n_groups = (size + kGroup - 1) / kGroup, padded = n_groups * kGroup;
    rows = numbers<T>(g, n_tables * size * d);
    groups = zeros<T>(n_tables * padded * d + 8);
    constants = zeros<T>(n_tables * padded + 8);
    centre = zeros<T>(n_tables * d);
    scale = zeros<T>(n_tables);
    for (int64_t i = 0; i < n_tables * padded + 8; i++) constants[i] = infinity<T>;
    for (int64_t j = 0; j < n_tables; j++) {
      scale[j] = 1;
      for (int64_t v = 0; v < size; v++) {
        const T *row = rows + (j * size + v) * d;
        double norm = 0;
        for (int k = 0; k < d; k++) {
          groups[(j * n_groups + v / kGroup) * kGroup * d + k * kGroup + v % kGroup] =
              row[k];
          norm += double(row[k]) * double(row[k]);
        }
        constants[j * padded + v] = direct ? T(0) : T(norm / 2);
      }
    }
    book = {};
    book.type = type_of<T>;
    book.width = d;
    book.n_codewords = size;
    book.n_tables = n_tables;
    book.direct = direct;
    book.groups = groups;
    book.constants = constants;
    book.centre = centre;
    book.scale = scale;
    book.exact = rows;
    book.resolves = 1;
    book.share = 0.1;
    book.slack = sizeof(T) == 4 ? 1e-6 : 1e-15;
  }
  ~Packed() {
    free(rows);
    free(groups);
    free(constants);
    free(centre);
    free(scale);
  }
};

template <class T>
void run_search(int64_t n, int64_t n_tables, int64_t size, int d, bool direct) {
  Generator g = {88172645463325252u + uint64_t(n * 31 + size * 7 + d)};
  Packed<T> packed(g, n_tables, size, d, direct);
  int64_t width = n_tables * d;
  T *x = numbers<T>(g, n * width);
  int64_t *codes = zeros<int64_t>(n * n_tables);
  uint8_t *state = zeros<uint8_t>(n * n_tables);
  double *distances = zeros<double>(n);
  T *own = zeros<T>(3 * n);
  char *scratch = zeros<char>(skvq_search_scratch(&packed.book));
  Rows rows = {reinterpret_cast<char *>(x), n,          width * int64_t(sizeof(T)),
               int64_t(sizeof(T)),          type_of<T>, int32_t(width)};
  bool one = n_tables == 1;
  Found found = {reinterpret_cast<char *>(codes),
                 n_tables * 8,
                 8,
                 8,
                 state,
                 one ? distances : nullptr,
                 one ? own : nullptr,
                 one ? own + n : nullptr,
                 one ? own + 2 * n : nullptr};
  int64_t n_unsure = skvq_search(&packed.book, &rows, &found, scratch);
  Hash hash;
  hash.add(codes, n * n_tables * 8);
  hash.add(state, n * n_tables);
  hash.add(distances, n * 8);
  hash.add(own, 3 * n * int64_t(sizeof(T)));
  printf("search %d n=%d tables=%d V=%d d=%d %d: %d %016llx\n", int(sizeof(T)), int(n),
         int(n_tables), int(size), d, int(direct), int(n_unsure),
         (unsigned long long)hash.value);
  if (one) {
    double *sums = zeros<double>(size * d), *counts = zeros<double>(size);
    char *memory = zeros<char>(skvq_sums_scratch(d));
    skvq_sums(&rows, codes, distances, sums, counts, memory);
    Hash of_sums;
    of_sums.add(sums, size * d * 8);
    of_sums.add(counts, size * 8);
    printf("sums %016llx\n", (unsigned long long)of_sums.value);
    free(sums);
    free(counts);
    free(memory);
  }
  free(x);
  free(codes);
  free(state);
  free(distances);
  free(own);
  free(scratch);
}

template <class T>
void run_beam(int64_t n, int64_t n_sums, int64_t size, int d, int64_t width) {
  Generator g = {362436069u + uint64_t(n * 31 + size * 7 + d)};
  int64_t lanes_of_panel = panel_width<T>, n_panels = (size + lanes_of_panel - 1) /
                                                      lanes_of_panel;
  T *rows = numbers<T>(g, size * d), *panels = zeros<T>(n_panels * lanes_of_panel * d);
  T *constants = zeros<T>(n_panels * lanes_of_panel);
  for (int64_t v = 0; v < n_panels * lanes_of_panel; v++) {
    constants[v] = infinity<T>;
    if (v >= size) continue;
    double norm = 0;
    for (int k = 0; k < d; k++) {
      panels[(v / lanes_of_panel * d + k) * lanes_of_panel + v % lanes_of_panel] =
          rows[v * d + k];
      norm += double(rows[v * d + k]) * double(rows[v * d + k]);
    }
    constants[v] = T(norm / 2);
  }
  Stage stage = {type_of<T>, d, size, n_panels, panels, constants, rows};
  T *rest = numbers<T>(g, n * n_sums * d), *costs = numbers<T>(g, n * n_sums);
  int64_t *parent = zeros<int64_t>(n * width), *code = zeros<int64_t>(n * width);
  T *scores = zeros<T>(n * width), *next = zeros<T>(n * width * d);
  double *norms = zeros<double>(n * width);
  char *scratch = zeros<char>(skvq_choose_scratch(&stage, n_sums));
  skvq_choose(&stage, n, n_sums, rest, costs, width, parent, code, scores, scratch);
  skvq_advance(&stage, n, n_sums, width, rest, parent, code, next, norms);
  skvq_move(sizeof(T) == 8, n * width, d, next, rows, code, 1);
  Hash hash;
  hash.add(parent, n * width * 8);
  hash.add(code, n * width * 8);
  hash.add(scores, n * width * int64_t(sizeof(T)));
  hash.add(next, n * width * d * int64_t(sizeof(T)));
  hash.add(norms, n * width * 8);
  printf("beam %d n=%d sums=%d V=%d d=%d width=%d: %016llx\n", int(sizeof(T)), int(n),
         int(n_sums), int(size), d, int(width), (unsigned long long)hash.value);
  free(rows);
  free(panels);
  free(constants);
  free(rest);
  free(costs);
  free(parent);
  free(code);
  free(scores);
  free(next);
  free(norms);
  free(scratch);
}

template <class T>
void run_improve(int64_t n, const int64_t *sizes, int n_tables) {
  Generator g = {521288629u + uint64_t(n)};
  int64_t starts[9] = {}, order[24];
  for (int j = 0; j < n_tables; j++)
    starts[j + 1] = starts[j] + (sizes[j] + padding<T> - 1) / padding<T> * padding<T>;
  // Padded alike whatever the registers, the numbers are those of no padding.
  const void *products[64] = {};
  for (int j = 0; j < n_tables; j++)
    for (int o = 0; o < n_tables; o++) {
      if (o == j) continue;
      T *own = zeros<T>(sizes[o] * (starts[j + 1] - starts[j]));
      for (int64_t v = 0; v < sizes[o]; v++)
        for (int64_t k = 0; k < sizes[j]; k++)
          own[v * (starts[j + 1] - starts[j]) + k] = T(g.number() / 8);
      products[j * n_tables + o] = own;
    }
  int64_t width = starts[n_tables];
  T *scores = zeros<T>(n * width), *room = numbers<T>(g, n);
  int64_t *codes = zeros<int64_t>(n * n_tables);
  for (int64_t i = 0; i < n; i++)
    for (int j = 0; j < n_tables; j++)
      for (int64_t k = 0; k < starts[j + 1] - starts[j]; k++)
        scores[i * width + starts[j] + k] = k < sizes[j] ? T(g.number()) : infinity<T>;
  int n_steps = 3 * n_tables;
  for (int s = 0; s < n_steps; s++) order[s] = (s * 5) % n_tables;
  uint8_t *state = zeros<uint8_t>(n);
  Pairs pairs = {type_of<T>, n_tables, sizes, starts, products};
  skvq_improve(&pairs, n, scores, codes, order, n_steps, n_tables, room, state);
  Hash hash;
  hash.add(codes, n * n_tables * 8);
  hash.add(state, n);
  printf("improve %d n=%d: %016llx\n", int(sizeof(T)), int(n),
         (unsigned long long)hash.value);
  for (const void *own : products) free(const_cast<void *>(own));
  free(scores);
  free(room);
  free(codes);
  free(state);
}

// Paths of 37 rows through 23 features, some of which have no bits.
template <class T>
void run_trellis(int state_bits, int step_bits, bool has_subsets, int ends) {
  constexpr int n = 37, d = 23;
  Generator g = {886756453u + uint64_t(state_bits * 16 + step_bits * 2 + ends)};
  int64_t feature[d], rate[d], level_begin[d], edge_begin[d];
  int64_t n_levels = 0, n_edges = 0, n_steps = 0;
  const int64_t most = has_subsets ? 128 : int64_t(1) << (state_bits + step_bits);
  T *levels = zeros<T>(d * most), *edges = zeros<T>(d * most);
  for (int j = 0; j < d; j++) {
    rate[j] = has_subsets ? int64_t(g.next() % 7) : g.next() % 5 ? step_bits : 0;
    if (rate[j]) feature[n_steps++] = j;
    level_begin[j] = n_levels;
    edge_begin[j] = n_edges;
    int64_t m = !rate[j] ? 1 : has_subsets ? int64_t(2) << rate[j] : most;
    T *own = levels + n_levels;
    for (int64_t i = 0; i < m; i++) own[i] = T(g.number() / 128);
    if (has_subsets) {
      for (int64_t i = 1; i < m; i++)
        for (int64_t q = i; q > 0 && own[q] < own[q - 1]; q--) {
          T other = own[q];
          own[q] = own[q - 1];
          own[q - 1] = other;
        }
      for (int64_t i = 0; rate[j] && i + 4 < m; i++)
        edges[n_edges++] = T(0.5 * double(own[i]) + 0.5 * double(own[i + 4]));
    }
    n_levels += m;
  }
  SkvqTrellis trellis = {d,      n_steps,     int64_t(1) << state_bits, step_bits,
                         has_subsets, feature, rate, levels, level_begin, edges,
                         edge_begin, 1.0};
  T *x = zeros<T>(n * d);
  for (int i = 0; i < n * d; i++) x[i] = T(g.number() / 128);
  uint32_t codes[n * d] = {};
  double distances[n] = {};
  SkvqViterbi task = {x, n, d * int64_t(sizeof(T)), int64_t(sizeof(T)), ends, nullptr, 0,
                      codes, 4, distances, 1};
  char *memory = zeros<char>(skvq_viterbi_bytes(&trellis, sizeof(T)));
  if (sizeof(T) == 4)
    skvq_viterbi_f32(&trellis, &task, memory, 0, n_steps * (ends + 1));
  else
    skvq_viterbi_f64(&trellis, &task, memory, 0, n_steps * (ends + 1));
  Hash hash;
  hash.add(codes, sizeof(codes));
  hash.add(distances, sizeof(distances));
  printf("trellis %d states=%d bits=%d subsets=%d ends=%d: %016llx\n", int(sizeof(T)),
         1 << state_bits, step_bits, int(has_subsets), ends,
         (unsigned long long)hash.value);
  free(levels);
  free(edges);
  free(x);
  free(memory);
}

template <class T>
void run_all() {
  const int64_t counts[] = {0, 1, 7, 13, 48, 101}, sizes[] = {1, 5, 6, 17, 70};
  const int widths[] = {1, 2, 3, 4, 8, 13, 16, 32, 40};
  for (int64_t n : counts)
    for (int64_t size : sizes)
      for (int d : widths) {
        run_search<T>(n, 1, size, d, d <= 2);
        run_search<T>(n, 3, size, d, false);
      }
  const int few_widths[] = {1, 8, 19};
  for (int64_t size : sizes)
    for (int d : few_widths) {
      run_beam<T>(23, 1, size, d, 1);
      run_beam<T>(23, 3, size, d, size < 4 ? 2 : 4);
      run_beam<T>(5, 7, size, d, size < 9 ? 5 : 33);
    }
  const int64_t own_sizes[] = {5, 17, 1, 64, 33};
  for (int64_t n : counts) run_improve<T>(n, own_sizes, 5);
  for (int ends = 0; ends < 2; ends++) {
    for (int state_bits = 2; state_bits <= 8; state_bits++)
      run_trellis<T>(state_bits, 1, true, ends);
    run_trellis<T>(1, 1, false, ends);
    run_trellis<T>(4, 2, false, ends);
    run_trellis<T>(4, 3, false, ends);
    run_trellis<T>(12, 2, false, ends);
  }
  run_search<T>(700, 1, 1000, 128, false);
  run_beam<T>(9, 32, 256, 64, 32);
}

// Rows of three columns, by edges -60, -59, ... 60 of each, and by 121 equal cells.
template <class T>
void run_cells(int64_t n, bool has_buckets) {
  constexpr int d = 3, size = 121, period = d * 16;
  Generator g = {1812433253u + uint64_t(n)};
  T edges[size * period], start[period], per_unit[period], last[period];
  double low[period], width[period], sizes[period], top[period];
  int32_t buckets[d * size];
  int64_t begin[d] = {0, size + 1, 2 * (size + 1)}, first[d] = {0, size, 2 * size};
  for (int at = 0; at < period; at++) {
    start[at] = low[at] = -60;
    per_unit[at] = 1;
    last[at] = top[at] = size - 1;
    width[at] = sizes[at] = size;
    for (int e = 0; e < size; e++) edges[e * period + at] = T(e - 60);
  }
  for (int at = 0; has_buckets && at < d * size; at++) buckets[at] = at % size;
  for (int at = 0; has_buckets && at < d * (size + 1); at++)
    edges[at] = at % (size + 1) < size ? T(at % (size + 1) - 60) : T(__builtin_nan(""));
  Edges cut = {type_of<T>, period, size,    edges, begin, start, per_unit, last,
               has_buckets ? buckets : nullptr,    first, 1};
  EqualCells equal = {type_of<T>, period, start, per_unit, last,
                      1e-4,       low,    width, sizes,    top};
  T *x = numbers<T>(g, n * d);
  for (int64_t i = 0; i < n * d; i++) x[i] /= 8;
  Rows rows = {reinterpret_cast<char *>(x), n, d * int64_t(sizeof(T)), sizeof(T),
               type_of<T>, d};
  uint16_t *codes = zeros<uint16_t>(2 * n * d);
  char *scratch = zeros<char>(skvq_cells_scratch(period));
  skvq_cells_between(&cut, &rows, codes, 2, scratch);
  skvq_equal_cells(&equal, &rows, codes + n * d, 2, scratch);
  Hash hash;
  hash.add(codes, 4 * n * d);
  printf("cells %d n=%d buckets=%d: %016llx\n", int(sizeof(T)), int(n),
         int(has_buckets), (unsigned long long)hash.value);
  free(x);
  free(codes);
  free(scratch);
}

// Words of 0 to 32 bits, packed and unpacked.
void run_bits(int64_t n, bool is_aligned) {
  constexpr int64_t m = 7;
  const int32_t widths[m] = {5, 0, 32, 8, 1, 13, 17};  // 76 bits
  Generator g = {2654435769u + uint64_t(n)};
  uint32_t *words = zeros<uint32_t>(n * m), *found = zeros<uint32_t>(n * m);
  for (int64_t i = 0; i < n * m; i++)
    words[i] = uint32_t(g.next() & ((uint64_t(1) << widths[i % m]) - 1));
  const int64_t row = is_aligned ? 10 : (n * 76 + 7) / 8;
  uint8_t *packed = zeros<uint8_t>(is_aligned ? n * row : row);
  skvq_pack_words(reinterpret_cast<char *>(words), n, m, m * 4, 4, 4, widths, is_aligned,
                  packed);
  skvq_unpack_words(packed, n, m, row, row, 4, widths, is_aligned, found);
  Hash hash;
  hash.add(packed, is_aligned ? n * row : row);
  printf("bits n=%d aligned=%d: %d %016llx\n", int(n), int(is_aligned),
         memcmp(words, found, size_t(n * m * 4)), (unsigned long long)hash.value);
  free(words);
  free(found);
  free(packed);
}

template <class T>
void run_units(int64_t n, int d) {
  Generator g = {1013904223u + uint64_t(n * 31 + d)};
  T *x = numbers<T>(g, n * d), *units = zeros<T>(n * d);
  char *scratch = zeros<char>(skvq_unit_rows_scratch(d));
  Rows rows = {reinterpret_cast<char *>(x), n, d * int64_t(sizeof(T)), sizeof(T),
               type_of<T>, d};
  skvq_unit_rows(&rows, sizeof(T) == 8, units, scratch);
  Hash hash;
  hash.add(units, n * d * int64_t(sizeof(T)));
  printf("units %d n=%d d=%d: %016llx\n", int(sizeof(T)), int(n), d,
         (unsigned long long)hash.value);
  free(x);
  free(units);
  free(scratch);
}

}  // namespace

int main() {
  run_all<float>();
  run_all<double>();
  const int64_t counts[] = {0, 1, 5, 37, 20000};
  for (int64_t n : counts)
    for (int has_buckets = 0; has_buckets < 2; has_buckets++) {
      run_cells<float>(n, has_buckets);
      run_cells<double>(n, has_buckets);
    }
  for (int d = 1; d < 40; d++) {
    run_units<float>(17, d);
    run_units<double>(17, d);
  }
  for (int64_t n = 0; n < 20; n++) {
    run_bits(n, false);
    run_bits(n, true);
  }
  return 0;
}
