#include "model/inputs.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "distributed/communicator.h"
#include "model/attention_backend.h"
#include "model/context_share.h"
#include "model/input_checks.h"
#include "model/input_columns.h"
#include "model/segment_memory.h"
#include "perceiver/experimental/random.h"

namespace perceiver {
namespace {

using Ints = std::vector<int32_t>;

/// Copies values into `slot`, in place if it has the right size.
template <typename T>
void upload(DeviceContext& context, Tensor& slot, const std::vector<T>& values) {
  const Shape shape{static_cast<int64_t>(values.size())};
  if (!slot || slot.shape() != shape) slot = Tensor::empty(context, DTypeOf<T>::value, shape);
  slot.copy_from_host(std::as_bytes(std::span<const T>(values)));
}

int64_t latents_of(const ModelConfig& config, const Batch& batch, const PassOptions& options) {
  const int64_t latents = config.decoder_only() ? batch.length
                          : options.latents > 0 ? options.latents
                                                : config.latents;
  if (latents % config.latents_per_position != 0)
    throw_user("{} latents are not a multiple of model.latents_per_position {}", latents,
               config.latents_per_position);
  const bool own_rows = config.query_style == QueryStyle::learned && !config.shared_learned_query;
  if (own_rows && latents != config.latents)
    throw_user("{} latents requested, but the learned query has rows for exactly {}", latents,
               config.latents);
  return latents;
}

/// The columns of example b that are embedded: all, or a sorted random choice of exactly `wanted` of its
/// tokens.
Ints kept_columns(const Batch& batch, int64_t b, int64_t wanted, const RandomKey& key) {
  const int64_t length = batch.lengths[b];
  Ints kept;
  if (length <= wanted) {
    kept.resize(static_cast<size_t>(length));
    std::iota(kept.begin(), kept.end(), 0);
    return kept;
  }
  RandomStream random(key.seed, RandomPurpose::input_positions, key.step,
                      static_cast<uint32_t>(key.first_example + b));
  int64_t missing = wanted;
  for (int64_t n = 0; n < length && missing > 0; ++n) {
    if (random.below(static_cast<uint64_t>(length - n)) >= static_cast<uint64_t>(missing)) continue;
    kept.push_back(static_cast<int32_t>(n));
    --missing;
  }
  return kept;
}

/// A key mask, 0 for dropped keys, drawn from each example's own random stream.
std::vector<uint8_t> drop_keys(RandomPurpose purpose, double rate, int64_t examples, int64_t keys,
                               const RandomKey& key) {
  std::vector<uint8_t> mask(static_cast<size_t>(examples * keys));
  const auto threshold = static_cast<uint32_t>(std::llround(std::ldexp(rate, 32)));
  for (int64_t b = 0; b < examples; ++b) {
    RandomStream random(key.seed, purpose, key.step, static_cast<uint32_t>(key.first_example + b));
    for (int64_t n = 0; n < keys; ++n) mask[b * keys + n] = random.next() >= threshold;
  }
  return mask;
}

/// A key mask that hides exactly a share `rate`, rounded down, of the keys before each example's first
/// latent. `streams` continue, so that masks drawn one after the other differ.
std::vector<uint8_t> drop_prefix(double rate, const std::vector<int64_t>& prefixes, int64_t keys,
                                 std::vector<RandomStream>& streams) {
  std::vector<uint8_t> mask(prefixes.size() * static_cast<size_t>(keys), 1);
  for (size_t b = 0; b < prefixes.size(); ++b) {
    auto missing = static_cast<int64_t>(static_cast<double>(prefixes[b]) * rate);
    for (int64_t n = 0; n < prefixes[b] && missing > 0; ++n) {
      if (streams[b].below(static_cast<uint64_t>(prefixes[b] - n)) >= static_cast<uint64_t>(missing))
        continue;
      mask[b * static_cast<size_t>(keys) + static_cast<size_t>(n)] = 0;
      --missing;
    }
  }
  return mask;
}

class InputBuilder {
 public:
  InputBuilder(DeviceContext& context, const ModelConfig& config, const Batch& batch,
               const PassOptions& options, ModelInputs& inputs)
      : context_(context), config_(config), batch_(batch), options_(options), in_(inputs) {
    in_.batch = batch.size;
    in_.latents = latents_of(config, batch, options);
    in_.latent_positions = in_.latents / config.latents_per_position;
    in_.steps.clear();
    in_.largest_position = 0;
    if (options.random.first_example < 0)
      throw_user("negative example number {}", options.random.first_example);
  }

