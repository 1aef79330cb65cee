// Which of the x86-64 libraries this processor runs.  Compiled for plain x86-64, into a
// library of its own.
//
// By cpuid and xgetbv: __builtin_cpu_supports reads a table that the run-time of gcc
// fills in, and that of zig leaves at zero, so that it would say no for ever.

#include <cpuid.h>
#include <stdint.h>

#include "api.h"

namespace {

// Bits of the leaves of cpuid (Intel SDM, volume 2A, CPUID; AMD APM, volume 3, E).
constexpr uint32_t bit(int place) { return uint32_t{1} << place; }

// Leaf 1, ecx.
constexpr uint32_t FMA = bit(12), MOVBE = bit(22), OSXSAVE = bit(27), AVX = bit(28),
                   F16C = bit(29);
// Leaf 7, ebx; and ecx.
constexpr uint32_t BMI1 = bit(3), AVX2 = bit(5), BMI2 = bit(8), AVX512F = bit(16),
                   AVX512DQ = bit(17), AVX512CD = bit(28), AVX512BW = bit(30),
                   AVX512VL = bit(31);
constexpr uint32_t AVX512VBMI = bit(1), AVX512VNNI = bit(11);
// Leaf 0x80000001, ecx.
constexpr uint32_t LZCNT = bit(5);
// What the system saves when it switches threads: xmm and ymm; mask registers, the
// upper halves of zmm 0 to 15, zmm 16 to 31.
constexpr uint32_t YMM = bit(1) | bit(2);
constexpr uint32_t ZMM = YMM | bit(5) | bit(6) | bit(7);

struct Leaf {
  // Zeros, where the processor does not know the leaf.
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  explicit Leaf(uint32_t number) {
    __get_cpuid_count(number, 0, &eax, &ebx, &ecx, &edx);
  }
};

uint32_t saved_by_the_system() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

bool all(uint32_t found, uint32_t needed) { return (found & needed) == needed; }

}  // namespace

// The level of x86-64 whose library runs here: 4, 3, or 0 for none.
SKVQ_API int skvq_cpu_level() {
  const Leaf one(1), seven(7), extended(0x80000001);
  // What is older than AVX is there where AVX is.  Without OSXSAVE there is no xgetbv.
  if (!all(one.ecx, FMA | MOVBE | OSXSAVE | AVX | F16C)) return 0;
  if (!all(seven.ebx, BMI1 | AVX2 | BMI2) || !all(extended.ecx, LZCNT)) return 0;
  const uint32_t saved = saved_by_the_system();
  if (!all(saved, YMM)) return 0;
  const bool four =
      all(seven.ebx, AVX512F | AVX512DQ | AVX512CD | AVX512BW | AVX512VL) &&
      all(seven.ecx, AVX512VBMI | AVX512VNNI) && all(saved, ZMM);
  return four ? 4 : 3;
}
