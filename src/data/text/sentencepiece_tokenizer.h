// SentencePiece models (Kudo and Richardson 2018), using the authors' library.
#pragma once

#include <functional>
#include <memory>

#include "data/text/tokenizer.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace perceiver {

/// Piece p of the model is id p + 3; 0 PAD, 1 EOS and 2 SOS belong to this library. The model's own control
/// pieces keep their ids, are never produced and decode to nothing; "unknown" decodes to " ⁇ ".
class SentencePieceTokenizer final : public TextTokenizer {
 public:
  static constexpr std::string_view kind = "sentencepiece";
  static constexpr size_t max_model_bytes = size_t{48} << 20;

  /// `serialized` is `kind`, a line feed and the model file in base64.
  static std::unique_ptr<TextTokenizer> make(std::string_view serialized);
  /// A model file's content; `source` names it in errors.
  static std::unique_ptr<TextTokenizer> from_model(std::string model, const std::string& source);
  ~SentencePieceTokenizer() override;

  int64_t vocabulary() const override { return static_cast<int64_t>(surfaces_.size()) + special_tokens; }
  std::string name() const override { return std::string(kind); }
  std::string serialized() const override;
  /// Throws `user` with the byte offset if the text is not UTF-8.
  std::vector<int32_t> encode(std::string_view text) const override;
  /// Decodes every id by itself, which allows text to be shown as it grows. The space that some models put
  /// before the first word is therefore kept.
  std::string decode(std::span<const int32_t> ids) const override;

 private:
  SentencePieceTokenizer() = default;

  std::string model_;
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  std::vector<std::string> surfaces_;  ///< the bytes of each piece
};

struct SentencePieceTraining {
  int64_t pieces = 8000;  ///< size of the vocabulary, including 256 single-byte pieces
  bool unigram = true;    ///< unigram language model, else byte-pair encoding
  double character_coverage = 0.9995;
  int threads = 2;
};

/// Trains a model on the lines that `next` provides until it returns false, and returns the content of the
/// model file. Encoding is lossless: no normalization, white space is kept, rare characters become bytes.
/// Throws `user` if the text is too small for so many pieces. The SentencePiece library prints only failures
/// to stderr.
std::string train_sentencepiece(const std::function<bool(std::string& line)>& next,
                                const SentencePieceTraining& training);

}  // namespace perceiver
