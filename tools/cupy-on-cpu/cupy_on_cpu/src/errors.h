// Errors of the runtime: enum hipError_t in hip/hip_runtime_api.h
#pragma once

#include <string>

namespace cupy_on_cpu {

enum Error {
    kSuccess = 0,
    kInvalidValue = 1,
    kOutOfMemory = 2,
    kInvalidConfiguration = 9,
    kInvalidImage = 200,
    kNotFound = 500,
    kLaunchFailure = 719,
    kNotSupported = 801,
    kStreamCaptureUnsupported = 900,
    kStreamCaptureInvalidated = 901,
};

int fail(Error error, const std::string& message);

}  // namespace cupy_on_cpu
