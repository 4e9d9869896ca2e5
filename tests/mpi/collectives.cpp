// The MPI communicator among real processes: mpirun -n N mpi_collectives [cpu|cuda]. Prints what is wrong and
// exits 1. On a GPU, which the ranks may share, the tensors travel through the host.
#include <cstdio>
#include <vector>

#include "distributed/mpi.h"

namespace {

using namespace perceiver;

int failures = 0;

void expect(bool holds, const char* what, int64_t elements) {
  if (holds) return;
  std::printf("rank %d of %d: %s of %ld elements is wrong\n", mpi::rank(), mpi::size(), what,
              static_cast<long>(elements));
  ++failures;
}

/// Values whose sum depends on the order of the additions.
template <typename T>
T value(int rank, int64_t i) {
  return static_cast<T>((7919 * (rank + 1) + 104729 * i) % 1000003 - 500000) / T(3);
}

template <typename T>
std::vector<T> sums(int ranks, int64_t elements) {
  std::vector<T> all(static_cast<size_t>(elements));
  for (int64_t i = 0; i < elements; ++i) {
    T sum = value<T>(0, i);
    for (int r = 1; r < ranks; ++r) sum += value<T>(r, i);
    all[static_cast<size_t>(i)] = sum;
  }
  return all;
}

template <typename T>
Tensor values(DeviceContext& context, int rank, int64_t elements) {
  std::vector<T> mine(static_cast<size_t>(elements));
  for (int64_t i = 0; i < elements; ++i) mine[static_cast<size_t>(i)] = value<T>(rank, i);
  return Tensor::from_host(context, {elements}, std::span<const T>(mine));
}

template <typename T>
void check_sums(DeviceContext& context, Communicator& ranks, int64_t elements) {
  const std::vector<T> wanted = sums<T>(ranks.size(), elements);
  const Tensor x = values<T>(context, ranks.rank(), elements);
  ranks.all_reduce(x);
  expect(x.to_host<T>() == wanted, "all-reduce", elements);

  const int64_t piece = elements, own = piece * ranks.rank();
  const std::vector<T> all = sums<T>(ranks.size(), piece * ranks.size());
  const Tensor y = values<T>(context, ranks.rank(), piece * ranks.size());
  ranks.reduce_scatter(y);
  expect(y.view(own, {piece}).to_host<T>() == std::vector<T>(all.begin() + own, all.begin() + own + piece),
         "reduce-scatter", elements);
  ranks.all_gather(y);
  expect(y.to_host<T>() == all, "all-gather", elements);
}

void check_split(DeviceContext& context, Communicator& ranks) {
  const auto group = ranks.split(ranks.rank() % 2);
  const int64_t members = (ranks.size() + 1 - ranks.rank() % 2) / 2;
  expect(group->size() == members && group->rank() == ranks.rank() / 2, "split", ranks.size());
  const std::vector<double> one{1};
  const Tensor x = Tensor::from_host(context, {1}, std::span<const double>(one));
  group->all_reduce(x);
  expect(x.to_host<double>()[0] == static_cast<double>(members), "all-reduce of a group", 1);
}

}  // namespace

int main(int argc, char** argv) {
  mpi::start();
  const auto context = DeviceContext::open(argc > 1 ? argv[1] : "cpu", 1);
  const auto ranks = mpi::communicator(*context);
  expect(mpi::from_leader(mpi::rank() == 0 ? "hello" : "") == "hello", "text", 5);
  for (const int64_t elements : {1, 7, 1000, 100000, 1300000}) {
    check_sums<float>(*context, *ranks, elements);
  }
  check_sums<double>(*context, *ranks, 12345);
  check_split(*context, *ranks);
  return failures == 0 ? 0 : 1;
}
