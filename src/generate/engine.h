// The engine of generation: S slots, each with a sequence that grows by a token a step (docs/generation.md).
// A step is one pass of a prompt, one more token out of the caches for all slots together, or both; which,
// the policy decides for each slot. What becomes of a sequence does not depend on the other slots, to the
// bit.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "io/safetensors.h"
#include "kernels/sampling.h"
#include "model/perceiver_ar.h"
#include "perceiver/policy.h"

namespace perceiver {

/// 0 stands for the named default.
struct EngineOptions {
  int64_t slots = 1;  ///< S, sequences at once
  GenerationPolicy policy = GenerationPolicy::automatic;
  int64_t latents = 0;         ///< M; the model's
  int64_t refill = 0;          ///< R, 1 to M latents (whole positions); M / 2
  int64_t prompt_latents = 0;  ///< latents of the pass over a prompt, 1 to M; M
  ContextEnd context_end = ContextEnd::drop;
  /// Keep the context as tokens where that is faster; otherwise as keys and values.
  ContextProjection context = ContextProjection::automatic;
  bool fused = true;  ///< the step as one kernel where there is one
};

/// A sequence to be continued, and how.
struct Sequence {
  std::vector<int32_t> tokens;
  /// Positions of the tokens and of those to come, [any number, A]: the sequence ends with the last. Empty:
  /// 1, 2, … (one axis alone).
  std::vector<int32_t> positions;
  kernels::SamplingParameters settings;  ///< bias_row and bias_period are the engine's
  /// Added to the logits, V each; row t % (number of rows) in step t.
  std::vector<std::vector<float>> biases;
};

/// A token that a slot chose.
struct ChosenToken {
  int64_t slot = 0;
  uint64_t tag = 0;  ///< of the sequence, as `admit` was given it
  int32_t token = 0;
  double log_probability = 0;  ///< nats, of the logits as they are
};

class Engine {
 public:
  /// Checks the options (`user` errors) and that the memory suffices (`failure`, with how many slots would
  /// fit). `model` must outlive this; engines of several threads may share it.
  Engine(const PerceiverAR& model, const EngineOptions& options);
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  int64_t slots() const { return options_.slots; }
  const PerceiverAR& model() const { return model_; }
  /// With every default resolved.
  const EngineOptions& options() const { return options_; }
  const DecodeCaches& caches() const { return caches_; }
  /// Whether a step of all slots is one kernel.
  bool fused() const { return fused_ != nullptr; }

  /// Throws `user` for what cannot be continued: ids outside the vocabulary, positions that are missing or
  /// outside their tables, a prompt beyond the context where the sequence must stop there.
  void check(const Sequence& sequence) const;
  /// Puts a sequence into a free slot.
  void admit(int64_t slot, Sequence sequence, uint64_t tag = 0);
  void release(int64_t slot);
  bool occupied(int64_t slot) const { return slots_[static_cast<size_t>(slot)].occupied; }
  /// Whether the sequence can take no further token: its context ends, or its positions do.
  bool ended(int64_t slot) const;

  /// Enqueues a step: every occupied slot that has not ended chooses a token. Results arrive in `collect`.
  void step();
  /// Waits for the oldest step that was not collected yet; empty where there is none.
  std::vector<ChosenToken> collect();
  int64_t in_flight() const { return static_cast<int64_t>(flights_.size() + arrived_.size()); }
  /// Steps that may usefully be in flight.
  int64_t depth() const { return static_cast<int64_t>(mailboxes_.size()); }

  /// To score, or to choose elsewhere: computes what follows the sequences' last tokens, for all occupied
  /// slots that grew since the last time.
  void compute();
  /// Logits of the slot's last computed position.
  std::vector<double> logits(int64_t slot) const;
  /// Appends a given token; the last one must have been computed.
  void push(int64_t slot, int32_t token);
  /// The sequence so far, without tokens in flight.
  const std::vector<int32_t>& tokens(int64_t slot) const { return slots_[static_cast<size_t>(slot)].tokens; }

  /// Puts a copy of a sequence, with its caches, into a free slot: it goes on as the original would. `other`
  /// may be this engine, or one of the same model and options but for the number of slots.
  void copy(Engine& other, int64_t other_slot, int64_t slot, uint64_t tag = 0);
  /// How the slot chooses from now on: another seed, say. Biases stay.
  void set_sampling(int64_t slot, const kernels::SamplingParameters& settings);
  const kernels::SamplingParameters& sampling(int64_t slot) const {
    return slots_[static_cast<size_t>(slot)].settings;
  }

