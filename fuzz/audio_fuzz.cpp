// Any input is either refused with a perceiver::Error or decodes to audio within the limits.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "data/audio/audio_file.h"
#include "perceiver/error.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> input = std::as_bytes(std::span(data, size));
  try {
    const perceiver::Audio audio = perceiver::read_audio({.path = "fuzz", .bytes = input}, 8000);
    require(static_cast<int64_t>(audio.samples.size()) <= perceiver::audio_max_samples);
    for (const float sample : audio.samples) require(sample >= -1 && sample <= 1);
  } catch (const perceiver::Error& error) {
    require(error.kind() == perceiver::ErrorKind::user);
    for (const char c : std::string(error.what()))
      require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F);
  }
  return 0;
}
