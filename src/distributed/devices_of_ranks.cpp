#include "distributed/devices_of_ranks.h"

#include <sys/statvfs.h>

#include <map>
#include <sstream>

#include "base/check.h"
#include "core/gpus.h"
#include "distributed/nccl.h"
#include "distributed/shared_error.h"

namespace perceiver {
namespace {

constexpr uint64_t kLeastSharedMemory = uint64_t{64} << 20;  // Docker's default, which is too little

template <typename... Args>
[[noreturn]] void throw_for_all(fmt::format_string<Args...> format, Args&&... args) {
  throw SharedError(ErrorKind::user, fmt::format(format, std::forward<Args>(args)...));
}

void require_same_kind(const std::vector<Member>& members, const std::vector<RankDevice>& devices) {
  for (size_t rank = 1; rank < devices.size(); ++rank)
    if (devices[rank].gpu != devices[0].gpu)
      throw_for_all(
          "{} computes on {}, but {} on {}: see that every host has a GPU for each of its ranks, or give "
          "--device",
          name_of(members[0]), devices[0].gpu ? "a GPU" : "the CPU", name_of(members[rank]),
          devices[rank].gpu ? "a GPU" : "the CPU");
}

/// Ranks that share a GPU with one before them, as "rank 1 (…) and rank 0 (…)"; empty if none does.
std::string sharing(const std::vector<Member>& members, const std::vector<RankDevice>& devices) {
  std::map<std::string, size_t> first;
  for (size_t rank = 0; rank < devices.size(); ++rank) {
    const auto [found, added] = first.emplace(devices[rank].uuid, rank);
    if (!added)
      return fmt::format("{} and {} are on one GPU, {} ({})", name_of(members[found->second]),
                         name_of(members[rank]), devices[rank].name, devices[rank].uuid);
  }
  return "";
}

std::string obstacle(const std::vector<Member>& members, const std::vector<RankDevice>& devices) {
  for (size_t rank = 0; rank < devices.size(); ++rank)
    if (!devices[rank].nccl_obstacle.empty())
      return fmt::format("several GPUs need NCCL, but on {} {}", name_of(members[rank]),
                         devices[rank].nccl_obstacle);
  return "";
}

}  // namespace

RankDevice device_of(const DeviceContext& context) {
  if (!context.is_cuda()) return {};
  const Gpu gpu = visible_gpus().at(context.device().index);
  return {.gpu = true, .name = gpu.name, .uuid = gpu.uuid, .nccl_obstacle = nccl::obstacle()};
}

std::string to_text(const RankDevice& device) {
  return fmt::format("{}\n{}\n{}\n{}", device.gpu ? "gpu" : "cpu", device.name, device.uuid,
                     device.nccl_obstacle);
}

RankDevice parse_rank_device(const std::string& text) {
  std::istringstream lines(text);
  std::string kind;
  RankDevice device;
  std::getline(lines, kind);
  std::getline(lines, device.name);
  std::getline(lines, device.uuid);
  std::getline(lines, device.nccl_obstacle);
  device.gpu = kind == "gpu";
  return device;
}

Transport choose_transport(const std::vector<Member>& members, const std::vector<RankDevice>& devices,
                           bool mpi) {
  require_same_kind(members, devices);
  if (!devices[0].gpu) {
    if (!mpi)
      throw_for_all("ranks on CPUs need MPI: start them with mpirun -n {} perceiver … (and a build with MPI)",
                    members.size());
    return Transport::mpi;
  }
  const std::string shared = sharing(members, devices), missing = obstacle(members, devices);
  if (shared.empty() && missing.empty()) return Transport::nccl;
  if (mpi) return Transport::mpi;
  if (!missing.empty()) throw_for_all("{}", missing);
  throw_for_all(
      "{}, which NCCL refuses: start one process for each GPU (on one host: --gpus N), with a "
      "CUDA_VISIBLE_DEVICES "
      "that is the same for all of a host, or shows each its own",
      shared);
}

std::string shared_memory_warning(int processes, uint64_t free_bytes) {
  if (processes < 2 || free_bytes >= kLeastSharedMemory) return "";
  return fmt::format(
      "/dev/shm has {} MiB free, which may be too little for NCCL between {} processes: start the container "
      "with "
      "--shm-size=1g, or set NCCL_SHM_DISABLE=1 (slower)",
      free_bytes >> 20, processes);
}

std::string shared_memory_warning(int processes) {
  struct statvfs state {};
  if (statvfs("/dev/shm", &state) != 0) return shared_memory_warning(processes, 0);
  return shared_memory_warning(processes, uint64_t{state.f_bavail} * state.f_frsize);
}

}  // namespace perceiver
