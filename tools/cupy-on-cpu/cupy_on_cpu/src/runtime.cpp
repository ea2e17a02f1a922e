// Stand-in for libamdhip64.so, the HIP runtime, on a machine without a GPU.
//
// "Device memory" is ordinary memory, every call is finished when it returns, and a kernel is a
// shared object made by g++. Only what CuPy needs is here; every other function of the API that its
// wheel refers to is a generated stub that reports hipErrorNotSupported.
//
// The numbers that are part of HIP's binary interface come from its public headers, ROCm 7.0.

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "block.h"
#include "counters.h"
#include "cupy_on_cpu/abi.h"
#include "errors.h"
#include "graph.h"

using namespace cupy_on_cpu;

std::atomic<long> cupy_on_cpu_counters[kCounterCount];

// From the Python that loads this library.
extern "C" {
int Py_AddPendingCall(int (*function)(void*), void* argument);
void PyErr_SetString(void* type, const char* message);
extern void* PyExc_NotImplementedError;
}

namespace {

// ---- The device that CuPy sees

constexpr int kVersion = 70051831;  // ROCm 7.0, encoded as HIP_VERSION in hip/hip_version.h
constexpr int kComputeCapability[] = {9, 0};
constexpr int kMultiprocessors = 4;
constexpr int kRegistersPerBlock = 64 << 10;
constexpr size_t kMemoryBytes = size_t{8} << 30;  // only reported, never enforced
constexpr size_t kMemoryAlignment = 256;
constexpr int kUninitialised = 0xA5;  // what new device memory holds

// What a launch may ask for, as on NVIDIA cards (AMD's are a little more generous).
constexpr unsigned kMaxBlockDim[] = {1024, 1024, 64};
constexpr unsigned kMaxGridDim[] = {0x7fffffff, 65535, 65535};

// ---- Errors

const std::map<int, const char*> kErrorNames = {
    {kSuccess, "hipSuccess"},
    {kInvalidValue, "hipErrorInvalidValue"},
    {kOutOfMemory, "hipErrorOutOfMemory"},
    {kInvalidConfiguration, "hipErrorInvalidConfiguration"},
    {kInvalidImage, "hipErrorInvalidImage"},
    {kNotFound, "hipErrorNotFound"},
    {kLaunchFailure, "hipErrorLaunchFailure"},
    {kNotSupported, "hipErrorNotSupported"},
    {kStreamCaptureUnsupported, "hipErrorStreamCaptureUnsupported"},
    {kStreamCaptureInvalidated, "hipErrorStreamCaptureInvalidated"},
};

thread_local int last_error;
thread_local int explained_error = kSuccess;
thread_local std::string explanation;  // of explained_error

}  // namespace

int cupy_on_cpu::fail(Error error, const std::string& message) {
    last_error = error;
    explained_error = error;
    explanation = message;
    return error;
}

