#include "data/batches/crops.h"

#include <algorithm>

#include "base/check.h"

namespace perceiver {

CropSampler::CropSampler(const Dataset& data, Split split, int64_t columns, int64_t predicted, Crops crops)
    : data_(data), split_(split), columns_(columns), predicted_(predicted), crops_(crops) {
  PERCEIVER_ASSERT(predicted >= 1 && predicted <= columns);
  if (data.documents(split) == 0) throw_user("the data has no {} documents", split_name(split));
  if (!data.unbounded()) weights_ = data.weights(split, predicted);
}

int64_t CropSampler::choose_document(RandomStream& random) const {
  if (weights_ == nullptr) return static_cast<int64_t>(random.below(data_.documents(split_)));
  return weights_->find(random.below(weights_->total()));
}

int64_t CropSampler::choose_end(RandomStream& random, int64_t first_end, int64_t length) const {
  // Ends before the first and after the last possible one stand for those.
  const int64_t beyond = crops_ == Crops::even ? predicted_ - 1 : 0;
  const auto drawn = static_cast<int64_t>(random.below(length - first_end + 1 + 2 * beyond));
  return std::clamp(first_end - beyond + drawn, first_end, length);
}

Row CropSampler::crop(uint64_t seed, int64_t step, int64_t example) const {
  RandomStream random(seed, RandomPurpose::batch, static_cast<uint64_t>(step),
                      static_cast<uint32_t>(example));
  Row row;
  row.document = choose_document(random);
  const int64_t length = data_.document_length(split_, row.document);
  const int64_t first_target = data_.first_target(split_, row.document);
  const int64_t first_end = std::min(first_target + predicted_, length);
  const int64_t end = choose_end(random, first_end, length);
  row.first = std::max<int64_t>(0, end - 1 - columns_);
  row.count = end - 1 - row.first;
  row.scored = end - std::max(row.first + 1, first_target);
  return row;
}

void CropSampler::fill(uint64_t seed, int64_t step, const ExampleShare& share, Batch& batch) const {
  batch.resize(share.size(), columns_, data_.axes());
  for (int64_t i = 0; i < share.size(); ++i) {
    const int64_t example = share.example(i);
    const Row row = crop(seed, step, example);
    RandomStream random(seed, RandomPurpose::augmentation, static_cast<uint64_t>(step),
                        static_cast<uint32_t>(example));
    if (data_.augments()) {
      fill_augmented(row, random, i, batch);
    } else if (!data_.mirror().empty() && random.below(2) == 1) {
      fill_mirrored(row, i, batch);
    } else {
      fill_row(data_, split_, row, i, batch);
    }
  }
}

void CropSampler::fill_mirrored(const Row& row, int64_t index, Batch& batch) const {
  const std::span<const int32_t> mirror = data_.mirror();
  std::vector<int32_t> document(static_cast<size_t>(data_.document_length(split_, row.document)));
  PERCEIVER_ASSERT(document.size() == mirror.size() + 1);  // SOS, and no EOS
  data_.read(split_, row.document, 0, std::ssize(document), document.data());
  std::vector<int32_t> tokens;
  tokens.reserve(static_cast<size_t>(row.count + 1));
  for (int64_t i = row.first; i <= row.first + row.count; ++i)
    tokens.push_back(document[i == 0 ? 0 : 1 + static_cast<size_t>(mirror[static_cast<size_t>(i - 1)])]);
  fill_row(data_, split_, tokens, row, index, batch);
}

void CropSampler::fill_augmented(Row row, RandomStream& random, int64_t index, Batch& batch) const {
  std::vector<int32_t> tokens(static_cast<size_t>(row.count + 1));
  data_.read(split_, row.document, row.first, row.count + 1, tokens.data());
  data_.augment(tokens, random);
  if (tokens.size() < 2) return fill_row(data_, split_, row, index, batch);  // nothing left to predict
  row.count = std::min<int64_t>(columns_, static_cast<int64_t>(tokens.size()) - 1);
  row.scored = std::min(row.scored, row.count);
  fill_row(data_, split_, std::span(tokens).first(static_cast<size_t>(row.count + 1)), row, index, batch);
}

}  // namespace perceiver
