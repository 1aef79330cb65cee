"""CUDA sources of the engine's kernels for CuPy.

T is the type of the numbers and TOP a number above all scores.  Kernels that depend on
sizes are compiled for them: these constants stand in capitals.

The tests compile them for the CPU and run them thread by thread, which shows that they
are right; how fast they are shows `benchmarks/gpu.py`, on a device.
"""

import importlib
from functools import cache
from typing import Any

_SMALLEST = r"""
// GROUP threads look for the smallest of a row, and for how much the next one is above
// it: a warp, or a block where rows are long.
extern "C" __global__ void smallest(
    const T* scores, const T* bias, int biased, long long n, int n_codewords,
    long long* codes, T* gaps)
{
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const long long row = thread / GROUP;
    const int own = threadIdx.x % GROUP, lane = threadIdx.x % 32;
    if (row >= n) return;
    const T* score = scores + row * n_codewords;
    int at = own;
    T best = TOP, second = TOP;
    if (own < n_codewords) best = biased ? score[own] + bias[own] : score[own];
    #pragma unroll 4
    for (int k = own + GROUP; k < n_codewords; k += GROUP) {
        const T next = biased ? score[k] + bias[k] : score[k];
        const T larger = next < best ? best : next;
        if (larger < second) second = larger;
        if (next < best) { best = next; at = k; }
    }
    #pragma unroll
    for (int offset = 16; offset; offset /= 2) {
        const T other = __shfl_down_sync(0xffffffffu, best, offset);
        const T next = __shfl_down_sync(0xffffffffu, second, offset);
        const int where = __shfl_down_sync(0xffffffffu, at, offset);
        const T larger = other < best ? best : other;
        if (next < second) second = next;
        if (larger < second) second = larger;
        if (other < best || (other == best && where < at)) { best = other; at = where; }
    }
    #if GROUP > 32
        __shared__ T bests[GROUP / 32], seconds[GROUP / 32];
        __shared__ int places[GROUP / 32];
        if (lane == 0) {
            bests[own / 32] = best;
            seconds[own / 32] = second;
            places[own / 32] = at;
        }
        __syncthreads();
        if (own == 0)
            for (int w = 1; w < GROUP / 32; w++) {
                const T larger = bests[w] < best ? best : bests[w];
                if (seconds[w] < second) second = seconds[w];
                if (larger < second) second = larger;
                if (bests[w] < best || (bests[w] == best && places[w] < at)) {
                    best = bests[w];
                    at = places[w];
                }
            }
    #endif
    if (own == 0) {
        codes[row] = at < n_codewords ? at : n_codewords - 1;
        gaps[row] = second - best;
    }
}
"""

_FEW = r"""
// Where the k smallest of each row are, in the order of value and place; a warp for
// each row reads its scores once for each of them.
extern "C" __global__ void few(
    const T* scores, long long n, int n_scores, int k, long long* places)
{
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const long long row = thread / 32;
    const int lane = threadIdx.x % 32;
    if (row >= n) return;
    const T* score = scores + row * n_scores;
    T last = -TOP;
    int after = -1;
    for (int j = 0; j < k; j++) {
        T best = TOP;
        int at = n_scores;
        #pragma unroll 4
        for (int i = lane; i < n_scores; i += 32) {
            const T next = score[i];
            const bool is_left = next > last || (next == last && i > after);
            if (is_left && next < best) { best = next; at = i; }
        }
        #pragma unroll
        for (int bits = 16; bits; bits /= 2) {
            const T other = __shfl_xor_sync(0xffffffffu, best, bits);
            const int where = __shfl_xor_sync(0xffffffffu, at, bits);
            if (other < best || (other == best && where < at)) {
                best = other;
                at = where;
            }
        }
        if (lane == 0) places[row * k + j] = at;
        last = best;
        after = at;
    }
}
"""