namespace {

// ---- Kernels that are compiled into the wheel
//
// They are code for AMD GPUs and cannot run. CuPy does not always ask whether a launch succeeded,
// so whoever comes first says so: hipGetLastError, Python, or the next call of this library.

constexpr char kPrecompiled[] =
    "cupy-on-cpu cannot run the kernels that are compiled into the CuPy wheel for AMD GPUs "
    "(sort, argsort, unique, median, random.Generator, ...)";

thread_local bool kernel_was_skipped;

// Python calls this as soon as its call into CuPy's compiled code has returned.
int raise_for_skipped_kernel(void*) {
    if (!kernel_was_skipped) {
        return 0;
    }
    kernel_was_skipped = false;
    PyErr_SetString(PyExc_NotImplementedError, kPrecompiled);
    return -1;
}

int skip_kernel() {
    kernel_was_skipped = true;
    Py_AddPendingCall(raise_for_skipped_kernel, nullptr);
    return fail(kNotSupported, kPrecompiled);
}

int report_skipped_kernel() {
    if (!kernel_was_skipped) {
        return kSuccess;
    }
    kernel_was_skipped = false;
    return fail(kNotSupported, kPrecompiled);
}

// ---- Memory

std::mutex memory_lock;
std::map<const char*, size_t> allocations;  // device memory: address, size

bool is_device_memory(const void* address) {
    const auto* byte = static_cast<const char*>(address);
    const std::lock_guard<std::mutex> guard(memory_lock);
    const auto next = allocations.upper_bound(byte);
    if (next == allocations.begin()) {
        return false;
    }
    const auto& [start, size] = *std::prev(next);
    return byte < start + size;
}

int copy(void* destination, const void* source, size_t size) {
    if (const int error = report_skipped_kernel()) {
        return error;
    }
    if (!is_device_memory(source)) {
        ++cupy_on_cpu_counters[kHostToDevice];
    } else if (!is_device_memory(destination)) {
        ++cupy_on_cpu_counters[kDeviceToHost];
    } else {
        ++cupy_on_cpu_counters[kDeviceToDevice];
    }
    memmove(destination, source, size);
    return kSuccess;
}

int fill(void* destination, int value, size_t size) {
    if (const int error = report_skipped_kernel()) {
        return error;
    }
    ++cupy_on_cpu_counters[kFills];
    memset(destination, value, size);
    return kSuccess;
}

int synchronize() {
    if (const int error = refuse_while_capturing("waiting")) {
        return error;
    }
    ++cupy_on_cpu_counters[kSyncs];
    return report_skipped_kernel();
}

// ---- Streams and events: handles need only be distinct

using Event = std::chrono::steady_clock::time_point;

int create_stream(void** stream) {
    *stream = new char;
    return kSuccess;
}

int create_event(void** event) {
    *event = new Event(std::chrono::steady_clock::now());
    return kSuccess;
}

// ---- Kernels

std::mutex launch_lock;  // one kernel at a time
std::map<std::string, long> launch_counts;
ThreadOrder thread_order = ThreadOrder::kForward;

int run_kernel(Launch launch, void** arguments) {
    launch.arguments = arguments;
    const std::lock_guard<std::mutex> guard(launch_lock);
    ++cupy_on_cpu_counters[kLaunches];
    ++launch_counts[launch.kernel->name];
    const std::string problem = run_grid(launch);
    return problem.empty() ? kSuccess : fail(kLaunchFailure, problem);
}

std::string check_configuration(const Launch& launch) {
    const Dim3& block = launch.block_dim;
    const Dim3& grid = launch.grid_dim;
    const auto outside = [](unsigned value, unsigned limit) { return value == 0 || value > limit; };
    if (outside(block.x, kMaxBlockDim[0]) || outside(block.y, kMaxBlockDim[1]) ||
        outside(block.z, kMaxBlockDim[2]) || block.x * block.y * block.z > kMaxBlockThreads) {
        return "bad block size";
    }
    if (outside(grid.x, kMaxGridDim[0]) || outside(grid.y, kMaxGridDim[1]) ||
        outside(grid.z, kMaxGridDim[2])) {
        return "bad grid size";
    }
    return {};
}

}  // namespace

extern "C" {

// ---- Errors

const char* hipGetErrorName(int error) {
    const auto found = kErrorNames.find(error);
    return found == kErrorNames.end() ? "hipErrorUnknown" : found->second;
}

const char* hipGetErrorString(int error) {
    return error == explained_error ? explanation.c_str() : hipGetErrorName(error);
}

int hipPeekAtLastError() {
    return last_error;
}

int hipGetLastError() {
    const int error = last_error;
    last_error = kSuccess;
    kernel_was_skipped = false;
    return error;
}

// ---- Device

int hipDriverGetVersion(int* version) {
    *version = kVersion;
    return kSuccess;
}

int hipRuntimeGetVersion(int* version) {
    *version = kVersion;
    return kSuccess;
}

int hipGetDeviceCount(int* count) {
    *count = 1;
    return kSuccess;
}

int hipGetDevice(int* device) {
    *device = 0;
    return kSuccess;
}

int hipSetDevice(int device) {
    return device == 0 ? kSuccess : fail(kInvalidValue, "there is only device 0");
}

int hipDeviceSynchronize() {
    return synchronize();
}

int hipDeviceGetAttribute(int* value, int attribute, int) {
    // enum hipDeviceAttribute_t in hip/hip_runtime_api.h
    switch (attribute) {
        case 23:  // hipDeviceAttributeComputeCapabilityMajor
            *value = kComputeCapability[0];
            break;
        case 56:  // hipDeviceAttributeMaxThreadsPerBlock
            *value = kMaxBlockThreads;
            break;
        case 61:  // hipDeviceAttributeComputeCapabilityMinor
            *value = kComputeCapability[1];
            break;
        case 63:  // hipDeviceAttributeMultiprocessorCount
            *value = kMultiprocessors;
            break;
        case 74:  // hipDeviceAttributeMaxSharedMemoryPerBlock
            *value = kMaxSharedBytes;
            break;
        case 87:  // hipDeviceAttributeWarpSize
            *value = kWarpSize;
            break;
        default:
            *value = 0;
    }
    return kSuccess;
}

int hipGetDevicePropertiesR0600(char* properties, int) {
    // struct hipDeviceProp_tR0600 in hip/hip_runtime_api.h: its size and the offsets of its fields
    constexpr size_t kSize = 1472;
    constexpr size_t kName = 0;
    constexpr size_t kTotalGlobalMem = 288;
    constexpr size_t kSharedMemPerBlock = 296;
    constexpr size_t kRegsPerBlock = 304;
    constexpr size_t kWarpSizeOffset = 308;
    constexpr size_t kMaxThreadsPerBlock = 320;
    constexpr size_t kMaxThreadsDim = 324;
    constexpr size_t kMaxGridSize = 336;
    constexpr size_t kMajorMinor = 360;
    constexpr size_t kMultiProcessorCount = 388;

    const auto set = [properties](size_t offset, const auto& value) {
        memcpy(properties + offset, &value, sizeof value);
    };
    memset(properties, 0, kSize);
    set(kName, "cupy-on-cpu");
    set(kTotalGlobalMem, kMemoryBytes);
    set(kSharedMemPerBlock, size_t{kMaxSharedBytes});
    set(kRegsPerBlock, kRegistersPerBlock);
    set(kWarpSizeOffset, kWarpSize);
    set(kMaxThreadsPerBlock, kMaxBlockThreads);
    set(kMaxThreadsDim, kMaxBlockDim);
    set(kMaxGridSize, kMaxGridDim);
    set(kMajorMinor, kComputeCapability);
    set(kMultiProcessorCount, kMultiprocessors);
    return kSuccess;
}

// ---- Memory

int hipMalloc(void** address, size_t size) {
    if (const int error = report_skipped_kernel()) {
        return error;
    }
    ++cupy_on_cpu_counters[kMallocs];
    *address = nullptr;
    if (size == 0) {
        return kSuccess;
    }
    if (posix_memalign(address, kMemoryAlignment, size) != 0) {
        return fail(kOutOfMemory, "out of memory");
    }
    memset(*address, kUninitialised, size);
    const std::lock_guard<std::mutex> guard(memory_lock);
    allocations[static_cast<char*>(*address)] = size;
    return kSuccess;
}

int hipFree(void* address) {
    const std::lock_guard<std::mutex> guard(memory_lock);
    if (address != nullptr && allocations.erase(static_cast<char*>(address)) == 0) {
        return fail(kInvalidValue, "hipFree of something hipMalloc did not return");
    }
    free(address);
    return kSuccess;
}

int hipHostMalloc(void** address, size_t size, unsigned) {
    return posix_memalign(address, kMemoryAlignment, size) == 0
               ? kSuccess
               : fail(kOutOfMemory, "out of memory");
}

int hipHostFree(void* address) {
    free(address);
    return kSuccess;
}

int hipMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
    *free_bytes = kMemoryBytes;
    *total_bytes = kMemoryBytes;
    return kSuccess;
}

