// Philox4x32-10, the counter-based random number generator used everywhere (Salmon et al., "Parallel random
// numbers: as easy as 1, 2, 3", SC 2011). Depends on no other header, so that device code can include it.
// Unstable: may change with any version (docs/experimental.md).
#pragma once

#include <array>
#include <cstdint>

namespace perceiver {

using PhiloxBlock = std::array<uint32_t, 4>;

/// Ten rounds of Philox4x32. counter[0] is the word that varies fastest.
constexpr PhiloxBlock philox(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

/// The purpose of a stream of random numbers; streams of different purposes never overlap.
enum class RandomPurpose : uint32_t {
  initialization = 1,
  dropout = 2,
  context_dropout = 3,
  latent_dropout = 4,
  input_positions = 5,
  batch = 6,
  split = 7,
  copy_task = 8,
  sampling = 9,
  augmentation = 10,
  rounding = 11,
  user = 128,  ///< of programs that use the library: it never draws from this stream
};

}  // namespace perceiver
