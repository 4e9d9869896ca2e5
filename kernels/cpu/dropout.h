// Dropout factors from Philox counters, sixteen counters at a time so that the compiler vectorises the
// rounds.
#pragma once

#include <cstdint>

#include "kernels/norm.h"
#include "perceiver/experimental/random.h"

namespace perceiver::kernels::cpu {

/// factors[i] = mask.scale if element `first` + i of the tensor is kept, else 0.
template <typename T>
void dropout_factors(const DropoutMask& mask, int64_t first, int64_t count, T* factors) {
  constexpr int kLanes = 16;
  const uint64_t element = static_cast<uint64_t>(mask.first_element + first);
  uint64_t block = element / 4;
  int64_t written = -static_cast<int64_t>(element % 4);
  const uint64_t step = *mask.step;
  const T scale = static_cast<T>(mask.scale);
  while (written < count) {
    uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint64_t b = block + static_cast<uint64_t>(lane);
      c0[lane] = static_cast<uint32_t>(b);
      c1[lane] = static_cast<uint32_t>(step);
      c2[lane] = static_cast<uint32_t>((step >> 32) ^ (b >> 32)) ^
                 (static_cast<uint32_t>(RandomPurpose::dropout) << 24);
      c3[lane] = mask.op;
    }
    uint32_t key0 = static_cast<uint32_t>(mask.seed), key1 = static_cast<uint32_t>(mask.seed >> 32);
    for (int round = 0; round < 10; ++round) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const uint64_t p0 = uint64_t{0xD2511F53u} * c0[lane];
        const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2[lane];
        c0[lane] = static_cast<uint32_t>(p1 >> 32) ^ c1[lane] ^ key0;
        c1[lane] = static_cast<uint32_t>(p1);
        c2[lane] = static_cast<uint32_t>(p0 >> 32) ^ c3[lane] ^ key1;
        c3[lane] = static_cast<uint32_t>(p0);
      }
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    T drawn[4 * kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      drawn[4 * lane] = c0[lane] >= mask.threshold ? scale : T(0);
      drawn[4 * lane + 1] = c1[lane] >= mask.threshold ? scale : T(0);
      drawn[4 * lane + 2] = c2[lane] >= mask.threshold ? scale : T(0);
      drawn[4 * lane + 3] = c3[lane] >= mask.threshold ? scale : T(0);
    }
    for (int64_t i = written < 0 ? -written : 0; i < 4 * kLanes && written + i < count; ++i)
      factors[written + i] = drawn[i];
    written += 4 * kLanes;
    block += kLanes;
  }
}

}  // namespace perceiver::kernels::cpu
