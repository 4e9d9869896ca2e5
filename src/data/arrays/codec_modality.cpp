// Codes of a neural audio codec such as SoundStream or EnCodec: L levels per frame.
#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "data/arrays/npy.h"
#include "data/modality.h"
#include "perceiver/special_tokens.h"

namespace perceiver {
namespace {

constexpr int64_t max_levels = 64;
constexpr int64_t max_codes = int64_t{1} << 20;  ///< of one level
constexpr int64_t max_frame_rate = 100'000;
constexpr int64_t max_file_codes = int64_t{1} << 28;  ///< of one file

class CodecModality final : public Modality {
 public:
  CodecModality(std::vector<int64_t> codes, bool levels_first, double frame_rate, std::string tokenizer)
      : codes_(std::move(codes)),
        levels_first_(levels_first),
        frame_rate_(frame_rate),
        tokenizer_(std::move(tokenizer)) {
    int64_t next = special_tokens;
    for (size_t level = 0; level < codes_.size(); ++level) {
      first_ids_.push_back(static_cast<int32_t>(next));
      next += codes_[level];
      // A sequence can only end between frames.
      std::vector<IdRange> ranges;
      if (level == 0) ranges.push_back({eos_token, eos_token + 1});
      ranges.push_back({first_ids_.back(), static_cast<int32_t>(next)});
      format_.mask.sets.push_back(ranges);
      format_.mask.cycle.push_back(static_cast<uint16_t>(level));
    }
    format_.vocabulary = next;
    format_.unit = "token";
  }

  std::string_view name() const override { return "codec"; }
  const SequenceFormat& format() const override { return format_; }
  std::string tokenizer() const override { return tokenizer_; }

  std::vector<TokenSequence> encode(const SourceFile& file) const override {
    const NpyArray array = NpyArray::parse(file.bytes, file.path);
    const int64_t levels = static_cast<int64_t>(codes_.size());
    const size_t level_axis = levels_first_ ? 0 : 1;
    if (array.shape().size() != 2 || array.shape()[level_axis] != levels)
      throw_user("{}: shape [{}]; expected two dimensions, {} of {} levels", file.path,
                 fmt::join(array.shape(), ", "), levels_first_ ? "the first" : "the second", levels);
    if (array.elements() > max_file_codes)
      throw_user("{}: {} codes; at most {} are read", file.path, array.elements(), max_file_codes);
    const int64_t frames = array.elements() / levels;
    TokenSequence document;
    document.units = array.elements();
    document.ids.reserve(static_cast<size_t>(array.elements()));
    for (int64_t frame = 0; frame < frames; ++frame)
      for (int64_t level = 0; level < levels; ++level)
        document.ids.push_back(
            id_of(array, levels_first_ ? level * frames + frame : frame * levels + level, level, file.path));
    std::vector<TokenSequence> documents;
    documents.push_back(std::move(document));
    return documents;
  }
  int64_t estimate_tokens(int64_t file_bytes) const override { return file_bytes / 2; }

  Prompt prompt(const SourceFile& file, const PromptPart& options) const override {
    const auto levels = static_cast<int64_t>(codes_.size());
    PromptPart in_tokens = options;
    if (options.seconds > 0)
      in_tokens.tokens = std::max<int64_t>(1, std::llround(options.seconds * frame_rate_)) * levels;
    in_tokens.seconds = 0;
    in_tokens.tokens = in_tokens.tokens / levels * levels;  // whole frames
    if (options.tokens > 0 && in_tokens.tokens == 0)
      throw_user("a prompt of {} tokens is shorter than a frame of {} levels", options.tokens, levels);
    return Modality::prompt(file, in_tokens);
  }

  std::vector<std::string_view> outputs() const override { return {".npy"}; }

  /// Skips ids of a level other than the expected one, and drops an incomplete last frame.
  std::string decode(const TokenSequence& sequence, std::string_view ending) const override {
    if (ending != ".npy") throw_user("codes are written as .npy, not as '{}'", ending);
    const auto levels = static_cast<int64_t>(codes_.size());
    const std::vector<int32_t> codes = codes_of(sequence);
    const int64_t frames = static_cast<int64_t>(codes.size()) / levels;
    if (!levels_first_) return write_npy(codes, {frames, levels});
    std::vector<int32_t> transposed(codes.size());
    for (int64_t i = 0; i < frames * levels; ++i)
      transposed[static_cast<size_t>(i % levels * frames + i / levels)] = codes[static_cast<size_t>(i)];
    return write_npy(transposed, {levels, frames});
  }

