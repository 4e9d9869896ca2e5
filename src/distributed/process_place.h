// Which process of a run this is, from the environment that its launcher gave it.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>

namespace perceiver {

enum class Launcher {
  none,      ///< started alone
  own,       ///< --gpus
  torchrun,  ///< RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT
  mpi,       ///< mpirun, or srun with PMIx
  slurm,     ///< srun without PMIx
};

/// "mpirun", "srun", …: as messages name it.
const char* name_of(Launcher launcher);

struct ProcessPlace {
  Launcher launcher = Launcher::none;
  int rank = 0;
  int size = 1;         ///< 0: only MPI knows it
  int local_rank = -1;  ///< among the processes of this host; -1: the launcher does not say
  int local_size = 0;   ///< processes of this host; 0: the launcher does not say
  std::string meeting;  ///< "HOST:PORT" or a file, where the ranks find rank 0; empty: MPI tells them
  std::string
      password;  ///< what the processes of this run know and others do not, where they meet at HOST:PORT

  bool alone() const { return launcher == Launcher::none; }
};

using Variables = std::map<std::string, std::string>;
/// Those of this process.
Variables environment_variables();

/// Our own variables come before torchrun's, these before MPI's and Slurm's. Variables that are incomplete or
/// contradict each other are a `user` error. `mpi_built`: whether MPI can be asked. `rendezvous` (HOST:PORT
/// or a file), unless empty, takes the place of the launcher's way to meet.
ProcessPlace process_place(const Variables& variables, bool mpi_built, const std::string& rendezvous = "");

/// HOST and PORT of "HOST:PORT" or "[IPV6]:PORT"; none if the text has a slash or no port: a file.
struct HostPort {
  std::string host;
  int port = 0;
};
std::optional<HostPort> host_port(const std::string& meeting);

}  // namespace perceiver
