// Text: UTF-8 bytes, or the pieces of a SentencePiece model.
#include <cstring>

#include "base/check.h"
#include "data/modality.h"
#include "data/text/byte_tokenizer.h"
#include "data/text/sentencepiece_tokenizer.h"
#include "data/text/word_counter.h"
#include "io/atomic_file.h"

namespace perceiver {
namespace {

class TextModality final : public Modality {
 public:
  explicit TextModality(std::unique_ptr<Tokenizer> tokenizer) : tokenizer_(std::move(tokenizer)) {
    format_.vocabulary = tokenizer_->vocabulary();
    format_.unit = "byte";
  }

  const SequenceFormat& format() const override { return format_; }
  std::string tokenizer() const override { return tokenizer_->serialized(); }

  std::vector<TokenSequence> encode(const SourceFile& file) const override {
    const std::string_view text(reinterpret_cast<const char*>(file.bytes.data()), file.bytes.size());
    TokenSequence document;
    try {
      document.ids = tokenizer_->encode(text);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::user) throw;
      throw_user("{}: {}", file.path, error.what());
    }
    WordCounter counter;
    counter.add(text);
    document.words = counter.words();
    document.units = static_cast<int64_t>(text.size());
    std::vector<TokenSequence> documents;
    documents.push_back(std::move(document));
    return documents;
  }

  std::vector<std::string_view> outputs() const override { return {".txt"}; }
  std::string decode(const TokenSequence& sequence, std::string_view ending) const override {
    if (ending != ".txt") throw_user("text is written as .txt, not as '{}'", ending);
    return tokenizer_->decode(sequence.ids);
  }

 private:
  std::unique_ptr<Tokenizer> tokenizer_;
  SequenceFormat format_;
};

std::unique_ptr<Modality> open_text(const ModalityOptions& options) {
  const std::string& name = options.text("tokenizer");
  if (name == ByteTokenizer::kind) return std::make_unique<TextModality>(make_tokenizer(ByteTokenizer::kind));
  return std::make_unique<TextModality>(
      SentencePieceTokenizer::from_model(read_file(name, SentencePieceTokenizer::max_model_bytes), name));
}

std::unique_ptr<Modality> restore_text(std::string_view tokenizer, const ModalityOptions&) {
  return std::make_unique<TextModality>(make_tokenizer(tokenizer));
}

}  // namespace

const ModalityKind& text_modality() {
  static const ModalityKind kind{
      .name = "text",
      .doc = "Files of UTF-8 text, one document each; bits per byte and word perplexity.",
      .endings = {},
      .companions = {},
      .max_file_bytes = int64_t{1} << 30,
      .options =
          {{"tokenizer", "bytes",
            "bytes (259 ids), or the path of a SentencePiece model (perceiver data tokenizer trains one)."}},
      .open = open_text,
      .restore = restore_text,
  };
  return kind;
}

}  // namespace perceiver
