// Words of some bits each, one after the other in bytes; the highest bit first.
//
// Bits wait in one register of 64: below 32 of them when a word of up to 32 comes, and
// they leave, or come, 32 at a time.

#include "lanes.h"

namespace {

template <class W>
void pack(const char *words, int64_t n, int64_t m, int64_t row, int64_t column,
          const int32_t *widths, bool is_aligned, uint8_t *packed) {
  uint64_t held = 0;
  int n_held = 0;
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < m; j++) {
      W word;
      memcpy(&word, words + i * row + j * column, sizeof(W));
      held = held << widths[j] | word;
      n_held += widths[j];
      if (n_held < 32) continue;
      n_held -= 32;
      const uint32_t first = __builtin_bswap32(uint32_t(held >> n_held));
      memcpy(packed, &first, 4);
      packed += 4;
    }
    if (!is_aligned && i + 1 < n) continue;
    for (; n_held > 0; n_held -= 8)
      *packed++ = uint8_t(n_held < 8 ? held << (8 - n_held) : held >> (n_held - 8));
    n_held = 0;
  }
}

// The next 32 bits, zeros behind the last.
SKVQ_INLINE uint32_t next_bits(const uint8_t *at, const uint8_t *end) {
  uint32_t found = 0;
  if (end - at >= 4) {
    memcpy(&found, at, 4);
    return __builtin_bswap32(found);
  }
  for (int shift = 24; at < end; shift -= 8) found |= uint32_t(*at++) << shift;
  return found;
}

template <class W>
void unpack(const uint8_t *packed, int64_t n, int64_t m, int64_t row, int64_t n_bytes,
            const int32_t *widths, bool is_aligned, W *words) {
  const uint8_t *at = packed, *end = packed + n_bytes;
  uint64_t held = 0;
  int n_held = 0;
  for (int64_t i = 0; i < n; i++) {
    if (is_aligned) {
      at = packed + i * row;
      end = at + n_bytes;
      n_held = 0;
    }
    for (int64_t j = 0; j < m; j++) {
      if (n_held < widths[j]) {
        held = held << 32 | next_bits(at, end);
        n_held += 32;
        at += 4;
      }
      n_held -= widths[j];
      *words++ = W(held >> n_held & ((uint64_t(1) << widths[j]) - 1));
    }
  }
}

}  // namespace

// Packs the words (n, m) of so many bytes, whose strides are in bytes too.  Aligned: each
// row begins with a byte of its own.
SKVQ_API void skvq_pack_words(const char *words, int64_t n, int64_t m, int64_t row,
                              int64_t column, int64_t word_bytes, const int32_t *widths,
                              int64_t is_aligned, uint8_t *packed) {
  switch (word_bytes) {
    case 1:
      return pack<uint8_t>(words, n, m, row, column, widths, is_aligned, packed);
    case 2:
      return pack<uint16_t>(words, n, m, row, column, widths, is_aligned, packed);
    case 4:
      return pack<uint32_t>(words, n, m, row, column, widths, is_aligned, packed);
    default:
      return pack<uint64_t>(words, n, m, row, column, widths, is_aligned, packed);
  }
}

// Unpacks words (n, m) of so many bytes from n_bytes, of each row if they are aligned.
SKVQ_API void skvq_unpack_words(const uint8_t *packed, int64_t n, int64_t m, int64_t row,
                                int64_t n_bytes, int64_t word_bytes,
                                const int32_t *widths, int64_t is_aligned, void *words) {
  switch (word_bytes) {
    case 1:
      return unpack(packed, n, m, row, n_bytes, widths, is_aligned,
                    static_cast<uint8_t *>(words));
    case 2:
      return unpack(packed, n, m, row, n_bytes, widths, is_aligned,
                    static_cast<uint16_t *>(words));
    case 4:
      return unpack(packed, n, m, row, n_bytes, widths, is_aligned,
                    static_cast<uint32_t *>(words));
    default:
      return unpack(packed, n, m, row, n_bytes, widths, is_aligned,
                    static_cast<uint64_t *>(words));
  }
}