// The host waits for a copy that is not called Async, unless it stays on the device.
int hipMemcpy(void* destination, const void* source, size_t size, int) {
    if (const int error = refuse_while_capturing("a copy that waits")) {
        return error;
    }
    if (!is_device_memory(source) || !is_device_memory(destination)) {
        ++cupy_on_cpu_counters[kSyncs];
    }
    return copy(destination, source, size);
}

int hipMemcpyAsync(void* destination, const void* source, size_t size, int, void* stream) {
    if (!is_device_memory(source) || !is_device_memory(destination)) {
        if (const int error = refuse_while_capturing("copying from or to the host")) {
            return error;
        }
    }
    return cupy_on_cpu_submit(stream, [=] { return copy(destination, source, size); });
}

int hipMemset(void* destination, int value, size_t size) {
    return fill(destination, value, size);
}

int hipMemsetAsync(void* destination, int value, size_t size, void* stream) {
    return cupy_on_cpu_submit(stream, [=] { return fill(destination, value, size); });
}

int hipPointerGetAttributes(void* attributes, const void* address) {
    // struct hipPointerAttribute_t and enum hipMemoryType in hip/hip_runtime_api.h
    struct PointerAttributes {
        int type;
        int device;
        const void* device_pointer;
        const void* host_pointer;
        int is_managed;
        unsigned flags;
    };
    enum MemoryType { kUnregistered = 0, kDevice = 2 };

    const bool on_device = is_device_memory(address);
    *static_cast<PointerAttributes*>(attributes) = {
        on_device ? kDevice : kUnregistered, 0, on_device ? address : nullptr, nullptr, 0, 0};
    return kSuccess;
}

// ---- Streams

int hipStreamCreate(void** stream) {
    return create_stream(stream);
}

int hipStreamCreateWithFlags(void** stream, unsigned) {
    return create_stream(stream);
}

int hipStreamCreateWithPriority(void** stream, unsigned, int) {
    return create_stream(stream);
}

int hipStreamDestroy(void* stream) {
    delete static_cast<char*>(stream);
    return kSuccess;
}

int hipStreamSynchronize(void*) {
    return synchronize();
}

int hipStreamQuery(void*) {
    return kSuccess;
}

int hipStreamWaitEvent(void*, void*, unsigned) {
    return kSuccess;
}

int hipGetStreamDeviceId(void*) {
    return 0;  // a device, not an error
}

// ---- Events

int hipEventCreate(void** event) {
    return create_event(event);
}

