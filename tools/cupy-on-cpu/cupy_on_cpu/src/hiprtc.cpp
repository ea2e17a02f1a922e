// Stand-in for libhiprtc.so, the run-time compiler. It hands each program to the Python side
// (kernels.py), which runs g++; the "code" of a program is the path of a shared object.

#include <cstring>
#include <string>

namespace {

// enum hiprtcResult in the public header hip/hiprtc.h, ROCm 7.0
enum Result {
    kSuccess = 0,
    kCompilationError = 6,
};

constexpr int kVersion[] = {7, 0};

struct Program {
    std::string source;
    std::string code;
    std::string log;
};

// Returns whether the program compiled, and reports through the functions at the end of this file.
using Compiler = int (*)(Program*, const char* source, const char* const* options,
                         int option_count);

Compiler compiler;

}  // namespace

extern "C" {

const char* hiprtcGetErrorString(int result) {
    switch (result) {
        case kSuccess:
            return "HIPRTC_SUCCESS";
        case kCompilationError:
            return "HIPRTC_ERROR_COMPILATION";
        default:
            return "HIPRTC_ERROR_INTERNAL_ERROR";
    }
}

int hiprtcVersion(int* major, int* minor) {
    *major = kVersion[0];
    *minor = kVersion[1];
    return kSuccess;
}

int hiprtcCreateProgram(Program** program, const char* source, const char*, int, const char**,
                        const char**) {
    *program = new Program;
    (*program)->source = source;
    return kSuccess;
}

int hiprtcDestroyProgram(Program** program) {
    delete *program;
    *program = nullptr;
    return kSuccess;
}

int hiprtcCompileProgram(Program* program, int option_count, const char* const* options) {
    const bool compiled = compiler(program, program->source.c_str(), options, option_count);
    return compiled ? kSuccess : kCompilationError;
}

int hiprtcGetProgramLogSize(Program* program, size_t* size) {
    *size = program->log.size() + 1;
    return kSuccess;
}

int hiprtcGetProgramLog(Program* program, char* log) {
    memcpy(log, program->log.c_str(), program->log.size() + 1);
    return kSuccess;
}

int hiprtcGetCodeSize(Program* program, size_t* size) {
    *size = program->code.size() + 1;
    return kSuccess;
}

int hiprtcGetCode(Program* program, char* code) {
    memcpy(code, program->code.c_str(), program->code.size() + 1);
    return kSuccess;
}

// ---- For the Python side

void cupy_on_cpu_set_compiler(Compiler new_compiler) {
    compiler = new_compiler;
}

void cupy_on_cpu_set_code(Program* program, const char* path) {
    program->code = path;
}

void cupy_on_cpu_set_log(Program* program, const char* log) {
    program->log = log;
}

}  // extern "C"
