// One kind of data: its files as token ids and back, and what the ids mean. A new kind is one file that
// defines a `ModalityKind`, and one line in config/modalities.inc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "data/sampling_mask.h"

namespace perceiver {

struct ModalityKind;

// ---- options ----------------------------------------------------------------------------------------------

/// `data.options.<name>` in YAML, `--<name>` of `perceiver data build`.
struct ModalityOption {
  /// What it changes: the token ids (then it is part of the tokenizer, and shards and models keep it), or
  /// training alone (then it may be chosen anew for shards that exist already).
  enum class Use { tokens, training };
  std::string_view name;           ///< lower_case
  std::string_view default_value;  ///< as one would write it
  std::string_view doc;            ///< meaning, unit and range, one sentence
  Use use = Use::tokens;
};

/// Given options over a kind's defaults. Every getter throws `user` "data.options.size: 'x' is …" for a value
/// that is not what it asks for, and a `failure` for a name that the kind does not declare.
class ModalityOptions {
 public:
  /// Throws `user` for a name that `kind` does not declare, with the nearest that it does.
  ModalityOptions(const ModalityKind& kind, std::map<std::string, std::string> given);

  int64_t integer(std::string_view name, int64_t min, int64_t max) const;
  double real(std::string_view name, double min, double max) const;
  bool flag(std::string_view name) const;  ///< true or false
  /// One of `words`; returns its index.
  size_t word(std::string_view name, std::initializer_list<std::string_view> words) const;
  /// Any text, a path for example; may be empty.
  const std::string& text(std::string_view name) const;

  /// Values of all declared options of that use, defaults included.
  std::map<std::string, std::string> values(ModalityOption::Use use) const;
  const ModalityKind& kind() const { return *kind_; }

 private:
  const ModalityKind* kind_;
  std::map<std::string, std::string, std::less<>> values_;
};

/// A tokenizer as one text: the modality's name, a line feed, the values as a JSON object; and back. The
/// second throws `user` if the text is not of that modality or no such object of at most 64 MiB.
std::string pack_tokenizer(std::string_view modality, const std::map<std::string, std::string>& values);
std::map<std::string, std::string> unpack_tokenizer(std::string_view modality, std::string_view tokenizer);

// ---- sequences --------------------------------------------------------------------------------------------

/// Where a token's positions come from. SOS stands at 1 on every axis (docs/model.md section 1).
enum class PositionKind {
  counted,  ///< one axis, counted from 1 at the start of the model's row
  shared,   ///< one table for all sequences, by index in the sequence
  stored,   ///< each sequence brings its own
};

/// What all sequences of an opened modality have in common.
struct SequenceFormat {
  int64_t vocabulary = 0;  ///< V, special ids 0 PAD, 1 EOS, 2 SOS included
  std::string unit;  ///< what bits are counted per, singular: "byte", "dimension", "event", "sample", "token"
  PositionKind positions = PositionKind::counted;
  int64_t axes = 1;  ///< A
  std::vector<int64_t>
      position_sizes;  ///< [A] rows that each axis' table needs (largest position + 1); empty if counted
  std::vector<int32_t> shared_positions;  ///< [L, A] of tokens 0 … L − 1, SOS being token 0; only if shared
  bool ends = true;                       ///< documents end with EOS
  int64_t fixed_length = 0;  ///< data tokens of every document, SOS and EOS not counted; 0 if they differ
  SamplingMask mask;         ///< ids that may stand at each data token
};

/// The data tokens of one document (or of what was generated), without SOS and EOS.
struct TokenSequence {
  std::vector<int32_t> ids;        ///< [n], each 3 … V − 1
  std::vector<int32_t> positions;  ///< [n, A], each ≥ 1; empty unless the sequence's positions are its own
  int64_t units = 0;               ///< what bits per unit divides by
  int64_t words = 0;               ///< of text, separated by white space; 0 elsewhere
};

/// A file to be read. The bytes come from anywhere.
struct SourceFile {
  std::string path;                  ///< for messages, and to find files that belong to it
  std::span<const std::byte> bytes;  ///< the whole content
};

// ---- prompts ----------------------------------------------------------------------------------------------

/// How much of a file is to be continued; 0 = not limited by this. At most one is set, the others being
/// refused by a modality that has no use for them.
struct PromptOptions {
  double seconds = 0;
  int64_t rows = 0;  ///< of a picture
  int64_t tokens = 0;
  std::string known;  ///< picture: a PNG mask of the file's size, white where the picture is known
};

/// The beginning of a sequence that is to be continued.
struct Prompt {
  TokenSequence beginning;
  /// [L, A] of SOS and all tokens to come where they differ from the modality's, e.g. known pixels first, or
  /// are the sequence's own; else empty.
  std::vector<int32_t> positions;
  /// The mask that goes with `positions`; empty with them.
  SamplingMask mask;
  int64_t length = 0;  ///< data tokens of the whole, `beginning` included, if that is known; else 0
};

// ---- the interface ----------------------------------------------------------------------------------------

/// A modality with its options chosen. All members are const and thread-safe.
class Modality {
 public:
  virtual ~Modality() = default;

