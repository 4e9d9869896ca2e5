// The sequences in an engine's S slots: what the host knows of each, and their state on the device.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "generate/sequence.h"

namespace perceiver {

/// What the owner of a sequence wants to see and decide.
struct SlotWatch {
  /// Sees the logits [V] that the next token is chosen from, in the thread that steps the engine, and may
  /// change them; -infinity forbids an id. Repetition penalty, biases and temperature follow. A step with
  /// such a slot waits for the device.
  std::function<void(std::span<double> logits)> logits = {};
  /// Once true, a prefill of the slot is given up: the sequence has then failed. May be set by any thread.
  const std::atomic<bool>* cancelled = nullptr;
};

/// A slot as the host sees it.
struct Slot {
  bool occupied = false;
  bool failed = false;             ///< no token could be chosen; the sequence cannot go on
  uint64_t tag = 0;                ///< the caller's
  uint64_t admission = 0;          ///< tells this sequence from earlier ones in the slot
  std::vector<int32_t> tokens;     ///< without those in flight
  std::vector<int32_t> positions;  ///< given ones, as in Sequence
  kernels::SamplingParameters settings;
  std::vector<std::vector<float>> biases;
  int64_t length = 0;                       ///< tokens, including those in flight
  int64_t computed = 0;                     ///< tokens that the caches and the logits cover
  int64_t first = 0;                        ///< index of the token at position 1
  int64_t context = 0;                      ///< rows of the context buffers in use
  int64_t latents = 0;                      ///< rows of the latent buffers in use
  int64_t context_row = 0, latent_row = 0;  ///< where the next token goes
  int64_t chosen = 0;                       ///< tokens chosen by the slot
  SlotWatch watch;
  bool edited = false;  ///< the device has a single row of biases, for one step

  bool has_given_positions() const { return !positions.empty(); }
};

/// A slot's content for a sequence of which nothing has been computed.
Slot slot_of(Sequence sequence);

class Slots {
 public:
  /// `options` are resolved. Throws `failure` if memory is short. The caller holds the context.
  Slots(const PerceiverAR& model, const EngineOptions& options);

  const PerceiverAR& model() const { return model_; }
  const ModelConfig& config() const { return model_.config(); }
  DeviceContext& context() const { return model_.context(); }
  const EngineOptions& options() const { return options_; }

  int64_t count() const { return options_.slots; }
  Slot& operator[](int64_t slot) { return slots_[static_cast<size_t>(slot)]; }
  const Slot& operator[](int64_t slot) const { return slots_[static_cast<size_t>(slot)]; }

  /// Whether keys and values are cached; without that every token takes a prefill.
  bool keeps_cache() const { return keeps_cache_; }
  const DecodeCaches& caches() const { return caches_; }
  /// Of the first `rows` rows of a sequence's context, those in this rank's caches.
  int64_t own_context(int64_t rows) const;
  /// The device's counters and rows of each slot.
  const DecodeSlots& device() const { return device_; }
  const Tensor& logits() const { return logits_; }      ///< accumulation type [S, V]
  const Tensor& sampling() const { return sampling_; }  ///< kernels::SamplingParameters [S]
  const Tensor& seen() const { return seen_; }          ///< u8 [S, V], tokens that occurred
  const Tensor& biases() const { return biases_; }      ///< f32 [S * bias_rows, V], or none

  /// Logits [V] of one slot.
  Tensor logits_of(int64_t slot) const;
  int32_t position_of(const Slot& slot, int64_t token, int64_t axis) const;
  /// Whether the next token drops the oldest from the context.
  bool slides(const Slot& slot) const;
  /// Whether dropping the oldest token also changes the positions of all others: positions in tables count
  /// from the first token that is kept.
  bool slides_positions(const Slot& slot) const;
  /// Whether the sequence can take no further token: its context or its positions end, or it failed.
  bool ended(const Slot& slot) const;

  /// Puts `content` into a free slot; `write_sampling` must follow.
  void admit(int64_t slot, Slot content, uint64_t tag);
  /// Rows of biases that each slot has room for.
  int64_t bias_rows() const { return bias_rows_; }
  /// Makes room for `rows` rows of biases in each slot; recorded work that reads them becomes invalid.
  void grow_biases(int64_t rows);
  /// Writes the slot's settings, biases and the tokens it has seen to the device. Its biases must have room.
  void write_sampling(int64_t slot);
  /// Adds `edit` [V] to the logits of the next choice, besides the slot's own biases; needs room for a row.
  void write_edit(int64_t slot, const std::vector<double>& edit);
  /// Appends a token chosen by the caller.
  void push(int64_t slot, int32_t token);

  /// Writes the decode state of every slot: that of the token to compute next, or, for `computed`, of the
  /// last one computed, as it was then. Only the slots of `active` take part in the step. No tokens may be in
  /// flight.
  void write_decode_state(const std::vector<int64_t>& active, bool computed);
  /// Accounts for one more computed token in each of `slots`.
  void advance(const std::vector<int64_t>& slots);

 private:
  void upload_settings(int64_t slot);

  const PerceiverAR& model_;
  EngineOptions options_;
  bool keeps_cache_;
  std::vector<Slot> slots_;
  uint64_t admissions_ = 0;
  DecodeCaches caches_;
  DecodeSlots device_;
  Tensor logits_, sampling_, seen_, biases_;
  int64_t bias_rows_ = 0;
};

}  // namespace perceiver
