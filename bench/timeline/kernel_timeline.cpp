// Records when each kernel of a program ran, and each copy from or between GPUs' memories, those of CUDA
// graphs included, without changing the program: the CUDA driver loads this library at its start
// (CUDA_INJECTION64_PATH) and calls InitializeInjection. At the program's end a line for each goes to the
// file that KERNEL_TIMELINE names, in which %p becomes the number of the process: start and end in
// nanoseconds, the stream, the name. timeline.py reads it.
//
//   ninja -C build kernel_timeline
//   CUDA_INJECTION64_PATH=build/bench/libkernel_timeline.so KERNEL_TIMELINE=/tmp/kernels.tsv \
//       build/perceiver bench train --config configs/bench/small.yaml --steps 8
//   bench/timeline/timeline.py /tmp/kernels.tsv
#include <cupti.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

namespace {

#if CUPTI_API_VERSION >= 130000
using KernelActivity = CUpti_ActivityKernel10;
#else
using KernelActivity = CUpti_ActivityKernel9;
#endif
using CopyActivity = CUpti_ActivityMemcpy6;
using PeerCopyActivity = CUpti_ActivityMemcpyPtoP4;
constexpr const char* kCopy = "copy of device memory";  // timeline.py knows it

struct Kernel {
  uint64_t start, end;
  uint32_t stream;
  std::string name;
};

/// Never destroyed: buffers may still come back while the program ends.
struct Record {
  std::mutex mutex;  // CUPTI calls back on a thread of its own
  std::vector<Kernel> kernels;
};
Record& record() {
  static auto* const all = new Record;
  return *all;
}

constexpr size_t kBufferBytes = size_t{8} << 20, kAlignment = 8;

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* bytes, size_t* most_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, kBufferBytes));
  *bytes = *buffer != nullptr ? kBufferBytes : 0;
  *most_records = 0;
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid_bytes) {
  const std::lock_guard lock(record().mutex);
  CUpti_Activity* next = nullptr;
  while (cuptiActivityGetNextRecord(buffer, valid_bytes, &next) == CUPTI_SUCCESS) {
    if (next->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
      const auto& copy = *reinterpret_cast<const CopyActivity*>(next);
      if (copy.copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_HTOD ||
          copy.copyKind == CUPTI_ACTIVITY_MEMCPY_KIND_DTOH)
        continue;
      record().kernels.push_back({copy.start, copy.end, copy.streamId, kCopy});
    }
    if (next->kind == CUPTI_ACTIVITY_KIND_MEMCPY2) {
      const auto& copy = *reinterpret_cast<const PeerCopyActivity*>(next);
      record().kernels.push_back({copy.start, copy.end, copy.streamId, kCopy});
    }
    if (next->kind != CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) continue;
    const auto& kernel = *reinterpret_cast<const KernelActivity*>(next);
    record().kernels.push_back(
        {kernel.start, kernel.end, kernel.streamId, kernel.name != nullptr ? kernel.name : "?"});
  }
  std::free(buffer);
}

/// The file to write; empty if none was named.
std::string path_of_file() {
  const char* named = std::getenv("KERNEL_TIMELINE");
  std::string path = named != nullptr ? named : "";
  if (const size_t place = path.find("%p"); place != std::string::npos)
    path.replace(place, 2, std::to_string(getpid()));
  return path;
}

void write_file() {
  cuptiActivityFlushAll(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
  std::FILE* file = std::fopen(path_of_file().c_str(), "w");
  if (file == nullptr) {
    std::fprintf(stderr, "kernel_timeline: set KERNEL_TIMELINE to a file that can be written\n");
    return;
  }
  const std::lock_guard lock(record().mutex);
  std::vector<Kernel>& kernels = record().kernels;
  std::sort(kernels.begin(), kernels.end(),
            [](const Kernel& a, const Kernel& b) { return a.start < b.start; });
  for (const Kernel& kernel : kernels)
    std::fprintf(file, "%llu\t%llu\t%u\t%s\n", static_cast<unsigned long long>(kernel.start),
                 static_cast<unsigned long long>(kernel.end), kernel.stream, kernel.name.c_str());
  std::fclose(file);
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int InitializeInjection() {
  if (cuptiActivityRegisterCallbacks(give_buffer, take_buffer) != CUPTI_SUCCESS ||
      cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) != CUPTI_SUCCESS ||
      cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY) != CUPTI_SUCCESS ||
      cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY2) != CUPTI_SUCCESS) {
    std::fprintf(stderr, "kernel_timeline: CUPTI does not start\n");
    return 0;
  }
  std::atexit(write_file);
  return 1;
}
