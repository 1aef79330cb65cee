// The peak of the processor: multiply-adds between registers, and nothing else.
//
// The benchmark of the kernels divides by it.  They are those that searches use: pairs of
// integers, where these are faster than floats.

#include "lanes.h"

#if defined(__AVX512VNNI__)
#define SKVQ_STEP(i) "vpdpwssd %0, %1, %%zmm" #i "\n\t"
#define SKVQ_CLOBBERED "zmm"
#define SKVQ_INPUT "v"
#elif defined(__AVX512F__)
#define SKVQ_STEP(i) "vfmadd231ps %0, %1, %%zmm" #i "\n\t"
#define SKVQ_CLOBBERED "zmm"
#define SKVQ_INPUT "v"
#elif defined(__AVX2__)
#define SKVQ_STEP(i)                                                                   \
  "vpmaddwd %0, %1, %%ymm14\n\tvpaddd %%ymm14, %%ymm" #i ", %%ymm" #i "\n\t"
#define SKVQ_CLOBBERED "ymm"
#define SKVQ_INPUT "v"
#elif defined(__aarch64__)
#define SKVQ_STEP(i) "fmla v" #i ".4s, %0.4s, %1.4s\n\t"
#define SKVQ_CLOBBERED "v"
#define SKVQ_INPUT "w"
#endif

// Runs so many rounds; returns the multiply-adds of each.
SKVQ_API int64_t skvq_peak(int64_t rounds) {
#if defined(SKVQ_STEP)
  FloatMode mode;
  typedef Vector<float>::type V;
  constexpr int chains = 12;
  V a = all<V>(0.5f), b = all<V>(0.25f);
  // One block, so that the compiler neither moves nor spills a register in between.
  for (int64_t i = 0; i < rounds; i++)
    asm volatile(SKVQ_STEP(2) SKVQ_STEP(3) SKVQ_STEP(4) SKVQ_STEP(5) SKVQ_STEP(6)
                     SKVQ_STEP(7) SKVQ_STEP(8) SKVQ_STEP(9) SKVQ_STEP(10) SKVQ_STEP(11)
                         SKVQ_STEP(12) SKVQ_STEP(13)
                 :
                 : SKVQ_INPUT(a), SKVQ_INPUT(b)
                 : SKVQ_CLOBBERED "2", SKVQ_CLOBBERED "3", SKVQ_CLOBBERED "4",
                   SKVQ_CLOBBERED "5", SKVQ_CLOBBERED "6", SKVQ_CLOBBERED "7",
                   SKVQ_CLOBBERED "8", SKVQ_CLOBBERED "9", SKVQ_CLOBBERED "10",
                   SKVQ_CLOBBERED "11", SKVQ_CLOBBERED "12", SKVQ_CLOBBERED "13",
                   SKVQ_CLOBBERED "14");
  return int64_t(kHasPairs ? 2 : 1) * chains * lanes<float>;
#else
  (void)rounds;
  return 0;
#endif
}
