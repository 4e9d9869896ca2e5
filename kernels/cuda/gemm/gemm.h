// What matrix products keep between calls: the cuBLASLt handle, and the algorithm chosen for each shape.
#pragma once

#include <memory>

namespace perceiver::kernels::cuda {

class GemmContext {
 public:
  GemmContext();
  ~GemmContext();
  GemmContext(const GemmContext&) = delete;
  GemmContext& operator=(const GemmContext&) = delete;

  struct State;
  State& state() { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

}  // namespace perceiver::kernels::cuda
