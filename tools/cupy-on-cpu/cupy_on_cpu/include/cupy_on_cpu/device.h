// The CUDA C++ that kernels are written in, in terms of C++17 and the runtime. The compiler reads
// this before the source that CuPy hands to hipRTC.
#pragma once

#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <type_traits>
#include <utility>

#include "cupy_on_cpu/abi.h"

// CuPy's headers look for a CUDA compiler; 9 is the first one that they ask for <cuda_fp16.h>.
#define __CUDACC_VER_MAJOR__ 9

// ---- Declarations

#define __device__
#define __host__
#define __global__
#define __constant__
#define __shared__ static  // one block runs at a time, so one copy is enough
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)

// ---- Built-in variables and types

using dim3 = cupy_on_cpu::Dim3;
using uint3 = cupy_on_cpu::Dim3;

static const uint3& threadIdx = cupy_on_cpu_position.thread;
static const uint3& blockIdx = cupy_on_cpu_position.block;
static const dim3& blockDim = cupy_on_cpu_position.block_dim;
static const dim3& gridDim = cupy_on_cpu_position.grid_dim;
static constexpr int warpSize = cupy_on_cpu::kWarpSize;

// ---- How the runtime calls a kernel

namespace cupy_on_cpu {

template <class... Parameters, size_t... i>
inline void call(void (*kernel)(Parameters...), void** arguments, std::index_sequence<i...>) {
    kernel(*static_cast<std::decay_t<Parameters>*>(arguments[i])...);
}

template <class... Parameters>
inline void call(void (*kernel)(Parameters...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<Parameters...>());
}

template <auto kernel>
void run(void** arguments) {
    call(kernel, arguments);
}

template <class... Parameters>
constexpr unsigned sizes[] = {sizeof(std::decay_t<Parameters>)..., 0};

template <class... Parameters>
constexpr Kernel describe(const char* name, void (*run)(void**), void (*)(Parameters...)) {
    return {name, run, sizes<Parameters...>, sizeof...(Parameters)};
}

}  // namespace cupy_on_cpu

// ---- Barriers and fences

static inline void __syncthreads() { cupy_on_cpu_syncthreads(); }

static inline void __syncwarp(unsigned lanes = ~0u) { cupy_on_cpu_syncwarp(lanes); }

// Threads of one process see each other's writes in program order.
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}

// ---- Warp shuffles (CuPy sums with them, to index by a mask): publish, wait for the warp, read, wait again

namespace cupy_on_cpu {

inline unsigned own_index() { return linear_index(threadIdx, blockDim); }

template <class T>
T read_lane(unsigned lanes, T value, unsigned lane) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves at most 8 bytes");
    const unsigned self = own_index();
    memcpy(&cupy_on_cpu_mailbox[self], &value, sizeof value);
    __syncwarp(lanes);
    memcpy(&value, &cupy_on_cpu_mailbox[self / kWarpSize * kWarpSize + lane], sizeof value);
    __syncwarp(lanes);
    return value;
}

}  // namespace cupy_on_cpu

template <class T>
inline T __shfl_xor_sync(unsigned lanes, T value, int mask, int width = warpSize) {
    const int lane = cupy_on_cpu::own_index() % warpSize;
    const int source = lane ^ mask;
    return cupy_on_cpu::read_lane(lanes, value,
                                  source >= (lane / width + 1) * width ? lane : source);
}

// ---- Atomics: only one thread runs at any moment

#define CUPY_ON_CPU_ATOMIC(name, type, update)           \
    static inline type name(type* address, type value) { \
        const type old = *address;                       \
        *address = update;                               \
        return old;                                      \
    }
#define CUPY_ON_CPU_INTEGER_ATOMICS(type)                                    \
    CUPY_ON_CPU_ATOMIC(atomicAdd, type, old + value)                         \
    CUPY_ON_CPU_ATOMIC(atomicSub, type, old - value)                         \
    CUPY_ON_CPU_ATOMIC(atomicExch, type, value)                              \
    CUPY_ON_CPU_ATOMIC(atomicMin, type, value < old ? value : old)           \
    CUPY_ON_CPU_ATOMIC(atomicMax, type, old < value ? value : old)           \
    CUPY_ON_CPU_ATOMIC(atomicAnd, type, old& value)                          \
    CUPY_ON_CPU_ATOMIC(atomicOr, type, old | value)                          \
    CUPY_ON_CPU_ATOMIC(atomicXor, type, old ^ value)                         \
    static inline type atomicCAS(type* address, type expected, type value) { \
        const type old = *address;                                           \
        *address = old == expected ? value : old;                            \
        return old;                                                          \
    }
CUPY_ON_CPU_INTEGER_ATOMICS(int)
CUPY_ON_CPU_INTEGER_ATOMICS(unsigned)
CUPY_ON_CPU_INTEGER_ATOMICS(unsigned long long)
CUPY_ON_CPU_ATOMIC(atomicAdd, float, old + value)
CUPY_ON_CPU_ATOMIC(atomicAdd, double, old + value)
CUPY_ON_CPU_ATOMIC(atomicExch, float, value)
#undef CUPY_ON_CPU_INTEGER_ATOMICS
#undef CUPY_ON_CPU_ATOMIC

// ---- Arithmetic

// Of any two numbers, as CUDA's overloads; a NaN loses against a number.
template <class A, class B,
          class = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>>
inline std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) {
        return std::fmin(static_cast<T>(a), static_cast<T>(b));
    } else {
        return static_cast<T>(b) < static_cast<T>(a) ? static_cast<T>(b) : static_cast<T>(a);
    }
}

template <class A, class B,
          class = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>>
inline std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>) {
        return std::fmax(static_cast<T>(a), static_cast<T>(b));
    } else {
        return static_cast<T>(a) < static_cast<T>(b) ? static_cast<T>(b) : static_cast<T>(a);
    }
}

// CUDA's functions that the C library lacks.
static inline float rsqrt(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float rsqrtf(float x) { return rsqrt(x); }
static inline double sinpi(double x) { return sin(M_PI * fmod(x, 2.0)); }
static inline double cospi(double x) { return cos(M_PI * fmod(x, 2.0)); }
static inline float sinpif(float x) { return sinpi(x); }
static inline float cospif(float x) { return cospi(x); }
static inline double normcdf(double x) { return 0.5 * erfc(-M_SQRT1_2 * x); }
static inline float normcdff(float x) { return normcdf(x); }

// ---- Bits

namespace cupy_on_cpu {

template <class To, class From>
inline To bit_cast(const From& from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace cupy_on_cpu

static inline int __float_as_int(float x) { return cupy_on_cpu::bit_cast<int>(x); }
static inline unsigned __float_as_uint(float x) { return cupy_on_cpu::bit_cast<unsigned>(x); }
static inline float __int_as_float(int x) { return cupy_on_cpu::bit_cast<float>(x); }
static inline float __uint_as_float(unsigned x) { return cupy_on_cpu::bit_cast<float>(x); }
static inline long long __double_as_longlong(double x) {
    return cupy_on_cpu::bit_cast<long long>(x);
}
static inline double __longlong_as_double(long long x) { return cupy_on_cpu::bit_cast<double>(x); }

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }

template <class T>
inline T __ldg(const T* address) {
    return *address;
}
