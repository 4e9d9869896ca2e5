#include "distributed/process_place.h"

#include <unistd.h>

#include <charconv>
#include <cstdint>
#include <cstdlib>

#include "base/check.h"
#include "base/text.h"

namespace perceiver {
namespace {

constexpr int kMaxRanks = 1 << 20;
constexpr int64_t kFirstSpecialStep =
    0xfffffff0;  // Slurm's batch script, interactive step, …: no `srun` of ours

/// A launcher's variables: one that is there must be a number in range.
class Numbers {
 public:
  Numbers(const Variables& variables, const char* launcher) : variables_(variables), launcher_(launcher) {}

  bool has(const char* name) const { return variables_.contains(name); }
  std::string text(const char* name) const {
    const auto found = variables_.find(name);
    return found == variables_.end() ? "" : found->second;
  }
  /// `fallback` if the variable is missing.
  int optional(const char* name, int least, int most, int fallback) const {
    return has(name) ? parse(name, least, most) : fallback;
  }
  int required(const char* name, int least, int most, const char* because) const {
    if (!has(name))
      throw_user("{} is set but {} is not: {} sets both; set the missing one, or unset {}", because, name,
                 launcher_, because);
    return parse(name, least, most);
  }

 private:
  int parse(const char* name, int least, int most) const {
    const std::string& text = variables_.at(name);
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
      throw_user("{} is {}, which is no number: {} sets it", name, quote(text), launcher_);
    if (value < least || value > most)
      throw_user("{} is {}, but must be {} to {}: {} sets it", name, value, least, most, launcher_);
    return static_cast<int>(value);
  }

