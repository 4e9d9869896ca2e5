// Audio as 8-bit mu-law samples, one token each.
#include <array>
#include <cmath>

#include "base/check.h"
#include "data/audio/audio_file.h"
#include "data/audio/mu_law.h"
#include "data/modality.h"
#include "perceiver/special_tokens.h"

namespace perceiver {
namespace {

class AudioModality final : public Modality {
 public:
  AudioModality(int rate, std::string tokenizer) : rate_(rate), tokenizer_(std::move(tokenizer)) {
    format_.vocabulary = mu_law_levels + special_tokens;
    format_.unit = "sample";
  }

  std::string_view name() const override { return "audio"; }
  const SequenceFormat& format() const override { return format_; }
  std::string tokenizer() const override { return tokenizer_; }

  std::vector<TokenSequence> encode(const SourceFile& file) const override {
    std::vector<TokenSequence> documents;
    documents.push_back(tokens_of(read_audio(file, rate_).samples));
    return documents;
  }
  Content decode_value(const TokenSequence& sequence) const override {
    return Sound{samples_of(sequence.ids), rate_};
  }
  void add_info(TokenizerInfo& info) const override { info.sample_rate = rate_; }

  Prompt prompt(const SourceFile& file, const PromptPart& options) const override {
    PromptPart in_tokens = options;
    if (options.seconds > 0) in_tokens.tokens = std::max<int64_t>(1, std::llround(options.seconds * rate_));
    in_tokens.seconds = 0;
    return Modality::prompt(file, in_tokens);
  }

  std::vector<std::string_view> outputs() const override { return {".wav", ".flac"}; }
  std::string decode(const TokenSequence& sequence, std::string_view ending) const override {
    return write_audio(samples_of(sequence.ids), rate_, ending);
  }

  std::string compare(const SourceFile& file) const override {
    const Audio audio = read_audio(file, rate_);
    const std::vector<float> back = samples_of(tokens_of(audio.samples).ids);
    double signal = 0, noise = 0, largest = 0;
    for (size_t i = 0; i < back.size(); ++i) {
      const double error = static_cast<double>(back[i]) - audio.samples[i];
      signal += static_cast<double>(audio.samples[i]) * audio.samples[i];
      noise += error * error;
      largest = std::max(largest, std::abs(error));
    }
    return fmt::format(
        "file: {} samples in {} channels, {} per second\ntokens: {} samples, {} per second, {:.3f} s\n"
        "mu-law: signal to noise {:.1f} dB, largest error {:.5f} of full scale\n",
        audio.file_frames, audio.file_channels, audio.file_rate, back.size(), rate_,
        static_cast<double>(back.size()) / rate_, noise > 0 ? 10 * std::log10(signal / noise) : INFINITY,
        largest);
  }

 private:
  bool encode_content(const Content& content, TokenSequence& out) const override {
    const auto* sound = std::get_if<Sound>(&content);
    if (sound != nullptr) out = tokens_of(resampled(*sound, rate_));
    return sound != nullptr;
  }

  static TokenSequence tokens_of(std::span<const float> samples) {
    TokenSequence document;
    document.units = static_cast<int64_t>(samples.size());
    document.ids.reserve(samples.size());
    for (const float sample : samples) document.ids.push_back(mu_law_encode(sample) + special_tokens);
    return document;
  }

  static std::vector<float> samples_of(const std::vector<int32_t>& ids) {
    std::vector<float> samples;
    samples.reserve(ids.size());
    for (const int32_t id : ids) {
      if (id < 0 || id >= mu_law_levels + special_tokens)
        throw_user("token id {} is not a mu-law sample; ids are below {}", id,
                   mu_law_levels + special_tokens);
      if (id >= special_tokens) samples.push_back(mu_law_decode(id - special_tokens));
    }
    return samples;
  }

  int rate_;
  std::string tokenizer_;
  SequenceFormat format_;
};

std::unique_ptr<Modality> open_audio(const ModalityOptions& options) {
  const auto rate = static_cast<int>(options.integer("sample_rate", audio_min_rate, audio_max_rate));
  return std::make_unique<AudioModality>(
      rate, pack_tokenizer("audio", options.values(ModalityOption::Use::tokens)));
}

std::unique_ptr<Modality> restore_audio(std::string_view tokenizer, const ModalityOptions& options) {
  return open_audio(ModalityOptions(options.kind(), unpack_tokenizer("audio", tokenizer)));
}

}  // namespace

const ModalityKind& audio_modality() {
  static const ModalityKind kind{
      .name = "audio",
      .doc = "Audio files, mixed to mono, one token per sample (8-bit mu-law, 259 ids); bits per sample.",
      .endings = {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au",
                  ".snd", ".rf64"},
      .companions = {},
      .unreadable = {".m4a", ".m4b", ".aac", ".wma", ".amr", ".caf", ".w64", ".ape", ".wv", ".mpc", ".sph"},
      .max_file_bytes = int64_t{4} << 30,
      .options = {{"sample_rate", "16000",
                   "Samples per second, 100 to 1000000; files with another rate are resampled."}},
      .open = open_audio,
      .restore = restore_audio,
  };
  return kind;
}

}  // namespace perceiver
