// NCCL between GPUs. The library is
// opened when it is first needed, so that a program built with it also runs where it is not installed.
#pragma once

#include <memory>
#include <string>

#include "distributed/communicator.h"

namespace perceiver::nccl {

/// Why NCCL cannot be used here, in words for the user; empty if it can.
std::string obstacle();
/// "NCCL 2.28.9"; empty where there is an obstacle.
std::string version();
/// Collective: a communicator of `size` ranks on `context`'s GPU. `gather` carries what they tell each other
/// on the host. Throws `failure` with NCCL's reason.
std::shared_ptr<Communicator> communicator(DeviceContext& context, int rank, int size,
                                           const HostGather& gather, bool deterministic);

}  // namespace perceiver::nccl
