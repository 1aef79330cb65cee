// Scans of packed codes that bytes make up, against a plain sum of every row.
//
// With libFuzzer (-fsanitize=fuzzer -DSKVQ_LIBFUZZER) it looks for bytes that fail.  By
// itself it takes them from a generator of integers: `fuzz_scan 500` tries as many.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../skvq/nearest/native/scan.cc"

namespace {

// The bytes that are given, and then others that depend on them.
struct Input {
  const uint8_t *data;
  size_t size;
  uint64_t state = 88172645463325252u;

  uint64_t next() {  // Marsaglia 2003
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
  }
  int byte() {
    if (!size) return int(next() >> 32 & 255);
    --size;
    state = state * 31 + *data;
    return *data++;
  }
  int64_t below(int64_t n) { return (byte() << 8 | byte()) % n; }
  // So many digits, times a power of two, of either sign.
  double number(int digits, int exponent) {
    return __builtin_ldexp(double(below(2 << digits) - (1 << digits)), exponent);
  }
};

template <class T>
T *memory(int64_t n) {
  void *found = calloc(n > 0 ? size_t(n) : 1, sizeof(T));
  if (!found) abort();
  return static_cast<T *>(found);
}

template <class T>
T *numbers(Input &input, int64_t n, int digits, int exponent) {
  T *found = memory<T>(n);
  for (int64_t i = 0; i < n; ++i) found[i] = T(input.number(digits, exponent));
  return found;
}

// Puts a row among the best k, which ascend.
void insert(double score, int64_t row, int64_t k, double *scores, int64_t *rows) {
  int64_t at = k;
  // Rows come in order: of equal ones, the first is there.
  for (; at > 0 && score < scores[at - 1]; --at)
    if (at < k) scores[at] = scores[at - 1], rows[at] = rows[at - 1];
  if (at < k) scores[at] = score, rows[at] = row;
}

void clear(int64_t k, double *scores, int64_t *rows) {
  for (int64_t i = 0; i < k; ++i) scores[i] = infinity<double>, rows[i] = INT64_MAX;
}

template <class T>
void run(Input &input) {
  constexpr int most_columns = 20, most_queries = 2;
  const int64_t n = input.below(5000), k = 1 + input.below(input.byte() & 1 ? 4 : 200);
  const int64_t n_columns = 1 + input.below(input.byte() & 1 ? 2 : most_columns);
  const int64_t n_queries = 1 + input.below(most_queries);
  const int widths = input.byte() & 3, terms = input.byte() & 3;
  // Where the numbers lie in the range of the type, and how many are equal.
  const int lowest = sizeof(T) == 4 ? -149 : -1074, highest = sizeof(T) == 4 ? 40 : 500;
  const int exponent = lowest + int(input.below(highest - lowest));
  const int digits = 1 + input.byte() % 12, apart = input.byte() % 80 - 40;
  const int of_factor = input.byte() % 20 - 10, shift = input.byte() % 50;

  Column columns[most_columns];
  int32_t begin = 0, n_entries = 0;
  for (int64_t j = 0; j < n_columns; ++j) {
    int32_t bits = widths == 0 ? 8 : widths == 1 ? 4 : 1 + input.byte() % 8;
    // A column is within a byte.
    if (begin % 8 + bits > 8) bits = 8 - begin % 8;
    const int32_t end = begin + bits, most = 1 << bits;
    const int32_t few = most / 2 + 1 + input.byte() % (most / 2);
    const int32_t size = input.byte() & 1 ? most : few;
    columns[j] = {begin / 8, (8 - end % 8) % 8, most - 1, n_entries, size};
    begin = end;
    n_entries += size;
  }
  const int64_t n_bytes = (begin + 7) / 8, stride = n_bytes + (input.byte() & 1);
  const int64_t n_all = (n + kBlock - 1) / kBlock * kBlock;

  uint8_t *packed = memory<uint8_t>(n * stride);
  uint8_t *blocks = memory<uint8_t>(n_all * n_bytes);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n_columns; ++j) {
      const int64_t code = input.byte() % columns[j].size;
      packed[i * stride + columns[j].byte] |= uint8_t(code << columns[j].shift);
    }
  skvq_scan_blocks(packed, stride, n, n_bytes, blocks);
  T *tables = numbers<T>(input, n_queries * n_entries, digits, exponent);
  // What the first column has more than the others, and the last one less.
  const T large = T(__builtin_ldexp(1, exponent + shift));
  for (int64_t q = 0; shift > 25 && q < n_queries; ++q) {
    T *table = tables + q * n_entries;
    for (int i = 0; i < columns[0].size; ++i) table[i] += large;
    for (int i = columns[n_columns - 1].start; i < n_entries; ++i) table[i] -= large;
  }
  T *factor = numbers<T>(input, n_all, 3, of_factor);
  T *offset = numbers<T>(input, n_all, digits, exponent + of_factor + apart);
  for (int64_t i = 0; terms == 2 && i < n_all; ++i)
    factor[i] = factor[i] < 0 ? -factor[i] : factor[i];

