#include "data/batches/windows.h"

#include <algorithm>

#include "base/check.h"

namespace perceiver {
namespace {

WindowOptions checked(WindowOptions options) {
  if (options.context < 1)
    throw_user("evaluation needs a context of at least one token, but it is {}", options.context);
  if (options.latents < 1 || options.latents > options.context)
    throw_user("evaluation latents must be from 1 to the context length {}, but there are {}",
               options.context, options.latents);
  if (options.stride == 0) options.stride = options.latents;
  if (options.stride < 1 || options.stride > options.latents)
    throw_user("evaluation stride must be from 1 to the {} latents, but it is {}", options.latents,
               options.stride);
  if (options.batch < 1) throw_user("evaluation batch must be at least 1, but it is {}", options.batch);
  if (options.max_documents < 0)
    throw_user("evaluation max_documents must not be negative, but it is {}", options.max_documents);
  PERCEIVER_ASSERT(options.share >= 0 && options.share < options.shares);
  return options;
}

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// The largest batch that lets all shares take as many turns, up to one window each.
int64_t even_batch(int64_t windows, const WindowOptions& options) {
  if (options.shares == 1) return options.batch;
  const int64_t turns = ceil_div(windows, options.batch * options.shares);
  return ceil_div(windows, turns * options.shares);
}

}  // namespace

int64_t evaluated_documents(const Dataset& data, Split split, int64_t wanted) {
  const int64_t all = data.documents(split);
  if (all == 0)
    throw_user("the data has no {} documents; name some in data.{} or set its fraction", split_name(split),
               split_name(split));
  if (wanted > 0) return std::min(wanted, all);
  return data.unbounded() ? Windows::unbounded_documents : all;
}

Windows::Windows(const Dataset& data, Split split, const WindowOptions& options)
    : data_(data),
      split_(split),
      options_(checked(options)),
      documents_(evaluated_documents(data, split, options.max_documents)) {
  for (int64_t i = 0; i < documents_; ++i) {
    const int64_t targets = data.document_length(split, i) - data.first_target(split, i);
    windows_ += ceil_div(targets, options_.stride);
    targets_ += targets;
    units_ += data.scored_units(split, i);
    words_ += data.words(split, i);
  }
  options_.batch = even_batch(windows_, options_);
  share_targets_ = options_.shares == 1 ? targets_ : count_share_targets();
  restart();
}

int64_t Windows::rounds() const {
  return ceil_div(ceil_div(windows_, options_.batch), options_.shares);
}

int64_t Windows::count_share_targets() {
  int64_t targets = 0;
  restart();
  while (const int64_t rows = find_batch())
    for (int64_t i = 0; i < rows; ++i) targets += next_row().scored;
  return targets;
}

void Windows::restart() {
  document_ = 0;
  delivered_ = 0;
  target_ = data_.first_target(split_, 0);
}

int64_t Windows::find_batch() {
  while (delivered_ < windows_ && delivered_ / options_.batch % options_.shares != options_.share)
    for (int64_t end = std::min(delivered_ + options_.batch, windows_); delivered_ < end;) next_row();
  return std::min(options_.batch, windows_ - delivered_);
}

bool Windows::next(WindowBatch& out) {
  const int64_t rows = find_batch();
  if (rows == 0) return false;
  out.batch.resize(rows, options_.context, data_.axes());
  out.documents.resize(rows), out.scored.resize(rows), out.first_targets.resize(rows);
  for (int64_t i = 0; i < rows; ++i) {
    const Row row = next_row();
    fill_row(data_, split_, row, i, out.batch);
    out.documents[i] = row.document;
    out.scored[i] = row.scored;
    out.first_targets[i] = row.first + row.count + 1 - row.scored;
  }
  return true;
}

Row Windows::next_row() {
  const int64_t length = data_.document_length(split_, document_);
  const int64_t end = std::min(target_ + options_.stride, length);
  const int64_t first = std::max<int64_t>(0, end - 1 - options_.context);
  const Row row{document_, first, end - 1 - first, end - target_};
  target_ = end;
  if (++delivered_ < windows_ && end == length) target_ = data_.first_target(split_, ++document_);
  return row;
}

int64_t position_bucket(int64_t target) {
  PERCEIVER_ASSERT(target >= 0);
  const auto above = std::upper_bound(position_bucket_starts.begin(), position_bucket_starts.end(), target);
  return above - position_bucket_starts.begin() - 1;
}

std::string position_bucket_name(int64_t bucket) {
  PERCEIVER_ASSERT(bucket >= 0 && bucket < static_cast<int64_t>(position_bucket_starts.size()));
  const int64_t first = position_bucket_starts[bucket];
  if (bucket + 1 == static_cast<int64_t>(position_bucket_starts.size())) return fmt::format("{}-", first);
  return fmt::format("{}-{}", first, position_bucket_starts[bucket + 1] - 1);
}

}  // namespace perceiver
