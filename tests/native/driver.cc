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
#include "../../skvq/nearest/native/bytes.h"
#include "../../skvq/nearest/native/cells.cc"
#include "../../skvq/nearest/native/improve.cc"
#include "../../skvq/nearest/native/search.cc"
#include "../../skvq/nearest/native/sums.cc"
#include "../../skvq/nearest/native/trellis.cc"
#include "../../skvq/nearest/native/units.cc"

// Some names are those of other kernels.
namespace scans {
#include "../../skvq/nearest/native/scan.cc"
}

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

// A matrix in memory that begins at an odd address and has gaps between its numbers.
struct Matrix {
  // How rows follow each other, in memory of `gap` bytes more than they take.
  enum Kind { kRows, kColumns, kBackwards, kSameRow, kSameColumn, kKinds };

  char *memory;
  Rows rows;

  template <class S>
  static void put(Generator &g, char *to) {
    // Few digits, which every type has.
    int64_t number = int64_t(g.next() >> 44) % 100;
    S value = S(S(-1) < S(0) ? number - 50 : number);
    if (S(0.5) > S(0)) value = S(float(number - 50) / 8);
    memcpy(to, &value, sizeof(S));
  }
  static void put(Generator &g, int32_t type, char *to) {
    switch (type) {
      case kUint8: return put<uint8_t>(g, to);
      case kInt8: return put<int8_t>(g, to);
      case kUint16: return put<uint16_t>(g, to);
      case kInt16: return put<int16_t>(g, to);
      case kUint32: return put<uint32_t>(g, to);
      case kInt32: return put<int32_t>(g, to);
      case kUint64: return put<uint64_t>(g, to);
      case kInt64: return put<int64_t>(g, to);
      case kFloat16: return put<_Float16>(g, to);
      case kFloat32: return put<float>(g, to);
      default: return put<double>(g, to);
    }
  }

  Matrix(Generator &g, int64_t n, int32_t d, int32_t type, int kind, int64_t gap) {
    constexpr int64_t sizes[] = {1, 1, 2, 2, 4, 4, 8, 8, 2, 4, 8};
    int64_t item = sizes[type] + gap, row = d * item + gap, column = item;
    if (kind == kColumns) row = item, column = n * item;
    // The numbers of a repeated one are written again and again.
    if (kind == kSameRow) row = 0;
    if (kind == kSameColumn) column = 0;
    int64_t n_bytes = (n + 1) * (d + 1) * (item + gap);
    memory = zeros<char>(n_bytes + 1);
    char *x = memory + 1;
    if (kind == kBackwards) {
      row = -row, column = -column;
      x += n_bytes - sizes[type];
    }
    for (int64_t i = 0; i < n; i++)
      for (int64_t k = 0; k < d; k++) put(g, type, x + i * row + k * column);
    rows = {x, n, row, column, type, d};
  }
  ~Matrix() { free(memory); }
};

// Tables as backends/native.py packs them; without a centre, unless it is asked for.
template <class T>
struct Packed {
  Codebook book;
  T *rows, *groups, *constants, *centre, *scale;
  int64_t *first;
  int32_t *words, *halves;
  float *per_unit, *lost;

