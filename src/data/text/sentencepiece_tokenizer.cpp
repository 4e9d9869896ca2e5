#include "data/text/sentencepiece_tokenizer.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <charconv>
#include <unordered_map>

#include "base/check.h"
#include "base/text.h"
#include "io/base64.h"

namespace perceiver {
namespace {

constexpr std::string_view space_mark = "\xE2\x96\x81";  // U+2581, how pieces spell a space

/// "<0x41>" to "A".
std::string byte_of(std::string_view piece) {
  unsigned value = 0;
  if (piece.size() == 6) std::from_chars(piece.data() + 3, piece.data() + 5, value, 16);
  return std::string(1, static_cast<char>(value));
}

std::string with_spaces(std::string_view piece) {
  std::string text;
  for (size_t i = 0; i < piece.size();) {
    const bool mark = piece.substr(i).starts_with(space_mark);
    text += mark ? ' ' : piece[i];
    i += mark ? space_mark.size() : 1;
  }
  return text;
}

std::string surface(const sentencepiece::SentencePieceProcessor& processor, int piece) {
  if (processor.IsControl(piece) || processor.IsUnused(piece)) return "";
  if (processor.IsUnknown(piece)) return " \xE2\x81\x87 ";
  if (processor.IsByte(piece)) return byte_of(processor.IdToPiece(piece));
  return with_spaces(processor.IdToPiece(piece));
}

/// Feeds lines to the trainer.
class Lines final : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::function<bool(std::string&)>& next) : next_(next) { Next(); }
  bool done() const override { return done_; }
  void Next() override { done_ = !next_(line_); }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::function<bool(std::string&)>& next_;
  std::string line_;
  bool done_ = false;
};

}  // namespace

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

std::unique_ptr<TextTokenizer> SentencePieceTokenizer::make(std::string_view serialized) {
  const size_t line = serialized.find('\n');
  std::optional<std::string> model;
  if (line != std::string_view::npos) model = from_base64(serialized.substr(line + 1));
  if (!model) throw_user("the tokenizer is named sentencepiece, but no base64 model follows");
  return from_model(std::move(*model), "the sentencepiece model");
}

std::unique_ptr<TextTokenizer> SentencePieceTokenizer::from_model(std::string model,
                                                                  const std::string& source) {
  if (model.size() > max_model_bytes)
    throw_user("{}: has {} bytes; the limit for SentencePiece models is {}", source, model.size(),
               max_model_bytes);
  std::unique_ptr<SentencePieceTokenizer> tokenizer(new SentencePieceTokenizer);
  tokenizer->processor_ = std::make_unique<sentencepiece::SentencePieceProcessor>();
  tokenizer->model_ = std::move(model);
  const auto status = tokenizer->processor_->LoadFromSerializedProto(tokenizer->model_);
  const int pieces = status.ok() ? tokenizer->processor_->GetPieceSize() : 0;
  if (pieces == 0) throw_user("{}: not a SentencePiece model: {}", source, printable(status.ToString()));
  for (int piece = 0; piece < pieces; ++piece)
    tokenizer->surfaces_.push_back(surface(*tokenizer->processor_, piece));
  return tokenizer;
}

std::string SentencePieceTokenizer::serialized() const {
  return fmt::format("{}\n{}", kind, to_base64(model_));
}

std::vector<int32_t> SentencePieceTokenizer::encode(std::string_view text) const {
  if (const size_t good = utf8_prefix(text); good < text.size())
    throw_user("byte {}: not UTF-8, which SentencePiece needs; convert the text, or use tokenizer bytes",
               good);
  std::vector<int> pieces;
  const auto status = processor_->Encode(text, &pieces);
  if (!status.ok()) throw_failure("SentencePiece cannot encode a text: {}", printable(status.ToString()));
  for (int& piece : pieces) piece += special_tokens;
  return pieces;
}

std::string SentencePieceTokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocabulary())
      throw_user("token id {} is outside the vocabulary of {}", id, vocabulary());
    if (id >= special_tokens) text += surfaces_[static_cast<size_t>(id - special_tokens)];
  }
  return text;
}

std::string train_sentencepiece(const std::function<bool(std::string& line)>& next,
                                const SentencePieceTraining& training) {
  Lines lines(next);
  if (lines.done()) throw_user("there is no text to train a tokenizer on");
  const std::unordered_map<std::string, std::string> options = {
      {"vocab_size", std::to_string(training.pieces)},
      {"model_type", training.unigram ? "unigram" : "bpe"},
      {"character_coverage", fmt::format("{}", training.character_coverage)},
      {"num_threads", std::to_string(training.threads)},
      {"byte_fallback", "true"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "false"},
      {"bos_id", "-1"},
      {"eos_id", "-1"},
      {"max_sentence_length", "65536"},
      {"minloglevel", "2"},
  };
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &lines, &model);
  if (!status.ok())
    throw_user("SentencePiece cannot train {} pieces on this text: {}", training.pieces,
               printable(status.ToString()));
  return model;
}

}  // namespace perceiver
