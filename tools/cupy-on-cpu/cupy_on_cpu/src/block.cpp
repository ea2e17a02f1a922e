#include "block.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "fiber.h"

cupy_on_cpu::Position cupy_on_cpu_position;
uint64_t cupy_on_cpu_mailbox[cupy_on_cpu::kMaxBlockThreads];

namespace cupy_on_cpu {
namespace {

uint64_t volume(const Dim3& size) {
    return uint64_t{size.x} * size.y * size.z;
}

Dim3 position_at(uint64_t index, const Dim3& size) {
    const uint64_t row = index / size.x;
    return {static_cast<unsigned>(index % size.x), static_cast<unsigned>(row % size.y),
            static_cast<unsigned>(row / size.y)};
}

// A fiber runs threads one after another for as long as they return without waiting; only when one
// waits at a barrier do the rest continue on another one. So a kernel without barriers never
// switches stacks between its threads.
class Block {
public:
    explicit Block(const Launch& launch);

    // Runs the block at cupy_on_cpu_position.block. False if its threads wait for each other.
    bool run();
    std::string describe_deadlock() const;

    // On a fiber:
    void run_threads();
    void wait_for_block();
    void wait_for_warp(unsigned lanes);

private:
    enum class State { kNotStarted, kRunnable, kAtBlockBarrier, kAtWarpBarrier, kDone };

    struct Thread {
        State state;
        unsigned lanes;  // at a warp barrier: the lanes of its warp that meet there
        Fiber* fiber;    // where it was suspended
    };

    unsigned count(State state) const;
    unsigned in_order(unsigned step) const;
    void resume(Fiber* fiber);
    void suspend_thread();
    void enter_thread(unsigned thread);
    void leave_thread();
    void open_block_barrier();
    void open_warp_barrier(unsigned first, unsigned lanes);

