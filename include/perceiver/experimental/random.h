// Streams of counter-based random numbers (philox.h). A value depends only on its key and counter, so
// masks and batches do not depend on the device, the number of threads, the world size or recomputation.
// Unstable: may change with any version (docs/experimental.md).
#pragma once

#include <array>
#include <cstdint>

#include "perceiver/experimental/philox.h"
#include "perceiver/export.h"

namespace perceiver {

/// A stream of uniform numbers keyed by (seed, purpose, a, b), where `a` and `b` are e.g. step and example.
/// The seed is Philox's key; the counter's words are (block, low half of a, purpose and high part of a, b),
/// in disjoint bits, so no two streams share a block. That leaves 56 bits for `a` and 2^32 blocks (2^34
/// words) per stream; exceeding either limit is an error, never a silent repetition.
class RandomStream {
 public:
  RandomStream(uint64_t seed, RandomPurpose purpose, uint64_t a = 0, uint32_t b = 0)
      : seed_(seed),
        high_{static_cast<uint32_t>(a),
              static_cast<uint32_t>(a >> 32) | (static_cast<uint32_t>(purpose) << 24), b} {
    if (a >> 56 != 0) refuse("streams are numbered below 2^56");
  }

  /// Block `index` of the stream, independent of its position: words 4 index … 4 index + 3.
  PhiloxBlock block(uint32_t index) const {
    return philox({index, high_[0], high_[1], high_[2]}, static_cast<uint32_t>(seed_),
                  static_cast<uint32_t>(seed_ >> 32));
  }
  /// Uniform 32-bit word.
  uint32_t next() {
    if (used_ == 4) refill();
    return block_[used_++];
  }
  uint64_t next64() {
    const uint64_t high = next();
    return (high << 32) | next();
  }
  /// Uniform in [0, 1), 53 bits.
  double uniform() { return static_cast<double>(next64() >> 11) * 0x1.0p-53; }
  /// Uniform integer in [0, n), without bias (rejection); n > 0.
  uint64_t below(uint64_t n) {
    if (n == 0) refuse("there is no number below 0");
    const uint64_t limit = UINT64_MAX - UINT64_MAX % n;
    uint64_t x = next64();
    while (x >= limit) x = next64();
    return x % n;
  }

 private:
  [[noreturn]] PERCEIVER_API static void refuse(const char* why);

  void refill() {
    if (next_block_ > UINT32_MAX) refuse("a stream has 2^34 words");
    block_ = block(static_cast<uint32_t>(next_block_++));
    used_ = 0;
  }

  uint64_t seed_;
  std::array<uint32_t, 3> high_;
  uint64_t next_block_ = 0;
  PhiloxBlock block_{};
  int used_ = 4;
};

}  // namespace perceiver
