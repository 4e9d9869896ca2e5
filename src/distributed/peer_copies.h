// Sums and gathers of large tensors among the GPUs of one host, by their copy engines.
//
// NCCL's kernels hold multiprocessors for as long as a transfer takes. The kernels of a training step are
// persistent, with one block for each multiprocessor: a block whose multiprocessor is taken starts when NCCL
// is done with it, and the whole kernel ends that much later. Copy engines move the same bytes over NVLink and
// take no multiprocessor; what is left for a kernel is to add the pieces that have arrived.
//
// Every rank maps the tensors of the others (CUDA IPC) and fetches what it needs from them. Flags in device
// memory keep the ranks together; a stream sets and awaits them by itself (cuStreamBatchMemOp), so no kernel
// spins and the host does not take part. In each call, on every rank:
//
//   ready   set at every other rank: this rank's pieces may be read. Awaited from each before its piece is
//           copied.
//   done    set at every other rank: this rank has read what it needs of their pieces. Awaited at `join`, or
//           when the flags of this call are due again, kTurns calls later.
//
// A flag is awaited as 1 and cleared by the rank that awaits it. It cannot be set again before that: the next
// `ready` of the same turn is set after `done` of this one has come, and `done` after the `ready` that it
// answers. Values never change from call to call, so recorded work can be replayed.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "perceiver/experimental/tensor.h"

namespace perceiver {

/// Every rank makes the same calls in the same order, with tensors of the same type and size. One thread at a
/// time.
class PeerCopies {
 public:
  /// Collective: what every rank passed, in order of ranks.
  using Gather = std::function<std::vector<std::string>(const std::string&)>;

  /// Collective. Enqueues on `stream` (a cudaStream_t) of `context`'s GPU. Null on every rank, with the reason
  /// in `obstacle`, if the GPUs do not reach each other's memory, or the driver does not let them.
  static std::unique_ptr<PeerCopies> open(DeviceContext& context, void* stream, int rank, int size,
                                          Gather gather, std::string& obstacle);
  virtual ~PeerCopies() = default;
  PeerCopies(const PeerCopies&) = delete;
  PeerCopies& operator=(const PeerCopies&) = delete;

  /// Collective: parts of x can be passed to the calls below. Its memory must live as long as they are made.
  virtual void expose(const Tensor& x) = 0;
  /// Whether x is a part of an exposed tensor, of a type and size for this: the same answer on every rank.
  virtual bool takes(const Tensor& x) const = 0;

  // As Communicator's, on the stream. What was enqueued there before is in the others' hands when it is done.
  virtual void reduce_scatter(const Tensor& x) = 0;
  virtual void all_gather(const Tensor& x) = 0;
  /// What is enqueued after this finds that the others have read what they need of the tensors.
  virtual void join() = 0;

 protected:
  PeerCopies() = default;
};

}  // namespace perceiver
