// The divisors of a number: sizes that would fit.
#pragma once

#include <cstdint>
#include <vector>

namespace perceiver {

inline std::vector<int64_t> divisors(int64_t n) {
  std::vector<int64_t> all;
  for (int64_t d = 1; d <= n; ++d)
    if (n % d == 0) all.push_back(d);
  return all;
}

}  // namespace perceiver
