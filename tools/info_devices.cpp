// perceiver info --devices: what this host offers to a run.
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/cpu_variant.h"
#include "base/processors.h"
#include "core/gpus.h"
#include "distributed/devices_of_ranks.h"
#include "distributed/mpi.h"
#include "distributed/nccl.h"
#include "distributed/process_place.h"
#include "tools/info.h"

namespace perceiver::program {
namespace {

void print_row(const char* name, const std::string& value) {
  std::printf("%-12s %s\n", name, value.c_str());
}

/// GPUs whose memory this one can read directly.
std::vector<int> peers_of(const Gpu& gpu, const std::vector<Gpu>& gpus) {
  std::vector<int> peers;
  for (const Gpu& other : gpus)
    if (other.index != gpu.index && has_peer_access(gpu.index, other.index)) peers.push_back(other.index);
  return peers;
}

std::string describe(const Gpu& gpu) {
  return fmt::format("{}, {} MiB, compute capability {}.{}, {}, PCI {}", gpu.name, gpu.memory >> 20,
                     gpu.major, gpu.minor, gpu.uuid, gpu.bus);
}

void print_gpus(const std::vector<Gpu>& gpus) {
  if (gpus.empty()) print_row("GPUs", "none that this program can use");
  for (const Gpu& gpu : gpus) {
    print_row(fmt::format("GPU {}", gpu.index).c_str(), describe(gpu));
    if (gpus.size() == 1) continue;
    const std::vector<int> peers = peers_of(gpu, gpus);
    print_row("", peers.empty() ? "no direct access to other GPUs"
                                : fmt::format("direct access to GPU {}", fmt::join(peers, ", ")));
  }
}

std::vector<std::string> names_of(const std::vector<CpuVariant>& variants) {
  std::vector<std::string> names;
  for (const CpuVariant variant : variants) names.emplace_back(name_of(variant));
  return names;
}

std::string describe_kernels() {
  const char* const chosen = name_of(cpu_variant());  // refuses a wrong PERCEIVER_CPU
  const std::vector<std::string> usable = names_of(cpu_variants());
  if (usable.size() == 1) return usable[0];
  return fmt::format("{} of {}", chosen, fmt::join(usable, ", "));
}

std::string nccl_state() {
  return nccl::obstacle().empty() ? nccl::version() : "not usable: " + nccl::obstacle();
}

std::string mpi_state() {
  return mpi::built() ? "built in" : "not built in: install libopenmpi-dev and build again";
}

std::string describe(const ProcessPlace& place) {
  if (place.alone()) return "none: this process is alone";
  const std::string size = place.size == 0 ? "" : fmt::format(" of {}", place.size);
  const std::string meeting = place.meeting.empty() ? "MPI" : place.meeting;
  return fmt::format("{}: rank {}{}, which meet by {}", name_of(place.launcher), place.rank, size, meeting);
}

nlohmann::ordered_json gpus_json(const std::vector<Gpu>& gpus) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const Gpu& gpu : gpus)
    all.push_back({{"index", gpu.index},
                   {"name", gpu.name},
                   {"memory", gpu.memory},
                   {"compute_capability", fmt::format("{}.{}", gpu.major, gpu.minor)},
                   {"uuid", gpu.uuid},
                   {"pci", gpu.bus},
                   {"direct_access", peers_of(gpu, gpus)}});
  return all;
}

}  // namespace

int print_devices(const Globals& globals, bool json) {
  const std::vector<Gpu> gpus = visible_gpus();
  const ProcessPlace place = process_place(environment_variables(), mpi::built(), globals.rendezvous);
  if (json) {
    const nlohmann::ordered_json out{{"gpus", gpus_json(gpus)},
                                     {"cpu_threads", available_processors()},
                                     {"cpu_kernels", name_of(cpu_variant())},
                                     {"usable_cpu_kernels", names_of(cpu_variants())},
                                     {"nccl", nccl_state()},
                                     {"mpi", mpi_state()},
                                     {"launcher", describe(place)}};
    std::printf("%s\n", out.dump(2).c_str());
    return 0;
  }
  print_gpus(gpus);
  print_row("CPU threads", std::to_string(available_processors()));
  print_row("CPU kernels", describe_kernels());
  print_row("NCCL", nccl_state());
  print_row("MPI", mpi_state());
  print_row("launcher", describe(place));
  const std::string warning = shared_memory_warning(static_cast<int>(gpus.size()));
  if (!warning.empty()) print_row("note", warning);
  return 0;
}

}  // namespace perceiver::program
