// Runs the thread blocks of a grid one after another, every GPU thread in turn, with real barriers.
#pragma once

#include <cstddef>
#include <string>

#include "cupy_on_cpu/abi.h"

namespace cupy_on_cpu {

enum class ThreadOrder { kForward, kReverse };

struct Launch {
    const Kernel* kernel;
    void** arguments;
    Dim3 grid_dim;
    Dim3 block_dim;
    ThreadOrder order;  // of the blocks, and of the threads of a block between two barriers
};

// Returns what went wrong, or an empty string. Not reentrant: one grid at a time.
std::string run_grid(const Launch& launch);

}  // namespace cupy_on_cpu
