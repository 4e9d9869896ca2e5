#include "distributed/mpi.h"

#include "base/check.h"

#ifdef PERCEIVER_MPI
#include <cstdlib>

#include "distributed/mpi_call.h"

namespace perceiver::mpi {
namespace {

void finalize() {
  int done = 0;
  MPI_Finalized(&done);
  if (done == 0) MPI_Finalize();
}

}  // namespace

bool built() {
  return true;
}

void start() {
  int started = 0;
  MPI_Initialized(&started);
  if (started != 0) return;
  int provided = 0;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "start");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  std::atexit(finalize);
}

int rank() {
  int rank = 0;
  check(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "rank");
  return rank;
}

int size() {
  int size = 1;
  check(MPI_Comm_size(MPI_COMM_WORLD, &size), "size");
  return size;
}

std::string from_leader(const std::string& text) {
  std::string result = text;
  auto length = static_cast<int64_t>(text.size());
  check(MPI_Bcast(&length, 1, MPI_INT64_T, 0, MPI_COMM_WORLD), "broadcast");
  result.resize(static_cast<size_t>(length));
  check(MPI_Bcast(result.data(), static_cast<int>(length), MPI_BYTE, 0, MPI_COMM_WORLD), "broadcast");
  return result;
}

}  // namespace perceiver::mpi

#else

namespace perceiver::mpi {
namespace {
[[noreturn]] void explain() {
  throw_user("this program was built without MPI; install libopenmpi-dev and build it again");
}
}  // namespace

bool built() {
  return false;
}
void start() {
  explain();
}
int rank() {
  explain();
}
int size() {
  explain();
}
std::string from_leader(const std::string&) {
  explain();
}
std::shared_ptr<Communicator> communicator(DeviceContext&) {
  explain();
}

}  // namespace perceiver::mpi
#endif
