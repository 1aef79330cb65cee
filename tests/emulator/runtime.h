// What CUDA source means, on one thread of a CPU.  Each thread of a block is a context
// of its own; they take turns at barriers and at exchanges within a warp.
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>

#define __global__
#define __device__ static
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct uint3 { unsigned x, y, z; };
typedef uint3 dim3;
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) double2 { double x, y; };

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
// The dynamic shared memory, under the name by which kernels ask for it.
alignas(16) unsigned char memory[256 * 1024];

namespace emulation {

const int kWarp = 32, kMost = 1024;
const size_t kStack = 64 * 1024;
enum State { READY, AT_BARRIER, IN_WARP, ENDED };

struct Thread {
    State state;
    uint3 index;
    ucontext_t context;
    jmp_buf here;  // where it goes on
    unsigned char value[2][16];  // what it shows to its warp, in turns
    int turn;
    unsigned mask;  // the lanes that it wants to hear
};

static Thread threads[kMost];
static unsigned char* stacks;
static int n_threads, n_begun, current, failure;
static jmp_buf scheduler;
static const std::function<void()>* body;

static void wait(State state) {
    Thread& thread = threads[current];
    thread.state = state;
    if (_setjmp(thread.here) == 0) _longjmp(scheduler, 1);
}

// A context runs one thread after another: of every block, of every kernel.
static void start() {
    for (;;) {
        (*body)();
        wait(ENDED);
    }
}

static void run(int which) {
    Thread& thread = threads[which];
    current = which;
    threadIdx = thread.index;
    if (_setjmp(scheduler)) return;
    if (which < n_begun) _longjmp(thread.here, 1);
    n_begun = which + 1;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = stacks + which * kStack;
    thread.context.uc_stack.ss_size = kStack;
    makecontext(&thread.context, start, 0);
    setcontext(&thread.context);
}

// Let those go on who wait for each other; false if nobody can.
static bool release() {
    bool released = false, all = true, any = false;
    for (int first = 0; first < n_threads; first += kWarp) {
        const int end = first + kWarp < n_threads ? first + kWarp : n_threads;
        bool together = true, waiting = false;
        for (int i = first; i < end; i++) {
            if (threads[i].state == ENDED) continue;
            any = true;
            if (threads[i].state != IN_WARP) together = false; else waiting = true;
            if (threads[i].state != AT_BARRIER) all = false;
        }
        if (!together || !waiting) continue;
        released = true;
        unsigned wanted = 0, ended = 0;
        for (int i = first; i < end; i++) {
            if (threads[i].state == ENDED) ended |= 1u << (i - first);
            if (threads[i].state != IN_WARP) continue;
            wanted |= threads[i].mask;
            threads[i].state = READY;
        }
        if (wanted & ended) failure = 2;
    }
    if (released || !any) return released;
    if (all)
        for (int i = 0; i < n_threads; i++)
            if (threads[i].state == AT_BARRIER) threads[i].state = READY;
    if (!all) failure = 1;
    return all;
}

static void run_block() {
    for (int i = 0; i < n_threads; i++) {
        Thread& thread = threads[i];
        thread.state = READY;
        thread.turn = 0;
        thread.index.x = i % blockDim.x;
        thread.index.y = i / blockDim.x % blockDim.y;
        thread.index.z = i / blockDim.x / blockDim.y;
    }
    do {
        for (int i = 0; i < n_threads; i++)
            if (threads[i].state == READY) run(i);
    } while (!failure && release());
}

template <class V>
static V exchange(unsigned mask, V value, int lane) {
    Thread& own = threads[current];
    const int first = current / kWarp * kWarp, turn = own.turn;
    std::memcpy(own.value[turn], &value, sizeof value);
    own.turn = 1 - turn;
    own.mask = mask;
    wait(IN_WARP);
    V found = value;
    if (lane >= 0 && lane < kWarp && first + lane < n_threads)
        std::memcpy(&found, threads[first + lane].value[turn], sizeof found);
    return found;
}

}  // namespace emulation

static int lane_of_thread() { return emulation::current % emulation::kWarp; }

template <class V>
static V __shfl_down_sync(unsigned mask, V value, int offset) {
    const int lane = lane_of_thread() + offset;
    return emulation::exchange(mask, value, lane < 32 ? lane : -1);
}

template <class V>
static V __shfl_xor_sync(unsigned mask, V value, int bits) {
    return emulation::exchange(mask, value, lane_of_thread() ^ bits);
}

template <class V>
static V __shfl_sync(unsigned mask, V value, int lane) {
    return emulation::exchange(mask, value, lane);
}

static void __syncthreads() { emulation::wait(emulation::AT_BARRIER); }
static void __syncwarp(unsigned mask = 0xffffffffu) { emulation::exchange(mask, 0, 0); }

static int emulate(const unsigned* sizes, size_t shared, std::function<void()> kernel) {
    using namespace emulation;
    if (!stacks) stacks = (unsigned char*)std::malloc(kMost * kStack);
    gridDim = {sizes[0], sizes[1], sizes[2]};
    blockDim = {sizes[3], sizes[4], sizes[5]};
    n_threads = blockDim.x * blockDim.y * blockDim.z;
    body = &kernel;
    failure = 0;
    for (unsigned z = 0; z < gridDim.z; z++)
        for (unsigned y = 0; y < gridDim.y; y++)
            for (unsigned x = 0; x < gridDim.x && !failure; x++) {
                blockIdx = {x, y, z};
                // Nothing is in a block's memory before it has put it there.
                std::memset(memory, 0xff, shared);
                run_block();
            }
    return failure;
}
