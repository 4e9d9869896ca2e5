// What of a growing sequence can be shown already.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <tuple>

#include "perceiver/tokenizer.h"

namespace perceiver::serve {

/// Notes once they have ended, samples and ids as they are added, of a picture all of it.
class Growth {
 public:
  /// `beginning` is not shown.
  Growth(const Tokenizer& tokenizer, const TokenSequence& beginning);

  /// The members of JSON that are new in the sequence; `whole` if nothing will follow. Null if nothing is
  /// new.
  nlohmann::ordered_json show(const TokenSequence& sequence, bool whole);

 private:
  nlohmann::ordered_json show_notes(const Notes& notes, bool whole);

  const Tokenizer tokenizer_;
  std::set<std::tuple<int64_t, int64_t, int32_t>> notes_;  ///< onset, offset and pitch of those shown
  size_t shown_ = 0;                                       ///< samples, values, ids or bytes
};

}  // namespace perceiver::serve
