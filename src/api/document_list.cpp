#include "api/document_list.h"

#include <algorithm>

#include "base/check.h"
#include "data/shared_positions.h"
#include "perceiver/special_tokens.h"

namespace perceiver {

DocumentList::DocumentList(const Modality& modality, std::span<const TokenSequence> documents)
    : modality_(modality), documents_(documents) {
  for (const TokenSequence& document : documents) {
    try {
      units_.push_back(modality.encode_value(document).units);  // checks it
    } catch (const Error& error) {
      throw_user("document {}: {}", tokens_.size(), error.what());
    }
    std::vector<int32_t>& tokens = tokens_.emplace_back();
    tokens.push_back(sos_token);
    tokens.insert(tokens.end(), document.ids.begin(), document.ids.end());
    if (modality.format().ends) tokens.push_back(eos_token);
    if (tokens.size() < 2)
      throw_user("document {} is empty; there is nothing to predict", tokens_.size() - 1);
  }
}

void DocumentList::read(Split, int64_t document, int64_t first, int64_t count, int32_t* out) const {
  std::copy_n(tokens_[static_cast<size_t>(document)].begin() + first, count, out);
}

/// EOS, which nothing follows, gets the position of SOS.
void DocumentList::positions(Split split, int64_t document, int64_t first, int64_t count,
                             int32_t* out) const {
  const SequenceFormat& format = modality_.format();
  if (format.positions == PositionKind::counted)
    return Dataset::positions(split, document, first, count, out);
  if (format.positions == PositionKind::shared) return copy_shared_positions(format, first, count, out);
  const std::vector<int32_t>& own = documents_[static_cast<size_t>(document)].positions;
  for (int64_t i = 0; i < count * format.axes; ++i) {
    const int64_t place = (first - 1) * format.axes + i;  // documents do not give the position of SOS
    out[i] = place < 0 || place >= static_cast<int64_t>(own.size()) ? 1 : own[static_cast<size_t>(place)];
  }
}

}  // namespace perceiver
