// Sums and gathers of large tensors among the GPUs of one host, by their copy engines.
//
// NCCL's kernels hold multiprocessors for as long as a transfer takes. The kernels of a training step are
// persistent, with one block for each multiprocessor: a block whose multiprocessor is taken starts when NCCL
// is done with it, and the whole kernel ends that much later. Copy engines move the same bytes over NVLink
// and take no multiprocessor; what is left for a kernel is to add the pieces that have arrived.
//
// Every rank maps the tensors of the others (CUDA IPC) and fetches what it needs from them. Flags in device
// memory keep the ranks together; a stream sets and awaits them by itself (cuStreamBatchMemOp), so no kernel
// spins and the host does not take part. What a rank fetches at a time is a turn:
//
//   ready   set at every other rank: they may read here. Awaited from each of them before anything is copied.
//   done    set at every other rank: this rank has read what it needs there. Awaited at `join`, or when the
//           flags of this turn are due again, kTurns turns later.
//
// A flag is awaited as 1 and cleared by the rank that awaits it. It cannot be set again before that: the next
// `ready` of the same flags is set after `done` of this turn has come, and `done` after the `ready` that it
// answers. Values never change from turn to turn, so recorded work can be replayed.
//
// A sum takes one turn, in which each rank fetches its piece from all others and adds them in order of ranks;
// if all ranks need all of it, a second turn gathers the pieces. Then `ready` also says that the first turn
// is over: what does not divide evenly was fetched whole there, and is added where the others have read it.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "distributed/communicator.h"

namespace perceiver {

/// Every rank makes the same calls in the same order, with tensors of the same type and size. One thread at a
/// time.
class PeerCopies {
 public:
  /// Collective. Enqueues on `stream` (a cudaStream_t) of `context`'s GPU. Null on every rank, with the
  /// reason in `obstacle`, if the GPUs do not reach each other's memory, or the driver does not let them.
  static std::unique_ptr<PeerCopies> open(DeviceContext& context, void* stream, int rank, int size,
                                          HostGather gather, std::string& obstacle);
  virtual ~PeerCopies() = default;
  PeerCopies(const PeerCopies&) = delete;
  PeerCopies& operator=(const PeerCopies&) = delete;

  /// Collective: parts of x can be passed to `run`. Its memory must live as long as that is called.
  virtual void expose(const Tensor& x) = 0;
  /// Whether x is a part of an exposed tensor: the same answer on every rank.
  virtual bool takes(const Tensor& x) const = 0;

  /// As Communicator's functions of these names. Sums are of f32; what is scattered or gathered divides
  /// evenly into pieces of a multiple of kUnit elements.
  enum class Kind { reduce_scatter, all_gather, all_reduce };
  struct Call {
    Kind kind;
    Tensor x;
  };
  static constexpr int64_t kUnit = 16;
  /// Enqueues the calls together.
  virtual void run(std::span<const Call> calls) = 0;
  /// What is enqueued after this finds that the others have read what they need of the tensors.
  virtual void join() = 0;
  /// For the end of a run in which another rank may have failed: nothing is waited for any more, and what is
  /// fetched is unspecified. Returns when the stream is through, or after some seconds. From any thread.
  virtual void abandon() = 0;

 protected:
  PeerCopies() = default;
};

}  // namespace perceiver