  void build() {
    if (config_.recurrent()) return build_segment();
    const bool subset = options_.training && config_.train_input_positions > 0;
    columns_ = subset ? std::min(config_.train_input_positions, batch_.length) : batch_.length;
    share_context();
    build_latents();
    if (config_.type == ModelType::perceiver_ar) build_context();
    build_dropout();
    const bool plain = fills_rows(batch_, in_.latents) && config_.latents_per_position == 1;
    in_.self.plain_causal = plain && !in_.self.key_mask;
    in_.cross.plain_causal =
        plain && !in_.cross.key_mask && in_.columns == batch_.length && in_.context_group == nullptr;
  }

 private:
  void share_context() {
    const Communicator* group = options_.context_group;
    const bool shared = config_.type == ModelType::perceiver_ar && group != nullptr && group->size() > 1;
    in_.context_group = shared ? options_.context_group : nullptr;
    if (shared && config_.latent_keys == LatentKeys::latents)
      throw_user("ranks cannot share a context whose latents have keys of their own (model.latent_keys)");
    if (shared) rank_ = group->rank(), ranks_ = group->size();
    in_.columns = shared_columns(columns_, 0, ranks_);
  }

  /// A segment and the memory before it. Rows start with their first token, whatever their length: distances
  /// from the memory count.
  void build_segment() {
    in_.columns = batch_.length;
    in_.context_group = nullptr;
    in_.memory = options_.memory;
    in_.first_stream = options_.first_stream;
    const int64_t all_zero = config_.zero_memory ? config_.memory_length : 0;
    in_.memory_length = in_.memory != nullptr ? in_.memory->length : all_zero;
    in_.window = !config_.same_length ? 0 : in_.memory_length > 0 ? in_.memory_length : config_.memory_length;
    PERCEIVER_ASSERT(in_.memory == nullptr ||
                     (in_.first_stream >= 0 && in_.first_stream + batch_.size <= in_.memory->streams));
    Ints remembered, first_key;
    for (int64_t b = 0; b < batch_.size; ++b) {
      const int64_t preceding = batch_.preceding.empty() ? 0 : batch_.preceding[b];
      const int64_t known = in_.memory != nullptr ? std::min(preceding, in_.memory_length) : 0;
      remembered.push_back(static_cast<int32_t>(known));
      first_key.push_back(config_.zero_memory ? 0 : static_cast<int32_t>(in_.memory_length - known));
      for (int64_t n = 0; n < batch_.length; ++n)
        in_.steps.push_back(n < batch_.lengths[b] ? static_cast<int32_t>(n) : -1);
    }
    in_.target_count = std::count_if(batch_.targets.begin(), batch_.targets.end(),
                                     [](int32_t target) { return target != 0; });
    upload(context_, in_.latent_tokens, batch_.tokens);
    upload(context_, in_.targets, batch_.targets);
    upload(context_, in_.remembered, remembered);
    upload(context_, in_.first_key, first_key);
    in_.first_keys = std::move(first_key);
  }

