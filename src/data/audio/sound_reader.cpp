#include "data/audio/sound_reader.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "data/audio/sound_chunks.h"
#include "data/audio/sound_file.h"
#include "data/audio/sound_format.h"

namespace perceiver {
namespace {

/// What a tag in front of it hides.
std::span<const std::byte> without_id3(const SourceFile& file) {
  const uint64_t tag = id3_length(file.bytes);
  if (tag == 0) return file.bytes;
  if (tag >= file.bytes.size())
    throw_user("{}: an ID3 tag of {} bytes and nothing behind it; the file is cut short", file.path, tag);
  const auto sound = file.bytes.subspan(static_cast<size_t>(tag));
  if (sound_format(sound) != SoundFormat::mp3)
    file.repaired(fmt::format("an ID3 tag of {} bytes before the sound was skipped", tag));
  return sound;
}

/// The file as libsndfile gets it. It supports many more formats; untrusted files should reach as few
/// decoders as possible.
MemoryFile memory_file(std::span<const std::byte> sound, SoundFormat format, const SourceFile& file) {
  if (format != SoundFormat::wav && format != SoundFormat::aiff) return {.head = {}, .tail = sound};
  SoundChunks chunks =
      format == SoundFormat::wav ? wav_chunks(sound, file.path) : aiff_chunks(sound, file.path);
  if (chunks.missing > 0)
    file.repaired(fmt::format("the file is cut short: {} of {} bytes of samples are there",
                              chunks.samples.size(), chunks.samples.size() + chunks.missing));
  return {.head = std::move(chunks.head), .tail = chunks.samples};
}

[[noreturn]] void throw_unopened(SoundFormat format, const std::string& reason, const std::string& source) {
  const char* ending = sound_format_ending(format);
  if (format == SoundFormat::wav || format == SoundFormat::flac)
    throw_user("{}: not a supported audio file: {}", source, reason);
  throw_user("{}: {} that libsndfile does not read ({}); convert it: ffmpeg -i in.{} out.wav", source,
             sound_format_name(format), reason, ending);
}

class LibsndfileReader final : public SoundReader {
 public:
  LibsndfileReader(MemoryFile memory, SoundFormat format, const std::string& source)
      : memory_(std::move(memory)) {
    std::string reason;
    sound_ = open_sound(memory_, SFM_READ, info_, reason);
    if (sound_ == nullptr) throw_unopened(format, reason, source);
  }

  int channels() const override { return info_.channels; }
  int rate() const override { return info_.samplerate; }
  int64_t read(std::span<float> out) override {
    const auto room = static_cast<sf_count_t>(out.size()) / info_.channels;
    return std::max<int64_t>(0, sf_readf_float(sound_.get(), out.data(), room));
  }
  std::string damage() const override {
    return sf_error(sound_.get()) == SF_ERR_NO_ERROR ? std::string() : printable(sf_strerror(sound_.get()));
  }

 private:
  MemoryFile memory_;
  SF_INFO info_{};
  SoundFile sound_{nullptr, sf_close};
};

}  // namespace

std::unique_ptr<SoundReader> open_sound_reader(const SourceFile& file) {
  const std::span<const std::byte> sound = without_id3(file);
  const SoundFormat format = sound_format(sound);
  if (format == SoundFormat::other) throw_user("{}: {}", file.path, describe_other_sound(sound));
  if (format == SoundFormat::mp3) return open_mp3_reader(sound, file.path);
  return std::make_unique<LibsndfileReader>(memory_file(sound, format, file), format, file.path);
}

}  // namespace perceiver
