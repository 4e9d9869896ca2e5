// The divisors of a number, ascending: sizes that would fit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace perceiver {

inline std::vector<int64_t> divisors(int64_t n) {
  std::vector<int64_t> all;
  for (int64_t d = 1; d <= n / d; ++d) {
    if (n % d != 0) continue;
    all.push_back(d);
    if (n / d != d) all.push_back(n / d);
  }
  std::sort(all.begin(), all.end());
  return all;
}

}  // namespace perceiver
