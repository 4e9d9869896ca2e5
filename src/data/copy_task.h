// The copy task of Hawthorne et al. 2022, section 5.1: random bytes, then their mirror image.
#pragma once

#include "data/dataset.h"

namespace perceiver {

/// Where positions count from. Centred ones are those of a sequence in the middle of the longest one: a token
/// and its mirror image add up to the same number whatever the length, so that what was learnt at one length
/// holds at the next.
enum class CopyPositions : uint8_t { counted, centered };

struct CopyOptions {
  CopyPositions positions = CopyPositions::counted;
  /// Length of the shortest sequence; 0: all have the task's. Otherwise half of the sequences have that, and
  /// the lengths of the others are even and spread evenly on a logarithmic scale.
  int64_t shortest = 0;
};

/// A sequence of T = `copy_length` tokens (or fewer, CopyOptions::shortest), 4 ≤ T ≤ 131072: SOS, a random
/// palindrome of T − 2 bytes, EOS. The palindrome is a payload of h = ⌈(T − 2) / 2⌉ bytes and its mirror
/// image (for odd T they share the middle byte). The targets are what the payload determines, the mirror
/// image and EOS: the last ⌊T / 2⌋ tokens. With N = T columns (or T − 1) and M = T / 2 latents, T even, these
/// are exactly the targets of the latents, and all of them can be predicted: an accuracy of 1 is possible.
///
/// A checksum of the payload, the sum of its bytes modulo 16, decides its split: 0 is validation, 1 is test,
/// everything else is train. No payload is ever in two splits, for any seeds; the payloads of a split are
/// equally likely. A sequence is a function of (seed, split, document) only. Each split has 2^40 of them,
/// generated when read.
class CopyTask final : public Dataset {
 public:
  static constexpr int64_t sequences = int64_t{1} << 40;
  static constexpr int64_t min_length = 4;
  static constexpr int64_t max_length = 131072;

  /// Throws if `length` is outside [min_length, max_length], `options.shortest` outside [min_length, length],
  /// or `length` odd with centred positions: a mirror image around a token is not the same map of positions
  /// as one between two tokens.
  CopyTask(int64_t length, uint64_t seed, const CopyOptions& options = {});

  int64_t vocabulary() const override;
  std::string modality() const override { return "copy"; }
  std::string tokenizer() const override;
  std::string unit() const override { return "byte"; }
  std::vector<int64_t> position_sizes() const override;
  bool unbounded() const override { return true; }
  /// A row must hold the whole sequence except its last token, or the mirrored bytes could not be predicted.
  int64_t minimum_context() const override { return length_ - 1; }
  int64_t documents(Split) const override { return sequences; }
  std::string document_name(Split split, int64_t document) const override;
  int64_t document_length(Split split, int64_t document) const override;
  int64_t first_target(Split split, int64_t document) const override {
    return 1 + payload_length(split, document);
  }
  int64_t scored_units(Split split, int64_t document) const override {
    return document_length(split, document) - 2 - payload_length(split, document);
  }
  void read(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const override;
  void positions(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const override;

  /// Bytes of a sequence's payload, h.
  int64_t payload_length(Split split, int64_t document) const {
    return (document_length(split, document) - 1) / 2;
  }

 private:
  int64_t length_;
  uint64_t seed_;
  CopyOptions options_;
};

/// `config.options` may hold "positions", "counted" or "centered", and "shortest", a length.
std::unique_ptr<Dataset> open_copy_task(const DataConfig& config);

}  // namespace perceiver
