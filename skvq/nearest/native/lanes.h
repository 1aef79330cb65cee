// Vectors of one register, whatever the instruction set; what all kernels share.
//
// Everything is written once with the vector extensions of GCC and Clang, and compiled
// for each instruction set into a library of its own.  Bits do not depend on which:
// a score is one chain of fused multiply-adds in the order of the features, and rows or
// codewords, never features, lie in the lanes.

#pragma once

// C headers alone: those of C++ would have to be compiled first, or be there.
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define SKVQ_API extern "C" __attribute__((visibility("default")))
#define SKVQ_INLINE static inline __attribute__((always_inline))

namespace {

// -- the shape of the registers --------------------------------------------------------

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Accumulators of a search: so many codewords for each of so many vectors of rows.
// They fill the registers but for the rows themselves and a codeword.
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int kGroup = 6;
constexpr int kVectors = 2;
#else
constexpr int kGroup = 8;
constexpr int kVectors = 3;
#endif

// Rows or codewords beside each other where it is no matter of speed how many.
constexpr int kEight = 8;

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

// A vector of one register, one of so many bytes, and the same at any address.
template <class T, int N = kVectorBytes / int(sizeof(T))>
struct Vector {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
  typedef T loose __attribute__((vector_size(N * sizeof(T)), aligned(1)));
  typedef typename Int<T>::type mask __attribute__((vector_size(N * sizeof(T))));
};

template <class T>
constexpr int lanes = kVectorBytes / int(sizeof(T));
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

// GCC makes a comparison and a blend of the above, where there is one instruction.
#if defined(__AVX512F__)
using F16 = Vector<float, 16>::type;
using D8 = Vector<double, 8>::type;
template <>
inline __attribute__((always_inline)) F16 smaller(F16 a, F16 b) {
  return F16(_mm512_min_ps(__m512(a), __m512(b)));
}
template <>
inline __attribute__((always_inline)) F16 larger(F16 a, F16 b) {
  return F16(_mm512_max_ps(__m512(a), __m512(b)));
}
template <>
inline __attribute__((always_inline)) D8 smaller(D8 a, D8 b) {
  return D8(_mm512_min_pd(__m512d(a), __m512d(b)));
}
template <>
inline __attribute__((always_inline)) D8 larger(D8 a, D8 b) {
  return D8(_mm512_max_pd(__m512d(a), __m512d(b)));
}
#endif
#if defined(__AVX2__)
using F8 = Vector<float, 8>::type;
using D4 = Vector<double, 4>::type;
template <>
inline __attribute__((always_inline)) F8 smaller(F8 a, F8 b) {
  return F8(_mm256_min_ps(__m256(a), __m256(b)));
}
template <>
inline __attribute__((always_inline)) F8 larger(F8 a, F8 b) {
  return F8(_mm256_max_ps(__m256(a), __m256(b)));
}
template <>
inline __attribute__((always_inline)) D4 smaller(D4 a, D4 b) {
  return D4(_mm256_min_pd(__m256d(a), __m256d(b)));
}
template <>
inline __attribute__((always_inline)) D4 larger(D4 a, D4 b) {
  return D4(_mm256_max_pd(__m256d(a), __m256d(b)));
}
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
    asm volatile("mrs %0, fpcr" : "=r"(before_));
    asm volatile("msr fpcr, %0" : : "r"(uint64_t(0)));
  }
  ~FloatMode() { asm volatile("msr fpcr, %0" : : "r"(before_)); }

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
