// Search in one table, or in one for each of several slices of the rows.
//
// A block of rows is packed tile by tile and meets the codewords a panel at a time: the
// panel stays in the inner cache while all tiles of the block pass it.

#include "search.h"

// The results.  Codes are integers of `code_bytes`, (n, n_tables).
struct Found {
  char *codes;
  int64_t code_row;     // strides in bytes
  int64_t code_column;
  int32_t code_bytes;
  uint8_t *state;       // (n_tables, n)
  double *distances;    // (n,), of a single table; NULL: not asked
  // (n,), of a single table, in the type that is computed in; NULL: not asked.
  void *best;           // the score of each code
  void *second;         // the least of all others
  void *norms;          // squared norms of the centred rows
};

namespace {

constexpr int64_t kPanelBytes = 48 * 1024;
constexpr int64_t kBlockBytes = 128 * 1024;
// Tiles of a block, at most; of several tables, since each comes back to the rows.
constexpr int64_t kMostTiles = 256;
constexpr int64_t kMostTilesOfSeveral = 4;
// Up to this many rows are searched one by one.
constexpr int kFewRows = sizeof(Vector<float>::type) == 64 ? 12 : 8;

template <class T>
int64_t block_tiles(const Codebook &book) {
  int64_t most = book.n_tables > 1 ? kMostTilesOfSeveral : kMostTiles;
  int64_t tiles = kBlockBytes / (tile_rows<T> * book.width * int64_t(sizeof(T)));
  return tiles < 1 ? 1 : tiles < most ? tiles : most;
}

// One of the tables.
template <class T>
struct OneTable {
  const T *groups, *constants, *centre, *exact, *offset;
  const int64_t *first;
  T scale;
  int64_t n_groups;
  int begin;  // its first feature

