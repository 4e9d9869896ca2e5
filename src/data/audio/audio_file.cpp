#include "data/audio/audio_file.h"

#include <samplerate.h>
#include <sndfile.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "data/audio/wav_chunks.h"

namespace perceiver {
namespace {

constexpr sf_count_t block_frames = 4096;

/// A file in memory for libsndfile: reads `head` followed by `tail`; with `writes`, reads and writes only
/// `head`.
struct MemoryFile {
  std::string head;
  std::span<const std::byte> tail;
  bool writes = false;
  sf_count_t at = 0;

  sf_count_t size() const { return static_cast<sf_count_t>(head.size() + tail.size()); }
  /// The contiguous bytes from `at` on.
  std::string_view ahead() const {
    const auto place = static_cast<size_t>(at);
    if (place < head.size()) return std::string_view(head).substr(place);
    const std::span<const std::byte> rest = tail.subspan(place - head.size());
    return {reinterpret_cast<const char*>(rest.data()), rest.size()};
  }
};

sf_count_t memory_size(void* user) {
  return static_cast<MemoryFile*>(user)->size();
}

sf_count_t memory_seek(sf_count_t offset, int whence, void* user) {
  auto& file = *static_cast<MemoryFile*>(user);
  const sf_count_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? file.at : file.size();
  sf_count_t target = 0;
  if (__builtin_add_overflow(base, offset, &target)) return -1;
  // Seeking past the end works as in any file: libsndfile ignores seek errors and would read on at the old
  // place.
  if (target < 0) return -1;
  return file.at = target;
}

sf_count_t memory_read(void* out, sf_count_t count, void* user) {
  auto& file = *static_cast<MemoryFile*>(user);
  const sf_count_t have = std::clamp<sf_count_t>(file.size() - file.at, 0, std::max<sf_count_t>(count, 0));
  for (sf_count_t done = 0; done < have;) {
    const std::string_view piece = file.ahead().substr(0, static_cast<size_t>(have - done));
    std::memcpy(static_cast<char*>(out) + done, piece.data(), piece.size());
    done += static_cast<sf_count_t>(piece.size());
    file.at += static_cast<sf_count_t>(piece.size());
  }
  return have;
}

sf_count_t memory_write(const void* from, sf_count_t count, void* user) {
  auto& file = *static_cast<MemoryFile*>(user);
  if (!file.writes || count <= 0) return 0;
  if (file.at + count > file.size()) file.head.resize(static_cast<size_t>(file.at + count));
  std::memcpy(file.head.data() + file.at, from, static_cast<size_t>(count));
  file.at += count;
  return count;
}

sf_count_t memory_tell(void* user) {
  return static_cast<MemoryFile*>(user)->at;
}

using SoundFile = std::unique_ptr<SNDFILE, int (*)(SNDFILE*)>;

SoundFile open_sound(MemoryFile& file, int mode, SF_INFO& info) {
  static SF_VIRTUAL_IO io{.get_filelen = memory_size,
                          .seek = memory_seek,
                          .read = memory_read,
                          .write = memory_write,
                          .tell = memory_tell};
  return {sf_open_virtual(&io, mode, &info, &file), sf_close};
}

/// Resamples mono audio.
class Resampler {
 public:
  Resampler(int from, int to, const std::string& source)
      : ratio_(static_cast<double>(to) / from), source_(source) {
    if (from == to) return;
    int error = 0;
    if (src_is_valid_ratio(ratio_) == 0)
      throw_user("{}: {} samples per second cannot be resampled to {}: the ratio is too large", source, from,
                 to);
    state_.reset(src_new(SRC_SINC_MEDIUM_QUALITY, 1, &error));
    if (state_ == nullptr) throw_failure("libsamplerate: {}", src_strerror(error));
  }

  /// Resamples `in` and appends it to `out`; the last call has `end`.
  void put(std::span<const float> in, bool end, std::vector<float>& out) {
    if (state_ == nullptr) {
      out.insert(out.end(), in.begin(), in.end());
      return;
    }
    float block[block_frames];
    const float nothing = 0;  // the library only flushes if even empty input has an address
    SRC_DATA data{};
    data.src_ratio = ratio_;
    data.end_of_input = end ? 1 : 0;
    data.data_out = block;
    data.output_frames = block_frames;
    do {
      data.data_in = in.empty() ? &nothing : in.data();
      data.input_frames = static_cast<long>(in.size());
      if (const int error = src_process(state_.get(), &data); error != 0)
        throw_user("{}: cannot be resampled: {}", source_, src_strerror(error));
      in = in.subspan(static_cast<size_t>(data.input_frames_used));
      out.insert(out.end(), block, block + data.output_frames_gen);
    } while (!in.empty() || data.output_frames_gen == block_frames || (end && data.output_frames_gen > 0));
  }

