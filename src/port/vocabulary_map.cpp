#include "port/vocabulary_map.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "data/modality.h"
#include "data/music/music_tokens.h"
#include "data/text/byte_tokenizer.h"

namespace perceiver {
namespace {

constexpr int64_t kNone = -1;
constexpr int64_t kBytes = 256;
constexpr int64_t kPerceiverIoPad = 0, kPerceiverIoStart = 1, kPerceiverIoEnd = 2;
constexpr int64_t kPerceiverIoSpecial = 6;  // the first byte; 3 MASK, 4 CLS, 5 SEP

/// PAD, EOS and SOS, then `data` ids that start at `first` there.
std::vector<int64_t> ids(int64_t pad, int64_t eos, int64_t sos, int64_t first, int64_t data) {
  std::vector<int64_t> theirs{pad, eos, sos};
  for (int64_t i = 0; i < data; ++i) theirs.push_back(first + i);
  return theirs;
}

}  // namespace

std::vector<int64_t> VocabularyMap::inverse() const {
  std::vector<int64_t> mine(static_cast<size_t>(size), kNone);
  for (size_t id = 0; id < theirs.size(); ++id)
    if (theirs[id] >= 0) mine.at(static_cast<size_t>(theirs[id])) = static_cast<int64_t>(id);
  return mine;
}

bool VocabularyMap::lacks_ids() const {
  return std::any_of(theirs.begin(), theirs.end(), [](int64_t id) { return id < 0; });
}

std::vector<int64_t> VocabularyMap::rows(int64_t missing) const {
  std::vector<int64_t> rows = theirs;
  std::replace(rows.begin(), rows.end(), kNone, missing);
  return rows;
}

VocabularyMap perceiver_io_bytes(int64_t ours) {
  PERCEIVER_ASSERT(ours >= byte_vocabulary);
  VocabularyMap map{"text", std::string(ByteTokenizer::kind), {}, kPerceiverIoSpecial + kBytes};
  map.theirs = ids(kPerceiverIoPad, kPerceiverIoEnd, kPerceiverIoStart, kPerceiverIoSpecial, kBytes);
  for (int64_t id = byte_vocabulary; id < ours; ++id) {
    const int64_t special = kPerceiverIoEnd + 1 + id - byte_vocabulary;
    map.theirs.push_back(special < kPerceiverIoSpecial ? special : kNone);
  }
  return map;
}

VocabularyMap plain_bytes() {
  return {"text", std::string(ByteTokenizer::kind), ids(kNone, kNone, kNone, 0, kBytes), kBytes};
}

VocabularyMap piano_events() {
  constexpr int64_t events = music_vocabulary - special_tokens;
  return {"music", open_modality("music", {})->tokenizer(), ids(events, kNone, kNone, 0, events), events + 1};
}

VocabularyMap plain_tokens(int64_t size) {
  const auto modality = open_modality("tokens", {{"values", std::to_string(size)}, {"ends", "false"}});
  return {"tokens", modality->tokenizer(), ids(kNone, kNone, kNone, 0, size), size};
}

VocabularyMap same_ids(std::string modality, std::string tokenizer, int64_t size) {
  VocabularyMap map{std::move(modality), std::move(tokenizer), {}, size};
  map.theirs.resize(static_cast<size_t>(size));
  std::iota(map.theirs.begin(), map.theirs.end(), 0);
  return map;
}

}  // namespace perceiver
