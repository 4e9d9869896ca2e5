// What moves the tensors of a HostWorld's ranks.
#include "base/check.h"
#include "base/cpu_variant.h"
#include "distributed/copying_communicator.h"
#include "distributed/devices_of_ranks.h"
#include "distributed/host_world.h"
#include "distributed/mpi.h"
#include "distributed/nccl.h"
#include "distributed/single_communicator.h"

namespace perceiver {

int HostWorld::gpu() const {
  return DeviceContext::cuda_devices() == 1 ? 0 : local_rank_;
}

std::shared_ptr<Communicator> HostWorld::communicator(DeviceContext& context, bool deterministic) {
  const RankDevice mine = device_of(context);
  const bool nccl_alone = mine.gpu && mine.nccl_obstacle.empty();
  if (size_ == 1 && !nccl_alone) return std::make_shared<SingleCommunicator>();
  std::vector<RankDevice> devices;
  for (const std::string& text : gather(to_text(mine), "the choice of devices"))
    devices.push_back(parse_rank_device(text));
  const HostGather tell = [this](const std::string& text) { return gather(text, "what connects the GPUs"); };
  const auto connect = [&](std::shared_ptr<Communicator> base) {
    return mine.gpu ? with_peer_copies(std::move(base), context, tell) : base;
  };
  if (choose_transport(members_, devices, mpi_) == Transport::mpi) {
    // What every rank computes for itself, such as its copy of a weight, must round alike.
    require_same(name_of(cpu_variant()),
                 "the CPU kernels that their machines allow (PERCEIVER_CPU chooses them)");
    mpi::start();
    return connect(mpi::communicator(context));
  }
  const std::string warning = local_rank_ == 0 ? shared_memory_warning(local_size_) : "";
  if (!warning.empty()) options_.warn(warning);
  const Wait wait(this, "the start of NCCL");
  return connect(nccl::communicator(context, rank_, size_, tell, deterministic));
}

}  // namespace perceiver