 private:
  double ratio_;
  const std::string& source_;
  std::unique_ptr<SRC_STATE, SRC_STATE* (*)(SRC_STATE*)> state_{nullptr, src_delete};
};

/// libsndfile supports many more formats; untrusted files should reach as few decoders as possible.
MemoryFile wav_or_flac(std::span<const std::byte> file, const std::string& source) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (text.starts_with("fLaC")) return {.head = {}, .tail = file};
  for (const std::string_view beginning : {"RIFF", "RIFX", "RF64"}) {
    if (!text.starts_with(beginning)) continue;
    WavChunks wav = wav_chunks(file, source);
    return {.head = std::move(wav.head), .tail = wav.samples};
  }
  throw_user("{}: not a supported audio file: neither WAV nor FLAC", source);
}

void check_info(const SF_INFO& info, const std::string& source) {
  if (info.channels < 1 || info.channels > audio_max_channels)
    throw_user("{}: {} channels; 1 to {} are supported", source, info.channels, audio_max_channels);
  if (info.samplerate < audio_min_rate || info.samplerate > audio_max_rate)
    throw_user("{}: {} samples per second; {} to {} are supported", source, info.samplerate, audio_min_rate,
               audio_max_rate);
}

/// Mean of the channels, clamped to −1 … 1; NaN becomes silence.
float mix(const float* frame, int channels) {
  float sum = 0;
  for (int c = 0; c < channels; ++c) sum += frame[c];
  const float mean = sum / static_cast<float>(channels);
  return std::isnan(mean) ? 0 : std::clamp(mean, -1.0f, 1.0f);
}

void check_length(int64_t samples, const std::string& source) {
  if (samples > audio_max_samples)
    throw_user("{}: more than {} samples; split it into several files", source, audio_max_samples);
}

}  // namespace

Audio read_audio(std::span<const std::byte> file, int rate, const std::string& source) {
  MemoryFile memory = wav_or_flac(file, source);
  SF_INFO info{};
  const SoundFile sound = open_sound(memory, SFM_READ, info);
  if (sound == nullptr)
    throw_user("{}: not a supported audio file: {}", source, printable(sf_strerror(nullptr)));
  check_info(info, source);

  Audio audio;
  audio.rate = rate;
  audio.file_rate = info.samplerate;
  audio.file_channels = info.channels;
  Resampler resampler(info.samplerate, rate, source);
  std::vector<float> block(static_cast<size_t>(block_frames * info.channels)), mono(block_frames);
  for (;;) {
    const sf_count_t frames = sf_readf_float(sound.get(), block.data(), block_frames);
    if (frames <= 0) break;
    for (sf_count_t i = 0; i < frames; ++i)
      mono[static_cast<size_t>(i)] = mix(block.data() + i * info.channels, info.channels);
    audio.file_frames += frames;
    resampler.put(std::span(mono).first(static_cast<size_t>(frames)), false, audio.samples);
    check_length(audio.file_frames, source);
    check_length(static_cast<int64_t>(audio.samples.size()), source);
  }
  if (const int error = sf_error(sound.get()); error != SF_ERR_NO_ERROR)
    throw_user("{}: damaged after {} samples: {}", source, audio.file_frames,
               printable(sf_strerror(sound.get())));
  resampler.put({}, true, audio.samples);
  for (float& sample : audio.samples) sample = std::clamp(sample, -1.0f, 1.0f);
  return audio;
}

std::string write_audio(std::span<const float> samples, int rate, std::string_view ending) {
  const bool flac = ending == ".flac";
  if (!flac && ending != ".wav") throw_user("audio is written as .wav or .flac, not as '{}'", ending);
  MemoryFile memory{.head = {}, .tail = {}, .writes = true};
  SF_INFO info{};
  info.samplerate = rate;
  info.channels = 1;
  info.format = (flac ? SF_FORMAT_FLAC : SF_FORMAT_WAV) | SF_FORMAT_PCM_16;
  SoundFile sound = open_sound(memory, SFM_WRITE, info);
  if (sound == nullptr) throw_failure("libsndfile cannot write {}: {}", ending, sf_strerror(nullptr));
  sf_command(sound.get(), SFC_SET_CLIPPING, nullptr, SF_TRUE);
  const auto count = static_cast<sf_count_t>(samples.size());
  if (sf_write_float(sound.get(), samples.data(), count) != count)
    throw_failure("libsndfile cannot write {} samples: {}", count, sf_strerror(sound.get()));
  sound.reset();  // completes the header
  return std::move(memory.head);
}

}  // namespace perceiver
