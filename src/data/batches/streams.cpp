#include "data/batches/streams.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "perceiver/special_tokens.h"

namespace perceiver {

JoinedDocuments::JoinedDocuments(const Dataset& data, Split split) : data_(data), split_(split) {
  const int64_t documents = data.documents(split);
  if (documents == 0) throw_user("the data has no {} documents", split_name(split));
  if (data.unbounded()) {
    same_length_ = data.document_length(split, 0);
    tokens_ = std::min(documents, std::numeric_limits<int64_t>::max() / same_length_) * same_length_;
    return;
  }
  starts_.reserve(static_cast<size_t>(documents));
  for (int64_t i = 0; i < documents; ++i) {
    starts_.push_back(tokens_);
    tokens_ += data.document_length(split, i);
  }
}

int64_t JoinedDocuments::document_at(int64_t token) const {
  if (same_length_ > 0) return token / same_length_;
  return std::upper_bound(starts_.begin(), starts_.end(), token) - starts_.begin() - 1;
}

int64_t JoinedDocuments::start_of(int64_t document) const {
  return same_length_ > 0 ? document * same_length_ : starts_[static_cast<size_t>(document)];
}

void JoinedDocuments::read(int64_t first, int64_t count, int32_t* tokens, uint8_t* predicted) const {
  PERCEIVER_ASSERT(first >= 0 && first + count <= tokens_);
  for (int64_t document = document_at(first); count > 0; ++document) {
    const int64_t begin = first - start_of(document);
    const int64_t here = std::min(count, data_.document_length(split_, document) - begin);
    data_.read(split_, document, begin, here, tokens);
    const int64_t given = data_.first_target(split_, document);
    for (int64_t i = 0; i < here; ++i) predicted[i] = begin + i >= given;
    first += here, count -= here, tokens += here, predicted += here;
  }
}

StreamSampler::StreamSampler(const Dataset& data, Split split, int64_t streams, int64_t columns)
    : sequence_(data, split), axes_(data.axes()), columns_(columns), length_(sequence_.tokens() / streams) {
  PERCEIVER_ASSERT(streams >= 1 && columns >= 1);
  if (data.augments() || !data.mirror().empty())
    throw_user(
        "training in streams (model.type: transformer_xl) reads the data as they are; leave the augmentation "
        "(such as transpose, stretch and mirror) out of data.options");
  if (length_ < 2)
    throw_user("the {} data have {} tokens, too few for {} streams (train.batch)", split_name(split),
               sequence_.tokens(), streams);
}

void StreamSampler::fill(int64_t step, const ExampleShare& share, Batch& batch) const {
  const int64_t offset = step % steps() * columns_, count = std::min(columns_, length_ - 1 - offset);
  batch.resize(share.size(), columns_, axes_);
  batch.preceding.assign(static_cast<size_t>(share.size()), offset);
  std::vector<int32_t> tokens(static_cast<size_t>(count + 1));
  std::vector<uint8_t> predicted(tokens.size());
  for (int64_t row = 0; row < share.size(); ++row) {
    sequence_.read(share.example(row) * length_ + offset, count + 1, tokens.data(), predicted.data());
    const auto cell = static_cast<size_t>(row * columns_);
    for (size_t n = 0; n < static_cast<size_t>(count); ++n) {
      batch.tokens[cell + n] = tokens[n];
      batch.targets[cell + n] = predicted[n + 1] != 0 ? tokens[n + 1] : pad_token;
    }
    batch.lengths[static_cast<size_t>(row)] = static_cast<int32_t>(count);
  }
}

}  // namespace perceiver