_GAPS = r"""
// Squared norms of rows, and distances to the codewords chosen, one warp for each.
extern "C" __global__ void gaps(
    const T* x, long long n, int n_features, const T* rows, const long long* codes,
    double* distances, double* norms)
{
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const long long row = thread / 32;
    const int lane = threadIdx.x % 32;
    if (row >= n) return;
    const T* own = x + row * n_features;
    const T* chosen = rows + codes[row] * n_features;
    T part = 0, square = 0;
    #pragma unroll 4
    for (int f = lane; f < n_features; f += 32) {
        const T value = own[f], gap = chosen[f] - value;
        part += gap * gap;
        square += value * value;
    }
    double sum = part, norm = square;
    #pragma unroll
    for (int offset = 16; offset; offset /= 2) {
        sum += __shfl_down_sync(0xffffffffu, sum, offset);
        norm += __shfl_down_sync(0xffffffffu, norm, offset);
    }
    if (lane == 0) { distances[row] = sum; norms[row] = norm; }
}
"""

# How sure a code is, as `Backend.judged` has it: OUT of reach, or NEAR to another.
_JUDGEMENT = r"""
__device__ __forceinline__ bool is_out(double norm, double distance) {
    return !(norm - norm == 0 && distance - distance == 0);
}

__device__ __forceinline__ bool is_far(
    double norm, double distance, double share, double least)
{
    return !(distance > share * (norm + least));
}

// By how much the next score is above the best.
__device__ __forceinline__ bool is_near(
    double gap, double norm, double distance, double slack, double least)
{
    return !(gap > slack * (3 * (norm + least) + distance));
}
"""

_STATE = (
    _JUDGEMENT
    + r"""
extern "C" __global__ void state(
    const T* gaps, const double* norms, const double* distances, long long n,
    double share, double slack, double least, unsigned char* states)
{
    const long long row = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= n) return;
    const double norm = norms[row], distance = distances[row];
    unsigned char state = 0;
    if (is_out(norm, distance)) state = OUT;
    else if (is_far(norm, distance, share, least) &&
             is_near(gaps[row], norm, distance, slack, least)) state = NEAR;
    states[row] = state;
}
"""
)