  void build_latents() {
    const int64_t unique = in_.latent_positions, copies = config_.latents_per_position, axes = config_.axes();
    Ints tokens, rows, targets, table_positions, rotary, limit, first;
    for (int64_t b = 0; b < batch_.size; ++b) {
      const int64_t start = batch_.lengths[b] - unique;
      first.push_back(static_cast<int32_t>(std::max<int64_t>(0, -start) * copies));
      for (int64_t u = 0; u < unique; ++u) {
        const int64_t step = start + u;
        const bool valid = step >= 0;
        in_.steps.push_back(valid ? static_cast<int32_t>(step) : -1);
        tokens.push_back(valid ? batch_.tokens[b * batch_.length + step] : 0);
        targets.push_back(valid ? batch_.targets[b * batch_.length + step] : 0);
        rows.push_back(config_.shared_learned_query ? 0 : static_cast<int32_t>(u));
        for (int64_t a = 0; a < axes; ++a)
          table_positions.push_back(position_of(config_, batch_, b, step, a));
        const int32_t position =
            valid ? position_of(config_, batch_, b, step, 0) + (config_.query_offset ? 1 : 0) : 0;
        in_.largest_position = std::max<int64_t>(in_.largest_position, std::abs(position));
        rotary.insert(rotary.end(), static_cast<size_t>(copies), position);
        limit.insert(limit.end(), static_cast<size_t>(copies),
                     valid ? static_cast<int32_t>((u + 1) * copies) : 0);
      }
    }
    in_.target_count =
        std::count_if(targets.begin(), targets.end(), [](int32_t target) { return target != 0; });
    upload(context_, in_.latent_tokens, tokens);
    upload(context_, in_.latent_rows, rows);
    upload(context_, in_.targets, targets);
    if (config_.has_position_tables()) upload(context_, in_.latent_table_positions, table_positions);
    if (config_.rotates()) upload(context_, in_.latent_rotary_positions, rotary);
    upload(context_, in_.self.first, first);
    upload(context_, in_.self.limit, limit);
  }

  void build_context() {
    const int64_t columns = in_.columns, axes = config_.axes(), copies = config_.latents_per_position;
    const auto cells = static_cast<size_t>(batch_.size * columns);
    const bool absolute = config_.has_position_tables();
    const bool rotates = config_.rotates();
    Ints tokens(cells, 0), positions(absolute ? cells * static_cast<size_t>(axes) : 0, 0),
        rotary(rotates ? cells : 0, 0), limit;
    limit.reserve(static_cast<size_t>(batch_.size * in_.latents));
    for (int64_t b = 0; b < batch_.size; ++b) {
      const Ints kept = kept_columns(batch_, b, columns_, options_.random);
      // Over all columns: the tables are the same on every rank.
      const auto kept_count = static_cast<int64_t>(kept.size());
      in_.largest_position = std::max(in_.largest_position, largest_position(b, kept));
      in_pieces(context_, shared_columns(kept_count, rank_, ranks_), [&](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; ++c) {
          const int32_t column = kept[static_cast<size_t>(rank_ + c * ranks_)];
          const int64_t cell = b * columns + c;
          tokens[cell] = batch_.tokens[b * batch_.length + column];
          for (int64_t a = 0; a < axes && absolute; ++a)
            positions[cell * axes + a] = position_of(config_, batch_, b, column, a);
          if (rotates) rotary[cell] = position_of(config_, batch_, b, column, 0);
        }
      });
      for (int64_t u = 0; u < in_.latent_positions; ++u) {
        const int32_t step = in_.steps[b * in_.latent_positions + u];
        const int64_t visible = std::upper_bound(kept.begin(), kept.end(), step) - kept.begin();
        limit.insert(limit.end(), static_cast<size_t>(copies),
                     static_cast<int32_t>(shared_columns(visible, rank_, ranks_)));
      }
    }
    upload(context_, in_.tokens, tokens);
    if (config_.has_position_tables()) upload(context_, in_.positions, positions);
    if (config_.rotates()) upload(context_, in_.rotary_positions, rotary);
    upload(context_, in_.cross.limit, limit);
    if (config_.latent_keys == LatentKeys::latents) upload(context_, in_.latent_columns, latent_columns());
  }

  /// Every column is kept (config/validate.cpp), so a latent's token is at its step.
  Ints latent_columns() const {
    Ints columns;
    for (size_t i = 0; i < in_.steps.size(); ++i) {
      const auto b = static_cast<int32_t>(i / static_cast<size_t>(in_.latent_positions));
      columns.push_back(in_.steps[i] < 0 ? -1 : b * static_cast<int32_t>(in_.columns) + in_.steps[i]);
    }
    return columns;
  }

