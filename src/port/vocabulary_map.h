// Token ids of this library and of another implementation. Ours start with PAD, EOS and SOS
// (perceiver/special_tokens.h), which theirs have elsewhere or not at all.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace perceiver {

struct VocabularyMap {
  std::string modality;         ///< as restore_modality reads it
  std::string tokenizer;        ///< likewise
  std::vector<int64_t> theirs;  ///< [V] their id of each of ours, or -1 where they have none
  int64_t size = 0;             ///< their number of ids

  int64_t ours() const { return static_cast<int64_t>(theirs.size()); }
  /// [their ids] our id, or -1.
  std::vector<int64_t> inverse() const;
  /// Whether some id of ours does not exist there.
  bool lacks_ids() const;
  /// The rows of a table of `rows` rows, one for each of our ids; `missing` for ids that they do not have.
  std::vector<int64_t> rows(int64_t missing) const;
};

/// UTF-8 bytes as Perceiver IO numbers them: PAD 0, BOS 1, EOS 2, MASK 3, CLS 4, SEP 5, byte b is b + 6.
/// MASK, CLS and SEP become ids 259 to 261, which stand for nothing here. `ours` is at least 259.
VocabularyMap perceiver_io_bytes(int64_t ours = 262);
/// Byte b is id b, and there is nothing else.
VocabularyMap plain_bytes();
/// The 388 events of piano music in the order of music_tokens.h, then PAD.
VocabularyMap piano_events();
/// Their `size` ids are data, without PAD, EOS and SOS.
VocabularyMap plain_tokens(int64_t size);
/// Ids as here, `size` of them.
VocabularyMap same_ids(std::string modality, std::string tokenizer, int64_t size);

}  // namespace perceiver
