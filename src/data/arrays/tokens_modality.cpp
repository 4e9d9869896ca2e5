// Arbitrary integer sequences with arbitrary positions.
#include <algorithm>

#include "base/check.h"
#include "base/plural.h"
#include "data/arrays/npy.h"
#include "data/modality.h"
#include "io/file_view.h"
#include "perceiver/special_tokens.h"

namespace perceiver {
namespace {

constexpr int64_t max_values = int64_t{1} << 28;
constexpr size_t max_axes = 16;
constexpr int64_t max_file_values = int64_t{1} << 28;  ///< of one file
constexpr std::string_view positions_ending = ".positions.npy";

class TokensModality final : public Modality {
 public:
  TokensModality(int64_t values, std::vector<int64_t> position_values, bool ends, std::string tokenizer)
      : values_(values), position_values_(std::move(position_values)), tokenizer_(std::move(tokenizer)) {
    format_.vocabulary = values_ + special_tokens;
    format_.unit = "token";
    format_.ends = ends;
    if (position_values_.empty()) return;
    format_.positions = PositionKind::stored;
    format_.axes = static_cast<int64_t>(position_values_.size());
    for (const int64_t count : position_values_) format_.position_sizes.push_back(count + 2);
  }

  std::string_view name() const override { return "tokens"; }
  const SequenceFormat& format() const override { return format_; }
  std::string tokenizer() const override { return tokenizer_; }

  std::vector<TokenSequence> encode(const SourceFile& file) const override {
    const NpyArray array = NpyArray::parse(file.bytes, file.path);
    if (array.shape().size() != 1)
      throw_user("{}: {} dimensions; expected one", file.path, array.shape().size());
    if (array.elements() > max_file_values)
      throw_user("{}: {} values; at most {} are read", file.path, array.elements(), max_file_values);
    TokenSequence document;
    document.units = array.elements();
    document.ids.reserve(static_cast<size_t>(array.elements()));
    for (int64_t i = 0; i < array.elements(); ++i) {
      const int64_t value = array.at(i);
      if (value < 0 || value >= values_)
        throw_user("{}: byte {}: value {} is outside 0 to {}; set the option values", file.path,
                   array.offset_of(i), value, values_ - 1);
      document.ids.push_back(static_cast<int32_t>(value + special_tokens));
    }
    if (!position_values_.empty()) document.positions = read_positions(file.path, array.elements());
    std::vector<TokenSequence> documents;
    documents.push_back(std::move(document));
    return documents;
  }
  int64_t estimate_tokens(int64_t file_bytes) const override { return file_bytes / 2; }

  std::vector<std::string_view> outputs() const override { return {".npy"}; }
  std::string decode(const TokenSequence& sequence, std::string_view ending) const override {
    if (ending != ".npy") throw_user("tokens are written as .npy, not as '{}'", ending);
    std::vector<int32_t> values;
    for (const int32_t id : sequence.ids) {
      if (id < 0 || id >= format_.vocabulary)
        throw_user("token id {} is outside the vocabulary of {}", id, format_.vocabulary);
      if (id >= special_tokens) values.push_back(id - special_tokens);
    }
    return write_npy(values, {static_cast<int64_t>(values.size())});
  }

  std::string compare(const SourceFile& file) const override {
    const TokenSequence document = encode(file).front();
    const std::string back = decode(document, ".npy");
    const NpyArray array = NpyArray::parse(std::as_bytes(std::span(back)), "the decoded array");
    bool same = array.elements() == static_cast<int64_t>(document.ids.size());
    for (int64_t i = 0; same && i < array.elements(); ++i)
      same = array.at(i) + special_tokens == document.ids[static_cast<size_t>(i)];
    return fmt::format("{}, {} position {}; decoded: {}\n", counted(document.ids.size(), "value"),
                       position_values_.size(), position_values_.size() == 1 ? "axis" : "axes",
                       same ? "the same values" : "other values");
  }

  Content decode_value(const TokenSequence& sequence) const override {
    TokenSequence data;
    for (size_t i = 0; i < sequence.ids.size(); ++i) {
      const int32_t id = sequence.ids[i];
      if (id < 0 || id >= format_.vocabulary)
        throw_user("token id {} is outside the vocabulary of {}", id, format_.vocabulary);
      if (id < special_tokens) continue;
      data.ids.push_back(id);
      const size_t axes = position_values_.size(), first = i * axes;
      if (first + axes <= sequence.positions.size())
        data.positions.insert(data.positions.end(), sequence.positions.begin() + static_cast<int64_t>(first),
                              sequence.positions.begin() + static_cast<int64_t>(first + axes));
    }
    data.units = static_cast<int64_t>(data.ids.size());
    return data;
  }

 private:
  bool encode_content(const Content&, TokenSequence&) const override { return false; }

  /// [n, A] from the file next to `path`; position p is table row p + 2, because row 1 is SOS.
  std::vector<int32_t> read_positions(const std::string& path, int64_t n) const {
    const std::string beside = path.substr(0, path.rfind('.')) + std::string(positions_ending);
    const FileView content(beside);
    const NpyArray array = NpyArray::parse(content.bytes(), beside);
    const auto axes = static_cast<int64_t>(position_values_.size());
    const bool one_axis = axes == 1 && array.shape() == std::vector<int64_t>{n};
    if (!one_axis && array.shape() != std::vector<int64_t>{n, axes})
      throw_user("{}: shape [{}]; the positions of {} values on {} axes must have shape [{}, {}]", beside,
                 fmt::join(array.shape(), ", "), n, axes, n, axes);
    std::vector<int32_t> positions(static_cast<size_t>(array.elements()));
    for (int64_t i = 0; i < array.elements(); ++i) {
      const int64_t count = position_values_[static_cast<size_t>(i % axes)];
      const int64_t position = array.at(i);
      if (position < 0 || position >= count)
        throw_user("{}: byte {}: position {} on axis {} is outside 0 to {}", beside, array.offset_of(i),
                   position, i % axes, count - 1);
      positions[static_cast<size_t>(i)] = static_cast<int32_t>(position + 2);
    }
    return positions;
  }

  int64_t values_;
  std::vector<int64_t> position_values_;
  std::string tokenizer_;
  SequenceFormat format_;
};

std::unique_ptr<Modality> open_tokens(const ModalityOptions& options) {
  return std::make_unique<TokensModality>(
      options.integer("values", 1, max_values), options.integers("position_values", max_axes, 1, max_values),
      options.flag("ends"), pack_tokenizer("tokens", options.values(ModalityOption::Use::tokens)));
}

std::unique_ptr<Modality> restore_tokens(std::string_view tokenizer, const ModalityOptions& options) {
  return open_tokens(ModalityOptions(options.kind(), unpack_tokenizer("tokens", tokenizer)));
}

}  // namespace

const ModalityKind& tokens_modality() {
  static const ModalityKind kind{
      .name = "tokens",
      .doc = "Integer sequences, one-dimensional .npy arrays, with any number of position axes.",
      .endings = {".npy"},
      .companions = {positions_ending},
      .max_file_bytes = int64_t{4} << 30,
      .options =
          {{"values", "256", "Values are 0 to values - 1; value v is token id v + 3."},
           {"position_values", "",
            "Positions on each axis, such as 32,32,3: NAME.positions.npy beside NAME.npy contains [n, axes], "
            "counting from 0. Empty: positions count along the sequence."},
           {"ends", "true",
            "Whether the end of a sequence is predicted (false for sequences of fixed length)."}},
      .open = open_tokens,
      .restore = restore_tokens,
  };
  return kind;
}

}  // namespace perceiver
