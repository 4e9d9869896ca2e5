#include "train/gradient_exchange.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "kernels/elementwise.h"

namespace perceiver {
namespace {

// New weights are sent in about eight parts: the first soon, and each as a few large transfers.
constexpr size_t kLeastSent = size_t{4} << 20, kMostSent = size_t{64} << 20;  // bytes

// What is gathered before a step ends, of all weights.
constexpr double kEarly = 0.25;

enum RunKind { before_blocks, in_blocks, after_blocks };

/// What can be a bucket by itself: a self block, and elsewhere what was declared together.
std::vector<ParameterRun> runs_of(const PerceiverAR& model) {
  const std::vector<int64_t>& blocks = model.self_begin();
  const bool rounded = model.type() == DType::bf16;
  std::vector<ParameterRun> runs;
  int64_t last = -1;
  for (const ParameterStore::Declared& each : model.parameters().declared()) {
    // 0 before the blocks, then the block's number, counted from 1.
    const int64_t block = std::upper_bound(blocks.begin(), blocks.end(), each.begin) - blocks.begin();
    const bool inside = block > 0 && block < static_cast<int64_t>(blocks.size());
    const RunKind kind = inside ? in_blocks : block == 0 ? before_blocks : after_blocks;
    if (inside && block == std::exchange(last, block)) {
      runs.back().end = each.end;
    } else {
      runs.push_back({each.begin, each.end, rounded && each.unrounded, kind});
    }
  }
  return runs;
}

}  // namespace

GradientExchange::GradientExchange(PerceiverAR& model, std::shared_ptr<Communicator> ranks, Sharding shard,
                                   int64_t bucket_elements, bool late)
    : model_(model), ranks_(std::move(ranks)), shard_(shard), late_begin_(model.parameters().size()) {
  const std::vector<ParameterRun> runs = runs_of(model);
  partition_ = shard == Sharding::none
                   ? undivided_partition(runs, bucket_elements)
                   : make_partition(runs, ranks_->rank(), ranks_->size(), bucket_elements);
  place_gradients(runs);
  take_values();
  make_slices();
  if (late) choose_late();
  ranks_->expose(model_.parameters().read_values());
}

void GradientExchange::place_gradients(const std::vector<ParameterRun>& runs) {
  ParameterStore& parameters = model_.parameters();
  DeviceContext& context = model_.context();
  const Tensor flat = parameters.gradients();
  if (shard_ != Sharding::gradients) {
    for (const Bucket& bucket : partition_.buckets)
      storage_.push_back(flat.view(bucket.begin, {bucket.elements()}));
    return ranks_->expose(flat);
  }
  const auto in_turns = [&](const Bucket& bucket) {
    const auto run = std::find_if(runs.begin(), runs.end(),
                                  [&](const ParameterRun& each) { return each.begin == bucket.begin; });
    return run->kind == in_blocks;
  };
  int64_t largest = 0;
  for (const Bucket& bucket : partition_.buckets)
    if (in_turns(bucket)) largest = std::max(largest, bucket.elements());
  const DType type = flat.dtype();
  const std::array<Tensor, 2> turns{Tensor::zeros(context, type, {largest}),
                                    Tensor::zeros(context, type, {largest})};
  turns_bytes_ = static_cast<int64_t>(2 * turns[0].bytes());
  for (const Tensor& each : turns) ranks_->expose(each);
  size_t turn = 0;
  for (const Bucket& bucket : partition_.buckets) {
    const Shape shape{bucket.elements()};
    in_turns_.push_back(in_turns(bucket));
    storage_.push_back(in_turns(bucket) ? turns[turn++ % 2].view(0, shape)
                                        : Tensor::zeros(context, type, shape));
    if (!in_turns(bucket)) ranks_->expose(storage_.back());
    parameters.place_gradients(bucket.begin, storage_.back());
  }
  sums_ = Tensor::zeros(context, type, {partition_.state_elements});
  parameters.release_gradients();
}

void GradientExchange::take_values() {
  ParameterStore& parameters = model_.parameters();
  const bool rounded = model_.type() == DType::bf16;
  if (shard_ == Sharding::none || !rounded) return;  // passes read the flat values, or every rank updates all
  const Tensor flat = parameters.values();
  values_ = Tensor::zeros(model_.context(), flat.dtype(), {partition_.state_elements});
  std::vector<ParameterStore::ValuePart> parts;
  for (const Slice& slice : partition_.slices) {
    const Tensor part = values_.view(slice.state_begin, {slice.elements});
    part.copy_from(flat.view(slice.begin, {slice.elements}));
    parts.push_back({slice.begin, part});
  }
  parameters.replace_values(std::move(parts));
}

void GradientExchange::make_slices() {
  const ParameterStore& parameters = model_.parameters();
  sent_together_ = std::clamp(parameters.read_values().bytes() / 8, kLeastSent, kMostSent);
  size_t bucket = 0;
  for (const Slice& slice : partition_.slices) {
    while (slice.begin >= partition_.buckets[bucket].end) ++bucket;
    slice_buckets_.push_back(bucket);
    const Shape shape{slice.elements};
    const Tensor values =
        values_ ? values_.view(slice.state_begin, shape) : parameters.values().view(slice.begin, shape);
    const Tensor gradients =
        sums_ ? sums_.view(slice.state_begin, shape) : parameters.gradients().view(slice.begin, shape);
    const Tensor& read = parameters.read_values();
    const bool rounded = read.dtype() != values.dtype();
    slices_.push_back({slice, values, gradients, rounded ? read.view(slice.begin, shape) : Tensor()});
  }
}

void GradientExchange::watch(Tape& tape, int64_t part) {
  part_ = part;
  waiting_ = partition_.buckets.size();
  if (sums_each_part()) model_.parameters().start_gradients();
  tape.watch_gradients([this](int64_t first) { final_from(first); });
}

void GradientExchange::finish() {
  final_from(0);
  ranks_->join();
  if (started_) add_sum(*std::exchange(started_, std::nullopt));
}

/// Gradients from element `first` on are final.
void GradientExchange::final_from(int64_t first) {
  model_.parameters().finish_gradients(first);
  const auto is_final = [&] { return waiting_ > 0 && partition_.buckets[waiting_ - 1].begin >= first; };
  if (!is_final()) return;
  // Sums of each part are joined one by one.
  if (!sums_each_part()) ranks_->start_group();
  while (is_final()) start_sum(--waiting_);
  if (!sums_each_part()) ranks_->end_group();
}

void GradientExchange::start_sum(size_t index) {
  if (sums_each_part() && started_) {
    // The backward that follows writes where the bucket before this one was.
    ranks_->join();
    add_sum(*started_);
  }
  const Bucket& bucket = partition_.buckets[index];
  const Tensor& storage = storage_[index];
  const int64_t rest = bucket.end - bucket.divided_end;
  if (bucket.divided() > 0) ranks_->reduce_scatter(storage.view(0, {bucket.divided()}), Order::beside);
  if (rest > 0) ranks_->all_reduce(storage.view(bucket.divided(), {rest}), Order::beside);
  if (sums_each_part()) started_ = index;
}

/// Adds the sums of a micro-batch's gradients to those of the micro-batches before it.
void GradientExchange::add_sum(size_t bucket) {
  const Launch& launch = model_.context().launch();
  for (size_t i = 0; i < slices_.size(); ++i) {
    if (slice_buckets_[i] != bucket) continue;
    const UpdatedSlice& slice = slices_[i];
    const Tensor sum =
        storage_[bucket].view(slice.place.begin - partition_.buckets[bucket].begin, {slice.place.elements});
    const DType type = sum.dtype();
    if (part_ == 0) {
      kernels::cast(launch, {.from = type,
                             .to = type,
                             .elements = sum.elements(),
                             .x = sum.data(),
                             .y = slice.gradients.data()});
    } else {
      kernels::add(
          launch,
          {.type = type, .elements = sum.elements(), .source = sum.data(), .target = slice.gradients.data()});
    }
  }
}

void GradientExchange::publish(size_t index, bool rounded) {
  const UpdatedSlice& slice = slices_[index];
  if (slice.rounded && !rounded)
    kernels::cast(model_.context().launch(), {.from = slice.values.dtype(),
                                              .to = slice.rounded.dtype(),
                                              .elements = slice.place.elements,
                                              .x = slice.values.data(),
                                              .y = slice.rounded.data()});
  if (slice.place.shared) return;
  const Bucket& bucket = partition_.buckets[slice_buckets_[index]];
  if (bucket.begin >= late_begin_) return;
  unsent_.push_back(weights_of(bucket));
  unsent_bytes_ += unsent_.back().bytes();
  if (unsent_bytes_ >= sent_together_) send_unsent();
}

void GradientExchange::finish_publishing() {
  send_unsent();
  ranks_->join();
}

void GradientExchange::send_unsent() {
  send(unsent_);
  unsent_.clear();
  unsent_bytes_ = 0;
}

void GradientExchange::send(const std::vector<Tensor>& weights) {
  ranks_->start_group();
  for (const Tensor& each : weights) ranks_->all_gather(each, Order::beside);
  ranks_->end_group();
}

/// From the first block on before which kEarly of the weights lie: enough work to hide the rest.
void GradientExchange::choose_late() {
  const std::vector<int64_t>& blocks = model_.self_begin();
  const auto least = static_cast<int64_t>(kEarly * static_cast<double>(model_.parameters().size()));
  const auto first =
      std::find_if(partition_.buckets.begin(), partition_.buckets.end(), [&](const Bucket& each) {
        return each.begin >= least && std::binary_search(blocks.begin(), blocks.end(), each.begin);
      });
  if (first == partition_.buckets.end()) return;
  late_begin_ = first->begin;
  for (auto each = first; each != partition_.buckets.end(); ++each)
    if (each->divided() > 0) late_.push_back(weights_of(*each));
}

void GradientExchange::send_late(Tape& tape) {
  if (late_.empty()) return;
  send(late_);
  late_on_the_way_ = true;
  tape.watch_parameters([this](int64_t first) {
    if (first >= late_begin_ && std::exchange(late_on_the_way_, false)) ranks_->join();
  });
}

void GradientExchange::settle() {
  if (late_.empty()) return;
  send(late_);
  ranks_->join();
}

/// What the ranks gather of a bucket.
Tensor GradientExchange::weights_of(const Bucket& bucket) const {
  return model_.parameters().read_values().view(bucket.begin, {bucket.divided()});
}

int64_t GradientExchange::gradient_bytes() const {
  if (!sums_) return static_cast<int64_t>(model_.parameters().gradients().bytes());
  int64_t bytes = static_cast<int64_t>(sums_.bytes()) + turns_bytes_;
  for (size_t i = 0; i < storage_.size(); ++i)
    if (!in_turns_[i]) bytes += static_cast<int64_t>(storage_[i].bytes());
  return bytes;
}

Tensor GradientExchange::part_of(const Tensor& state, size_t slice) const {
  const Slice& place = slices_[slice].place;
  return state.view(place.state_begin, {place.elements});
}

Tensor GradientExchange::collect(const Tensor& state) const {
  const bool leads = ranks_->rank() == 0;
  const DType type = state ? state.dtype() : slices_.front().values.dtype();
  const Tensor flat = leads ? Tensor::on_host(type, {model_.parameters().size()}) : Tensor();
  const auto keep = [&](const Tensor& part, int64_t begin) {
    if (!leads) return;
    const Tensor target = flat.view(begin, part.shape());
    part.copy_to_host({static_cast<std::byte*>(target.data()), part.bytes()});
  };
  for (size_t i = 0; i < slices_.size(); ++i) {
    const Slice& place = slices_[i].place;
    const Tensor part = state ? part_of(state, i) : slices_[i].values;
    if (place.shared) {
      keep(part, place.begin);
      continue;
    }
    const Bucket& bucket = partition_.buckets[slice_buckets_[i]];
    const Tensor whole = Tensor::empty(model_.context(), type, {bucket.divided()});
    whole.view(place.begin - bucket.begin, {place.elements}).copy_from(part);
    ranks_->all_gather(whole);
    keep(whole, bucket.begin);
  }
  return flat;
}

void GradientExchange::distribute(const Tensor& flat, const Tensor& state) const {
  for (size_t i = 0; i < slices_.size(); ++i) {
    const Slice& place = slices_[i].place;
    const Tensor source = flat.view(place.begin, {place.elements});
    const Tensor target = state ? part_of(state, i) : slices_[i].values;
    target.copy_from_host({static_cast<const std::byte*>(source.data()), source.bytes()});
  }
}

}  // namespace perceiver
