// NCCL between GPUs. The library is opened when it is first needed, so that a program built with it also runs
// where it is not installed.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "distributed/communicator.h"

namespace perceiver::nccl {

/// Why NCCL cannot be used here, in words for the user; empty if it can.
std::string obstacle();
/// "NCCL 2.28.9"; empty where there is an obstacle.
std::string version();
/// Collective: a communicator of `size` ranks on `context`'s GPU. `from_leader` returns rank 0's text on
/// every rank and carries NCCL's id. Throws `failure` with NCCL's reason.
std::shared_ptr<Communicator> communicator(DeviceContext& context, int rank, int size,
                                           const std::function<std::string(const std::string&)>& from_leader,
                                           bool deterministic);

}  // namespace perceiver::nccl
