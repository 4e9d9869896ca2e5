// The copy task of Hawthorne et al. 2022, section 5.1: random bytes, then their mirror image.
#pragma once

#include "data/dataset.h"

namespace perceiver {

/// A sequence of T = `copy_length` tokens, 4 ≤ T ≤ 131072: SOS, a random palindrome of T − 2 bytes, EOS. The
/// palindrome is a payload of h = ⌈(T − 2) / 2⌉ bytes and its mirror image (for odd T the middle byte serves
/// both). What follows from the payload is to be predicted, the mirror image and EOS: the last ⌊T / 2⌋
/// tokens, so with N = T columns (or T − 1) and M = T / 2 latents, T even, the latents' targets are exactly
/// these, and every one of them can be known: accuracy 1 is attainable.
///
/// Splits differ by a checksum of the payload, the sum of its bytes modulo 16: 0 is validation, 1 is test,
/// all else is train. No payload is ever in two splits, whatever the seeds; every split's payloads are
/// equally likely. A sequence is a function of (seed, split, document) alone. There are 2^40 in each split,
/// made when read.
class CopyTask final : public Dataset {
 public:
  static constexpr int64_t sequences = int64_t{1} << 40;
  static constexpr int64_t min_length = 4;
  static constexpr int64_t max_length = 131072;

  /// Throws if `length` is outside [min_length, max_length].
  CopyTask(int64_t length, uint64_t seed);

  int64_t vocabulary() const override;
  std::string modality() const override { return "copy"; }
  std::string tokenizer() const override;
  std::string unit() const override { return "byte"; }
  bool unbounded() const override { return true; }
  /// A row must hold the whole sequence but its last token, or the mirrored bytes could not be known.
  int64_t minimum_context() const override { return length_ - 1; }
  int64_t documents(Split) const override { return sequences; }
  std::string document_name(Split split, int64_t document) const override;
  int64_t document_length(Split, int64_t) const override { return length_; }
  int64_t first_target(Split, int64_t) const override { return 1 + payload_; }
  int64_t scored_units(Split, int64_t) const override { return length_ - 2 - payload_; }
  void read(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const override;

  /// Bytes of the payload, h.
  int64_t payload_length() const { return payload_; }

 private:
  int64_t length_;
  int64_t payload_;
  uint64_t seed_;
};

std::unique_ptr<Dataset> open_copy_task(const DataConfig& config);

}  // namespace perceiver
