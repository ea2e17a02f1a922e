// Stream capture and graphs. A graph is a list of the work that was submitted to its stream: like a
// GPU's, it keeps the addresses and the numbers of that moment, and reads the memory anew each
// time.

#include "graph.h"

#include <mutex>
#include <vector>

#include "counters.h"
#include "errors.h"

using namespace cupy_on_cpu;

namespace {

using Graph = std::vector<Work>;

enum CaptureStatus { kNone = 0, kActive = 1, kInvalidated = 2 };  // hipStreamCaptureStatus

std::mutex lock;
void* captured_stream;
Graph* capture;  // null: nothing is being captured
bool invalidated;

}  // namespace

namespace cupy_on_cpu {

int refuse_while_capturing(const char* what) {
    const std::lock_guard<std::mutex> guard(lock);
    if (capture == nullptr) {
        return kSuccess;
    }
    invalidated = true;
    return fail(kStreamCaptureUnsupported, std::string(what) + " while a stream is being captured");
}

}  // namespace cupy_on_cpu

extern "C" {

int cupy_on_cpu_submit(void* stream, Work work) {
    {
        const std::lock_guard<std::mutex> guard(lock);
        if (capture != nullptr && stream == captured_stream) {
            capture->push_back(std::move(work));
            return kSuccess;
        }
    }
    return work();
}

int hipStreamBeginCapture(void* stream, int) {
    const std::lock_guard<std::mutex> guard(lock);
    if (stream == nullptr || capture != nullptr) {
        return fail(kStreamCaptureUnsupported, "the null stream, or a second one, is captured");
    }
    captured_stream = stream;
    capture = new Graph;
    invalidated = false;
    return kSuccess;
}

int hipStreamEndCapture(void* stream, void** graph) {
    const std::lock_guard<std::mutex> guard(lock);
    *graph = nullptr;
    if (capture == nullptr || stream != captured_stream) {
        return fail(kInvalidValue, "this stream is not being captured");
    }
    Graph* finished = capture;
    capture = nullptr;
    if (invalidated) {
        delete finished;
        return fail(kStreamCaptureInvalidated, "the capture was invalidated by an earlier error");
    }
    *graph = finished;
    return kSuccess;
}

int hipStreamIsCapturing(void* stream, int* status) {
    const std::lock_guard<std::mutex> guard(lock);
    const bool active = capture != nullptr && stream == captured_stream;
    *status = !active ? kNone : invalidated ? kInvalidated : kActive;
    return kSuccess;
}

int hipGraphInstantiate(void** executable, void* graph, void*, char*, size_t) {
    *executable = new Graph(*static_cast<Graph*>(graph));
    return kSuccess;
}

int hipGraphLaunch(void* executable, void*) {
    ++cupy_on_cpu_counters[kGraphLaunches];
    for (const Work& work : *static_cast<Graph*>(executable)) {
        if (const int error = work()) {
            return error;
        }
    }
    return kSuccess;
}

int hipGraphDestroy(void* graph) {
    delete static_cast<Graph*>(graph);
    return kSuccess;
}

int hipGraphExecDestroy(void* executable) {
    delete static_cast<Graph*>(executable);
    return kSuccess;
}

}  // extern "C"
