// Search in one table, or in one for each of several slices of the rows.
//
// A block of rows is packed tile by tile and meets the codewords a panel at a time: the
// panel stays in the inner cache while all tiles of the block pass it.  Where integers
// are faster, they find the nearest group first.

#include "integers.h"
#include "sums.h"

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
  void *second;         // no more than the least of all others, if those are near
  void *norms;          // squared norms of the centred rows
  // Of a single table: to which rows of float32 or float64 are added, by their codes, and
  // their weights; NULL: not asked.
  double *sums;         // (codewords, d)
  double *counts;       // (codewords,)
  const double *weights;  // (n,); NULL: all are one
};

namespace {

constexpr int64_t kPanelBytes = 48 * 1024;
constexpr int64_t kBlockBytes = 128 * 1024;
// Tiles of a block, at most; of several tables, since each comes back to the rows.
constexpr int64_t kMostTiles = 256;
constexpr int64_t kMostTilesOfSeveral = 4;
// In tables of fewer codewords, too little is gained by integers; of one feature, nothing.
constexpr int64_t kFewCodewords = 32;
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
  Integers integers;

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
    integers = {};
    if (book.words) {
      const int64_t n = n_groups * kGroup;
      integers = {book.words + j * n * ((width + 1) / 2), book.halves + j * n,
                  book.per_unit[j], book.lost[j]};
    }
  }
};

// Squares below this have lost digits to the range of the type; for float64, no wider
// type would keep them.
template <class T>
constexpr T tiny = sizeof(T) == 4 ? T(1e-31) : T(0);

// Data of the rows of a tile.  Arrays are as long as it is, whatever m is.
template <class T>
struct Tile {
  int64_t first;       // number of its first row
  const int64_t *row;  // numbers of its rows; NULL: one after the other
  int m;               // how many there are
  uint64_t left;       // those that are searched again: a bit for each
  const T *x;          // centred, [k][stride]
  int stride;
  const T *norms;      // squared, of the centred rows
  const T *best;
  const T *second;
  int64_t *code;

  SKVQ_INLINE_MEMBER int64_t number(int r) const { return row ? row[r] : first + r; }
};

// The norms to which the rounding errors of scores are relative, and the distances
// found, compared to which they must be small for the codes to be sure.
template <class T>
struct Weighed {
  T norm[tile_rows<T>], distance[tile_rows<T>];
};

template <class T>
SKVQ_INLINE void weigh(const Codebook &book, const OneTable<T> &table,
                       const Tile<T> &tile, Weighed<T> &to) {
  typedef typename Vector<T>::type V;
  if (!table.offset) {
    for (int at = 0; at < tile_rows<T>; at += lanes<T>) {
      V norm = load(tile.norms + at), best = load(tile.best + at);
      store(to.norm + at, norm + all<V>(T(book.rounded)));
      store(to.distance + at, norm + (best + best));
    }
    return;
  }
  for (int r = 0; r < tile.m; r++) {
    // The product that was asked for, before the centre was taken.
    T product = T(book.level);
    for (int k = 0; k < book.width; k++)
      product =
          multiply_add(tile.x[int64_t(k) * tile.stride + r], table.offset[k], product);
    T distance = product - tile.best[r];
    to.norm[r] = T(0.5) * (tile.norms[r] + T(book.reach));
    to.distance[r] = distance < 0 ? -distance : distance;
  }
}

// By how much scores have to differ for their order to be known.
template <class T>
SKVQ_INLINE T room(const Codebook &book, T norm, T distance) {
  return T(book.slack) * (3 * norm + distance);
}
template <class T, class V>
SKVQ_INLINE V room(const Codebook &book, V norm, V distance) {
  return all<V>(T(book.slack)) * (all<V>(T(3)) * norm + distance);
}

// Rows, a bit for each, whose scores are numbers; and those whose distance is so large,
// or whose best codeword is so far ahead, that the code is sure.
struct Judged {
  uint64_t within = 0, far = 0, ahead = 0;
};

