// Resamples mono audio as it arrives.
#pragma once

#include <samplerate.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

namespace perceiver {

/// Sinc interpolation of libsamplerate; equal rates leave the samples as they are.
class Resampler {
 public:
  /// Throws `user`, naming `source`, for rates that are too far apart.
  Resampler(int from, int to, const std::string& source);

  /// Resamples `in` and appends it to `out`; the last call has `end`.
  void put(std::span<const float> in, bool end, std::vector<float>& out);

 private:
  double ratio_;
  const std::string& source_;
  std::unique_ptr<SRC_STATE, SRC_STATE* (*)(SRC_STATE*)> state_{nullptr, src_delete};
};

}  // namespace perceiver
