// Turns text, images, music and sound into token ids and back, as a model of that data does.
//
//   auto tokenizer = perceiver::Tokenizer::open("image", {{"size", "32"}});
//   perceiver::TokenSequence tokens = tokenizer.encode(picture);        // an Image in memory
//   auto same = std::get<perceiver::Image>(tokenizer.decode(tokens));
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "perceiver/export.h"
#include "perceiver/media.h"
#include "perceiver/special_tokens.h"

namespace perceiver {

/// What ids mean. Members that a modality has no use for keep their default.
struct TokenizerInfo {
  std::string modality;    ///< "text", "image", "music", "audio", "codec", "tokens" or "copy"
  std::string name;        ///< text: "bytes" or "sentencepiece"; otherwise the modality
  int64_t vocabulary = 0;  ///< V, with the special ids
  std::string unit;        ///< of "bits per unit": "byte", "dimension", "event", "sample", "token"
  int64_t axes = 1;        ///< positions of a token
  std::vector<int64_t> position_sizes;  ///< [axes] rows that position tables need; empty: they count from 1
  int64_t fixed_length = 0;             ///< data tokens of every document; 0 if they vary
  bool ends = true;                     ///< documents end with EOS
  int64_t width = 0, height = 0, channels = 0;  ///< image: pixels
  int sample_rate = 0;                          ///< audio: samples per second
  std::vector<int64_t> codes;                   ///< codec: codes of each level
  double frame_rate = 0;                        ///< codec: frames per second
  std::vector<std::string> reads;               ///< endings of the files it encodes, with the dot; empty: any
  std::vector<std::string> writes;              ///< endings of the files it decodes to, the default one first
};

/// How much of a file is the prompt; all of it if nothing is set. At most one may be set.
struct PromptPart {
  double seconds = 0;      ///< music, audio, codec
  int64_t rows = 0;        ///< images: from the top
  int64_t tokens = 0;      ///< data tokens
  std::string known = {};  ///< images: path of a PNG of the file's size, white where the image is known
};

/// The start of a sequence to be generated.
struct TokenPrompt {
  std::vector<int32_t> tokens = {};  ///< SOS (2) first
  /// For models with position tables: the positions of the prompt and of the tokens to come, [any number,
  /// axes]; the elements of an image can thus be given and generated in any order. The sequence ends at the
  /// last position. Empty: 1, 2, …
  std::vector<int32_t> positions = {};
  /// What the data allow, as GenerateOptions::logit_masks: new token t uses row t % (number of rows). Empty:
  /// anything.
  std::vector<std::vector<float>> masks = {};
  int64_t remaining = 0;  ///< new tokens until a sequence of known length is complete; 0: unknown
  bool may_end = true;    ///< whether EOS may end the sequence before
};

/// A modality with its options. Copies share everything; all members may be called from any thread. Members
/// throw perceiver::Error of kind `user` for files and values that are damaged or of another kind.
class PERCEIVER_API Tokenizer {
 public:
  /// `options` are those of `data.options` in a configuration (`perceiver config --explain data`): {"size",
  /// "32"} of images, {"tokenizer", "words.model"} of text …
  static Tokenizer open(const std::string& modality, const std::map<std::string, std::string>& options = {});
  /// From `serialized()` of a tokenizer of that modality.
  static Tokenizer restore(const std::string& modality, const std::string& serialized);

  const TokenizerInfo& info() const;
  /// All that `restore` needs; model files hold it.
  const std::string& serialized() const;

  /// The tokens of a text, an image (of any size: cropped and resized as files are), notes (in any order), a
  /// sound (resampled), codes, or of ids, which are only checked.
  TokenSequence encode(const Content& content) const;
  /// The documents of a file, usually one.
  std::vector<TokenSequence> encode_file(const std::string& path) const;
  /// The same for the bytes of a file; `name` is for messages.
  std::vector<TokenSequence> encode_bytes(std::string_view bytes, const std::string& name) const;

  /// What the tokens stand for, of the modality's type; of "tokens" and "copy" a TokenSequence. Takes
  /// whatever a model may generate: special ids are ignored, sequences may be cut short.
  Content decode(const TokenSequence& sequence) const;
  /// The bytes of a file with that ending, one of info().writes.
  std::string decode_bytes(const TokenSequence& sequence, const std::string& ending) const;
  /// Writes one file, or several: images as one grid, others as NAME-1.mid, NAME-2.mid … The ending of `path`
  /// selects the format; each file appears whole or not at all. Returns the paths.
  std::vector<std::string> write(const std::vector<TokenSequence>& sequences, const std::string& path) const;

  /// A sequence from its start, or the continuation of `beginning`.
  TokenPrompt prompt(const Content& beginning = TokenSequence{}) const;
  /// The continuation of (a part of) a file.
  TokenPrompt prompt_file(const std::string& path, const PromptPart& part = {}) const;
  /// Completes an image: `known` [height, width] of `image`, 0 where pixels are to be generated. The known
  /// pixels come first, whatever their places.
  TokenPrompt complete(const Image& image, const std::vector<uint8_t>& known) const;

 private:
  friend class Model;
  struct State;
  explicit Tokenizer(std::shared_ptr<const State> state);
  std::shared_ptr<const State> state_;
};

}  // namespace perceiver
