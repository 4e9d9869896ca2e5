// Which devices the ranks of a run compute on, and what can connect them.
#pragma once

#include <string>
#include <vector>

#include "distributed/member.h"
#include "perceiver/experimental/device_context.h"

namespace perceiver {

struct RankDevice {
  bool gpu = false;
  std::string name, uuid;     ///< of a GPU
  std::string nccl_obstacle;  ///< empty: NCCL works here
};
RankDevice device_of(const DeviceContext& context);
std::string to_text(const RankDevice& device);
RankDevice parse_rank_device(const std::string& text);

enum class Transport { nccl, mpi };

/// `mpi`: MPI started the ranks. Throws SharedError if nothing connects them, saying what to do.
Transport choose_transport(const std::vector<Member>& members, const std::vector<RankDevice>& devices,
                           bool mpi);

/// A warning if `processes` of a host must exchange data through /dev/shm and it has only `free_bytes` left;
/// else empty.
std::string shared_memory_warning(int processes, uint64_t free_bytes);
/// Of this host.
std::string shared_memory_warning(int processes);

}  // namespace perceiver