  Packed(Generator &g, int64_t n_tables, int64_t size, int d, bool direct,
         bool centred = false) {
    int64_t n_groups = (size + kGroup - 1) / kGroup, padded = n_groups * kGroup;
    rows = numbers<T>(g, n_tables * size * d);
    groups = zeros<T>(n_tables * padded * d + 8);
    constants = zeros<T>(n_tables * padded + 8);
    centre = zeros<T>(n_tables * d);
    scale = zeros<T>(n_tables);
    for (int64_t i = 0; i < n_tables * padded + 8; i++) constants[i] = infinity<T>;
    for (int64_t j = 0; j < n_tables; j++) {
      scale[j] = T(centred ? j % 2 ? 0.25 : 8 : 1);
      for (int k = 0; centred && k < d; k++) centre[j * d + k] = T(g.number() / 64);
      for (int64_t v = 0; v < size; v++) {
        const T *row = rows + (j * size + v) * d;
        double norm = 0;
        for (int k = 0; k < d; k++) {
          T value = (row[k] - centre[j * d + k]) * scale[j];
          groups[(j * n_groups + v / kGroup) * kGroup * d + k * kGroup + v % kGroup] =
              value;
          norm += double(value) * double(value);
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
    // As if every third codeword were one of those before.
    first = zeros<int64_t>(n_tables * size);
    for (int64_t v = 0; v < n_tables * size; v++) first[v] = v % size * 3 / 2;
    if (centred) book.first = first;
    words = zeros<int32_t>(n_tables * padded * ((d + 1) / 2) + 8);
    halves = zeros<int32_t>(n_tables * padded + 8);
    per_unit = zeros<float>(n_tables);
    lost = zeros<float>(n_tables);
    if (sizeof(T) == 4 && pack_words()) {
      book.words = words;
      book.halves = halves;
      book.per_unit = per_unit;
      book.lost = lost;
    }
  }
  // Packs all tables in integers, where they are used.
  bool pack_words() {
    const int64_t size = book.n_codewords, d = book.width;
    const int64_t padded = (size + kGroup - 1) / kGroup * kGroup;
    bool are_packed = true;
    for (int64_t j = 0; are_packed && j < book.n_tables; j++) {
      float *weights = zeros<float>((d + 1) * size);
      for (int64_t v = 0; v < size; v++) {
        const T *group = groups + (j * padded + v / kGroup * kGroup) * d;
        for (int64_t k = 0; k < d; k++)
          weights[k * size + v] = -float(group[k * kGroup + v % kGroup]);
        weights[d * size + v] = float(constants[j * padded + v]);
      }
      are_packed = skvq_pack_integers(weights, size, d, book.direct,
                                      words + j * padded * ((d + 1) / 2),
                                      halves + j * padded, per_unit + j, lost + j);
      free(weights);
    }
    return are_packed;
  }
  ~Packed() {
    free(rows);
    free(groups);
    free(constants);
    free(centre);
    free(scale);
    free(first);
    free(words);
    free(halves);
    free(per_unit);
    free(lost);
  }
};

// Searches rows, and adds them up by their codes.
template <class T>
void search(const Packed<T> &packed, const Rows &rows) {
  const int64_t n = rows.n, n_tables = packed.book.n_tables;
  const int64_t size = packed.book.n_codewords;
  const int d = packed.book.width;
  int64_t *codes = zeros<int64_t>(n * n_tables);
  uint8_t *state = zeros<uint8_t>(n * n_tables);
  double *distances = zeros<double>(n);
  T *own = zeros<T>(3 * n);
  char *scratch = zeros<char>(skvq_search_scratch(&packed.book));
  bool one = n_tables == 1;
  Found found = {reinterpret_cast<char *>(codes),
                 n_tables * 8,
                 8,
                 8,
                 state,
                 one ? distances : nullptr,
                 one ? own : nullptr,
                 one ? own + n : nullptr,
                 one ? own + 2 * n : nullptr,
                 nullptr,
                 nullptr,
                 nullptr};
  int64_t n_unsure = skvq_search(&packed.book, &rows, &found, scratch);
  Hash hash;
  hash.add(codes, n * n_tables * 8);
  hash.add(state, n * n_tables);
  hash.add(distances, n * 8);
  // How far the others are behind at least depends on how that was found out.
  hash.add(own, n * int64_t(sizeof(T)));
  hash.add(own + 2 * n, n * int64_t(sizeof(T)));
  printf("search %d n=%d tables=%d V=%d d=%d %d: %d %016llx\n", int(sizeof(T)), int(n),
         int(n_tables), int(size), d, int(packed.book.direct), int(n_unsure),
         (unsigned long long)hash.value);
  if (one) {
    double *sums = zeros<double>(2 * size * d), *counts = zeros<double>(2 * size);
    char *memory = zeros<char>(skvq_sums_scratch(d));
    // A search that adds up what it finds does so in the same order.
    const size_t n_sums = size_t(2 * size * d), n_counts = size_t(2 * size);
    double *own_sums = zeros<double>(n_sums), *own_counts = zeros<double>(n_counts);
    found.distances = nullptr;
    found.sums = own_sums;
    found.counts = own_counts;
    found.weights = distances;
    skvq_search(&packed.book, &rows, &found, scratch);
    skvq_sums(&rows, codes, distances, sums, counts, memory);
    if (memcmp(own_sums, sums, n_sums * 8) || memcmp(own_counts, counts, n_counts * 8)) {
      printf("sums of a search are others\n");
      exit(1);
    }
    free(own_sums);
    free(own_counts);
    skvq_squared_gaps(&rows, sums, codes, distances, memory);
    Hash of_sums;
    of_sums.add(sums, 2 * size * d * 8);
    of_sums.add(counts, 2 * size * 8);
    of_sums.add(distances, n * 8);
    printf("sums %016llx\n", (unsigned long long)of_sums.value);
    free(sums);
    free(counts);
    free(memory);
  }
  free(codes);
  free(state);
  free(distances);
  free(own);
  free(scratch);
}

// A table of a beam search as backends/native.py packs it.
template <class T>
struct PackedStage {
  Stage stage;
  T *rows, *panels, *constants;

  PackedStage(Generator &g, int64_t size, int d) {
    constexpr int wide = panel_width<T>;
    int64_t n_panels = (size + wide - 1) / wide;
    rows = numbers<T>(g, size * d);
    panels = zeros<T>(n_panels * wide * d);
    constants = zeros<T>(n_panels * wide);
    for (int64_t v = 0; v < n_panels * wide; v++) {
      constants[v] = infinity<T>;
      if (v >= size) continue;
      double norm = 0;
      for (int k = 0; k < d; k++) {
        panels[(v / wide * d + k) * wide + v % wide] = rows[v * d + k];
        norm += double(rows[v * d + k]) * double(rows[v * d + k]);
      }
      constants[v] = T(norm / 2);
    }
    stage = {type_of<T>, d, size, n_panels, panels, constants, rows};
  }
  ~PackedStage() {
    free(rows);
    free(panels);
    free(constants);
  }
};

// What is asked of rows with sums of these costs.
struct Asked {
  Choice choice;
  double *costs, *least, *reach, *errors;
  int64_t *parent, *code;
  uint8_t *settled;

  Asked(int64_t n, int64_t n_sums, int64_t width, bool is_sorted, double slack) {
    costs = zeros<double>(n * n_sums);
    least = zeros<double>(n);
    reach = zeros<double>(n);
    errors = zeros<double>(n * width);
    parent = zeros<int64_t>(n * width);
    code = zeros<int64_t>(n * width);
    settled = zeros<uint8_t>(n);
    choice = {n,     n_sums, width,  is_sorted, slack,  costs,
              least, reach,  parent, code,      errors, settled};
  }
  ~Asked() {
    free(costs);
    free(least);
    free(reach);
    free(errors);
    free(parent);
    free(code);
    free(settled);
  }
  void find_least() {
    for (int64_t i = 0; i < choice.n; i++)
      for (int64_t s = 0; s < choice.n_sums; s++) {
        double cost = costs[s * choice.n + i];
        least[i] = s && least[i] < cost ? least[i] : cost;
        reach[i] = s && reach[i] > cost ? reach[i] : cost;
      }
  }
  void add_to(Hash &hash) {
    hash.add(parent, choice.n * choice.width * 8);
    hash.add(code, choice.n * choice.width * 8);
    hash.add(errors, choice.n * choice.width * 8);
    hash.add(settled, choice.n);
  }
};

template <class T>
void run_search(int64_t n, int64_t n_tables, int64_t size, int d, bool direct) {
  Generator g = {88172645463325252u + uint64_t(n * 31 + size * 7 + d)};
  Packed<T> packed(g, n_tables, size, d, direct);
  int64_t width = n_tables * d;
  T *x = numbers<T>(g, n * width);
  search(packed, {reinterpret_cast<char *>(x), n, width * int64_t(sizeof(T)),
                  int64_t(sizeof(T)), type_of<T>, int32_t(width)});
  free(x);
}

// Rows of any type and strides, in tables with a centre and a scale.
template <class T>
void run_rows(int64_t n, int64_t n_tables, int64_t size, int d, int32_t type, int kind,
              int64_t gap) {
  Generator g = {2463534242u + uint64_t(type * 64 + kind * 8 + gap)};
  Packed<T> packed(g, n_tables, size, d, false, true);
  if (kind == Matrix::kColumns) {
    // Of inner products.
    packed.book.offset = packed.centre;
    packed.book.words = nullptr;
    packed.book.level = 3;
    packed.book.reach = 1 << 20;
    packed.book.resolves = 0;
  }
  Matrix x(g, n, int32_t(n_tables * d), type, kind, gap);
  search(packed, x.rows);
}

template <class T>
void run_scan(int64_t n, const int *bits, int n_columns, int64_t k, int terms) {
  Generator g = {1181783497u + uint64_t(n * 31 + n_columns * 7 + k + terms)};
  scans::Column columns[24];
  int32_t begin = 0, n_entries = 0;
  for (int j = 0; j < n_columns; j++) {
    int32_t end = begin + bits[j], size = (1 << bits[j]) - (bits[j] > 2);
    columns[j] = {begin / 8, (8 - end % 8) % 8, (1 << bits[j]) - 1, n_entries, size};
    begin = end, n_entries += size;
  }
  const int64_t n_bytes = (begin + 7) / 8, n_queries = 2, stride = n_bytes + 3;
  const int64_t n_blocks = (n + 255) / 256, n_all = n_blocks * 256;
  uint8_t *rows = zeros<uint8_t>(n * stride), *blocks = zeros<uint8_t>(n_all * n_bytes);
  for (int64_t i = 0; i < n; i++)
    for (int j = 0; j < n_columns; j++)
      rows[i * stride + columns[j].byte] |=
          uint8_t((g.next() >> 20) % uint64_t(columns[j].size) << columns[j].shift);
  scans::skvq_scan_blocks(rows, stride, n, n_bytes, blocks);
  T *tables = numbers<T>(g, n_queries * n_entries);
  T *factor = numbers<T>(g, n_all), *offset = numbers<T>(g, n_all);
  // Equals, and factors that are no negative ones.
  for (int64_t i = 0; i < n_queries * n_entries; i++) tables[i] = T(int(tables[i]));
  for (int64_t i = 0; terms == 2 && i < n_all; i++)
    factor[i] = factor[i] < 0 ? -factor[i] : factor[i];
  double *scores = zeros<double>(n_queries * k);
  int64_t *found = zeros<int64_t>(n_queries * k);
  for (int64_t i = 0; i < n_queries * k; i++) {
    scores[i] = infinity<double>;
    found[i] = INT64_MAX;
  }
  char *scratch = zeros<char>(scans::skvq_scan_scratch(n_bytes, n_columns));
  const scans::Task task = {blocks,
                            n,
                            5,
                            n_bytes,
                            columns,
                            n_columns,
                            terms > 1 ? factor : nullptr,
                            terms > 0 ? offset : nullptr,
                            tables,
                            n_entries,
                            n_queries,
                            k,
                            scores,
                            found,
                            scratch,
                            type_of<T>};
  scans::skvq_scan(&task);
  Hash hash;
  hash.add(blocks, n_all * n_bytes);
  hash.add(scores, n_queries * k * 8);
  hash.add(found, n_queries * k * 8);
  printf("scan %d n=%d bytes=%d k=%d terms=%d: %016llx\n", int(sizeof(T)), int(n),
         int(n_bytes), int(k), terms, (unsigned long long)hash.value);
  free(rows);
  free(blocks);
  free(tables);
  free(factor);
  free(offset);
  free(scores);
  free(found);
  free(scratch);
}

template <class T>
void run_beam(int64_t n, int64_t n_sums, int64_t size, int d, int64_t width) {
  Generator g = {362436069u + uint64_t(n * 31 + size * 7 + d)};
  PackedStage<T> packed(g, size, d);
  T *rest = numbers<T>(g, n * n_sums * d);
  Asked asked(n, n_sums, width, width % 2, 0);
  for (int64_t i = 0; i < n * n_sums; i++) asked.costs[i] = g.number();
  asked.find_least();
  T *next = zeros<T>(n * width * d);
  double *norms = zeros<double>(n * width);
  char *scratch = zeros<char>(skvq_choose_scratch(&packed.stage, n_sums, 0));
  skvq_choose(&packed.stage, &asked.choice, rest, scratch);
  skvq_advance(&packed.stage, n, n_sums, width, rest, asked.parent, asked.code, next,
               norms);
  skvq_move(type_of<T>, n * width, d, next, packed.rows, asked.code, 1);
  Hash hash;
  asked.add_to(hash);
  hash.add(next, n * width * d * int64_t(sizeof(T)));
  hash.add(norms, n * width * 8);
  printf("beam %d n=%d sums=%d V=%d d=%d width=%d: %016llx\n", int(sizeof(T)), int(n),
         int(n_sums), int(size), d, int(width), (unsigned long long)hash.value);
  free(rest);
  free(next);
  free(norms);
  free(scratch);
}

// Four tables of one size; with a slack so large that distances decide here and there.
template <class T>
void run_look_up(int64_t n, int64_t size, int d, int64_t width, double slack) {
  constexpr int n_tables = 4;
  Generator g = {694847539u + uint64_t(n * 31 + size * 7 + d)};
  PackedStage<T> tables[n_tables] = {{g, size, d}, {g, size, d}, {g, size, d},
                                     {g, size, d}};
  T *x = numbers<T>(g, n * d);
  const void *rows[n_tables];
  for (int j = 0; j < n_tables; j++) rows[j] = tables[j].rows;
  const int64_t wide = multiple(size, unit<T>);
  int32_t *codes = zeros<int32_t>(n);
  int64_t n_sums = 1;
  Hash hash;
  for (int j = 0; j < n_tables; j++) {
    T *products = zeros<T>(j * size * wide);
    const void *of_table[n_tables];
    for (int o = 0; o < j; o++) {
      T *own = products + o * size * wide;
      of_table[o] = own;
      for (int64_t v = 0; v < size * size; v++) {
        double product = 0;
        for (int k = 0; k < d; k++)
          product += double(tables[o].rows[v / size * d + k]) *
                     double(tables[j].rows[v % size * d + k]);
        own[v / size * wide + v % size] = T(product);
      }
    }
    int64_t most = n_sums * size, kept = width < most ? width : most;
    // The last choice is by the rows and tables as they are given.
    const bool is_last = j == n_tables - 1;
    Asked asked(n, n_sums, kept, is_last, slack);
    PartialSums paths = {j, x, codes, rows, of_table, is_last ? x : nullptr, rows};
    const Stage *stage = &tables[j].stage;
    char *scratch = zeros<char>(skvq_choose_scratch(stage, n_sums, j));
    skvq_errors(stage, n, n_sums, &paths, asked.costs, scratch);
    asked.find_least();
    skvq_choose_by_look_up(stage, &asked.choice, &paths, scratch);
    int32_t *next = zeros<int32_t>(n * kept * (j + 1));
    skvq_extend(n, n_sums, j, kept, codes, asked.parent, asked.code, next);
    asked.add_to(hash);
    hash.add(next, n * kept * (j + 1) * 4);
    free(products);
    free(scratch);
    free(codes);
    codes = next;
    n_sums = kept;
  }
  printf("look-up %d n=%d V=%d d=%d width=%d %g: %016llx\n", int(sizeof(T)), int(n),
         int(size), d, int(width), slack, (unsigned long long)hash.value);
  free(codes);
  free(x);
}

template <class T>
void run_improve(int64_t n, const int64_t *sizes, int n_tables) {
  Generator g = {521288629u + uint64_t(n)};
  int64_t starts[9] = {}, order[24];
  for (int j = 0; j < n_tables; j++)
    starts[j + 1] = starts[j] + multiple(sizes[j], kUnit);
  const void *products[64] = {};
  uint16_t *words[64] = {};
  for (int j = 0; j < n_tables; j++)
    for (int o = 0; o < n_tables; o++) {
      if (o == j) continue;
      T *own = zeros<T>(sizes[o] * (starts[j + 1] - starts[j]));
      for (int64_t v = 0; v < sizes[o]; v++)
        for (int64_t k = 0; k < sizes[j]; k++)
          own[v * (starts[j + 1] - starts[j]) + k] = T(g.number() / 8);
      products[j * n_tables + o] = own;
      words[j * n_tables + o] =
          zeros<uint16_t>(sizes[o] * (starts[j + 1] - starts[j]));
    }
  int64_t width = starts[n_tables];
  T *scores = zeros<T>(n * width), *room = numbers<T>(g, n);
  // Rows and tables of any numbers: they decide where scores are near.
  constexpr int d = 5;
  const void *exact[8] = {};
  for (int j = 0; j < n_tables; j++) exact[j] = numbers<T>(g, sizes[j] * d);
  T *given = numbers<T>(g, n * d);
  double *least = zeros<double>(n), *word_steps = zeros<double>(n_tables);
  uint16_t *in_words = zeros<uint16_t>(n * width), *scratch = zeros<uint16_t>(width);
  int64_t *codes = zeros<int64_t>(n * n_tables);
  for (int64_t i = 0; i < n; i++)
    for (int j = 0; j < n_tables; j++)
      for (int64_t k = 0; k < starts[j + 1] - starts[j]; k++)
        scores[i * width + starts[j] + k] = k < sizes[j] ? T(g.number()) : infinity<T>;
  int n_steps = 3 * n_tables;
  for (int s = 0; s < n_steps; s++) order[s] = (s * 5) % n_tables;
  uint8_t *state = zeros<uint8_t>(n);
  Pairs pairs = {type_of<T>, n_tables, sizes, starts, products, words, word_steps};
  Improved rows = {n,     d,     scores, in_words, room,
                   least, given, exact,  codes,    state};
  skvq_pack_pairs(&pairs);
  skvq_pack_scores(&pairs, &rows);
  skvq_improve(&pairs, &rows, order, n_tables, 0, scratch);
  skvq_improve(&pairs, &rows, order + n_tables, n_steps - n_tables, 1, scratch);
  Hash hash;
  hash.add(codes, n * n_tables * 8);
  hash.add(state, n);
  printf("improve %d n=%d: %016llx\n", int(sizeof(T)), int(n),
         (unsigned long long)hash.value);
  for (const void *own : products) free(const_cast<void *>(own));
  for (uint16_t *own : words) free(own);
  for (const void *own : exact) free(const_cast<void *>(own));
  free(given);
  free(least);
  free(word_steps);
  free(in_words);
  free(scratch);
  free(scores);
  free(room);
  free(codes);
  free(state);
}

// Paths of 37 rows through 23 features, some of which have no bits.  Where they begin
// is given, rows lie backwards in memory, and codes are levels.
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
                         edge_begin, ends == kGiven ? 0.5 : 1.0, type_of<T>};
  T *x = zeros<T>(n * d);
  for (int i = 0; i < n * d; i++) x[i] = T(g.number() / 128);
  uint32_t codes[n * d] = {};
  int64_t states[n];
  const uint64_t n_states = uint64_t(trellis.n_states);
  for (int i = 0; i < n; i++) states[i] = int64_t(g.next() % n_states);
  double distances[n] = {};
  const int64_t item = sizeof(T);
  SkvqViterbi task = {x, n, d * item, item, ends, nullptr, 0, codes, 4, distances, 1};
  if (ends == kGiven) {
    task.x = x + n * d - 1;
    task.row_stride = -d * item;
    task.column_stride = -item;
    task.states = states;
    task.as_levels = 1;
    task.exact = 0;
  }
  char *memory = zeros<char>(skvq_viterbi_scratch(&trellis));
  skvq_viterbi(&trellis, &task, memory, 0, n_steps * (ends == kTailBiting ? 2 : 1));
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
      run_look_up<T>(29, size, d, 1, 1e-6);
      run_look_up<T>(29, size, d, 5, 1e-6);
      run_look_up<T>(5, size, d, 40, 0.05);
    }
  const int64_t own_sizes[] = {5, 17, 1, 64, 33};
  for (int64_t n : counts) run_improve<T>(n, own_sizes, 5);
  for (int32_t type = kUint8; type <= kFloat64; type++)
    for (int kind = 0; kind < Matrix::kKinds; kind++)
      for (int64_t gap = 0; gap < 4; gap += 3) {
        run_rows<T>(6, 1, 20, 3, type, kind, gap);
        run_rows<T>(50, 1, 20, 9, type, kind, gap);
        run_rows<T>(50, 1, 40, 9, type, kind, gap);
        if (kind != Matrix::kColumns) run_rows<T>(50, 3, 7, 2, type, kind, gap);
        if (kind != Matrix::kColumns) run_rows<T>(50, 3, 33, 5, type, kind, gap);
      }
  const int bits[][8] = {{8, 8, 8, 8}, {4, 4, 4, 4, 4, 4, 4}, {3, 5, 1, 2, 5, 8, 4}};
  const int n_columns[] = {4, 7, 7};
  for (int i = 0; i < 3; i++)
    for (int terms = 0; terms < 4; terms++) {
      run_scan<T>(3000, bits[i], n_columns[i], 10, terms);
      run_scan<T>(700, bits[i], n_columns[i], 100, terms);
      run_scan<T>(33, bits[i], 2, 3, terms);
    }
  for (int ends = 0; ends < 3; ends++) {
    for (int state_bits = 2; state_bits <= 8; state_bits++)
      run_trellis<T>(state_bits, 1, true, ends);
    run_trellis<T>(1, 1, false, ends);
    run_trellis<T>(4, 2, false, ends);
    run_trellis<T>(4, 3, false, ends);
    run_trellis<T>(12, 2, false, ends);
  }
  run_search<T>(700, 1, 1000, 128, false);
  run_beam<T>(9, 32, 256, 64, 32);
  run_look_up<T>(9, 256, 64, 32, 1e-6);
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
  skvq_unit_rows(&rows, type_of<T>, units, scratch);
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
