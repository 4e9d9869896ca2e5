// Tokens on their way from the device to the host: a step writes what its slots chose into a mailbox, and the
// host reads it while later steps run.
#pragma once

#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include "generate/slots.h"

namespace perceiver {

class StepResults {
 public:
  explicit StepResults(Slots& slots);

  /// Steps that may usefully be in flight.
  int64_t depth() const { return static_cast<int64_t>(mailboxes_.size()); }
  /// Steps that `collect` has not returned yet.
  int64_t in_flight() const { return static_cast<int64_t>(flights_.size() + arrived_.size()); }

  /// Frees the mailbox that the next step writes to, reading its last content if need be.
  void make_room();
  size_t next_mailbox() const { return next_; }
  double* log_probabilities() const;  ///< f64 [S] in the next mailbox; NaN: no token could be chosen
  int32_t* tokens() const;            ///< i32 [S], likewise
  /// The step that fills the next mailbox, for `slots`, has been enqueued.
  void sent(const std::vector<int64_t>& slots);

  /// Reads all steps in flight, so that every slot's tokens are known.
  void settle();
  /// Waits for the oldest step not yet returned; empty if there is none.
  std::vector<ChosenToken> collect();

 private:
  /// A step in flight.
  struct Flight {
    struct Entry {
      int64_t slot;
      uint64_t tag, admission;
    };
    Mailbox* mailbox;
    std::vector<Entry> entries;
  };

  /// Reads the oldest flight. Throws `failure` if one of its sequences had no token to choose: once for each
  /// sequence, which has then failed; the others are read all the same.
  void read_oldest();
  void fail(const Flight::Entry& entry);

  Slots& slots_;
  std::vector<std::unique_ptr<Mailbox>> mailboxes_;  ///< log-probabilities f64 [S], tokens i32 [S]
  size_t next_ = 0;
  std::deque<Flight> flights_;
  std::deque<std::vector<ChosenToken>> arrived_;  ///< read, but not yet returned by `collect`
};

}  // namespace perceiver
