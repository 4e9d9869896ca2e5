#include "port/rotary_buffer.h"

#include <cmath>

#include "base/check.h"

namespace perceiver {
namespace {

constexpr float kBase = 10000;
constexpr double kRounding = 1e-2;  // of bfloat16

}  // namespace

std::vector<double> rotary_frequencies(int64_t width) {
  std::vector<double> frequencies;
  for (int64_t t = 0; 2 * t < width; ++t)
    frequencies.push_back(1 / std::pow(kBase, static_cast<float>(2 * t) / static_cast<float>(width)));
  return frequencies;
}

void check_rotary_frequencies(const ModelTensors& tensors, const std::string& name, int64_t width) {
  const std::vector<double> expected = rotary_frequencies(width);
  const std::vector<double> found = tensors.values(name);
  if (found.size() != expected.size())
    throw_user("{}: {} has {} frequencies, but the configuration requires {}", tensors.source(), name,
               found.size(), expected.size());
  for (size_t t = 0; t < found.size(); ++t)
    if (!(std::abs(found[t] / expected[t] - 1) < kRounding))
      throw_user("{}: {} holds {} at index {}; only frequencies of base 10000 are known, {} there",
                 tensors.source(), name, found[t], t, expected[t]);
}

DerivedTensor frequency_tensor(const std::string& name, int64_t width) {
  std::vector<double> frequencies = rotary_frequencies(width);
  const auto count = static_cast<int64_t>(frequencies.size());
  return {name, {count}, std::move(frequencies)};
}

}  // namespace perceiver
