// Sorting row numbers by id, and the allocator of the workspace that sorts and sums by id share.
#pragma once

#include "kernels/cuda/support/vector.cuh"

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

/// Rows 0 to rows - 1 with ids[row * id_stride] in [0, table_rows); both counts below 2^31.
struct RowIds {
  int64_t rows, table_rows;
  const int32_t* ids;
  int64_t id_stride;
};

/// order [rows] = row numbers, at least one, sorted stably by id; present [table_rows] = 0 where no row has
/// the id, else nonzero (null: not wanted). Uses the workspace.
void sort_rows(const Launch& launch, const RowIds& ids, int32_t* order, int32_t* present);

}  // namespace perceiver::kernels::cuda