    const Launch& launch_;
    const unsigned size_;
    unsigned started_;
    unsigned live_;
    unsigned at_block_barrier_;
    unsigned at_warp_barrier_;
    unsigned thread_;  // the running one
    Fiber* fiber_;     // the running one
    std::vector<Thread> threads_;
    static std::vector<std::unique_ptr<Fiber>> fibers_;  // kept from one launch to the next
    std::vector<Fiber*> idle_fibers_;
};

std::vector<std::unique_ptr<Fiber>> Block::fibers_;

Block* block;  // the running one

void fiber_body() {
    for (;;) {
        block->run_threads();
        Fiber::suspend();
    }
}

Block::Block(const Launch& launch)
    : launch_(launch), size_(volume(launch.block_dim)), threads_(size_) {
    for (const auto& fiber : fibers_) {
        idle_fibers_.push_back(fiber.get());
    }
}

bool Block::run() {
    started_ = 0;
    live_ = size_;
    at_block_barrier_ = 0;
    at_warp_barrier_ = 0;
    for (Thread& thread : threads_) {
        thread.state = State::kNotStarted;
    }

    while (started_ < size_) {
        if (idle_fibers_.empty()) {
            fibers_.push_back(std::make_unique<Fiber>(fiber_body));
            idle_fibers_.push_back(fibers_.back().get());
        }
        Fiber* fiber = idle_fibers_.back();
        idle_fibers_.pop_back();
        resume(fiber);
    }
    while (live_ > 0) {
        bool progress = false;
        for (unsigned step = 0; step < size_; ++step) {
            const Thread& thread = threads_[in_order(step)];
            if (thread.state == State::kRunnable) {
                resume(thread.fiber);
                progress = true;
            }
        }
        if (!progress) {
            fibers_.clear();  // with the stacks of the threads that are stuck
            return false;
        }
    }
    return true;
}

std::string Block::describe_deadlock() const {
    const Dim3& at = cupy_on_cpu_position.block;
    return "deadlock in kernel " + std::string(launch_.kernel->name) + ", block (" +
           std::to_string(at.x) + ", " + std::to_string(at.y) + ", " + std::to_string(at.z) +
           "): " + std::to_string(count(State::kAtBlockBarrier)) +
           " threads wait at __syncthreads(), " + std::to_string(count(State::kAtWarpBarrier)) +
           " at a warp shuffle, " + std::to_string(count(State::kDone)) +
           " have returned";
}

unsigned Block::count(State state) const {
    unsigned result = 0;
    for (const Thread& thread : threads_) {
        result += thread.state == state;
    }
    return result;
}

unsigned Block::in_order(unsigned step) const {
    return launch_.order == ThreadOrder::kForward ? step : size_ - 1 - step;
}

void Block::resume(Fiber* fiber) {
    fiber_ = fiber;
    fiber->resume();
}

void Block::run_threads() {
    while (started_ < size_) {
        enter_thread(in_order(started_++));
        launch_.kernel->run(launch_.arguments);
        leave_thread();
    }
    idle_fibers_.push_back(fiber_);
}

void Block::enter_thread(unsigned thread) {
    thread_ = thread;
    cupy_on_cpu_position.thread = position_at(thread, launch_.block_dim);
}

void Block::suspend_thread() {
    const unsigned self = thread_;
    threads_[self].fiber = fiber_;
    Fiber::suspend();
    enter_thread(self);
}

void Block::leave_thread() {
    threads_[thread_].state = State::kDone;
    --live_;
    open_block_barrier();
    if (at_warp_barrier_ > 0) {
        const unsigned first = thread_ / kWarpSize * kWarpSize;
        for (unsigned i = first; i < first + kWarpSize && i < size_; ++i) {
            if (threads_[i].state == State::kAtWarpBarrier) {
                open_warp_barrier(first, threads_[i].lanes);
            }
        }
    }
}

void Block::wait_for_block() {
    threads_[thread_].state = State::kAtBlockBarrier;
    ++at_block_barrier_;
    open_block_barrier();
    suspend_thread();
}

void Block::wait_for_warp(unsigned lanes) {
    threads_[thread_].state = State::kAtWarpBarrier;
    threads_[thread_].lanes = lanes;
    ++at_warp_barrier_;
    open_warp_barrier(thread_ / kWarpSize * kWarpSize, lanes);
    suspend_thread();
}

// Once every thread that has not returned is there.
void Block::open_block_barrier() {
    if (at_block_barrier_ == 0 || at_block_barrier_ < live_) {
        return;
    }
    at_block_barrier_ = 0;
    for (Thread& thread : threads_) {
        if (thread.state == State::kAtBlockBarrier) {
            thread.state = State::kRunnable;
        }
    }
}

// Once every one of `lanes` that has not returned waits for these lanes. `first` starts the warp.
void Block::open_warp_barrier(unsigned first, unsigned lanes) {
    const auto waits = [&](const Thread& thread) {
        return thread.state == State::kAtWarpBarrier && thread.lanes == lanes;
    };
    const unsigned end = std::min(first + kWarpSize, size_);
    for (unsigned i = first; i < end; ++i) {
        if (lanes >> (i - first) & 1 && threads_[i].state != State::kDone && !waits(threads_[i])) {
            return;
        }
    }
    for (unsigned i = first; i < end; ++i) {
        if (waits(threads_[i])) {
            threads_[i].state = State::kRunnable;
            --at_warp_barrier_;
        }
    }
}

}  // namespace

std::string run_grid(const Launch& launch) {
    Block running(launch);
    block = &running;
    cupy_on_cpu_position.grid_dim = launch.grid_dim;
    cupy_on_cpu_position.block_dim = launch.block_dim;
    const uint64_t blocks = volume(launch.grid_dim);
    for (uint64_t step = 0; step < blocks; ++step) {
        const uint64_t index = launch.order == ThreadOrder::kForward ? step : blocks - 1 - step;
        cupy_on_cpu_position.block = position_at(index, launch.grid_dim);
        if (!running.run()) {
            return running.describe_deadlock();
        }
    }
    return {};
}

}  // namespace cupy_on_cpu

void cupy_on_cpu_syncthreads() {
    cupy_on_cpu::block->wait_for_block();
}

void cupy_on_cpu_syncwarp(unsigned lanes) {
    cupy_on_cpu::block->wait_for_warp(lanes);
}