  OneTable(const Codebook &book, int64_t j) {
    const int64_t width = book.width, size = book.n_codewords;
    n_groups = (size + kGroup - 1) / kGroup;
    groups = static_cast<const T *>(book.groups) + j * n_groups * kGroup * width;
    constants = static_cast<const T *>(book.constants) + j * n_groups * kGroup;
    centre = static_cast<const T *>(book.centre) + j * width;
    exact = book.exact ? static_cast<const T *>(book.exact) + j * size * width : nullptr;
    offset = static_cast<const T *>(book.offset);
    first = book.first ? book.first + j * size : nullptr;
    scale = static_cast<const T *>(book.scale)[j];
    begin = int(j * width);
  }
};

// Squares below this have lost digits to the range of the type; for float64, no wider
// type would keep them.
template <class T>
constexpr T tiny = sizeof(T) == 4 ? T(1e-31) : T(0);

// Data of the rows of a tile.
template <class T>
struct Tile {
  int64_t first;   // number of its first row
  int m;           // how many there are
  const T *x;      // centred, [k][stride]
  int stride;
  const T *norms;  // squared, of the centred rows
  const T *best;
  const T *second;
  int64_t *code;
};

// The norm to which the rounding error of a row's scores is relative, and the distance
// found, compared to which it must be small for the code to be sure.
template <class T>
struct Weighed {
  T norm, distance;
};

template <class T>
SKVQ_INLINE Weighed<T> weighed(const Codebook &book, const OneTable<T> &table,
                               const Tile<T> &tile, int r) {
  T norm = tile.norms[r], best = tile.best[r];
  if (!table.offset) return {norm + T(book.rounded), norm + 2 * best};
  // The product that was asked for, before the centre was taken.
  T product = T(book.level);
  for (int k = 0; k < book.width; k++)
    product =
        multiply_add(tile.x[int64_t(k) * tile.stride + r], table.offset[k], product);
  T distance = product - best;
  return {T(0.5) * (norm + T(book.reach)), distance < 0 ? -distance : distance};
}

// Scores of several groups for one row, in flight: a chain of multiply-adds waits for
// itself.  Of fewer groups than that, the last one over again.
constexpr int kFlight = 4;
template <class T, bool Direct>
SKVQ_INLINE void flight_scores(const OneTable<T> &table, const T *x, int stride, int d,
                               int64_t low, Eight<T> (&score)[kFlight]) {
  const T *c[kFlight];
  for (int f = 0; f < kFlight; f++) {
    int64_t q = low + f < table.n_groups ? low + f : table.n_groups - 1;
    score[f] = load_eight(table.constants + q * kGroup);
    c[f] = table.groups + q * kGroup * d;
  }
  for (int k = 0; k < d; k++)
    for (int f = 0; f < kFlight; f++)
      add_feature<Direct>(score[f], x[int64_t(k) * stride], c[f] + int64_t(k) * kGroup);
}

// The nearest of all codewords whose score is at most `limit`, by the distances of what
// was given, in float64.
template <class T, bool Direct>
__attribute__((noinline)) int64_t nearest_of_near(const OneTable<T> &table,
                                                  const double *given, const T *x,
                                                  int stride, int d, int64_t size,
                                                  T limit) {
  double least_found = 0;
  int64_t found = -1;
  for (int64_t low = 0; low < table.n_groups; low += kFlight) {
    Eight<T> score[kFlight];
    flight_scores<T, Direct>(table, x, stride, d, low, score);
    for (int f = 0; f < kFlight; f++) {
      T own[8];
      for (int p = 0; p < Eight<T>::parts; p++)
        store(own + p * Eight<T>::width, score[f].v[p]);
      for (int j = 0; j < kGroup; j++) {
        const int64_t code = (low + f) * kGroup + j;
        if (!(own[j] <= limit) || code >= size) continue;
        double distance =
            squared_distance(given, table.exact + code * d, d, table.scale);
        if (found < 0 || distance < least_found) {
          found = code;
          least_found = distance;
        }
      }
    }
  }
  return found;
}

template <class C>
SKVQ_INLINE void write_codes(const int64_t *code, int m, char *to, int64_t stride) {
  for (int r = 0; r < m; r++) {
    C value = C(code[r]);
    memcpy(to + r * stride, &value, sizeof(C));
  }
}

// Judges the codes of a tile, as `Backend.judged` says; writes them with their state and
// distance.  Returns how many are not sure.
template <class T, bool Direct>
__attribute__((noinline)) int finish(const Codebook &book, const OneTable<T> &table, const Rows &rows,
                       const Found &found, int64_t j, const Tile<T> &tile,
                       double *given) {
  const int d = book.width, m = tile.m;
  uint8_t *state = found.state + j * rows.n + tile.first;
  int n_near = 0, n_unsure = 0;
  const T share = T(book.share), slack = T(book.slack);
  for (int r = 0; r < m; r++) {
    if constexpr (Direct) {
      bool sure = tile.best[r] >= tiny<T> || tile.second[r] >= tiny<T>;
      state[r] = tile.best[r] < infinity<T> ? (sure ? kSure : kDoubtful) : kOutOfReach;
    } else {
      auto [norm, distance] = weighed(book, table, tile, r);
      T room = slack * (3 * norm + distance);
      bool sure = distance > share * norm || tile.second[r] > tile.best[r] + room;
      // This is also false for NaN.
      bool within =
          norm < infinity<T> && distance < infinity<T> && distance > -infinity<T>;
      state[r] = within ? (sure ? kSure : kDoubtful) : kOutOfReach;
    }
    n_near += state[r] != kSure;
  }
  if (n_near)
    for (int r = 0; r < m; r++) {
      // A row with NaN has no code; it gets one within the table until it is refused.
      if (state[r] == kOutOfReach) tile.code[r] = 0;
      if (state[r] == kDoubtful && book.resolves) {
        T limit = 2 * tiny<T>;
        if constexpr (!Direct) {
          auto [norm, distance] = weighed(book, table, tile, r);
          limit = tile.best[r] + slack * (3 * norm + distance);
        }
        copy_rows(rows, tile.first + r, 1, table.begin, d, given);
        tile.code[r] = nearest_of_near<T, Direct>(table, given, tile.x + r, tile.stride,
                                                  d, book.n_codewords, limit);
        state[r] = kSure;
      }
      n_unsure += state[r] != kSure;
    }
  if (found.distances)
    for (int r = 0; r < m; r++) {
      copy_rows(rows, tile.first + r, 1, table.begin, d, given);
      const double scale = double(table.scale);
      double distance =
          squared_distance(given, table.exact + tile.code[r] * d, d, scale);
      distance = distance * (book.halved ? 0.5 : 1.0) / scale / scale;
      found.distances[tile.first + r] = distance;
      if (state[r] == kSure && distance < book.near) {
        state[r] = kCoarse;
        n_unsure++;
      }
    }
  if (found.best)
    for (int r = 0; r < m; r++) {
      static_cast<T *>(found.best)[tile.first + r] = tile.best[r];
      static_cast<T *>(found.second)[tile.first + r] = tile.second[r];
      static_cast<T *>(found.norms)[tile.first + r] = tile.norms[r];
    }
  if (table.first)
    for (int r = 0; r < m; r++) tile.code[r] = table.first[tile.code[r]];
  char *to = found.codes + tile.first * found.code_row + j * found.code_column;
  switch (found.code_bytes) {
    case 1:
      write_codes<uint8_t>(tile.code, m, to, found.code_row);
      break;
    case 2:
      write_codes<uint16_t>(tile.code, m, to, found.code_row);
      break;
    case 4:
      write_codes<uint32_t>(tile.code, m, to, found.code_row);
      break;
    default:
      write_codes<uint64_t>(tile.code, m, to, found.code_row);
  }
  return n_unsure;
}

// Finds which codeword of the best group is the best, for some rows at a time: a chain
// of multiply-adds waits for itself.
template <class T, int D, bool Direct>
SKVQ_INLINE void settle(const OneTable<T> &table, const T *tile, int d, Best<T> &found,
                        int64_t *code) {
  constexpr int n = tile_rows<T>, several = n % 4 ? 2 : 4;
  const int width = D ? D : d;
  for (int r = 0; r < n; r += several) {
    Eight<T> score[several];
    const T *groups[several];
    for (int e = 0; e < several; e++) {
      int64_t q = found.group[r + e];
      score[e] = load_eight(table.constants + q * kGroup);
      groups[e] = table.groups + q * kGroup * width;
    }
    for (int k = 0; k < width; k++)
      for (int e = 0; e < several; e++)
        add_feature<Direct>(score[e], tile[int64_t(k) * n + r + e],
                            groups[e] + int64_t(k) * kGroup);
    for (int e = 0; e < several; e++)
      code[r + e] = int64_t(found.group[r + e]) * kGroup +
                    settled(score[e], found.best[r + e], &found.second[r + e]);
  }
}

// Searches a block of rows in one table.
template <class T, int D, bool Direct>
int64_t search_block(const Codebook &book, int64_t j, const Rows &rows, int64_t start,
                     int64_t stop, const Found &found, Scratch scratch) {
  constexpr int n = tile_rows<T>;
  const OneTable<T> table(book, j);
  const int d = D ? D : book.width;
  const int64_t n_tiles = (stop - start + n - 1) / n;
  T *tiles = scratch.take<T>(n_tiles * n * d);
  T *norms = scratch.take<T>(n_tiles * n);
  Best<T> *best = scratch.take<Best<T>>(n_tiles);
  T *copied = scratch.take<T>(int64_t(n) * d);
  double *given = scratch.take<double>(d);
  for (int64_t t = 0; t < n_tiles; t++) {
    int64_t first = start + t * n, stride;
    int m = int(stop - first < n ? stop - first : n);
    const T *x = rows_of(rows, first, m, table.begin, d, copied, &stride);
    T *tile = tiles + t * n * d;
    transpose(x, stride, m, d, tile);
    centre_tile(tile, d, table.centre, table.scale, norms + t * n);
    best[t].clear();
  }
  int64_t panel = kPanelBytes / (kGroup * d * int64_t(sizeof(T)));
  if (panel < 1) panel = 1;
  for (int64_t low = 0; low < table.n_groups; low += panel) {
    int64_t high = low + panel < table.n_groups ? low + panel : table.n_groups;
    for (int64_t t = 0; t < n_tiles; t++)
      search_groups<T, D, Direct>(tiles + t * n * d, d, table.groups, table.constants,
                                  low, high, best[t]);
  }
  int64_t n_unsure = 0;
  for (int64_t t = 0; t < n_tiles; t++) {
    int64_t code[n], first = start + t * n;
    const T *x = tiles + t * n * d;
    settle<T, D, Direct>(table, x, d, best[t], code);
    int m = int(stop - first < n ? stop - first : n);
    Tile<T> tile = {first, m, x, n, norms + t * n, best[t].best, best[t].second, code};
    n_unsure += finish<T, Direct>(book, table, rows, found, j, tile, given);
  }
  return n_unsure;
}

// Searches one row in one table, with several groups of codewords in flight.
template <class T, bool Direct>
int search_row(const Codebook &book, int64_t j, const Rows &rows, int64_t i,
                const Found &found, Scratch scratch) {
  typedef typename Eight<T>::V V;
  typedef typename Eight<T>::M M;
  constexpr int parts = Eight<T>::parts;
  const OneTable<T> table(book, j);
  const int d = book.width;
  T *x = scratch.take<T>(d);
  double *given = scratch.take<double>(d);
  copy_rows(rows, i, 1, table.begin, d, x);
  T norm = 0;
  for (int k = 0; k < d; k++) {
    x[k] = (x[k] - table.centre[k]) * table.scale;
    norm = multiply_add(x[k], x[k], norm);
  }
  V best[parts], second[parts];
  M group[parts];
  for (int p = 0; p < parts; p++) {
    best[p] = second[p] = all<V>(infinity<T>);
    group[p] = M{};
  }
  for (int64_t low = 0; low < table.n_groups; low += kFlight) {
    Eight<T> score[kFlight];
    flight_scores<T, Direct>(table, x, 1, d, low, score);
    for (int f = 0; f < kFlight && low + f < table.n_groups; f++)
      for (int p = 0; p < parts; p++) {
        V v = score[f].v[p];
        second[p] = smaller(second[p], larger(v, best[p]));
        M is_less = v < best[p];
        group[p] = is_less ? M{} + typename Int<T>::type(low + f) : group[p];
        best[p] = smaller(v, best[p]);
      }
  }
  // Lanes beyond the group hold nothing of it.
  T least_found = infinity<T>, next = infinity<T>;
  int64_t code = 0;
  for (int p = 0; p < parts; p++)
    for (int e = 0; e < Eight<T>::width; e++) {
      int lane = p * Eight<T>::width + e;
      if (lane >= kGroup) continue;
      int64_t at = int64_t(group[p][e]) * kGroup + lane;
      T v = best[p][e];
      bool better = v < least_found || (v == least_found && at < code);
      T loser = better ? least_found : v;
      loser = second[p][e] < loser ? second[p][e] : loser;
      next = loser < next ? loser : next;
      if (better) {
        least_found = v;
        code = at;
      }
    }
  Tile<T> tile = {i, 1, x, 1, &norm, &least_found, &next, &code};
  return finish<T, Direct>(book, table, rows, found, j, tile, given);
}

template <class T, int D, bool Direct>
int64_t search_rows(const Codebook &book, const Rows &rows, const Found &found,
                    Scratch scratch) {
  int64_t n_unsure = 0;
  if (rows.n <= kFewRows) {
    for (int64_t i = 0; i < rows.n; i++)
      for (int64_t j = 0; j < book.n_tables; j++)
        n_unsure += search_row<T, Direct>(book, j, rows, i, found, scratch);
    return n_unsure;
  }
  const int64_t step = block_tiles<T>(book) * tile_rows<T>;
  for (int64_t start = 0; start < rows.n; start += step) {
    int64_t stop = start + step < rows.n ? start + step : rows.n;
    for (int64_t j = 0; j < book.n_tables; j++)
      n_unsure += search_block<T, D, Direct>(book, j, rows, start, stop, found, scratch);
  }
  return n_unsure;
}

// Loops over the features of common widths are unrolled.
template <class T>
int64_t search(const Codebook &book, const Rows &rows, const Found &found,
               Scratch scratch) {
  if (book.direct) {
    if (book.width == 1) return search_rows<T, 1, true>(book, rows, found, scratch);
    return search_rows<T, 0, true>(book, rows, found, scratch);
  }
  // ... where that is worth the time it takes to compile them.
  if constexpr (sizeof(T) == 8) return search_rows<T, 0, false>(book, rows, found, scratch);
  switch (book.width) {
    case 4:
      return search_rows<T, 4, false>(book, rows, found, scratch);
    case 8:
      return search_rows<T, 8, false>(book, rows, found, scratch);
    case 16:
      return search_rows<T, 16, false>(book, rows, found, scratch);
    case 32:
      return search_rows<T, 32, false>(book, rows, found, scratch);
    default:
      return search_rows<T, 0, false>(book, rows, found, scratch);
  }
}

template <class T>
int64_t scratch_bytes(const Codebook &book) {
  int64_t rows = block_tiles<T>(book) * tile_rows<T>, d = book.width;
  int64_t numbers = rows * (d + 1) + tile_rows<T> * d;
  return numbers * int64_t(sizeof(T)) +
         block_tiles<T>(book) * int64_t(sizeof(Best<T>)) + d * 8 + 8 * 64;
}

// Packs [-C^T; constants], (width + 1, size), in groups.
template <class T>
void pack(const T *weights, int64_t size, int64_t width, T *groups, T *constants) {
  for (int64_t q = 0; q * kGroup < size; q++) {
    const int64_t first = q * kGroup;
    for (int64_t k = 0; k < width; k++)
      for (int j = 0; j < kGroup; j++)
        groups[(q * width + k) * kGroup + j] =
            first + j < size ? -weights[k * size + first + j] : T(0);
    for (int j = 0; j < kGroup; j++)
      constants[first + j] =
          first + j < size ? weights[width * size + first + j] : infinity<T>;
  }
}

}  // namespace

// Codewords of a group, as they are packed.
SKVQ_API int32_t skvq_group() { return kGroup; }

// Packs a table of a type, [-C^T; constants], to be one of a codebook.
SKVQ_API void skvq_pack(int32_t type, const void *weights, int64_t size, int64_t width,
                        void *groups, void *constants) {
  if (type == kFloat32)
    pack(static_cast<const float *>(weights), size, width, static_cast<float *>(groups),
         static_cast<float *>(constants));
  else
    pack(static_cast<const double *>(weights), size, width,
         static_cast<double *>(groups), static_cast<double *>(constants));
}

// Bytes of scratch memory that a search takes.
SKVQ_API int64_t skvq_search_scratch(const Codebook *book) {
  return book->type == kFloat32 ? scratch_bytes<float>(*book)
                                : scratch_bytes<double>(*book);
}

// Finds the nearest codewords.  Returns how many codes are not sure.
SKVQ_API int64_t skvq_search(const Codebook *book, const Rows *rows, const Found *found,
                             void *scratch) {
  FloatMode mode;
  if (book->type == kFloat32)
    return search<float>(*book, *rows, *found, Scratch(scratch));
  return search<double>(*book, *rows, *found, Scratch(scratch));
}