  int64_t largest_position(int64_t b, const Ints& kept) const {
    std::atomic<int64_t> largest = 0;
    in_pieces(context_, static_cast<int64_t>(kept.size()), [&](int64_t begin, int64_t end) {
      int64_t mine = 0;
      for (int64_t i = begin; i < end; ++i)
        mine = std::max<int64_t>(mine, std::abs(position_of(config_, batch_, b, kept[i], 0)));
      for (int64_t seen = largest; seen < mine && !largest.compare_exchange_weak(seen, mine);) {
      }
    });
    return largest;
  }

  /// This rank's part of a mask of all columns: the same ones are dropped on any number of ranks.
  std::vector<uint8_t> own_columns(const std::vector<uint8_t>& all) const {
    if (ranks_ == 1) return all;
    std::vector<uint8_t> mask(static_cast<size_t>(in_.batch * in_.columns), 0);
    for (int64_t b = 0; b < in_.batch; ++b)
      for (int64_t c = rank_; c < columns_; c += ranks_)
        mask[b * in_.columns + c / ranks_] = all[b * columns_ + c];
    return mask;
  }

  void build_dropout() {
    const bool drops_context =
        options_.training && config_.context_dropout > 0 && config_.type == ModelType::perceiver_ar;
    if (!drops_context) in_.cross.key_mask = {}, in_.extra_key_masks.clear();
    if (!options_.training || config_.latent_dropout <= 0) in_.self.key_mask = {};
    in_.self.self_visible = false;
    if (!options_.training) return;
    if (drops_context) drop_context();
    if (config_.latent_dropout > 0) {
      upload(context_, in_.self.key_mask,
             drop_keys(RandomPurpose::latent_dropout, config_.latent_dropout, in_.batch, in_.latents,
                       options_.random));
      in_.self.self_visible = true;
    }
  }

  void drop_context() {
    if (config_.context_dropout_from == ContextDropout::prefix) return drop_prefixes();
    upload(context_, in_.cross.key_mask,
           own_columns(drop_keys(RandomPurpose::context_dropout, config_.context_dropout, in_.batch, columns_,
                                 options_.random)));
  }

  void drop_prefixes() {
    std::vector<int64_t> prefixes;
    std::vector<RandomStream> streams;
    for (int64_t b = 0; b < in_.batch; ++b) {
      prefixes.push_back(std::max<int64_t>(0, batch_.lengths[b] - in_.latent_positions));
      streams.emplace_back(options_.random.seed, RandomPurpose::context_dropout, options_.random.step,
                           static_cast<uint32_t>(options_.random.first_example + b));
    }
    const auto draw = [&] {
      return own_columns(drop_prefix(config_.context_dropout, prefixes, columns_, streams));
    };
    upload(context_, in_.cross.key_mask, draw());
    in_.extra_key_masks.resize(config_.extra_cross_attention_after.size());
    for (Tensor& mask : in_.extra_key_masks) upload(context_, mask, draw());
  }

  DeviceContext& context_;
  const ModelConfig& config_;
  const Batch& batch_;
  const PassOptions& options_;
  ModelInputs& in_;
  int64_t columns_ = 0;           ///< of all ranks' context together
  int64_t rank_ = 0, ranks_ = 1;  ///< that share it
};

}  // namespace

void make_inputs(DeviceContext& context, const ModelConfig& config, const Batch& batch,
                 const PassOptions& options, ModelInputs& inputs) {
  check_batch(context, config, batch);
  if (options.training) check_attention_batch(config, batch, latents_of(config, batch, options));
  InputBuilder(context, config, batch, options, inputs).build();
}

int64_t count_targets(const ModelConfig& config, const Batch& batch, int64_t latents) {
  PassOptions options;
  options.latents = latents;
  const int64_t unique = latents_of(config, batch, options) / config.latents_per_position;
  int64_t count = 0;
  for (int64_t b = 0; b < batch.size; ++b)
    for (int64_t n = std::max<int64_t>(0, batch.lengths[b] - unique); n < batch.lengths[b]; ++n)
      count += batch.targets[b * batch.length + n] != 0;
  return count;
}

}  // namespace perceiver
