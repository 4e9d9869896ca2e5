// The allocator of the workspace that sorts and sums by id share.
#pragma once

#include "kernels/cuda/support/common.cuh"

namespace perceiver::kernels::cuda {

/// Hands out pieces of the workspace.
class Workspace {
 public:
  explicit Workspace(const Launch& launch)
      : next_(static_cast<char*>(launch.workspace)), end_(next_ + launch.workspace_bytes) {}

  template <typename T>
  T* take(int64_t count) {
    char* piece = next_;
    next_ += ceil_div(count * static_cast<int64_t>(sizeof(T)), 256) * 256;
    require(next_ <= end_, "a larger workspace for sums by id");
    return reinterpret_cast<T*>(piece);
  }

 private:
  char* next_;
  char* end_;
};

}  // namespace perceiver::kernels::cuda
