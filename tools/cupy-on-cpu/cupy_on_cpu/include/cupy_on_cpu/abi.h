// What a compiled kernel and the runtime know about each other.
#pragma once

#include <cstdint>

namespace cupy_on_cpu {

constexpr unsigned kWarpSize = 32;  // as on NVIDIA cards and on AMD's RDNA
constexpr unsigned kMaxBlockThreads = 1024;
constexpr unsigned kMaxSharedBytes = 48 << 10;  // what a CUDA kernel gets without asking for more

struct Dim3 {
    unsigned x, y, z;
};

// The built-in variables of the thread that is running now.
struct Position {
    Dim3 thread, block, block_dim, grid_dim;
};

// Every compiled kernel exports one of these. `run` executes one thread of it; arguments[i] points
// at the i-th argument, as in hipModuleLaunchKernel; it has sizes[i] bytes.
struct Kernel {
    const char* name;
    void (*run)(void** arguments);
    const unsigned* sizes;
    unsigned count;
};

inline unsigned linear_index(const Dim3& at, const Dim3& size) {
    return at.x + size.x * (at.y + size.y * at.z);
}

}  // namespace cupy_on_cpu

extern "C" {

extern cupy_on_cpu::Position cupy_on_cpu_position;

// One mailbox per thread of the block, for warp shuffles.
extern uint64_t cupy_on_cpu_mailbox[cupy_on_cpu::kMaxBlockThreads];

void cupy_on_cpu_syncthreads();
void cupy_on_cpu_syncwarp(unsigned lanes);

}  // extern "C"
