// MPI: as a launcher it says which rank a process is and passes a few bytes around; between processes on CPUs
// it also moves tensors. The only files that know MPI's own header are mpi*.cpp.
#pragma once

#include <memory>
#include <string>

#include "distributed/communicator.h"

namespace perceiver::mpi {

/// Whether this library was built with MPI.
bool built();
/// Initialises MPI once in this process, for calls from one thread at a time; it is finalised at exit, unless
/// the process ends early. Throws `user` if this library was built without it. Blocks until all ranks are
/// there.
void start();
/// After start():
int rank();
int size();
/// Collective: rank 0's text.
std::string from_leader(const std::string& text);
/// A communicator of all ranks for tensors of `context`'s device, which on a GPU are staged through pinned
/// memory and make the host wait: for tests, and where NCCL cannot connect the ranks.
std::shared_ptr<Communicator> communicator(DeviceContext& context);

}  // namespace perceiver::mpi