  std::string compare(const SourceFile& file) const override {
    const TokenSequence document = encode(file).front();
    const std::string back = decode(document, ".npy");
    const std::span<const std::byte> bytes = std::as_bytes(std::span(back));
    const bool same = encode({file.path, bytes}).front().ids == document.ids;
    return fmt::format("{} frames of {} levels; decoded: {}\n", document.ids.size() / codes_.size(),
                       codes_.size(), same ? "the same codes" : "other codes");
  }

  /// Skips and drops as `decode` does.
  Content decode_value(const TokenSequence& sequence) const override {
    return Codes{static_cast<int64_t>(codes_.size()), codes_of(sequence)};
  }
  void add_info(TokenizerInfo& info) const override {
    info.codes = codes_;
    info.frame_rate = frame_rate_;
  }

 private:
  bool encode_content(const Content& content, TokenSequence& out) const override {
    const auto* codes = std::get_if<Codes>(&content);
    if (codes == nullptr) return false;
    const size_t levels = codes_.size();
    if (codes->levels != static_cast<int64_t>(levels) || codes->values.size() % levels != 0)
      throw_user("{} codes of {} levels; expected frames of {} levels", codes->values.size(), codes->levels,
                 levels);
    for (size_t i = 0; i < codes->values.size(); ++i) {
      const size_t level = i % levels;
      if (codes->values[i] < 0 || codes->values[i] >= codes_[level])
        throw_user("frame {}: code {} of level {} is outside 0 to {}", i / levels, codes->values[i], level,
                   codes_[level] - 1);
      out.ids.push_back(first_ids_[level] + codes->values[i]);
    }
    out.units = static_cast<int64_t>(out.ids.size());
    return true;
  }

  /// [frames, levels]
  std::vector<int32_t> codes_of(const TokenSequence& sequence) const {
    std::vector<int32_t> codes;
    for (const int32_t id : sequence.ids) {
      if (id < 0 || id >= format_.vocabulary)
        throw_user("token id {} is outside the vocabulary of {}", id, format_.vocabulary);
      const size_t level = codes.size() % codes_.size();
      const int64_t code = static_cast<int64_t>(id) - first_ids_[level];
      if (code >= 0 && code < codes_[level]) codes.push_back(static_cast<int32_t>(code));
    }
    codes.resize(codes.size() / codes_.size() * codes_.size());
    return codes;
  }

  int32_t id_of(const NpyArray& array, int64_t index, int64_t level, const std::string& path) const {
    const int64_t code = array.at(index);
    if (code < 0 || code >= codes_[static_cast<size_t>(level)])
      throw_user("{}: byte {}: code {} of level {} is outside 0 to {}", path, array.offset_of(index), code,
                 level, codes_[static_cast<size_t>(level)] - 1);
    return static_cast<int32_t>(first_ids_[static_cast<size_t>(level)] + code);
  }

  std::vector<int64_t> codes_;  ///< vocabulary of each level
  std::vector<int32_t> first_ids_;
  bool levels_first_;
  double frame_rate_;
  std::string tokenizer_;
  SequenceFormat format_;
};

std::unique_ptr<Modality> open_codec(const ModalityOptions& options) {
  const int64_t levels = options.integer("levels", 1, max_levels);
  std::vector<int64_t> codes = options.integers("codes", max_levels, 1, max_codes);
  if (codes.size() == 1) codes.assign(static_cast<size_t>(levels), codes[0]);
  if (codes.size() != static_cast<size_t>(levels))
    throw_user("data.options.codes: {} numbers for {} levels; give one for all levels, or one per level",
               codes.size(), levels);
  return std::make_unique<CodecModality>(
      std::move(codes), options.word("layout", {"frames_levels", "levels_frames"}) == 1,
      options.real("frame_rate", 0.001, max_frame_rate),
      pack_tokenizer("codec", options.values(ModalityOption::Use::tokens)));
}

std::unique_ptr<Modality> restore_codec(std::string_view tokenizer, const ModalityOptions& options) {
  return open_codec(ModalityOptions(options.kind(), unpack_tokenizer("codec", tokenizer)));
}

}  // namespace

const ModalityKind& codec_modality() {
  static const ModalityKind kind{
      .name = "codec",
      .doc = "Codes of a neural audio codec, .npy arrays [frames, levels]; every level has its own ids.",
      .endings = {".npy"},
      .companions = {},
      .max_file_bytes = int64_t{4} << 30,
      .options = {{"levels", "8", "Levels per frame, 1 to 64."},
                  {"codes", "1024",
                   "Codes per level: one number for all levels, or one per level, such as 1024,512."},
                  {"layout", "frames_levels", "frames_levels (SoundStream) or levels_frames (EnCodec)."},
                  {"frame_rate", "75", "Frames per second, for prompts measured in seconds."}},
      .open = open_codec,
      .restore = restore_codec,
  };
  return kind;
}

}  // namespace perceiver