_PRODUCT = (
    _JUDGEMENT
    + r"""
// weights: (m, W + 1, n_codewords), the scores' table as NumPy has it, its last row
// the constants.  A block serves one subspace; a thread takes ROWS rows, so that one
// read of the table serves them all.  A table that does not fit comes in parts.
extern "C" __global__ void product(
    const T* x, long long n, int n_features, int start, int n_codewords, int part,
    const T* weights, const T* centre, const T* scale, double share, double least,
    double rounded, long long* codes, unsigned char* states)
{
    extern __shared__ __align__(16) unsigned char memory[];
    T* table = reinterpret_cast<T*>(memory);
    T* constants = table + part * W;
    const int j = blockIdx.y, n_subspaces = gridDim.y;
    const T* own = weights + (long long)j * (W + 1) * n_codewords;
    const long long step = (long long)gridDim.x * blockDim.x * ROWS;
    bool loaded = false;
    // The same turns for all threads of a block: they meet at the barriers.
    for (long long tile = (long long)blockIdx.x * blockDim.x * ROWS; tile < n;
         tile += step) {
        T z[ROWS][W], best[ROWS];
        int at[ROWS];
        #pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const long long row = tile + (long long)r * blockDim.x + threadIdx.x;
            at[r] = 0;
            best[r] = TOP;
            const T* given = x + row * n_features + start + j * W;
            #if ALIGNED
                #pragma unroll
                for (int f = 0; f < W; f += 4) {
                    float4 four = {0, 0, 0, 0};
                    if (row < n) four = *reinterpret_cast<const float4*>(given + f);
                    z[r][f] = four.x;
                    z[r][f + 1] = four.y;
                    z[r][f + 2] = four.z;
                    z[r][f + 3] = four.w;
                }
            #else
                #pragma unroll
                for (int f = 0; f < W; f++) z[r][f] = row < n ? given[f] : (T)0;
            #endif
            #pragma unroll
            for (int f = 0; f < W; f++)
                z[r][f] = (z[r][f] - centre[j * W + f]) * scale[j];
        }
        for (int base = 0; base < n_codewords; base += part) {
            const int left = n_codewords - base, size = left < part ? left : part;
            if (!loaded) {
                __syncthreads();
                for (int i = threadIdx.x; i < (W + 1) * size; i += blockDim.x) {
                    const int f = i / size, k = i % size;
                    const T value = own[(long long)f * n_codewords + base + k];
                    if (f < W) table[k * W + f] = value; else constants[k] = value;
                }
                __syncthreads();
                loaded = part >= n_codewords;
            }
            #pragma unroll 4
            for (int k = 0; k < size; k++) {
                T c[W], score[ROWS];
                #if FOURS
                    #pragma unroll
                    for (int f = 0; f < W; f += 4) {
                        const float4 four =
                            *reinterpret_cast<const float4*>(table + k * W + f);
                        c[f] = four.x;
                        c[f + 1] = four.y;
                        c[f + 2] = four.z;
                        c[f + 3] = four.w;
                    }
                #else
                    #pragma unroll
                    for (int f = 0; f < W; f++) c[f] = table[k * W + f];
                #endif
                const T constant = constants[k];
                #pragma unroll
                for (int r = 0; r < ROWS; r++) score[r] = constant;
                #pragma unroll
                for (int f = 0; f < W; f++)
                    #pragma unroll
                    for (int r = 0; r < ROWS; r++) score[r] += z[r][f] * c[f];
                #pragma unroll
                for (int r = 0; r < ROWS; r++)
                    if (score[r] < best[r]) { best[r] = score[r]; at[r] = base + k; }
            }
        }
        #pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const long long row = tile + (long long)r * blockDim.x + threadIdx.x;
            if (row >= n) continue;
            T square = 0, part = 0;
            #pragma unroll
            for (int f = 0; f < W; f++) {
                const T gap = z[r][f] + own[(long long)f * n_codewords + at[r]];
                square += z[r][f] * z[r][f];
                part += gap * gap;
            }
            const double norm = square + rounded, distance = part;
            unsigned char state = 0;
            if (is_out(norm, distance)) state = OUT;
            else if (is_far(norm, distance, share, least)) state = FAR;
            codes[row * n_subspaces + j] = at[r];
            states[row * n_subspaces + j] = state;
        }
    }
}
"""
)

_SECOND = (
    _JUDGEMENT
    + r"""
// Codes that "product" found FAR are NEAR to another or not: what the next best score
// is, matters to few, which a warp looks for among the entries of its threads.
extern "C" __global__ void second(
    const T* x, long long n, int n_features, int start, int n_subspaces,
    int n_codewords, const T* weights, const T* centre, const T* scale, double slack,
    double least, double rounded, const long long* codes, unsigned char* states)
{
    const long long entry = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    const int lane = threadIdx.x % 32;
    const int own = entry < n * n_subspaces ? states[entry] : 0;
    int any = own == FAR;
    #pragma unroll
    for (int bits = 16; bits; bits /= 2) any |= __shfl_xor_sync(0xffffffffu, any, bits);
    if (!any) return;
    for (int other = 0; other < 32; other++) {
        if (__shfl_sync(0xffffffffu, own, other) != FAR) continue;
        const long long at = entry - lane + other, code = codes[at];
        const long long row = at / n_subspaces, j = at % n_subspaces;
        const T* given = x + row * n_features + start + j * W;
        const T* table = weights + j * (W + 1) * n_codewords;
        T z[W], square = 0, part = 0, best = table[(long long)W * n_codewords + code];
        #pragma unroll
        for (int f = 0; f < W; f++) {
            const T weight = table[(long long)f * n_codewords + code];
            z[f] = (given[f] - centre[j * W + f]) * scale[j];
            square += z[f] * z[f];
            part += (z[f] + weight) * (z[f] + weight);
            best += z[f] * weight;
        }
        T next = TOP;
        for (int k = lane; k < n_codewords; k += 32) {
            T score = table[(long long)W * n_codewords + k];
            #pragma unroll
            for (int f = 0; f < W; f++)
                score += z[f] * table[(long long)f * n_codewords + k];
            if (k != code && score < next) next = score;
        }
        #pragma unroll
        for (int bits = 16; bits; bits /= 2) {
            const T found = __shfl_xor_sync(0xffffffffu, next, bits);
            if (found < next) next = found;
        }
        const double norm = square + rounded, gap = next - best;
        if (lane == 0) states[at] = is_near(gap, norm, part, slack, least) ? NEAR : 0;
    }
}
"""
)

