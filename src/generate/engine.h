// The generation engine: S slots, each with a sequence that grows by a token a step (docs/generation.md).
// What a sequence becomes does not depend on the other slots, bit for bit; or, where a step is one kernel on
// a GPU, within bf16's rounding.
//
// engine_options  defaults, checks, memory        slots          what a slot holds, on host and device
// prefill         passes over whole sequences     decode_step    one token out of the caches, for all slots
// step_results    chosen tokens reach the host    slot_snapshot  save, restore, copy
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "generate/decode_step.h"
#include "generate/engine_options.h"
#include "generate/sequence.h"
#include "generate/slot_snapshot.h"
#include "generate/slots.h"
#include "generate/step_results.h"

namespace perceiver {

/// Used by one thread at a time; engines of several threads may share a model.
class Engine {
 public:
  /// Throws `user` for options that the model does not allow, and `failure` if memory is short, naming how
  /// many slots would fit. `model` must outlive this.
  Engine(const PerceiverAR& model, const EngineOptions& options);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  int64_t slots() const { return slots_.count(); }
  const PerceiverAR& model() const { return slots_.model(); }
  /// With every default resolved.
  const EngineOptions& options() const { return slots_.options(); }
  const DecodeCaches& caches() const { return slots_.caches(); }
  /// Whether a step of all slots is one kernel.
  bool fused() const { return decode_.fused(); }

  /// Throws `user` for a sequence that cannot be continued (check_sequence).
  void check(const Sequence& sequence) const;
  /// Puts a sequence into a free slot.
  void admit(int64_t slot, Sequence sequence, uint64_t tag = 0);
  void release(int64_t slot);
  bool occupied(int64_t slot) const { return slots_[slot].occupied; }
  /// Whether the sequence can take no further token: its context or its positions end, or it failed.
  bool ended(int64_t slot) const { return slots_.ended(slots_[slot]); }
  /// Whether it ended because no token could be chosen, or because a prefill was given up.
  bool failed(int64_t slot) const { return slots_[slot].failed; }
  /// Tokens of the sequence, including those in flight.
  int64_t length(int64_t slot) const { return slots_[slot].length; }
  /// Until the slot is released.
  void watch(int64_t slot, SlotWatch watch);

  /// Enqueues a step: every occupied slot that has not ended chooses a token, which `collect` returns; but
  /// while others choose, a slot with a short prompt first takes steps to read it (`prompt_steps`).
  void step();
  /// Waits for the oldest step not yet returned; empty if there is none. Throws `failure` if a sequence had
  /// no token to choose (non-finite logits, or biases that forbid all): once, here or in another member that
  /// needs the tokens. That sequence has then ended; the others are unaffected and may go on.
  std::vector<ChosenToken> collect() { return results_.collect(); }
  int64_t in_flight() const { return results_.in_flight(); }
  /// Steps that may usefully be in flight.
  int64_t depth() const { return results_.depth(); }

  /// For scoring, or choosing elsewhere: computes what follows the last token of each occupied slot that
  /// grew.
  void compute();
  /// Logits of the slot's last computed position.
  std::vector<double> logits(int64_t slot) const;
  /// Appends a given token; the last one must have been computed.
  void push(int64_t slot, int32_t token);
  /// The sequence so far, without tokens in flight.
  const std::vector<int32_t>& tokens(int64_t slot) const { return slots_[slot].tokens; }

  /// Positions that were given with the sequence; empty if they count.
  const std::vector<int32_t>& given_positions(int64_t slot) const { return slots_[slot].positions; }

  /// Copies a sequence with its caches into a free slot, where it continues exactly as the original would.
  /// `other` may be this engine, or one of the same model and options except for the number of slots.
  void copy(Engine& other, int64_t other_slot, int64_t slot, uint64_t tag = 0);
  /// How the slot chooses from now on, e.g. with another seed. Biases stay.
  void set_sampling(int64_t slot, const kernels::SamplingParameters& settings);
  const kernels::SamplingParameters& sampling(int64_t slot) const { return slots_[slot].settings; }

  using Storage = SnapshotStorage;
  /// Saves what `restore` needs to continue the slot's sequence bit for bit. The writer points into
  /// `storage`. Throws `user`, as `restore` does, where ranks share the context.
  void save(int64_t slot, SafetensorsWriter& writer, Storage& storage);
  /// Puts a saved sequence into a free slot. Throws `user` for a file that does not fit this engine.
  void restore(int64_t slot, const SafetensorsFile& file, uint64_t tag = 0);

  /// Prefills, and tokens computed out of the caches, so far.
  int64_t passes() const { return prefills_; }
  int64_t decoded() const { return decoded_; }

 private:
  Engine(const PerceiverAR& model, const EngineOptions& resolved, std::unique_lock<std::recursive_mutex>);
  void place(int64_t slot, Slot content, uint64_t tag);
  void reserve_biases(int64_t rows);
  void compute_next(const std::vector<int64_t>& slots);
  void choose(const std::vector<int64_t>& ready);
  /// Whether tokens of the slot are still to be computed.
  bool behind(int64_t slot) const { return slots_[slot].computed < slots_[slot].length; }
  bool runs_on(int64_t slot) const;
  bool prefill_or_give_up(int64_t slot);
  void show_logits(int64_t slot);
  void refuse_failed(int64_t slot) const;

  Slots slots_;
  StepResults results_;
  DecodeStep decode_;
  int64_t prefills_ = 0, decoded_ = 0;
};

}  // namespace perceiver
