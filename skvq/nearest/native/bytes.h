// Vectors of bytes: tables that fit in registers, sums that stop at 255.

#pragma once

#include "lanes.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

template <>
struct Int<uint8_t> {
  using type = int8_t;
};

using Bytes = Vector<uint8_t>::type;
// 16 bytes, whatever the registers.
using Sixteen = Vector<uint8_t, 16>::type;

// a + b, or 255.
SKVQ_INLINE Bytes add_saturating(Bytes a, Bytes b) {
#if defined(__AVX512F__)
  return Bytes(_mm512_adds_epu8(__m512i(a), __m512i(b)));
#elif defined(__AVX2__)
  return Bytes(_mm256_adds_epu8(__m256i(a), __m256i(b)));
#elif defined(__aarch64__)
  return Bytes(vqaddq_u8(uint8x16_t(a), uint8x16_t(b)));
#else
  return a + (b < ~a ? b : ~a);
#endif
}

// One bit for each byte: whether a <= b.
SKVQ_INLINE uint64_t at_most(Bytes a, Bytes b) {
#if defined(__AVX512F__)
  return _mm512_cmple_epu8_mask(__m512i(a), __m512i(b));
#elif defined(__AVX2__)
  const __m256i least = _mm256_min_epu8(__m256i(a), __m256i(b));
  return uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(least, __m256i(a))));
#elif defined(SKVQ_VECTOR_BYTES)
  uint64_t bits = 0;
  for (int i = 0; i < kVectorBytes; ++i) bits |= uint64_t(a[i] <= b[i]) << i;
  return bits;
#else
  // Each byte of a half gets a bit of its own; their sum has all bits of the half.
  typedef uint64_t Halves __attribute__((vector_size(16)));
  const Sixteen bits = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  Halves both = Halves(Sixteen(a <= b) & bits);
  both |= both >> 32;
  both |= both >> 16;
  both |= both >> 8;
  return (both[0] & 255) | (both[1] & 255) << 8;
#endif
}

// A table of 16 bytes, in each 16 of a vector.
SKVQ_INLINE Bytes table_16(const uint8_t *table) {
#if defined(__AVX512F__)
  return Bytes(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table)));
#elif defined(__AVX2__)
  return Bytes(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table)));
#else
  Bytes found;
  for (int i = 0; i < kVectorBytes; ++i) found[i] = table[i % 16];
  return found;
#endif
}

// Looks up entries by bytes below 16; AVX gives zeros for bytes of 128 and above.
SKVQ_INLINE Bytes look_up_16(Bytes table, Bytes index) {
#if defined(__AVX512F__)
  return Bytes(_mm512_shuffle_epi8(__m512i(table), __m512i(index)));
#elif defined(__AVX2__)
  return Bytes(_mm256_shuffle_epi8(__m256i(table), __m256i(index)));
#elif defined(__aarch64__)
  return Bytes(vqtbl1q_u8(uint8x16_t(table), uint8x16_t(index)));
#else
  Bytes found;
  for (int i = 0; i < kVectorBytes; ++i) found[i] = table[index[i] & 15];
  return found;
#endif
}

#if defined(__AVX512F__) && !defined(__AVX512VBMI__)
#error "vectors of 64 bytes are looked up with VBMI"
#endif

// AVX2 looks up 16 entries, and gives 0 where the index is negative.  An index less 16
// j is negative from j = index / 16 + 1 on, and everything looked up before that is
// combined by exclusive or.  So the table holds the exclusive or of each 16 entries and
// the 16 before them, and a separate upper half, for indices that are negative bytes.
// Other instruction sets look entries up directly.
SKVQ_INLINE void prepare_256(uint8_t *table) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  for (int i = 240; i > 0; i -= 16) {
    const Sixteen own = load<uint8_t, 16>(table + i);
    if (i % 128) store(table + i, own ^ load<uint8_t, 16>(table + i - 16));
  }
#else
  (void)table;
#endif
}

// Replaces N vectors of bytes by their entries in a prepared table of 256.
template <int N>
SKVQ_INLINE void look_up_256(const uint8_t *table, Bytes *x) {
#if defined(__AVX512F__)
  const __m512i *t = (const __m512i *)table;
  const __m512i t0 = t[0], t1 = t[1], t2 = t[2], t3 = t[3];
  for (int i = 0; i < N; ++i) {
    const __m512i index = __m512i(x[i]);
    const __m512i low = _mm512_permutex2var_epi8(t0, index, t1);
    const __m512i high = _mm512_permutex2var_epi8(t2, index, t3);
    const __mmask64 upper = _mm512_movepi8_mask(index);
    x[i] = Bytes(_mm512_mask_mov_epi8(low, upper, high));
  }
#elif defined(__AVX2__)
  Bytes found[N];
  for (int i = 0; i < N; ++i) found[i] = Bytes{};
  for (int begin = 0; begin < 256; begin += 128) {
    Bytes index[N];
    for (int i = 0; i < N; ++i) index[i] = x[i] ^ all<Bytes>(uint8_t(begin));
    for (int j = 0; j < 128; j += 16) {
      const Bytes entries = table_16(table + begin + j);
      for (int i = 0; i < N; ++i) {
        found[i] ^= look_up_16(entries, index[i]);
        // GCC would bring the terms into another order, and spill them.
        asm("" : "+x"(found[i]));
        // As signed bytes, down to -128.
        index[i] = Bytes(_mm256_subs_epi8(__m256i(index[i]), _mm256_set1_epi8(16)));
      }
    }
  }
  for (int i = 0; i < N; ++i) x[i] = found[i];
#elif defined(__aarch64__)
  for (int i = 0; i < N; ++i) {
    uint8x16_t index = uint8x16_t(x[i]);
    uint8x16_t found = vqtbl4q_u8(vld1q_u8_x4(table), index);
    for (int j = 64; j < 256; j += 64) {
      // An index outside of these 64 keeps what was found before.
      const uint8x16_t rest = vsubq_u8(index, vdupq_n_u8(uint8_t(j)));
      found = vqtbx4q_u8(found, vld1q_u8_x4(table + j), rest);
    }
    x[i] = Bytes(found);
  }
#else
  for (int i = 0; i < N; ++i)
    for (int j = 0; j < kVectorBytes; ++j) x[i][j] = table[x[i][j]];
#endif
}

}  // namespace