  virtual const SequenceFormat& format() const = 0;
  /// All that `ModalityKind::restore` needs to make the same tokens and to write files: kept in shards and in
  /// model files, so that these are enough by themselves. UTF-8, `pack_tokenizer` as a rule. Whatever an
  /// option names (a permutation, a vocabulary) is in it, not the name.
  virtual std::string tokenizer() const = 0;

  /// The documents of a file, one as a rule. Throws `user` with "<path>: byte <offset>: what is wrong" (or as
  /// near to it as the format allows) for a file that is damaged, too large or not of this kind: callers skip
  /// it and go on. Nothing is allocated on the word of the file alone.
  virtual std::vector<TokenSequence> encode(const SourceFile& file) const = 0;
  /// About how many data tokens a file of that size has; decides which files share a shard.
  virtual int64_t estimate_tokens(int64_t file_bytes) const {
    return format().fixed_length > 0 ? format().fixed_length : file_bytes;
  }

  /// True if training crops are to be varied by `augment`.
  virtual bool augments() const { return false; }
  /// Varies a crop of a training document: data ids in a row, SOS first and EOS last where the crop includes
  /// them. Their number may change. Only for counted positions.
  virtual void augment(std::vector<int32_t>&, RandomStream&) const {}

  /// What `options` leave of a file, to be continued. The default knows `tokens` alone.
  virtual Prompt prompt(const SourceFile& file, const PromptOptions& options) const;

  /// Endings of the files that `decode` writes, with the dot; the usual one first.
  virtual std::vector<std::string_view> outputs() const = 0;
  /// The bytes of a file of that ending. Takes whatever a model may have generated: ids in 0 … V − 1 in any
  /// order, special ones standing for nothing, the sequence cut short; `positions` as in `Prompt` if the
  /// sequence was made with its own. Throws `user` for an id outside the vocabulary or another ending.
  virtual std::string decode(const TokenSequence& sequence, std::string_view ending) const = 0;
  /// Several sequences as one file (pictures as a grid), or an empty string where there is no such thing.
  virtual std::string decode_together(std::span<const TokenSequence>, std::string_view) const { return {}; }

  /// What is lost on the way through tokens and back, in some lines for a person. The default counts tokens
  /// and compares the file's bytes with those of its decoding.
  virtual std::string compare(const SourceFile& file) const;
};

/// A kind of data, as the table lists it.
struct ModalityKind {
  std::string_view name;
  std::string_view doc;                   ///< one line: files and tokens
  std::vector<std::string_view> endings;  ///< of its files, lower case with the dot; {} = any file
  std::vector<std::string_view>
      companions;              ///< endings of files that belong to others and are none themselves
  int64_t max_file_bytes = 0;  ///< larger files are skipped unread
  std::vector<ModalityOption> options;
  std::unique_ptr<Modality> (*open)(const ModalityOptions& options) = nullptr;
  /// From `Modality::tokenizer()`, which comes from a file and is not to be trusted; of `options` those for
  /// training count.
  std::unique_ptr<Modality> (*restore)(std::string_view tokenizer, const ModalityOptions& options) = nullptr;

  /// Whether a file of that name is one of this kind (letter case of the ending is ignored).
  bool takes(std::string_view file_name) const;
};

/// All kinds, in the order of config/modalities.inc.
std::span<const ModalityKind* const> modality_kinds();
/// Throws `user` for an unknown name.
const ModalityKind& find_modality(std::string_view name);

std::unique_ptr<Modality> open_modality(std::string_view name, std::map<std::string, std::string> options);
/// The modality of a shard or model file. `options`: those for training; one that changes tokens must agree
/// with the tokenizer's packed values, else a `user` error.
std::unique_ptr<Modality> restore_modality(std::string_view name, std::string_view tokenizer,
                                           std::map<std::string, std::string> options = {});

}  // namespace perceiver
