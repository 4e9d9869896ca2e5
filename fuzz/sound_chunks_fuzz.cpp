// Any bytes are refused with a perceiver::Error, or become a head and samples that lie inside of them.
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "data/audio/sound_chunks.h"
#include "data/audio/sound_format.h"
#include "perceiver/error.h"

namespace {

using perceiver::SoundChunks;
using perceiver::SoundFormat;

void require(bool condition) {
  if (!condition) std::abort();
}

void check_message(const std::string& message) {
  for (const char c : message) require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F);
}

void check(const SoundChunks& chunks, std::span<const std::byte> file) {
  require(chunks.samples.data() >= file.data());
  require(chunks.samples.data() + chunks.samples.size() <= file.data() + file.size());
  require(chunks.head.size() < file.size() + 64 && chunks.head.size() < 200'000);
}

void read(std::span<const std::byte> file) {
  const SoundFormat format = perceiver::sound_format(file);
  if (format == SoundFormat::other) check_message(perceiver::describe_other_sound(file));
  try {
    if (format == SoundFormat::wav) check(perceiver::wav_chunks(file, "fuzz"), file);
    if (format == SoundFormat::aiff) check(perceiver::aiff_chunks(file, "fuzz"), file);
  } catch (const perceiver::Error& error) {
    require(error.kind() == perceiver::ErrorKind::user);
    check_message(error.what());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> input = std::as_bytes(std::span(data, size));
  const uint64_t tag = perceiver::id3_length(input);
  read(tag <= size ? input.subspan(static_cast<size_t>(tag)) : input);
  return 0;
}
