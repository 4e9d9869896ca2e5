// State of the matrix products: the cuBLASLt handle, and the algorithm chosen for each shape.
#pragma once

#include <memory>

namespace perceiver::kernels::cuda {

class GemmLibrary {
 public:
  GemmLibrary();
  ~GemmLibrary();
  GemmLibrary(const GemmLibrary&) = delete;
  GemmLibrary& operator=(const GemmLibrary&) = delete;

  struct State;
  State& state() { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

}  // namespace perceiver::kernels::cuda
