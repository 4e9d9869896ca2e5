#include "data/audio/audio_file.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "base/check.h"
#include "data/audio/resampler.h"
#include "data/audio/sound_file.h"
#include "data/audio/sound_reader.h"

namespace perceiver {
namespace {

constexpr int64_t block_frames = 4096;

void check_reader(const SoundReader& sound, const std::string& source) {
  if (sound.channels() < 1 || sound.channels() > audio_max_channels)
    throw_user("{}: {} channels; 1 to {} are supported", source, sound.channels(), audio_max_channels);
  if (sound.rate() < audio_min_rate || sound.rate() > audio_max_rate)
    throw_user("{}: {} samples per second; {} to {} are supported", source, sound.rate(), audio_min_rate,
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

Audio read_audio(const SourceFile& file, int rate) {
  const std::string& source = file.path;
  const std::unique_ptr<SoundReader> sound = open_sound_reader(file);
  check_reader(*sound, source);
  const int channels = sound->channels();

  Audio audio;
  audio.rate = rate;
  audio.file_rate = sound->rate();
  audio.file_channels = channels;
  Resampler resampler(sound->rate(), rate, source);
  std::vector<float> block(static_cast<size_t>(block_frames * channels)), mono(block_frames);
  while (const int64_t frames = sound->read(block)) {
    for (int64_t i = 0; i < frames; ++i)
      mono[static_cast<size_t>(i)] = mix(block.data() + i * channels, channels);
    audio.file_frames += frames;
    resampler.put(std::span(mono).first(static_cast<size_t>(frames)), false, audio.samples);
    check_length(audio.file_frames, source);
    check_length(static_cast<int64_t>(audio.samples.size()), source);
  }
  if (const std::string damage = sound->damage(); !damage.empty())
    throw_user("{}: damaged after {} samples: {}", source, audio.file_frames, damage);
  if (audio.file_frames < sound->announced())
    file.repaired(fmt::format("the file is damaged or cut short: {} of {} samples are there",
                              audio.file_frames, sound->announced()));
  resampler.put({}, true, audio.samples);
  for (float& sample : audio.samples) sample = std::clamp(sample, -1.0f, 1.0f);
  return audio;
}

std::vector<float> resampled(const Sound& sound, int rate) {
  static const std::string kSource = "the sound";
  if (sound.rate < audio_min_rate || sound.rate > audio_max_rate)
    throw_user("{}: {} samples per second; {} to {} are supported", kSource, sound.rate, audio_min_rate,
               audio_max_rate);
  check_length(static_cast<int64_t>(sound.samples.size()), kSource);
  std::vector<float> clean(sound.samples.size()), samples;
  std::transform(sound.samples.begin(), sound.samples.end(), clean.begin(),
                 [](float sample) { return mix(&sample, 1); });
  Resampler resampler(sound.rate, rate, kSource);
  resampler.put(clean, true, samples);
  check_length(static_cast<int64_t>(samples.size()), kSource);
  for (float& sample : samples) sample = std::clamp(sample, -1.0f, 1.0f);
  return samples;
}

std::string write_audio(std::span<const float> samples, int rate, std::string_view ending) {
  const bool flac = ending == ".flac";
  if (!flac && ending != ".wav") throw_user("audio is written as .wav or .flac, not as '{}'", ending);
  MemoryFile memory{.head = {}, .tail = {}, .writes = true};
  SF_INFO info{};
  info.samplerate = rate;
  info.channels = 1;
  info.format = (flac ? SF_FORMAT_FLAC : SF_FORMAT_WAV) | SF_FORMAT_PCM_16;
  std::string reason;
  SoundFile sound = open_sound(memory, SFM_WRITE, info, reason);
  if (sound == nullptr) throw_failure("libsndfile cannot write {}: {}", ending, reason);
  sf_command(sound.get(), SFC_SET_CLIPPING, nullptr, SF_TRUE);
  const auto count = static_cast<sf_count_t>(samples.size());
  if (sf_write_float(sound.get(), samples.data(), count) != count)
    throw_failure("libsndfile cannot write {} samples: {}", count, sf_strerror(sound.get()));
  sound.reset();  // completes the header
  return std::move(memory.head);
}

}  // namespace perceiver
