// Vectors of one register, whatever the instruction set; what all kernels share.
//
// Everything is written once with the vector extensions of GCC and Clang, and compiled
// for each instruction set into a library of its own.  Bits do not depend on which:
// a score is one chain of fused multiply-adds in the order of the features, and rows or
// codewords, never features, lie in the lanes.

#pragma once

// Only C headers are used: those of C++ would have to be installed, or compiled first.
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "api.h"

#define SKVQ_INLINE static inline __attribute__((always_inline))
#define SKVQ_INLINE_MEMBER inline __attribute__((always_inline))
#define SKVQ_INLINE_LAMBDA __attribute__((always_inline))

namespace {

// -- the shape of the registers --------------------------------------------------------

#if defined(SKVQ_VECTOR_BYTES)  // tests: the shapes of a processor that is not there
constexpr int kVectorBytes = SKVQ_VECTOR_BYTES;
#elif defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Accumulators of a search: so many codewords for each of so many vectors of rows.
// They fill the registers, except for the rows themselves and one codeword.
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int kGroup = 6;
constexpr int kVectors = 2;
#else
constexpr int kGroup = 8;
constexpr int kVectors = 3;
#endif

template <class T>
struct Int;
template <>
struct Int<float> {
  using type = int32_t;
};
template <>
struct Int<double> {
  using type = int64_t;
};
template <>
struct Int<int32_t> {
  using type = int32_t;
};
template <>
struct Int<uint32_t> {
  using type = int32_t;
};

// A vector of one register, one of so many bytes, and the same at any address.
template <class T, int N = kVectorBytes / int(sizeof(T))>
struct Vector {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
  typedef T loose
      __attribute__((vector_size(N * sizeof(T)), aligned(1), may_alias));
  typedef typename Int<T>::type mask __attribute__((vector_size(N * sizeof(T))));
};

template <class T>
constexpr int lanes = kVectorBytes / int(sizeof(T));
// Codewords of a panel, where they lie in the lanes; scores of a table are padded to it.
constexpr int kPanelVectors = kVectorBytes == 64 ? 4 : 2;
template <class T>
constexpr int panel_width = kPanelVectors *lanes<T>;
// Rows of a tile.
template <class T>
constexpr int tile_rows = kVectors * lanes<T>;

// -- arithmetic ------------------------------------------------------------------------

// x in all lanes.  Not V{} + x: 0 + -0 is not -0, so that would be an addition.
template <class V, class T>
SKVQ_INLINE V all(T x) {
  return x - V{};
}

template <class T, int N = lanes<T>>
SKVQ_INLINE typename Vector<T, N>::type load(const T *from) {
  return *reinterpret_cast<const typename Vector<T, N>::loose *>(from);
}

template <class T, class V>
SKVQ_INLINE void store(T *to, V v) {
  constexpr int n = sizeof(V) / sizeof(T);
  *reinterpret_cast<typename Vector<T, n>::loose *>(to) = v;
}

template <class V>
SKVQ_INLINE V smaller(V a, V b) {
  return a < b ? a : b;
}

template <class V>
SKVQ_INLINE V larger(V a, V b) {
  return a > b ? a : b;
}

// a b + c and c - a b, rounded once.  Nothing else is: compilers are told not to contract
// sums of products, of a b + c d they would not agree which to round first.
SKVQ_INLINE float multiply_add(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}
SKVQ_INLINE double multiply_add(double a, double b, double c) {
  return __builtin_fma(a, b, c);
}
template <class V>
SKVQ_INLINE V multiply_add(V a, V b, V c) {
  for (unsigned l = 0; l < sizeof(V) / sizeof(a[0]); l++)
    c[l] = multiply_add(a[l], b[l], c[l]);
  return c;
}
template <class V>
SKVQ_INLINE V subtract_product(V a, V b, V c) {
  return multiply_add(-a, b, c);
}

SKVQ_INLINE float square_root(float a) { return __builtin_sqrtf(a); }
SKVQ_INLINE double square_root(double a) { return __builtin_sqrt(a); }
template <class V>
SKVQ_INLINE V square_root(V a) {
  for (unsigned l = 0; l < sizeof(V) / sizeof(a[0]); l++) a[l] = square_root(a[l]);
  return a;
}

// Each is one instruction; GCC would compile a minimum as a comparison and a blend.
#define SKVQ_ONE_INSTRUCTION(T, n, M, prefix, suffix)                                  \
  SKVQ_INLINE Vector<T, n>::type smaller(Vector<T, n>::type a, Vector<T, n>::type b) { \
    return Vector<T, n>::type(prefix##_min_##suffix(M(a), M(b)));                      \
  }                                                                                    \
  SKVQ_INLINE Vector<T, n>::type larger(Vector<T, n>::type a, Vector<T, n>::type b) {  \
    return Vector<T, n>::type(prefix##_max_##suffix(M(a), M(b)));                      \
  }                                                                                    \
  SKVQ_INLINE Vector<T, n>::type multiply_add(                                         \
      Vector<T, n>::type a, Vector<T, n>::type b, Vector<T, n>::type c) {              \
    return Vector<T, n>::type(prefix##_fmadd_##suffix(M(a), M(b), M(c)));              \
  }                                                                                    \
  SKVQ_INLINE Vector<T, n>::type subtract_product(                                     \
      Vector<T, n>::type a, Vector<T, n>::type b, Vector<T, n>::type c) {              \
    return Vector<T, n>::type(prefix##_fnmadd_##suffix(M(a), M(b), M(c)));             \
  }                                                                                    \
  SKVQ_INLINE Vector<T, n>::type square_root(Vector<T, n>::type a) {                   \
    return Vector<T, n>::type(prefix##_sqrt_##suffix(M(a)));                           \
  }
#if defined(__AVX512F__)
SKVQ_ONE_INSTRUCTION(float, 16, __m512, _mm512, ps)
SKVQ_ONE_INSTRUCTION(double, 8, __m512d, _mm512, pd)
#endif
#if defined(__FMA__)
SKVQ_ONE_INSTRUCTION(float, 8, __m256, _mm256, ps)
SKVQ_ONE_INSTRUCTION(double, 4, __m256d, _mm256, pd)
SKVQ_ONE_INSTRUCTION(float, 4, __m128, _mm, ps)
SKVQ_ONE_INSTRUCTION(double, 2, __m128d, _mm, pd)
#elif defined(__aarch64__)
#define SKVQ_NEON(T, n, M, suffix)                                             \
  SKVQ_INLINE Vector<T, n>::type multiply_add(                                 \
      Vector<T, n>::type a, Vector<T, n>::type b, Vector<T, n>::type c) {      \
    return Vector<T, n>::type(vfmaq_##suffix(M(c), M(a), M(b)));               \
  }                                                                            \
  SKVQ_INLINE Vector<T, n>::type subtract_product(                             \
      Vector<T, n>::type a, Vector<T, n>::type b, Vector<T, n>::type c) {      \
    return Vector<T, n>::type(vfmsq_##suffix(M(c), M(a), M(b)));               \
  }
SKVQ_NEON(float, 4, float32x4_t, f32)
SKVQ_NEON(double, 2, float64x2_t, f64)
#endif

#define SKVQ_INTEGERS(n, M, prefix)                                           \
  SKVQ_INLINE Vector<int32_t, n>::type smaller(Vector<int32_t, n>::type a,    \
                                               Vector<int32_t, n>::type b) {  \
    return Vector<int32_t, n>::type(prefix##_min_epi32(M(a), M(b)));          \
  }                                                                           \
  SKVQ_INLINE Vector<int32_t, n>::type larger(Vector<int32_t, n>::type a,     \
                                              Vector<int32_t, n>::type b) {   \
    return Vector<int32_t, n>::type(prefix##_max_epi32(M(a), M(b)));          \
  }

// c + a b of vectors of int32_t, each lane of which holds two integers of 16 bits: both
// products are added.  Searches use it where it is faster than two multiply-adds.
template <class V>
SKVQ_INLINE V add_pairs(V a, V b, V c) {
  return c + (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
}
#define SKVQ_ADD_PAIRS(n, sum)                                                         \
  SKVQ_INLINE Vector<int32_t, n>::type add_pairs(Vector<int32_t, n>::type a,           \
                                                 Vector<int32_t, n>::type b,           \
                                                 Vector<int32_t, n>::type c) {         \
    return Vector<int32_t, n>::type(sum);                                              \
  }
#if defined(__AVX512VNNI__)
constexpr bool kHasPairs = kVectorBytes == 64;
SKVQ_INTEGERS(16, __m512i, _mm512)
SKVQ_INTEGERS(8, __m256i, _mm256)
SKVQ_ADD_PAIRS(16, _mm512_dpwssd_epi32(__m512i(c), __m512i(a), __m512i(b)))
SKVQ_ADD_PAIRS(8, _mm256_dpwssd_epi32(__m256i(c), __m256i(a), __m256i(b)))
#elif defined(__AVX2__)
constexpr bool kHasPairs = kVectorBytes == 32;
SKVQ_INTEGERS(8, __m256i, _mm256)
SKVQ_ADD_PAIRS(8, _mm256_add_epi32(__m256i(c), _mm256_madd_epi16(__m256i(a), __m256i(b))))
#else
constexpr bool kHasPairs = false;
#endif

// The smallest of an array of vectors, as a tree: a chain would wait for each.
template <int N, class V>
SKVQ_INLINE V least(const V *v) {
  if constexpr (N == 1)
    return v[0];
  else
    return smaller(least<N / 2>(v), least<N - N / 2>(v + N / 2));
}

template <class T>
constexpr T infinity = T(__builtin_inf());
template <>
constexpr int32_t infinity<int32_t> = INT32_MAX;
template <class T>
constexpr T largest = sizeof(T) == 4 ? T(__FLT_MAX__) : T(__DBL_MAX__);

// The squared distance of a vector from another, or from zero, in float64, times the
// square of a scale, which keeps it within range; in eight sums, whatever the registers.
template <class A, class B>
SKVQ_INLINE double squared_distance(const A *a, const B *b, int d, double scale = 1) {
  typedef Vector<double, 4>::type V;
  V low = {}, high = {};
  double sum = 0;
  int k = 0;
  for (; k + 8 <= d; k += 8) {
    V x = __builtin_convertvector((load<A, 4>(a + k)), V);
    V y = __builtin_convertvector((load<A, 4>(a + k + 4)), V);
    if (b) {
      x -= __builtin_convertvector((load<B, 4>(b + k)), V);
      y -= __builtin_convertvector((load<B, 4>(b + k + 4)), V);
    }
    x *= scale;
    y *= scale;
    low = multiply_add(x, x, low);
    high = multiply_add(y, y, high);
  }
  for (; k < d; k++) {
    double gap = (double(a[k]) - (b ? double(b[k]) : 0.0)) * scale;
    sum = multiply_add(gap, gap, sum);
  }
  low += high;
  return sum + ((low[0] + low[1]) + (low[2] + low[3]));
}

// Returns the squares, summed, of n features of a row that a codeword of each table
// leaves; inlined, so that n may be a constant.
template <class T, class Code>
SKVQ_INLINE double squares_left(const T *x, int d, int k, int n, const void *const *tables,
                                int64_t n_tables, const Code *codes, int64_t other,
                                int64_t code) {
  double left[32];
  for (int e = 0; e < n; e++) left[e] = x[k + e];
  for (int64_t o = 0; o < n_tables; o++) {
    const int64_t row = o == other ? code : int64_t(codes[o]);
    const T *codeword = static_cast<const T *>(tables[o]) + row * d + k;
    for (int e = 0; e < n; e++) left[e] -= codeword[e];
  }
  return squared_distance<double, double>(left, nullptr, n);
}

// The squared distance of a row from the sum of a codeword of each table, one of which is
// another than the codes say; in float64, of numbers as they were given.
template <class T, class Code>
__attribute__((noinline)) double distance_from_sum(const T *x, int d,
                                                   const void *const *tables,
                                                   int64_t n_tables, const Code *codes,
                                                   int64_t other, int64_t code) {
  double sum = 0;
  int k = 0;
  for (; k + 32 <= d; k += 32)
    sum += squares_left(x, d, k, 32, tables, n_tables, codes, other, code);
  if (k < d) sum += squares_left(x, d, k, d - k, tables, n_tables, codes, other, code);
  return sum;
}

// An unsigned integer of 8 or 16 bits.
template <bool wide>
struct Bits {
  using type = uint8_t;
};
template <>
struct Bits<true> {
  using type = uint16_t;
};

// One bit for each lane.
template <class T>
using LaneBits = typename Bits<(lanes<T> > 8)>::type;

// Where a < b; and where a <= b.
#if defined(__AVX512F__)
#define SKVQ_COMPARISON(name, sign, code)                                              \
  template <class T>                                                                   \
  SKVQ_INLINE LaneBits<T> name(typename Vector<T>::type a, typename Vector<T>::type b) { \
    if constexpr (sizeof(T) == 4)                                                      \
      return _mm512_cmp_ps_mask(__m512(a), __m512(b), code);                           \
    else                                                                               \
      return _mm512_cmp_pd_mask(__m512d(a), __m512d(b), code);                         \
  }
#elif defined(__AVX2__)
#define SKVQ_COMPARISON(name, sign, code)                                              \
  template <class T>                                                                   \
  SKVQ_INLINE LaneBits<T> name(typename Vector<T>::type a, typename Vector<T>::type b) { \
    if constexpr (sizeof(T) == 4)                                                      \
      return _mm256_movemask_ps(__m256(a sign b));                                     \
    else                                                                               \
      return _mm256_movemask_pd(__m256d(a sign b));                                    \
  }
#else
#define SKVQ_COMPARISON(name, sign, code)                                              \
  template <class T>                                                                   \
  SKVQ_INLINE LaneBits<T> name(typename Vector<T>::type a, typename Vector<T>::type b) { \
    const auto found = a sign b;                                                       \
    unsigned bits = 0;                                                                 \
    for (int lane = 0; lane < lanes<T>; ++lane) bits |= unsigned(found[lane] & 1) << lane; \
    return bits;                                                                       \
  }
#endif
SKVQ_COMPARISON(less, <, _CMP_LT_OQ)
SKVQ_COMPARISON(less_or_equal, <=, _CMP_LE_OQ)

// -- the caller's floating-point mode --------------------------------------------------

// Default rounding without flush-to-zero while it lives: some libraries set that in
// threads of others, and a table of tiny numbers would be one of zeros.
class FloatMode {
 public:
#if defined(__x86_64__)
  FloatMode() : before_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~FloatMode() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#elif defined(__aarch64__)
  FloatMode() {
    asm volatile("mrs %0, fpcr" : "=r"(before_) : : "memory");
    asm volatile("msr fpcr, %0" : : "r"(uint64_t(0)) : "memory");
  }
  ~FloatMode() { asm volatile("msr fpcr, %0" : : "r"(before_) : "memory"); }

 private:
  uint64_t before_;
#endif
};

// -- memory of the caller --------------------------------------------------------------

// Hands out pieces of scratch memory, each from a line of the cache on.
class Scratch {
 public:
  explicit Scratch(void *memory) : next_(static_cast<char *>(memory)) {}

  template <class T>
  T *take(int64_t n) {
    next_ += -reinterpret_cast<uintptr_t>(next_) & 63;
    T *found = reinterpret_cast<T *>(next_);
    next_ += n * int64_t(sizeof(T));
    return found;
  }

 private:
  char *next_;
};

}  // namespace
