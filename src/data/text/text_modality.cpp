// Text: UTF-8 bytes, or the pieces of a SentencePiece model.
#include <cstring>

#include "base/check.h"
#include "data/modality.h"
#include "data/text/byte_tokenizer.h"
#include "data/text/sentencepiece_tokenizer.h"
#include "data/text/text_check.h"
#include "data/text/word_counter.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"
#include "model/model_file.h"

namespace perceiver {
namespace {

class TextModality final : public Modality {
 public:
  TextModality(std::unique_ptr<TextTokenizer> tokenizer, TextEncoding encoding)
      : tokenizer_(std::move(tokenizer)), encoding_(encoding) {
    format_.vocabulary = tokenizer_->vocabulary();
    format_.unit = "byte";
  }

  std::string_view name() const override { return "text"; }
  const SequenceFormat& format() const override { return format_; }
  std::string tokenizer() const override { return tokenizer_->serialized(); }

  std::vector<TokenSequence> encode(const SourceFile& file) const override {
    try {
      return {document_of(text_of(file))};
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::user || std::string_view(error.what()).starts_with(file.path)) throw;
      throw_user("{}: {}", file.path, error.what());
    }
  }

  std::vector<std::string_view> outputs() const override { return {".txt"}; }
  std::string decode(const TokenSequence& sequence, std::string_view ending) const override {
    if (ending != ".txt") throw_user("text is written as .txt, not as '{}'", ending);
    return tokenizer_->decode(sequence.ids);
  }
  Content decode_value(const TokenSequence& sequence) const override {
    return tokenizer_->decode(sequence.ids);
  }
  void add_info(TokenizerInfo& info) const override { info.name = tokenizer_->name(); }

 private:
  bool encode_content(const Content& content, TokenSequence& out) const override {
    const auto* text = std::get_if<std::string>(&content);
    if (text != nullptr) out = document_of(*text);
    return text != nullptr;
  }

  TokenSequence document_of(std::string_view text) const {
    TokenSequence document;
    document.ids = tokenizer_->encode(text);
    WordCounter counter;
    counter.add(text);
    document.words = counter.words();
    document.units = static_cast<int64_t>(text.size());
    return document;
  }

  std::string_view text_of(const SourceFile& file) const {
    const std::string_view whole(reinterpret_cast<const char*>(file.bytes.data()), file.bytes.size());
    const TextCheck check = check_text(whole, encoding_);
    if (!check.fault.empty()) throw_user("{}: {}", file.path, check.fault);
    for (const std::string& repair : check.repairs) file.repaired(repair);
    return whole.substr(static_cast<size_t>(check.first), static_cast<size_t>(check.last - check.first));
  }

  std::unique_ptr<TextTokenizer> tokenizer_;
  TextEncoding encoding_;
  SequenceFormat format_;
};

/// A SentencePiece model, or that of a trained model.
std::unique_ptr<TextTokenizer> tokenizer_in(const std::string& path) {
  if (!path.ends_with(".safetensors"))
    return SentencePieceTokenizer::from_model(read_file(path, SentencePieceTokenizer::max_model_bytes), path);
  const ModelMetadata metadata = read_metadata(SafetensorsFile::open(path));
  if (metadata.modality != "text")
    throw_user("tokenizer {}: a model of {}, which has none of text", path, metadata.modality);
  return make_tokenizer(metadata.tokenizer);
}

std::unique_ptr<Modality> open_text(const ModalityOptions& options) {
  const std::string& name = options.text("tokenizer");
  const TextEncoding encoding = text_encoding(options);
  if (name == ByteTokenizer::kind)
    return std::make_unique<TextModality>(make_tokenizer(ByteTokenizer::kind), encoding);
  return std::make_unique<TextModality>(tokenizer_in(name), encoding);
}

/// Shards and models have no use for an encoding.
std::unique_ptr<Modality> restore_text(std::string_view tokenizer, const ModalityOptions& options) {
  if (text_encoding(options) == TextEncoding::bytes)
    throw_user("data.options.encoding is for text files; shards are built with --encoding");
  return std::make_unique<TextModality>(make_tokenizer(tokenizer), TextEncoding::utf8);
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
            "bytes (259 ids), or the path of a SentencePiece model (perceiver data tokenizer trains one) or "
            "of a "
            "trained model (.safetensors), whose tokenizer is taken.",
            ModalityOption::Use::tokens, true},
           {"encoding", "utf-8",
            "utf-8, which skips files that are not UTF-8 text, or bytes, which takes the bytes of any file "
            "as "
            "they are."}},
      .open = open_text,
      .restore = restore_text,
  };
  return kind;
}

}  // namespace perceiver
