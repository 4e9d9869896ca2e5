// NCCL between GPUs, and copy engines beside it (peer_copies.h) for large tensors on one host. The library is
// opened when it is first needed, so that a program built with it also runs where it is not installed.
#pragma once

#include <memory>
#include <string>

#include "distributed/communicator.h"
#include "distributed/peer_copies.h"

namespace perceiver::nccl {

/// Why NCCL cannot be used here, in words for the user; empty if it can.
std::string obstacle();
/// "NCCL 2.28.9"; empty where there is an obstacle.
std::string version();
/// Collective: a communicator of `size` ranks on `context`'s GPU. `gather` carries what they tell each other
/// on the host, now and in Communicator::expose. Throws `failure` with NCCL's reason.
std::shared_ptr<Communicator> communicator(DeviceContext& context, int rank, int size,
                                           const PeerCopies::Gather& gather, bool deterministic);

}  // namespace perceiver::nccl