  double *scores = memory<double>(n_queries * k), *expected = memory<double>(k);
  int64_t *rows = memory<int64_t>(n_queries * k), *expected_rows = memory<int64_t>(k);
  clear(n_queries * k, scores, rows);
  char *scratch = memory<char>(skvq_scan_scratch(n_bytes, n_columns));
  Task task = {};
  task.n_bytes = n_bytes, task.columns = columns, task.n_columns = n_columns;
  task.tables = tables, task.n_entries = n_entries, task.n_queries = n_queries;
  task.k = k, task.scores = scores, task.rows = rows, task.scratch = scratch;
  task.type = type_of<T>;
  // In two calls.
  const int64_t cut = n_all ? input.below(n_all / kBlock + 1) * kBlock : 0;
  for (int part = 0; part < 2; ++part) {
    const int64_t first = part ? cut : 0, last = part || cut > n ? n : cut;
    if (first >= last) continue;
    task.blocks = blocks + first * n_bytes, task.first = first;
    task.n_rows = last - first;
    task.factor = terms > 1 ? factor + first : nullptr;
    task.offset = terms > 0 ? offset + first : nullptr;
    skvq_scan(&task);
  }

  for (int64_t q = 0; q < n_queries; ++q) {
    clear(k, expected, expected_rows);
    for (int64_t i = 0; i < n; ++i) {
      T sum = 0;
      for (int64_t j = 0; j < n_columns; ++j) {
        const Column &column = columns[j];
        const int code = packed[i * stride + column.byte] >> column.shift & column.mask;
        sum += tables[q * n_entries + column.start + code];
      }
      if (terms > 1) sum *= factor[i];
      if (terms > 0) sum += offset[i];
      insert(double(sum + T(0)), i, k, expected, expected_rows);
    }
    // What was found is a heap, in no order.
    double *own = scores + q * k;
    int64_t *own_rows = rows + q * k, at;
    for (int64_t i = 0; i < k; ++i) {
      for (at = 0; at < k && own_rows[at] != expected_rows[i]; ++at) {
      }
      if (at < k && memcmp(own + at, expected + i, sizeof(double)) == 0) continue;
      fprintf(stderr, "query %d, place %d: row %lld, score %a is not found\n", int(q),
              int(i), (long long)expected_rows[i], expected[i]);
      abort();
    }
  }
  free(packed);
  free(blocks);
  free(tables);
  free(factor);
  free(offset);
  free(scores);
  free(expected);
  free(rows);
  free(expected_rows);
  free(scratch);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  Input input = {data, size};
  if (input.byte() & 1)
    run<float>(input);
  else
    run<double>(input);
  return 0;
}

#if !defined(SKVQ_LIBFUZZER)
int main(int n_arguments, char **arguments) {
  const int64_t n = n_arguments > 1 ? atoll(arguments[1]) : 200;
  Input generator = {nullptr, 0};
  uint8_t data[64];
  for (int64_t i = 0; i < n; ++i) {
    for (uint8_t &byte : data) byte = uint8_t(generator.byte());
    LLVMFuzzerTestOneInput(data, sizeof(data));
  }
  printf("%lld scans are those of plain sums\n", (long long)n);
  return 0;
}
#endif
