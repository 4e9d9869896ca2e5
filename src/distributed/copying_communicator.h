// A communicator whose large collectives are made by copy engines (peer_copies.h).
#pragma once

#include <memory>

#include "distributed/communicator.h"

namespace perceiver {

/// Collective. Order::beside collectives of what is exposed go through copy engines, everything else through
/// `base`; all of it does, and the name says why, if the GPUs do not reach each other's memory. `gather` is
/// called now and by `expose`.
std::shared_ptr<Communicator> with_peer_copies(std::shared_ptr<Communicator> base, DeviceContext& context,
                                               const HostGather& gather);

}  // namespace perceiver
