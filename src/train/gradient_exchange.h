// Sums of gradients over the ranks of a run, and what each rank keeps of the state of training (train.shard).
//
// The flat gradient buffer is cut into buckets. Backward finishes it from the end to the start; as soon as
// all gradients of a bucket are final, its sum over the ranks starts beside the rest of backward
// (Order::beside): a reduce-scatter, after which each rank has the sums of its slice, updates that slice of
// the master weights with its part of the optimizer's state, and an all-gather gives every rank the weights
// that passes read (ZeRO, Rajbhandari et al. 2020). With train.shard: none, buckets are all-reduced and every
// rank updates everything.
//
// The weights of the first layers are gathered beside the update of the others. Those of the later layers
// ("late") are gathered beside the forward of the next step, which waits for them where it comes to the first
// of these layers; if no step follows at once, `settle` does it.
//
// train.shard: gradients keeps of the sums only a rank's slices. The gradients of self blocks then take turns
// in two buffers, each of the largest bucket: while one is summed, backward writes the other.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "distributed/communicator.h"
#include "model/perceiver_ar.h"
#include "train/optimizer.h"
#include "train/partition.h"

namespace perceiver {

class GradientExchange {
 public:
  /// Elements of a bucket for so many ranks: 32 MiB of f32 up to 16, enough for full bandwidth, little enough
  /// that the last one, which nothing hides, is short; then more, up to 256 MiB, since each step of a ring
  /// has its latency.
  static constexpr int64_t bucket_elements(int ranks) {
    return (int64_t{8} << 20) * std::clamp(ranks / 16, 1, 8);
  }

  /// Takes over the model's flat buffers: those that only hold what other ranks keep are freed. All ranks
  /// must have the same weights. `late`: whether weights may be gathered beside the next step's
  /// forward; otherwise a step ends with all of them. `model` must outlive this.
  GradientExchange(PerceiverAR& model, std::shared_ptr<Communicator> ranks, Sharding shard,
                   int64_t bucket_elements, bool late);

  Communicator& ranks() const { return *ranks_; }
  const Partition& partition() const { return partition_; }
  /// What this rank updates.
  const std::vector<UpdatedSlice>& slices() const { return slices_; }
  /// Whether this rank counts a slice that all ranks have: rank 0 does.
  bool counts(size_t slice) const { return !slices_[slice].place.shared || ranks_->rank() == 0; }

  /// Whether each micro-batch is summed over the ranks, so that its backward overwrites all gradients.
  bool sums_each_part() const { return shard_ == Sharding::gradients; }
  /// Before the backward of micro-batch `part`: the sums start as it proceeds.
  void watch(Tape& tape, int64_t part);
  /// After it: all sums have been started, and what follows waits for them.
  void finish();

  /// Rounds a slice's new values into the weights that passes read, unless that was done, and sends them to
  /// the other ranks, several slices at a time. After the last one, `finish_publishing`.
  void publish(size_t slice, bool rounded);
  void finish_publishing();
  /// Before the forward of a step: sends the late weights, for which it will wait.
  void send_late(Tape& tape);
  /// After the last step for now: sends the late weights, too.
  void settle();

  /// Collective: a buffer of state (or the values, for an empty tensor) in the layout of the flat buffers, on
  /// rank 0's host; nothing elsewhere.
  Tensor collect(const Tensor& state) const;
  /// The reverse, from a host that has everything.
  void distribute(const Tensor& flat, const Tensor& state) const;
  /// Bytes of gradients on the device.
  int64_t gradient_bytes() const;
  /// The part of a buffer of state that belongs to a slice.
  Tensor part_of(const Tensor& state, size_t slice) const;

 private:
  void place_gradients(const std::vector<ParameterRun>& runs);
  void take_values();
  void make_slices();
  void final_from(int64_t first);
  void start_sum(size_t bucket);
  void add_sum(size_t bucket);
  void choose_late();
  Tensor weights_of(const Bucket& bucket) const;
  void send(const std::vector<Tensor>& weights);
  void send_unsent();

  PerceiverAR& model_;
  std::shared_ptr<Communicator> ranks_;
  Sharding shard_;
  Partition partition_;
  std::vector<size_t> slice_buckets_;
  std::vector<bool> in_turns_;   ///< which buckets share two buffers
  int64_t turns_bytes_ = 0;      ///< of the two buffers that self blocks share
  std::vector<Tensor> storage_;  ///< gradients of each bucket
  Tensor values_, sums_;  ///< this rank's, in the layout of optimizer state; none if the flat buffers serve
  std::vector<UpdatedSlice> slices_;
  std::vector<Tensor> unsent_;  ///< new weights, of which this rank has its slices
  size_t unsent_bytes_ = 0, sent_together_ = 0;
  std::vector<Tensor> late_;
  int64_t late_begin_ =
      0;  ///< element of the flat buffers at which a layer begins; their end if none is late
  bool late_on_the_way_ = false;
  int64_t part_ = 0;
  size_t waiting_ = 0;             ///< buckets whose sums have not been started, from the first on
  std::optional<size_t> started_;  ///< the bucket whose sum is not in `sums_` yet
};

}  // namespace perceiver
