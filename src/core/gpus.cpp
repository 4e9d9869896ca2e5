#include "core/gpus.h"

#ifndef PERCEIVER_CUDA
namespace perceiver {

std::vector<Gpu> visible_gpus() {
  return {};
}

bool has_peer_access(int, int) {
  return false;
}

}  // namespace perceiver
#endif
