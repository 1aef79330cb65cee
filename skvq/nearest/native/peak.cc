// The peak of the processor: fused multiply-adds between registers, and nothing else.
//
// The benchmark of the kernels divides by it.

#include "lanes.h"

// Runs so many rounds; returns the floating-point operations of each.
SKVQ_API int64_t skvq_peak(int64_t rounds) {
  FloatMode mode;
  typedef Vector<float>::type V;
  constexpr int chains = 12;
  V a = all<V>(0.5f), b = all<V>(0.25f);
  // One block, so that the compiler neither moves nor spills a register in between.
#if defined(__AVX512F__)
#define SKVQ_FMA(i) "vfmadd231ps %0, %1, %%zmm" #i "\n\t"
#define SKVQ_CLOBBERED "zmm"
#elif defined(__AVX2__)
#define SKVQ_FMA(i) "vfmadd231ps %0, %1, %%ymm" #i "\n\t"
#define SKVQ_CLOBBERED "ymm"
#elif defined(__aarch64__)
#define SKVQ_FMA(i) "fmla v" #i ".4s, %0.4s, %1.4s\n\t"
#define SKVQ_CLOBBERED "v"
#endif
#if defined(SKVQ_FMA)
  for (int64_t i = 0; i < rounds; i++)
    asm volatile(SKVQ_FMA(2) SKVQ_FMA(3) SKVQ_FMA(4) SKVQ_FMA(5) SKVQ_FMA(6)
                     SKVQ_FMA(7) SKVQ_FMA(8) SKVQ_FMA(9) SKVQ_FMA(10) SKVQ_FMA(11)
                         SKVQ_FMA(12) SKVQ_FMA(13)
                 :
#if defined(__aarch64__)
                 : "w"(a), "w"(b)
#else
                 : "v"(a), "v"(b)
#endif
                 : SKVQ_CLOBBERED "2", SKVQ_CLOBBERED "3", SKVQ_CLOBBERED "4",
                   SKVQ_CLOBBERED "5", SKVQ_CLOBBERED "6", SKVQ_CLOBBERED "7",
                   SKVQ_CLOBBERED "8", SKVQ_CLOBBERED "9", SKVQ_CLOBBERED "10",
                   SKVQ_CLOBBERED "11", SKVQ_CLOBBERED "12", SKVQ_CLOBBERED "13");
  return int64_t(2) * chains * lanes<float>;
#else
  (void)rounds;
  return 0;
#endif
}
