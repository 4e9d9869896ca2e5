// A kind of data: converts its files to token ids and back, and defines what the ids mean. A new kind is one
// file that defines a `ModalityKind`, and one line in config/modalities.inc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/modality_options.h"
#include "data/sampling_mask.h"
#include "data/source_file.h"
#include "perceiver/experimental/random.h"
#include "perceiver/media.h"
#include "perceiver/tokenizer.h"

namespace perceiver {

// ---- sequences --------------------------------------------------------------------------------------------

/// Where a token's positions come from. SOS is at position 1 on every axis (docs/model.md section 1).
enum class PositionKind {
  counted,  ///< one axis, counting from 1 at the start of the model's row
  shared,   ///< one table for all sequences, by index in the sequence
  stored,   ///< each sequence has its own
};

/// What all sequences of an opened modality have in common.
struct SequenceFormat {
  int64_t vocabulary = 0;  ///< V, including the special ids 0 PAD, 1 EOS, 2 SOS
  std::string
      unit;  ///< the unit of "bits per unit", singular: "byte", "dimension", "event", "sample", "token"
  PositionKind positions = PositionKind::counted;
  int64_t axes = 1;  ///< A
  /// [A] rows that each axis' table needs (largest position + 1); empty if counted.
  std::vector<int64_t> position_sizes;
  std::vector<int32_t> shared_positions;  ///< [L, A] of tokens 0 … L − 1, token 0 being SOS; only if shared
  bool ends = true;                       ///< documents end with EOS
  int64_t fixed_length = 0;  ///< data tokens of every document, without SOS and EOS; 0 if they vary
  SamplingMask mask;         ///< the ids allowed at each data token
};

// ---- prompts ----------------------------------------------------------------------------------------------

/// The start of a sequence to be continued.
struct Prompt {
  TokenSequence beginning;
  /// [L, A] of SOS and all tokens to come, if they are not the modality's shared ones: known pixels come
  /// first, for example, or the sequence has its own. Otherwise empty.
  std::vector<int32_t> positions;
  /// The mask that goes with `positions`; empty if they are.
  SamplingMask mask;
  int64_t length = 0;  ///< data tokens of the whole sequence including `beginning`, if known; else 0
};

// ---- the interface ----------------------------------------------------------------------------------------

/// A modality with its options chosen. All members are const and thread-safe.
class Modality {
 public:
  virtual ~Modality() = default;

  /// Its kind's name, e.g. "text".
  virtual std::string_view name() const = 0;
  virtual const SequenceFormat& format() const = 0;
  /// Everything `ModalityKind::restore` needs to make the same tokens and to write files. Shards and model
  /// files store it, which makes them self-contained: if an option names a file (a permutation, a
  /// vocabulary), its content is included, not its name. UTF-8, usually from `pack_tokenizer`.
  virtual std::string tokenizer() const = 0;

  /// The documents of a file, usually one. Throws `user` with "<path>: byte <offset>: what is wrong" (or as
  /// close to that as the format allows) for a file that is damaged, too large or of another kind: callers
  /// skip it and continue. Never allocates memory just because the file claims a size.
  virtual std::vector<TokenSequence> encode(const SourceFile& file) const = 0;
  /// Roughly how many data tokens a file of that size has; decides which files share a shard.
  virtual int64_t estimate_tokens(int64_t file_bytes) const {
    return format().fixed_length > 0 ? format().fixed_length : file_bytes;
  }

  /// True if training crops should go through `augment`.
  virtual bool augments() const { return false; }
  /// Augments a crop of a training document: consecutive data ids, with SOS first and EOS last if the crop
  /// includes them. Their number may change. Only for counted positions.
  virtual void augment(std::vector<int32_t>&, RandomStream&) const {}
  /// For `Dataset::mirror`; only where all documents have `fixed_length`, without EOS.
  virtual std::span<const int32_t> mirror() const { return {}; }

  /// The data tokens of a value in memory, which is of this modality's type (as decode_value returns) or a
  /// TokenSequence of its own. Throws `user` for anything else, and for values out of range.
  TokenSequence encode_value(const Content& content) const;
  /// The value that ids stand for; accepts what `decode` accepts.
  virtual Content decode_value(const TokenSequence& sequence) const = 0;
  /// Sets what is particular to the modality.
  virtual void add_info(TokenizerInfo&) const {}

  /// The part of a file that `options` select as a prompt. The default only supports `tokens`.
  virtual Prompt prompt(const SourceFile& file, const PromptPart& options) const;
  /// The start of an image of which some pixels are known: `known` [height, width] of `image`, 0 = to be
  /// generated. Throws `user` for other modalities.
  virtual Prompt complete(const Image& image, const std::vector<uint8_t>& known) const;

  /// Extensions of the files that `decode` writes, with the dot; the default one first.
  virtual std::vector<std::string_view> outputs() const = 0;
  /// The bytes of a file with that extension. Accepts anything a model may have generated: ids in 0 … V − 1
  /// in any order (special ids are ignored), sequences cut short; `positions` as in `Prompt` if the sequence
  /// was generated with its own. Throws `user` for an id outside the vocabulary or another extension.
  virtual std::string decode(const TokenSequence& sequence, std::string_view ending) const = 0;
  /// Several sequences as one file (images as a grid); an empty string if the modality cannot.
  virtual std::string decode_together(std::span<const TokenSequence>, std::string_view) const { return {}; }

  /// A readable report of what encoding and decoding lose. The default counts tokens and compares the decoded
  /// bytes with the file's.
  virtual std::string compare(const SourceFile& file) const;

 protected:
  /// encode_value for contents other than a TokenSequence; false if it is not of this modality's type.
  virtual bool encode_content(const Content& content, TokenSequence& out) const = 0;
};

/// A kind of data, as listed in the table.
struct ModalityKind {
  std::string_view name;
  std::string_view doc;                   ///< one line: files and tokens
  std::vector<std::string_view> endings;  ///< extensions of its files, lower case with the dot; {} = any file
  std::vector<std::string_view> companions;  ///< endings of files that accompany a data file and are not data
  /// Endings of related formats that cannot be read; such files are taken all the same, so that `encode` can
  /// say what they are and how to convert them.
  std::vector<std::string_view> unreadable = {};
  int64_t max_file_bytes = 0;  ///< larger files are skipped unread
  std::vector<ModalityOption> options;
  std::unique_ptr<Modality> (*open)(const ModalityOptions& options) = nullptr;
  /// From `Modality::tokenizer()`, which comes from a file and is not trusted; only training options are
  /// used.
  std::unique_ptr<Modality> (*restore)(std::string_view tokenizer, const ModalityOptions& options) = nullptr;

  /// Whether a file of that name is to be handed to `encode`, ignoring the case of its ending.
  bool takes(std::string_view file_name) const;
  /// Whether a file of that name accompanies a data file.
  bool accompanies(std::string_view file_name) const;
};

/// All kinds, in the order of config/modalities.inc.
std::span<const ModalityKind* const> modality_kinds();
/// Throws `user` for an unknown name.
const ModalityKind& find_modality(std::string_view name);

std::unique_ptr<Modality> open_modality(std::string_view name, std::map<std::string, std::string> options);
/// The modality of a shard or model file. `options` are for training; one that affects tokens must agree with
/// the values packed in the tokenizer, else a `user` error.
std::unique_ptr<Modality> restore_modality(std::string_view name, std::string_view tokenizer,
                                           std::map<std::string, std::string> options = {});

}  // namespace perceiver
