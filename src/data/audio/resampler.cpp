#include "data/audio/resampler.h"

#include <cstdint>

#include "base/check.h"

namespace perceiver {
namespace {

constexpr int64_t output_block = 4096;

}  // namespace

Resampler::Resampler(int from, int to, const std::string& source)
    : ratio_(static_cast<double>(to) / from), source_(source) {
  if (from == to) return;
  int error = 0;
  if (src_is_valid_ratio(ratio_) == 0)
    throw_user("{}: {} samples per second cannot be resampled to {}: the ratio is too large", source, from,
               to);
  state_.reset(src_new(SRC_SINC_MEDIUM_QUALITY, 1, &error));
  if (state_ == nullptr) throw_failure("libsamplerate: {}", src_strerror(error));
}

void Resampler::put(std::span<const float> in, bool end, std::vector<float>& out) {
  if (state_ == nullptr) {
    out.insert(out.end(), in.begin(), in.end());
    return;
  }
  float block[output_block];
  const float nothing = 0;  // the library only flushes if even empty input has an address
  SRC_DATA data{};
  data.src_ratio = ratio_;
  data.end_of_input = end ? 1 : 0;
  data.data_out = block;
  data.output_frames = output_block;
  do {
    data.data_in = in.empty() ? &nothing : in.data();
    data.input_frames = static_cast<long>(in.size());
    if (const int error = src_process(state_.get(), &data); error != 0)
      throw_user("{}: cannot be resampled: {}", source_, src_strerror(error));
    in = in.subspan(static_cast<size_t>(data.input_frames_used));
    out.insert(out.end(), block, block + data.output_frames_gen);
  } while (!in.empty() || data.output_frames_gen == output_block || (end && data.output_frames_gen > 0));
}

}  // namespace perceiver
