// Included by every file of the engine that exports functions.

#pragma once

// Older ones have no __builtin_shufflevector (GCC) or no _Float16 (Clang).  The build
// looks for another compiler then, so it has to be told at once.
#if defined(__clang__)
#if __clang_major__ < 15
#error "Clang 15 or newer is needed"
#endif
#elif __GNUC__ < 12
#error "GCC 12 or newer, or Clang 15 or newer, is needed"
#endif

// Everything else is hidden (-fvisibility=hidden), so that two libraries in one process
// never share a name.
#if defined(_WIN32)
#define SKVQ_API extern "C" __declspec(dllexport)
#else
#define SKVQ_API extern "C" __attribute__((visibility("default")))
#endif
