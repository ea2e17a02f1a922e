// Stream capture: work that is noted now and done whenever its graph is launched.
#pragma once

#include <functional>

namespace cupy_on_cpu {

using Work = std::function<int()>;

// Called on capture for what a graph can't hold, such as a wait. Returns an error, or 0 outside of
// a capture.
int refuse_while_capturing(const char* what);

}  // namespace cupy_on_cpu

// Does the work, or adds it to the graph if this stream is being captured.
extern "C" int cupy_on_cpu_submit(void* stream, cupy_on_cpu::Work work);
