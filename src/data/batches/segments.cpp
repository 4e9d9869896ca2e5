#include "data/batches/segments.h"

#include <algorithm>

#include "base/check.h"
#include "perceiver/special_tokens.h"

namespace perceiver {

DocumentSegments::DocumentSegments(const Dataset& data, Split split, const SegmentOptions& options)
    : data_(data), split_(split), options_(options), next_document_(options.share) {
  PERCEIVER_ASSERT(options.length >= 1 && options.rows >= 1 && options.share < options.shares);
  documents_ = evaluated_documents(data, split, options.max_documents);
  int64_t mine = 0, longest = 1;
  for (int64_t i = 0; i < documents_; ++i) {
    const int64_t targets = data.document_length(split, i) - data.first_target(split, i);
    const bool is_mine = i % options.shares == options.share;
    targets_ += targets;
    longest = std::max(longest, data.document_length(split, i) - 1);
    share_targets_ += is_mine ? targets : 0;
    mine += is_mine ? 1 : 0;
    units_ += data.scored_units(split, i);
    words_ += data.words(split, i);
  }
  options_.length = std::min(options_.length, longest);
  readings_.resize(static_cast<size_t>(std::min(options.rows, mine)));
}

bool DocumentSegments::take_document(Reading& reading) {
  if (next_document_ >= documents_) return false;
  reading = {next_document_, 0};
  next_document_ += options_.shares;
  return true;
}

bool DocumentSegments::next(WindowBatch& out) {
  bool any = false;
  for (Reading& reading : readings_)
    if (reading.document >= 0 || take_document(reading)) any = true;
  if (!any) return false;
  out.batch.resize(rows(), options_.length, data_.axes());
  const auto count = readings_.size();
  out.batch.preceding.assign(count, 0);
  out.documents.assign(count, -1), out.scored.assign(count, 0), out.first_targets.assign(count, 0);
  for (size_t row = 0; row < count; ++row)
    if (readings_[row].document >= 0) read_segment(readings_[row], static_cast<int64_t>(row), out);
  return true;
}

void DocumentSegments::read_segment(Reading& reading, int64_t row, WindowBatch& out) const {
  const int64_t document = reading.document, first = reading.next;
  const int64_t length = data_.document_length(split_, document);
  const int64_t count = std::min(options_.length, length - 1 - first);
  int32_t* tokens = out.batch.tokens.data() + row * options_.length;
  int32_t* targets = out.batch.targets.data() + row * options_.length;
  data_.read(split_, document, first, count, tokens);
  data_.read(split_, document, first + 1, count, targets);
  // Targets before the first one to predict are given.
  const int64_t given = std::clamp<int64_t>(data_.first_target(split_, document) - first - 1, 0, count);
  std::fill_n(targets, given, pad_token);
  const auto b = static_cast<size_t>(row);
  out.batch.lengths[b] = static_cast<int32_t>(count);
  out.batch.preceding[b] = first;
  out.documents[b] = document;
  out.scored[b] = count - given;
  out.first_targets[b] = first + 1 + given;
  reading.next = first + count;
  if (reading.next >= length - 1) reading.document = -1;
}

}  // namespace perceiver