  /// What `restore` needs to go on with the slot's sequence, bit for bit. The writer keeps pointers:
  /// `storage` must live as long.
  using Storage = std::vector<std::vector<std::byte>>;
  void save(int64_t slot, SafetensorsWriter& writer, Storage& storage);
  /// Puts a saved sequence into a free slot. Throws `user` for a file that does not fit this engine.
  void restore(int64_t slot, const SafetensorsFile& file, uint64_t tag = 0);

  /// How many prompts and sequences were passed whole, and how many tokens came out of the caches, so far.
  int64_t passes() const { return passes_; }
  int64_t decoded() const { return decoded_; }

 private:
  struct Slot {
    bool occupied = false;
    uint64_t tag = 0;
    std::vector<int32_t> tokens;     ///< known ones
    std::vector<int32_t> positions;  ///< given ones
    kernels::SamplingParameters settings;
    std::vector<std::vector<float>> biases;
    int64_t length = 0;                       ///< tokens, with those in flight
    int64_t computed = 0;                     ///< tokens that the caches and the logits know
    int64_t first = 0;                        ///< place of the token at position 1
    int64_t context = 0;                      ///< rows of the context that are seen
    int64_t latents = 0;                      ///< rows of latents that are seen
    int64_t context_row = 0, latent_row = 0;  ///< of the next token
    int64_t chosen = 0;                       ///< tokens chosen by the slot
  };
  /// A step on its way.
  struct Flight {
    Mailbox* mailbox;
    std::vector<std::pair<int64_t, uint64_t>> sequences;  ///< slot, tag
  };

  void resolve();
  bool table_pays() const;
  void check_memory() const;
  void make_caches();
  bool given_positions(const Slot& slot) const { return !slot.positions.empty(); }
  int32_t position_of(const Slot& slot, int64_t token, int64_t axis) const;
  bool must_pass(const Slot& slot) const;
  void pass(int64_t slot);
  void compute(const std::vector<int64_t>& slots);
  void choose(const std::vector<int64_t>& slots);
  void step_together(const std::vector<int64_t>& slots);
  void prepare_decode(const std::vector<int64_t>& slots);
  void launch_decode();
  void launch_choice();
  void launch_step();
  void count_decoded(const std::vector<int64_t>& slots);
  void make_room();
  void send(const std::vector<int64_t>& slots);
  void upload(const std::vector<int64_t>& active, bool after);
  void rebase(int64_t slot);
  void settle();
  void grow_biases(int64_t rows);
  /// Writes the slot's settings, biases and the tokens it has seen to the device.
  void put_slot(int64_t slot);
  /// The used rows of the slot's rings of all layers, as tensors by name.
  std::vector<std::pair<std::string, Tensor>> ring_rows(int64_t slot) const;
  std::string fingerprint() const;
  std::vector<ChosenToken> read(const Flight& flight);

  const PerceiverAR& model_;
  const ModelConfig& config_;
  EngineOptions options_;
  bool keeps_cache_ = true;
  DecodeCaches caches_;
  DecodeSlots state_;
  std::shared_ptr<const FusedStep> fused_;
  Tensor logits_;    ///< accumulation type [S, V]
  Tensor settings_;  ///< kernels::SamplingParameters [S]
  Tensor seen_;      ///< u8 [S, V]
  Tensor biases_;    ///< f32 [S * bias_rows_, V], or none
  int64_t bias_rows_ = 0;
  std::vector<Slot> slots_;
  std::vector<int64_t> active_;  ///< slots for which the device's state is that of the next token
  std::vector<std::unique_ptr<Mailbox>> mailboxes_;  ///< log-probabilities f64 [S], tokens i32 [S]
  size_t next_mailbox_ = 0;
  std::deque<Flight> flights_;
  std::deque<std::vector<ChosenToken>> arrived_;
  std::shared_ptr<DeviceMemory> arena_;  ///< of recorded work
  bool warm_ = false;
  std::vector<std::unique_ptr<RecordedWork>> recorded_;  ///< of each mailbox
  int64_t passes_ = 0, decoded_ = 0;
};

}  // namespace perceiver