int hipEventCreateWithFlags(void** event, unsigned) {
    return create_event(event);
}

int hipEventDestroy(void* event) {
    delete static_cast<Event*>(event);
    return kSuccess;
}

int hipEventRecord(void* event, void*) {
    *static_cast<Event*>(event) = std::chrono::steady_clock::now();
    return report_skipped_kernel();
}

int hipEventQuery(void*) {
    return kSuccess;
}

int hipEventSynchronize(void*) {
    return synchronize();
}

int hipEventElapsedTime(float* milliseconds, void* start, void* stop) {
    *milliseconds = std::chrono::duration<float, std::milli>(*static_cast<Event*>(stop) -
                                                             *static_cast<Event*>(start))
                        .count();
    return kSuccess;
}

// ---- Kernels that CuPy compiles at run time. Their image is the path of a shared object.

int hipModuleLoadData(void** module, const void* image) {
    *module = dlopen(static_cast<const char*>(image), RTLD_NOW | RTLD_LOCAL);
    return *module != nullptr ? kSuccess : fail(kInvalidImage, dlerror());
}

int hipModuleUnload(void* module) {
    dlclose(module);
    return kSuccess;
}

int hipModuleGetFunction(void** function, void* module, const char* name) {
    *function = dlsym(module, (std::string("cupy_on_cpu_kernel_") + name).c_str());
    return *function != nullptr
               ? kSuccess
               : fail(kNotFound, std::string("no kernel ") + name + " in this module");
}

int hipFuncGetAttribute(int* value, int attribute, void*) {
    // HIP_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, enum hipFunction_attribute in hip/driver_types.h
    constexpr int kMaxThreadsPerBlock = 0;
    *value = attribute == kMaxThreadsPerBlock ? kMaxBlockThreads : 0;
    return kSuccess;
}

int hipModuleLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                          unsigned block_x, unsigned block_y, unsigned block_z,
                          unsigned shared_bytes, void* stream, void** arguments, void**) {
    if (const int error = report_skipped_kernel()) {
        return error;
    }
    const auto* kernel = static_cast<const Kernel*>(function);
    const Launch launch = {
        kernel, arguments, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, thread_order,
    };
    const std::string mistake =
        shared_bytes > 0 ? "dynamic shared memory" : check_configuration(launch);
    if (!mistake.empty()) {
        return fail(kInvalidConfiguration, mistake + " for kernel " + kernel->name);
    }
    // A graph outlives the caller's arguments, so the work has copies.
    std::vector<std::string> values;
    for (unsigned i = 0; i < kernel->count; ++i) {
        values.emplace_back(static_cast<const char*>(arguments[i]), kernel->sizes[i]);
    }
    return cupy_on_cpu_submit(stream, [launch, values]() mutable {
        std::vector<void*> addresses;
        for (std::string& value : values) {
            addresses.push_back(value.data());
        }
        return run_kernel(launch, addresses.data());
    });
}

// ---- Kernels that are compiled into the wheel; it registers them when it is imported

void* __hipRegisterFatBinary(const void*) {
    static void* handle;
    return &handle;
}

void __hipUnregisterFatBinary(void*) {}

void __hipRegisterFunction(void*, const void*, char*, const char*, unsigned, void*, void*, void*,
                           void*, int*) {}

int __hipPushCallConfiguration(Dim3, Dim3, size_t, void*) {
    return skip_kernel();  // and the caller leaves the launch out
}

int hipLaunchKernel(const void*, Dim3, Dim3, void**, size_t, void*) {
    return skip_kernel();
}

// ---- For the Python side

// Called by the generated stubs of everything that is not here.
int cupy_on_cpu_missing(const char* function, int status) {
    static std::mutex lock;
    static std::set<std::string> reported;
    const std::lock_guard<std::mutex> guard(lock);
    if (reported.insert(function).second) {
        fprintf(stderr, "cupy-on-cpu: %s is not implemented\n", function);
    }
    fail(kNotSupported, std::string("cupy-on-cpu does not implement ") + function);
    return status;
}

// One "count name" line per kernel. Returns how many bytes that takes, as snprintf does.
size_t cupy_on_cpu_launches(char* buffer, size_t size) {
    std::string lines;
    const std::lock_guard<std::mutex> guard(launch_lock);
    for (const auto& [name, count] : launch_counts) {
        lines += std::to_string(count) + " " + name + "\n";
    }
    if (size > 0) {
        buffer[lines.copy(buffer, size - 1)] = '\0';
    }
    return lines.size();
}

void cupy_on_cpu_set_reverse_order(int reverse) {
    thread_order = reverse ? ThreadOrder::kReverse : ThreadOrder::kForward;
}

int cupy_on_cpu_reverse_order() {
    return thread_order == ThreadOrder::kReverse;
}

}  // extern "C"
