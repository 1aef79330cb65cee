// The library's description of itself, which the loader reads before any other call.

#include "api.h"

// Both come from the build (hatch_build.py), and are empty in a library made by hand.
#ifndef SKVQ_SOURCES
#define SKVQ_SOURCES ""
#endif
#ifndef SKVQ_COMPILER
#define SKVQ_COMPILER ""
#endif

// Digest of the sources that it was compiled from.
SKVQ_API const char* skvq_sources() { return SKVQ_SOURCES; }

SKVQ_API const char* skvq_compiler() { return SKVQ_COMPILER; }
