// The decode step: one more token out of the caches for several slots at once, and the choice of the next.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "generate/slots.h"
#include "generate/step_results.h"

namespace perceiver {

/// Enqueues decode steps. On a GPU a whole step is recorded once for each mailbox as a graph and replayed;
/// the device then advances the slots' state by itself, and it is written from the host only after something
/// else changed it. A step that is one kernel costs what its slots cost: it computes the smallest of 1, 2, 4,
/// … successive slots, aligned to as many, that holds those that take part, and is recorded for each of these
/// ranges when it first runs.
class DecodeStep {
 public:
  DecodeStep(Slots& slots, StepResults& results);

  /// Whether a step of all slots is one kernel.
  bool fused() const { return fused_; }

  /// Computes the logits that follow the last token of each of `slots`, in rising order.
  void decode(const std::vector<int64_t>& slots);
  /// Chooses a token for each of `slots` from its logits.
  void choose(const std::vector<int64_t>& slots);
  /// Both.
  void decode_and_choose(const std::vector<int64_t>& slots);

  /// Slots were changed from outside: the device's state has to be written again.
  void invalidate_state() { active_.clear(); }
  /// Tensors that recorded steps use have moved: they are recorded again.
  void drop_recorded();

 private:
  /// The step of a range of slots.
  struct Part {
    std::shared_ptr<const FusedStep> fused;               ///< null: single operations
    std::vector<std::unique_ptr<RecordedWork>> recorded;  ///< one for each mailbox
  };

  void allocate_workspaces();
  Part& part_of(const std::vector<int64_t>& slots);
  void prepare(const std::vector<int64_t>& slots);
  void launch_decode();
  void launch_choice();
  void launch_both();

  Slots& slots_;
  StepResults& results_;
  bool fused_ = false;
  std::map<int64_t, Tensor> workspaces_;  ///< of fused steps, by their number of slots
  std::map<SlotRange, Part> parts_;
  Part* part_ = nullptr;                 ///< that of the slots that were prepared
  std::vector<int64_t> active_;          ///< slots whose state on the device is that of their next token
  std::shared_ptr<DeviceMemory> arena_;  ///< memory of recorded steps
  bool warm_ = false;                    ///< a step has run, so that the next can be recorded
};

}  // namespace perceiver
