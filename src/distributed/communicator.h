// Collectives on tensors, among the ranks of a group: NCCL between GPUs, MPI between processes on CPUs. The
// interface has what training and context shards need, and no more.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "perceiver/experimental/tensor.h"

namespace perceiver {

/// Collective, on the host: what every rank passed, in order of ranks.
using HostGather = std::function<std::vector<std::string>(const std::string&)>;

/// When a collective runs, on a device that works asynchronously. On the CPU there is no difference.
enum class Order {
  in_stream,  ///< after what was enqueued before it, and before what is enqueued after it
  beside,     ///< after what was enqueued before it; beside what follows, until `join`
};

/// Every rank of the group makes the same calls in the same order, with tensors of the same type and size on
/// its own device. A result is the same bits on every rank that has it. Sums are over the ranks. Bitwise
/// repeatable from run to run at the same number of ranks: over MPI always, the sum is in order of ranks;
/// over NCCL unless train.deterministic_reduction is off. Tensors are f32 or f64 where they are summed, of
/// any type else. One thread at a time.
class Communicator {
 public:
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  /// "NCCL 2.28.9", "MPI", …: for the record of a run.
  virtual std::string name() const = 0;

  /// Collective, on the host: x will often be passed to collectives, or parts of it; where GPUs reach each
  /// other's memory, these become faster. Its memory must live as long as they are made.
  virtual void expose(const Tensor&) {}

  /// x = sum of x.
  virtual void all_reduce(const Tensor& x, Order order = Order::in_stream) = 0;
  /// x has size() equal pieces. This rank's piece becomes the sum of these pieces; the others are unspecified
  /// afterwards.
  virtual void reduce_scatter(const Tensor& x, Order order = Order::in_stream) = 0;
  /// x has size() equal pieces, of which each rank has set its own; afterwards every rank has all of them.
  virtual void all_gather(const Tensor& x, Order order = Order::in_stream) = 0;
  /// What is enqueued from now on runs after all collectives so far.
  virtual void join() = 0;
  /// Collectives between the two, all of them Order::beside, are started together by end_group: several small
  /// ones take the time of one.
  virtual void start_group() {}
  virtual void end_group() {}

  /// Whether collectives may be part of recorded work (DeviceContext::record).
  virtual bool recordable() const = 0;
  /// Collective: the group of the ranks that pass the same `color`, in the same order.
  virtual std::shared_ptr<Communicator> split(int color) = 0;

 protected:
  Communicator(int rank, int size) : rank_(rank), size_(size) {}

  int rank_, size_;
};

}  // namespace perceiver