template <class T, bool Direct>
SKVQ_INLINE Judged judge(const Codebook &book, const Tile<T> &tile,
                         const Weighed<T> &weighed) {
  typedef typename Vector<T>::type V;
  Judged found;
  for (int at = 0; at < tile_rows<T>; at += lanes<T>) {
    V best = load(tile.best + at), second = load(tile.second + at);
    const V most = all<V>(infinity<T>);
    uint64_t within, far, ahead;
    // All are also false for NaN.
    if constexpr (Direct) {
      const V least = all<V>(tiny<T>);
      within = less<T>(best, most);
      far = less_or_equal<T>(least, best);
      ahead = less_or_equal<T>(least, second);
    } else {
      V norm = load(weighed.norm + at), distance = load(weighed.distance + at);
      within = less<T>(norm, most) & less<T>(distance, most) & less<T>(-most, distance);
      far = less<T>(all<V>(T(book.share)) * norm, distance);
      ahead = less<T>(best + room<T>(book, norm, distance), second);
    }
    found.within |= within << at;
    found.far |= far << at;
    found.ahead |= ahead << at;
  }
  return found;
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

// Calls one(C) for the unsigned integer C of so many bytes.
template <class One>
SKVQ_INLINE void with_code_type(int bytes, const One &one) {
  switch (bytes) {
    case 1:
      return one(uint8_t());
    case 2:
      return one(uint16_t());
    case 4:
      return one(uint32_t());
    default:
      return one(uint64_t());
  }
}

template <class C, class T>
SKVQ_INLINE void write_codes(const Tile<T> &tile, char *to, int64_t stride) {
  for (int r = 0; r < tile.m; r++) {
    C value = C(tile.code[r]);
    memcpy(to + tile.number(r) * stride, &value, sizeof(C));
  }
}

SKVQ_INLINE uint64_t first_bits(int m) { return ~uint64_t(0) >> (64 - m); }

// Judges the codes of a tile, as `Backend.judged` says; writes them with their state and
// distance.  Returns how many are not sure.
template <class T, bool Direct>
__attribute__((noinline)) int finish(const Codebook &book, const OneTable<T> &table,
                                     const Rows &rows, const Found &found, int64_t j,
                                     const Tile<T> &tile, const Weighed<T> &weighed,
                                     const Judged &judged, double *given) {
  const int d = book.width, m = tile.m;
  const uint64_t here = first_bits(m) & ~tile.left, outside = here & ~judged.within;
  const uint64_t doubtful = here & judged.within & ~(judged.far | judged.ahead);
  uint8_t *states = found.state + j * rows.n;
  if (tile.row)
    for (int r = 0; r < m; r++) states[tile.row[r]] = kSure;
  else
    memset(states + tile.first, kSure, size_t(m));
  int n_unsure = 0;
  // A row with NaN has no code; it gets one within the table until it is refused.
  for (uint64_t some = outside | tile.left; some; some &= some - 1) {
    const int r = __builtin_ctzll(some);
    tile.code[r] = 0;
    if (!(outside >> r & 1)) continue;
    states[tile.number(r)] = kOutOfReach;
    n_unsure++;
  }
  for (uint64_t some = doubtful; some; some &= some - 1) {
    const int r = __builtin_ctzll(some);
    if (!book.resolves) {
      states[tile.number(r)] = kDoubtful;
      n_unsure++;
      continue;
    }
    T limit = 2 * tiny<T>;
    if constexpr (!Direct)
      limit = tile.best[r] + room(book, weighed.norm[r], weighed.distance[r]);
    copy_rows(rows, tile.number(r), 1, table.begin, d, given);
    tile.code[r] = nearest_of_near<T, Direct>(table, given, tile.x + r, tile.stride, d,
                                              book.n_codewords, limit);
  }
  if (found.distances)
    for (int r = 0; r < m; r++) {
      const int64_t i = tile.number(r);
      copy_rows(rows, i, 1, table.begin, d, given);
      const double scale = double(table.scale);
      double distance =
          squared_distance(given, table.exact + tile.code[r] * d, d, scale);
      distance = distance * (book.halved ? 0.5 : 1.0) / scale / scale;
      found.distances[i] = distance;
      if (states[i] == kSure && distance < book.near && !(tile.left >> r & 1)) {
        states[i] = kCoarse;
        n_unsure++;
      }
    }
  if (found.best)
    for (int r = 0; r < m; r++) {
      const int64_t i = tile.number(r);
      static_cast<T *>(found.best)[i] = tile.best[r];
      static_cast<T *>(found.second)[i] = tile.second[r];
      static_cast<T *>(found.norms)[i] = tile.norms[r];
    }
  if (table.first)
    for (int r = 0; r < m; r++) tile.code[r] = table.first[tile.code[r]];
  char *to = found.codes + j * found.code_column;
  with_code_type(found.code_bytes, [&](auto one) SKVQ_INLINE_LAMBDA {
    write_codes<decltype(one)>(tile, to, found.code_row);
  });
  return n_unsure;
}

// Scores of the best groups of some rows, from r on: a chain of multiply-adds waits for
// itself.
template <class T>
constexpr int kSeveral = tile_rows<T> % 4 ? 2 : 4;
template <class T, int D, bool Direct>
SKVQ_INLINE void scores_of_groups(const OneTable<T> &table, const T *tile, int d, int r,
                                  const typename Int<T>::type *best,
                                  Eight<T> (&score)[kSeveral<T>]) {
  const int width = D ? D : d;
  const T *groups[kSeveral<T>];
  for (int e = 0; e < kSeveral<T>; e++) {
    int64_t q = best[r + e];
    score[e] = load_eight(table.constants + q * kGroup);
    groups[e] = table.groups + q * kGroup * width;
  }
  for (int k = 0; k < width; k++)
    for (int e = 0; e < kSeveral<T>; e++)
      add_feature<Direct>(score[e], tile[int64_t(k) * tile_rows<T> + r + e],
                          groups[e] + int64_t(k) * kGroup);
}

// Finds which codeword of the best group is the best.
template <class T, int D, bool Direct>
SKVQ_INLINE void settle(const OneTable<T> &table, const T *tile, int d, Best<T> &found,
                        int64_t *code) {
  for (int r = 0; r < tile_rows<T>; r += kSeveral<T>) {
    Eight<T> score[kSeveral<T>];
    scores_of_groups<T, D, Direct>(table, tile, d, r, found.group, score);
    for (int e = 0; e < kSeveral<T>; e++)
      code[r + e] = int64_t(found.group[r + e]) * kGroup +
                    settled(score[e], found.best[r + e], &found.second[r + e]);
  }
}

// Finds the scores of codes.
template <class T, int D, bool Direct>
SKVQ_INLINE void score(const OneTable<T> &table, const T *tile, int d,
                       const Best<int32_t> &nearest, const int64_t *code, T *best) {
  for (int r = 0; r < tile_rows<T>; r += kSeveral<T>) {
    Eight<T> scores[kSeveral<T>];
    scores_of_groups<T, D, Direct>(table, tile, d, r, nearest.group, scores);
    for (int e = 0; e < kSeveral<T>; e++) {
      T own[8];
      for (int p = 0; p < Eight<T>::parts; p++)
        store(own + p * Eight<T>::width, scores[e].v[p]);
      best[r + e] = own[code[r + e] % kGroup];
    }
  }
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
  T norms[tile_rows<T>] = {norm};
  Best<T> own = {};
  own.best[0] = least_found;
  own.second[0] = next;
  Tile<T> tile = {};
  tile.first = i;
  tile.m = tile.stride = 1;
  tile.x = x;
  tile.norms = norms;
  tile.best = own.best;
  tile.second = own.second;
  tile.code = &code;
  Weighed<T> weighed;
  if (!Direct) weigh(book, table, tile, weighed);
  return finish<T, Direct>(book, table, rows, found, j, tile, weighed,
                           judge<T, Direct>(book, tile, weighed), given);
}

// Searches a tile in all groups of a table, or in those of a panel.
template <class T, int D, bool Direct>
SKVQ_INLINE void search_tile(const OneTable<T> &table, const T *tile, int d, int64_t low,
                             int64_t high, Best<T> &best) {
  search_groups<T, D, Direct ? kSquares : kProducts>(tile, d, table.groups,
                                                     table.constants, low, high, best);
}

// Finds the codes of a tile in the best groups, judges and writes them.
template <class T, int D, bool Direct>
SKVQ_INLINE int settle_and_finish(const Codebook &book, const OneTable<T> &table,
                                  const Rows &rows, const Found &found, int64_t j,
                                  Tile<T> tile, Best<T> &best, double *given) {
  int64_t code[tile_rows<T>];
  settle<T, D, Direct>(table, tile.x, book.width, best, code);
  tile.code = code;
  tile.best = best.best;
  tile.second = best.second;
  Weighed<T> weighed;
  if (!Direct) weigh(book, table, tile, weighed);
  return finish<T, Direct>(book, table, rows, found, j, tile, weighed,
                           judge<T, Direct>(book, tile, weighed), given);
}

// Rows of a block, which become tiles.
template <class T>
struct Block {
  static constexpr int n = tile_rows<T>;
  int64_t start, stop, n_tiles;
  T *norms, *copied;

  Block(int d, int64_t start, int64_t stop, Scratch &scratch)
      : start(start), stop(stop), n_tiles((stop - start + n - 1) / n) {
    norms = scratch.take<T>(n_tiles * n);
    copied = scratch.take<T>(int64_t(n) * d);
  }

  // One tile, which is somewhere.
  SKVQ_INLINE_MEMBER Tile<T> tile(int64_t t, const T *x) const {
    Tile<T> found = {};
    found.first = start + t * n;
    found.m = int(stop - found.first < n ? stop - found.first : n);
    found.x = x;
    found.stride = n;
    found.norms = norms + t * n;
    return found;
  }

  // Writes the rows of a tile as they are.
  SKVQ_INLINE_MEMBER void copy(const Rows &rows, int begin, int d, int64_t t, T *to) const {
    const Tile<T> tile = this->tile(t, to);
    int64_t stride;
    const T *x = rows_of(rows, tile.first, tile.m, begin, d, copied, &stride);
    transpose(x, stride, tile.m, d, to);
  }
};

// Calls search(t, low, high) for all tiles of a block and panels of groups, of so many
// bytes each; asks for the rows of the next block meanwhile.
template <class T, class Search>
SKVQ_INLINE void meet_panels(const OneTable<T> &table, const Rows &rows,
                             const Block<T> &block, int d, int64_t group_bytes,
                             const Search &search) {
  int64_t panel = kPanelBytes / group_bytes;
  if (panel < 1) panel = 1;
  for (int64_t low = 0; low < table.n_groups; low += panel) {
    int64_t high = low + panel < table.n_groups ? low + panel : table.n_groups;
    for (int64_t t = 0; t < block.n_tiles; t++) {
      if (!low) prefetch_rows(rows, block.stop + t * block.n, block.n, table.begin, d);
      search(t, low, high);
    }
  }
}

// Searches a block of rows in one table.
template <class T, int D, bool Direct>
int64_t search_block(const Codebook &book, int64_t j, const Rows &rows, int64_t start,
                     int64_t stop, const Found &found, Scratch scratch) {
  const OneTable<T> table(book, j);
  const int d = D ? D : book.width;
  const Block<T> block(d, start, stop, scratch);
  const int64_t size = int64_t(block.n) * d;
  T *tiles = scratch.take<T>(block.n_tiles * size);
  Best<T> *best = scratch.take<Best<T>>(block.n_tiles);
  double *given = scratch.take<double>(d);
  for (int64_t t = 0; t < block.n_tiles; t++) {
    block.copy(rows, table.begin, d, t, tiles + t * size);
    centre_tile(tiles + t * size, d, table.centre, table.scale, block.norms + t * block.n);
    best[t].clear();
  }
  meet_panels(table, rows, block, d, kGroup * d * int64_t(sizeof(T)),
              [&](int64_t t, int64_t low, int64_t high) SKVQ_INLINE_LAMBDA {
                search_tile<T, D, Direct>(table, tiles + t * size, d, low, high, best[t]);
              });
  int64_t n_unsure = 0;
  for (int64_t t = 0; t < block.n_tiles; t++)
    n_unsure += settle_and_finish<T, D, Direct>(book, table, rows, found, j,
                                                block.tile(t, tiles + t * size), best[t],
                                                given);
  return n_unsure;
}

// Searches some rows, by their numbers.
template <class T, int D, bool Direct>
int64_t search_some(const Codebook &book, const OneTable<T> &table, int64_t j,
                    const Rows &rows, const int64_t *row, int64_t n_some,
                    const Found &found, Scratch scratch) {
  constexpr int n = tile_rows<T>;
  const int d = D ? D : book.width;
  int64_t n_unsure = 0;
  for (; n_some > kFewRows; row += n, n_some -= n) {
    Scratch own = scratch;
    T *x = own.take<T>(int64_t(n) * d), *copied = own.take<T>(int64_t(n) * d);
    double *given = own.take<double>(d);
    T norms[n];
    Tile<T> tile = {};
    tile.row = row;
    tile.m = int(n_some < n ? n_some : n);
    tile.x = x;
    tile.stride = n;
    tile.norms = norms;
    for (int r = 0; r < tile.m; r++)
      copy_rows(rows, row[r], 1, table.begin, d, copied + int64_t(r) * d);
    transpose(copied, d, tile.m, d, x);
    centre_tile(x, d, table.centre, table.scale, norms);
    Best<T> best;
    best.clear();
    search_tile<T, D, Direct>(table, x, d, 0, table.n_groups, best);
    n_unsure +=
        settle_and_finish<T, D, Direct>(book, table, rows, found, j, tile, best, given);
  }
  for (int64_t i = 0; i < n_some; i++)
    n_unsure += search_row<T, Direct>(book, j, rows, row[i], found, scratch);
  return n_unsure;
}

// Rows that integers were asked about, and how many they have left.
struct Tally {
  int64_t n_rows = 0, n_left = 0;

  // Where many are searched again, there is nothing to gain.
  bool pays() const { return 3 * n_left <= n_rows + 256; }
};

// Writes the codes of a tile that integers decide.  Returns the other rows, a bit each.
template <class T, int D, bool Direct>
SKVQ_INLINE uint64_t decide(const Codebook &book, const OneTable<T> &table,
                            const Rows &rows, const Found &found, int64_t j, Tile<T> tile,
                            const RoundedTile &rounded, Best<int32_t> &nearest,
                            double *given, int64_t *n_unsure) {
  typedef typename Vector<T>::type V;
  int64_t code[tile_rows<T>];
  T distances[tile_rows<T>], second[tile_rows<T>], best[tile_rows<T>];
  settle_integers<T>(table.integers, rounded, nearest, code);
  bound_distances(table.integers, rounded, nearest, tile.norms, distances, second);
  Judged judged;
  for (int at = 0; at < tile_rows<T>; at += lanes<T>) {
    V distance = load(distances + at), least;
    if constexpr (Direct)
      // Two squares, each rounded some times.
      least = distance * all<V>(T(0x1p-18));
    else
      least = room<T>(book, load(tile.norms + at) + all<V>(T(book.rounded)), distance);
    judged.ahead |= uint64_t(less<T>(least, load(second + at))) << at;
  }
  judged.within = judged.ahead;
  if (found.best) {
    score<T, D, Direct>(table, tile.x, book.width, nearest, code, best);
    for (int r = 0; r < tile_rows<T>; r++) second[r] += best[r];
  }
  tile.left = first_bits(tile.m) & ~judged.ahead;
  tile.code = code;
  tile.best = best;
  tile.second = second;
  *n_unsure += finish<T, Direct>(book, table, rows, found, j, tile, {}, judged, given);
  return tile.left;
}

// Does as `search_block`; rows that integers do not decide are searched again.
template <class T, int D, bool Direct>
int64_t search_block_of_integers(const Codebook &book, int64_t j, const Rows &rows,
                                 int64_t start, int64_t stop, const Found &found,
                                 Tally &tally, Scratch scratch) {
  constexpr int n = tile_rows<T>;
  const OneTable<T> table(book, j);
  const int d = D ? D : book.width, n_pairs = (d + 1) / 2;
  const Block<T> block(d, start, stop, scratch);
  // Rows are needed again only for their scores.
  const int64_t size = found.best ? int64_t(n) * d : 0;
  T *tiles = scratch.take<T>(size ? block.n_tiles * size : int64_t(n) * d);
  double *given = scratch.take<double>(d);
  int32_t *words = scratch.take<int32_t>(block.n_tiles * n * n_pairs);
  int32_t *squares = scratch.take<int32_t>(block.n_tiles * n);
  float *lost = scratch.take<float>(block.n_tiles * n);
  int64_t *left = scratch.take<int64_t>(block.n_tiles * n);
  Best<int32_t> *nearest = scratch.take<Best<int32_t>>(block.n_tiles);
  auto rounded = [&](int64_t t) SKVQ_INLINE_LAMBDA {
    return RoundedTile{words + t * n * n_pairs, squares + t * n, lost + t * n, n_pairs};
  };
  for (int64_t t = 0; t < block.n_tiles; t++) {
    T *tile = tiles + t * size;
    block.copy(rows, table.begin, d, t, tile);
    round_tile(tile, d, table.centre, table.scale, block.norms + t * n, size != 0,
               table.integers.per_unit, rounded(t));
    nearest[t].clear();
  }
  meet_panels(table, rows, block, d, kGroup * n_pairs * int64_t(sizeof(int32_t)),
              [&](int64_t t, int64_t low, int64_t high) SKVQ_INLINE_LAMBDA {
                search_groups<int32_t, (D + 1) / 2, kPairs>(
                    rounded(t).words, n_pairs, table.integers.words,
                    table.integers.halves, low, high, nearest[t]);
              });
  int64_t n_unsure = 0, n_left = 0;
  for (int64_t t = 0; t < block.n_tiles; t++) {
    const Tile<T> tile = block.tile(t, tiles + t * size);
    uint64_t some = decide<T, D, Direct>(book, table, rows, found, j, tile, rounded(t),
                                         nearest[t], given, &n_unsure);
    for (; some; some &= some - 1) left[n_left++] = tile.first + __builtin_ctzll(some);
  }
  tally.n_rows += stop - start;
  tally.n_left += n_left;
  return n_unsure + search_some<T, D, Direct>(book, table, j, rows, left, n_left, found,
                                              scratch);
}

template <class C>
void read_codes(const Found &found, int64_t start, int64_t n, int64_t *to) {
  const char *from = found.codes + start * found.code_row;
  for (int64_t i = 0; i < n; i++) {
    C value;
    memcpy(&value, from + i * found.code_row, sizeof(C));
    to[i] = int64_t(value);
  }
}

// Adds rows from `start` on, which have just been searched and are in a cache, to sums.
template <class T>
void add_found_of(const Rows &rows, int64_t start, int64_t stop, const Found &found,
                  Scratch scratch) {
  Rows some = rows;
  some.x += start * rows.row;
  some.n = stop - start;
  int64_t *codes = scratch.take<int64_t>(some.n);
  with_code_type(found.code_bytes, [&](auto one) SKVQ_INLINE_LAMBDA {
    read_codes<decltype(one)>(found, start, some.n, codes);
  });
  add_up(some, codes, found.weights ? found.weights + start : nullptr, found.sums,
         found.counts, scratch.take<T>(kRows * rows.d));
}

void add_found(const Rows &rows, int64_t start, int64_t stop, const Found &found,
               Scratch scratch) {
  if (!found.sums) return;
  if (rows.type == kFloat32)
    add_found_of<float>(rows, start, stop, found, scratch);
  else
    add_found_of<double>(rows, start, stop, found, scratch);
}

template <class T, int D, bool Direct>
int64_t search_rows(const Codebook &book, const Rows &rows, const Found &found,
                    Scratch scratch) {
  int64_t n_unsure = 0;
  if (rows.n <= kFewRows) {
    for (int64_t i = 0; i < rows.n; i++)
      for (int64_t j = 0; j < book.n_tables; j++)
        n_unsure += search_row<T, Direct>(book, j, rows, i, found, scratch);
    add_found(rows, 0, rows.n, found, scratch);
    return n_unsure;
  }
  Tally tally;
  const int64_t step = block_tiles<T>(book) * tile_rows<T>;
  for (int64_t start = 0; start < rows.n; start += step) {
    int64_t stop = start + step < rows.n ? start + step : rows.n;
    for (int64_t j = 0; j < book.n_tables; j++) {
      if constexpr (kHasPairs && sizeof(T) == 4 && D != 1)
        if (book.words && tally.pays()) {
          n_unsure += search_block_of_integers<T, D, Direct>(book, j, rows, start, stop,
                                                             found, tally, scratch);
          continue;
        }
      n_unsure += search_block<T, D, Direct>(book, j, rows, start, stop, found, scratch);
    }
    add_found(rows, start, stop, found, scratch);
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
  // What a tile of rows that are searched again takes, too.
  int64_t numbers = rows * (d + 1) + 3 * tile_rows<T> * d;
  // To add rows up.
  if (numbers < 2 * (kRows * d + rows)) numbers = 2 * (kRows * d + rows);
  if (book.words) numbers += rows * ((d + 1) / 2 + 4);
  return numbers * int64_t(sizeof(T)) +
         block_tiles<T>(book) * int64_t(sizeof(Best<T>)) + 2 * d * 8 + 16 * 64;
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

// Rows of a tile; a call takes as long for a few more as for all of them.
SKVQ_API int32_t skvq_tile_rows() { return tile_rows<float>; }

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

// Packs a table of float32, [-C^T; constants], in integers; see integers.h.  `direct`:
// its scores are squares of differences.  Returns whether that is worth it here and can
// be done.
SKVQ_API int32_t skvq_pack_integers(const float *weights, int64_t size, int64_t width,
                                    int32_t direct, int32_t *words, int32_t *halves,
                                    float *per_unit, float *lost) {
  return kHasPairs && size >= kFewCodewords && width > 1 &&
         pack_integers(weights, size, width, direct != 0, words, halves, per_unit, lost);
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