_ADD = r"""
// A block is a piece of the rows of one code; column n_features is the weight itself.
extern "C" __global__ void add_pieces(
    const T* x, const double* weights, int weighted, int n_features,
    const long long* order, const long long* begin, const long long* end, double* sums)
{
    const long long piece = blockIdx.x;
    for (int f = threadIdx.x; f <= n_features; f += blockDim.x) {
        double sum = 0;
        #pragma unroll 4
        for (long long i = begin[piece]; i < end[piece]; i++) {
            const long long row = order[i];
            const double value = f < n_features ? (double)x[row * n_features + f] : 1.0;
            sum += weighted ? value * weights[row] : value;
        }
        sums[piece * (n_features + 1) + f] = sum;
    }
}

// A block is a code, whose pieces are added in their order.
extern "C" __global__ void add_cells(
    const double* pieces, int n_columns, const long long* first, double* sums)
{
    const long long code = blockIdx.x;
    for (int f = threadIdx.x; f < n_columns; f += blockDim.x) {
        double sum = 0;
        for (long long piece = first[code]; piece < first[code + 1]; piece++)
            sum += pieces[piece * n_columns + f];
        sums[code * n_columns + f] = sum;
    }
}
"""

_SOURCES = {
    "smallest": _SMALLEST,
    "few": _FEW,
    "gaps": _GAPS,
    "state": _STATE,
    "second": _SECOND,
    "product": _PRODUCT,
    "add_pieces": _ADD,
    "add_cells": _ADD,
}
C_TYPES = {"float32": "float", "float64": "double"}
# Of codes: the backends' DOUBTFUL and OUT_OF_REACH, and what no code has in the end.
STATES = {"NEAR": 2, "OUT": 3, "FAR": 255}
# Numbers above all scores, which the search keeps within the range of their dtype.
TOP = {"float32": 3.4e38, "float64": 1.7e308}


def source(name: str, dtype: str, **constants: int | str) -> str:
    """Return the source of a kernel for a dtype, with its constants defined.

    Parameters
    ----------
    name : str
        The name of the kernel.
    dtype : {"float32", "float64"}
        The dtype of its numbers.
    **constants : int or str
        GROUP for "smallest"; W for "second"; for "product" W, ROWS, FOURS (whether four
        numbers of the table are read at once) and ALIGNED (whether four numbers of the
        rows are).
    """
    defined = {
        "T": C_TYPES[dtype],
        "TOP": f"((T){TOP[dtype]})",
        **STATES,
        **constants,
    }
    lines = [f"#define {key} {value}\n" for key, value in defined.items()]
    return "".join(lines) + _SOURCES[name]


@cache
def kernel(name: str, dtype: str, **constants: int | str) -> Any:
    """Return the kernel that `source` describes, compiled once and ready to call."""
    cupy = importlib.import_module("cupy")
    return cupy.RawKernel(source(name, dtype, **constants), name)