  const Variables& variables_;
  const char* launcher_;
};

/// Rank and size, and where the launcher says so their like on this host.
struct Names {
  const char *rank, *size, *local_rank, *local_size;
};

ProcessPlace numbered(Launcher launcher, const Variables& variables, const Names& names) {
  const Numbers numbers(variables, name_of(launcher));
  ProcessPlace place;
  place.launcher = launcher;
  place.size = numbers.required(names.size, 1, kMaxRanks, names.rank);
  place.rank = numbers.required(names.rank, 0, kMaxRanks, names.size);
  if (place.rank >= place.size)
    throw_user("{} is {}, but {} is {}: ranks are numbered from 0", names.rank, place.rank, names.size,
               place.size);
  place.local_size = numbers.optional(names.local_size, 1, kMaxRanks, 0);
  place.local_rank = numbers.optional(names.local_rank, 0, kMaxRanks, -1);
  if (place.local_size > 0 && place.local_rank >= place.local_size)
    throw_user("{} is {}, but {} is {}", names.local_rank, place.local_rank, names.local_size,
               place.local_size);
  return place;
}

ProcessPlace own_place(const Variables& variables) {
  ProcessPlace place =
      numbered(Launcher::own, variables,
               {"PERCEIVER_RANK", "PERCEIVER_RANKS", "PERCEIVER_LOCAL_RANK", "PERCEIVER_LOCAL_RANKS"});
  const Numbers numbers(variables, name_of(Launcher::own));
  place.meeting = numbers.text("PERCEIVER_RENDEZVOUS");
  place.password = numbers.text("PERCEIVER_RENDEZVOUS_PASSWORD");
  if (place.meeting.empty())
    throw_user("PERCEIVER_RANK is set but PERCEIVER_RENDEZVOUS is not: where do ranks meet?");
  return place;
}

/// torchrun's agent listens at MASTER_PORT itself; then rank 0 takes the port after it.
ProcessPlace torchrun_place(const Variables& variables, bool has_rendezvous) {
  ProcessPlace place =
      numbered(Launcher::torchrun, variables, {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"});
  const Numbers numbers(variables, name_of(Launcher::torchrun));
  place.password = numbers.text("TORCHELASTIC_RUN_ID");
  if (has_rendezvous) return place;
  if (numbers.text("MASTER_ADDR").empty())
    throw_user(
        "RANK and WORLD_SIZE are set but MASTER_ADDR is not: set it to the host of rank 0, and MASTER_PORT");
  const int port = numbers.required("MASTER_PORT", 1, 65534, "MASTER_ADDR");
  const bool taken = numbers.text("TORCHELASTIC_USE_AGENT_STORE") == "True";
  place.meeting = fmt::format("{}:{}", numbers.text("MASTER_ADDR"), taken ? port + 1 : port);
  return place;
}

bool in_slurm_step(const Variables& variables) {
  if (!variables.contains("SLURM_PROCID")) return false;
  const auto step = variables.find("SLURM_STEP_ID");
  if (step == variables.end()) return false;
  int64_t number = 0;
  std::from_chars(step->second.data(), step->second.data() + step->second.size(), number);
  return number < kFirstSpecialStep;
}

/// Also where srun speaks PMI-2, which an MPI library may not: its processes find each other by a file.
ProcessPlace slurm_place(const Variables& variables) {
  const bool of_step = variables.contains("SLURM_STEP_NUM_TASKS");
  ProcessPlace place =
      numbered(Launcher::slurm, variables,
               {"SLURM_PROCID", of_step ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS", "SLURM_LOCALID", ""});
  const Numbers numbers(variables, name_of(Launcher::slurm));
  place.meeting =
      fmt::format("./.perceiver-{}.{}", numbers.text("SLURM_JOB_ID"), numbers.text("SLURM_STEP_ID"));
  place.password = place.meeting;
  return place;
}

/// srun with PMIx says in its own variables what PMIx tells only the library.
ProcessPlace pmix_place(const Variables& variables) {
  const Numbers numbers(variables, "mpirun");
  ProcessPlace place;
  place.launcher = Launcher::mpi;
  place.rank = numbers.optional("PMIX_RANK", 0, kMaxRanks, 0);
  const bool step = in_slurm_step(variables);
  place.size = step ? numbers.optional("SLURM_STEP_NUM_TASKS", 1, kMaxRanks, 0) : 0;
  place.local_rank = step ? numbers.optional("SLURM_LOCALID", 0, kMaxRanks, -1) : -1;
  return place;
}

bool pmi_of_srun(const Variables& variables) {
  if (!in_slurm_step(variables)) return false;
  const Numbers numbers(variables, "srun");
  return numbers.text("PMI_RANK") == numbers.text("SLURM_PROCID");
}

std::optional<ProcessPlace> mpi_place(const Variables& variables) {
  if (variables.contains("OMPI_COMM_WORLD_RANK") || variables.contains("OMPI_COMM_WORLD_SIZE"))
    return numbered(Launcher::mpi, variables,
                    {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
                     "OMPI_COMM_WORLD_LOCAL_SIZE"});
  if (variables.contains("PMIX_RANK")) return pmix_place(variables);
  if (variables.contains("PMI_RANK") && !pmi_of_srun(variables))
    return numbered(Launcher::mpi, variables, {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"});
  return std::nullopt;
}

/// A launcher of MPI's, and a program that may lack it.
ProcessPlace without_mpi(ProcessPlace place, const Variables& variables, const std::string& rendezvous) {
  if (in_slurm_step(variables)) return slurm_place(variables);
  if (rendezvous.empty())
    throw_user(
        "started by mpirun, but this build has no MPI: build it with libopenmpi-dev installed, or say where "
        "the "
        "ranks meet with --rendezvous HOST:PORT (the host of rank 0)");
  if (place.size == 0)
    throw_user("PMIX_RANK is set, but this build has no MPI to ask how many ranks there are");
  return place;
}

std::optional<ProcessPlace> launched(const Variables& variables, bool mpi_built,
                                     const std::string& rendezvous) {
  const auto any = [&](const char* a, const char* b) {
    return variables.contains(a) || variables.contains(b);
  };
  if (any("PERCEIVER_RANK", "PERCEIVER_RANKS")) return own_place(variables);
  if (any("RANK", "WORLD_SIZE")) return torchrun_place(variables, !rendezvous.empty());
  if (std::optional<ProcessPlace> place = mpi_place(variables))
    return mpi_built ? place : without_mpi(*place, variables, rendezvous);
  if (in_slurm_step(variables)) return slurm_place(variables);
  return std::nullopt;
}

}  // namespace

const char* name_of(Launcher launcher) {
  switch (launcher) {
    case Launcher::none:
      return "no launcher";
    case Launcher::own:
      return "perceiver --gpus";
    case Launcher::torchrun:
      return "torchrun";
    case Launcher::mpi:
      return "mpirun";
    case Launcher::slurm:
      break;
  }
  return "srun";
}

Variables environment_variables() {
  Variables variables;
  for (char** each = environ; *each != nullptr; ++each) {
    const std::string text = *each;
    const size_t equals = text.find('=');
    if (equals != std::string::npos) variables[text.substr(0, equals)] = text.substr(equals + 1);
  }
  return variables;
}

ProcessPlace process_place(const Variables& variables, bool mpi_built, const std::string& rendezvous) {
  std::optional<ProcessPlace> place = launched(variables, mpi_built, rendezvous);
  if (!place && !rendezvous.empty())
    throw_user(
        "--rendezvous {}: this process does not know its rank; start it by mpirun, srun or torchrun, or set "
        "RANK and "
        "WORLD_SIZE",
        rendezvous);
  if (!place) return {};
  if (!rendezvous.empty()) place->meeting = rendezvous;
  return *place;
}

std::optional<HostPort> host_port(const std::string& meeting) {
  const size_t colon = meeting.rfind(':');
  if (colon == std::string::npos || colon == 0 || meeting.find('/') != std::string::npos) return std::nullopt;
  std::string host = meeting.substr(0, colon);
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  const char *begin = meeting.data() + colon + 1, *end = meeting.data() + meeting.size();
  int port = 0;
  const auto [parsed, error] = std::from_chars(begin, end, port);
  if (error != std::errc() || parsed != end) return std::nullopt;
  if (port < 1 || port > 65535) throw_user("{}: a port is a number from 1 to 65535", meeting);
  return HostPort{host, port};
}

}  // namespace perceiver
