#include "generate/engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/check.h"
#include "core/host_values.h"
#include "kernels/embedding.h"
#include "kernels/sampling.h"

namespace perceiver {
namespace {

constexpr int64_t kStepsInFlight = 2;  // on a GPU
// The single kernel of a step mixes the table anew for every token. Measured: a context of 10 times the
// vocabulary loses 4% by it, of 47 times is even, of 500 times gains a third.
constexpr int64_t kTableRepays = 32;
constexpr int64_t kLeastSparePositions = 1024;

bool has_own_query_rows(const ModelConfig& config) {
  return config.query_style == QueryStyle::learned && !config.shared_learned_query;
}

/// Why keys and values of earlier tokens cannot be kept; "" where they can.
std::string obstacle(const ModelConfig& config) {
  if (config.position_source != PositionSource::data)
    return "positions count from the sequence's end and change with every token (model.position_source)";
  if (has_own_query_rows(config))
    return "each latent has a query of its own and moves to another with every token (model.query_style: "
           "learned)";
  return "";
}

template <typename T>
void upload(const Tensor& tensor, const std::vector<T>& values) {
  tensor.copy_from_host(std::as_bytes(std::span<const T>(values)));
}

int64_t mebibytes(int64_t bytes) {
  return (bytes + (1 << 20) - 1) >> 20;
}

}  // namespace

Engine::Engine(const PerceiverAR& model, const EngineOptions& options)
    : model_(model), config_(model.config()), options_(options) {
  resolve();
  DeviceContext& context = model_.context();
  const auto lock = context.exclusive();
  const int64_t spare = std::max(kLeastSparePositions, config_.context_length);
  model_.extend_rotary_tables(config_.context_length + spare);
  check_memory();
  const int64_t slots = options_.slots, vocabulary = config_.vocabulary;
  state_ = DecodeSlots::make(context, config_, slots);
  if (keeps_cache_) make_caches();
  logits_ = Tensor::zeros(context, accumulation_type(model_.type()), {slots, vocabulary});
  settings_ = Tensor::zeros(context, DType::u8, {slots, sizeof(kernels::SamplingParameters)});
  seen_ = Tensor::zeros(context, DType::u8, {slots, vocabulary});
  slots_.resize(static_cast<size_t>(slots));
  for (int64_t i = 0; i < (context.is_cuda() ? kStepsInFlight : 1); ++i)
    mailboxes_.push_back(
        context.new_mailbox(static_cast<size_t>(slots) * (sizeof(double) + sizeof(int32_t))));
  recorded_.resize(mailboxes_.size());
  if (context.is_cuda()) arena_ = context.new_arena();
}

void Engine::make_caches() {
  const bool by_table = options_.context == ContextProjection::table;
  caches_ = model_.make_caches(options_.slots, options_.latents, config_.context_length, by_table);
  if (options_.fused) fused_ = model_.fused_step(caches_, state_);
}

void Engine::resolve() {
  EngineOptions& o = options_;
  const int64_t copies = config_.latents_per_position;
  const bool transformer = config_.type == ModelType::transformer;
  if (o.slots < 1) throw_user("{} sequences at once asked for; 1 or more are possible", o.slots);
  const auto whole = [&](int64_t value, int64_t most, const char* what) {
    if (value < 1 || value > most || value % copies != 0)
      throw_user("{} {} asked for; {} to {}{} are possible", value, what, copies, most,
                 copies > 1 ? fmt::format(" in multiples of {}", copies) : "");
  };
  const int64_t latents = transformer ? config_.context_length : config_.latents;
  if (o.latents == 0) o.latents = latents;
  if ((transformer || has_own_query_rows(config_)) && o.latents != latents)
    throw_user("{} latents asked for; this model has exactly {}", o.latents, latents);
  whole(o.latents, config_.context_length / copies * copies, "latents");
  if (o.refill == 0) o.refill = std::max(copies, o.latents / 2 / copies * copies);
  whole(o.refill, o.latents, "latents to refill");
  if (transformer && o.prompt_latents != 0)
    throw_user("latents of the prompt cannot be chosen for model.type: transformer");
  if (o.prompt_latents == 0) o.prompt_latents = o.latents;
  whole(o.prompt_latents, o.latents, "latents of the prompt");
  const std::string why = obstacle(config_);
  keeps_cache_ = why.empty();
  const bool cached = o.policy == GenerationPolicy::refill || o.policy == GenerationPolicy::stream;
  if (cached && !keeps_cache_) throw_user("this model allows no policy but exact: {}", why);
  if (o.policy == GenerationPolicy::automatic)
    o.policy = keeps_cache_ ? GenerationPolicy::refill : GenerationPolicy::exact;

  const bool table_possible = config_.position_encoding == PositionEncoding::rotary && !transformer;
  if (o.context == ContextProjection::table && !table_possible)
    throw_user("the context can be kept as tokens for rotary Perceiver AR models alone");
  if (o.context == ContextProjection::automatic)
    o.context = table_possible && table_pays() ? ContextProjection::table : ContextProjection::direct;
}

/// Whether generation is faster with the context kept as tokens.
bool Engine::table_pays() const {
  // A table is read whole for every token, keys and values only as far as the context reaches.
  if (2 * config_.vocabulary > config_.context_length) return false;
  // What a single kernel saves can outweigh the bytes of keys and values.
  const auto fuses = [this](bool by_table) {
    return options_.fused && keeps_cache_ &&
           model_.has_fused_step(options_.slots, options_.latents, config_.context_length, by_table);
  };
  if (fuses(true) && fuses(false)) return config_.context_length >= kTableRepays * config_.vocabulary;
  return fuses(true) || !fuses(false);
}

void Engine::check_memory() const {
  const int64_t element = static_cast<int64_t>(size_of(model_.type())), vocabulary = config_.vocabulary;
  const int64_t z = config_.z_channels(), e = config_.input_channels;
  const int64_t width = config_.attention_width == AttentionWidth::kv ? e : z;
  const bool transformer = config_.type == ModelType::transformer;
  const int64_t blocks =
      transformer ? 0 : 1 + static_cast<int64_t>(config_.extra_cross_attention_after.size());
  int64_t slot = vocabulary * (static_cast<int64_t>(size_of(accumulation_type(model_.type()))) + 1);
  if (keeps_cache_) {
    slot += config_.layers * options_.latents * 2 * z * element;
    slot += options_.context == ContextProjection::table
                ? 2 * int64_t{sizeof(int32_t)} * config_.context_length
                : blocks * config_.context_length * 2 * width * element;
  }
  // A pass over a prompt: the context's embeddings, norms, keys and values; the widest activations.
  const int64_t pass = element * ((blocks > 0 ? config_.context_length * (2 * e + 2 * width) : 0) +
                                  options_.latents * (6 + config_.self_widening) * z);
  const int64_t free = model_.context().memory()->available();
  if (slot * options_.slots + pass <= free) return;
  const int64_t fitting = std::max<int64_t>(0, (free - pass) / slot);
  throw_failure(
      "out of memory: {} sequences at once need {} MiB beside the model, {} MiB are free; at most {} fit",
      options_.slots, mebibytes(slot * options_.slots + pass), free >> 20, fitting);
}

void Engine::check(const Sequence& sequence) const {
  const auto length = static_cast<int64_t>(sequence.tokens.size());
  if (length == 0) throw_user("the prompt is empty; it starts with SOS at the least");
  for (int64_t i = 0; i < length; ++i)
    if (sequence.tokens[i] <= 0 || sequence.tokens[i] >= config_.vocabulary)
      throw_user("prompt token {}: id {} outside 1 to {}", i, sequence.tokens[i], config_.vocabulary - 1);
  if (options_.context_end == ContextEnd::stop && length > config_.context_length)
    throw_user("the prompt has {} tokens, the context {}; shorten it, or let the oldest be dropped", length,
               config_.context_length);
  for (const auto& bias : sequence.biases) {
    if (static_cast<int64_t>(bias.size()) != config_.vocabulary)
      throw_user("{} logit biases for a vocabulary of {}", bias.size(), config_.vocabulary);
    for (const float value : bias)
      if (std::isnan(value) || value == INFINITY)
        throw_user("a logit bias is {}; numbers and -infinity are possible", value);
  }
  const int64_t axes = config_.axes();
  if (sequence.positions.empty()) {
    if (axes != 1) throw_user("this model's positions have {} axes; give those of every token", axes);
    return;
  }
  if (config_.position_source != PositionSource::data)
    throw_user("positions were given, but this model counts them itself (model.position_source)");
  const auto given = static_cast<int64_t>(sequence.positions.size());
  if (given % axes != 0 || given / axes < length)
    throw_user("{} positions of {} axes do not cover the prompt's {} tokens", given / axes, axes, length);
  const bool absolute = config_.position_encoding == PositionEncoding::absolute;
  for (int64_t i = 0; i < given; ++i) {
    const int64_t rows = !absolute ? model_.rotary_positions()
                         : config_.position_sizes.empty()
                             ? config_.context_length + 2
                             : config_.position_sizes[static_cast<size_t>(i % axes)];
    if (sequence.positions[i] < 0 || sequence.positions[i] >= rows)
      throw_user("token {}: position {} outside 0 to {} (axis {})", i / axes, sequence.positions[i], rows - 1,
                 i % axes);
  }
}

void Engine::admit(int64_t number, Sequence sequence, uint64_t tag) {
  check(sequence);
  Slot& slot = slots_[static_cast<size_t>(number)];
  PERCEIVER_ASSERT(!slot.occupied);
  const auto lock = model_.context().exclusive();
  slot = Slot{};
  slot.occupied = true;
  slot.tag = tag;
  slot.length = static_cast<int64_t>(sequence.tokens.size());
  slot.tokens = std::move(sequence.tokens);
  slot.positions = std::move(sequence.positions);
  slot.settings = sequence.settings;
  slot.biases = std::move(sequence.biases);
  put_slot(number);
}

void Engine::release(int64_t slot) {
  slots_[static_cast<size_t>(slot)].occupied = false;
}

void Engine::put_slot(int64_t number) {
  Slot& slot = slots_[static_cast<size_t>(number)];
  const int64_t vocabulary = config_.vocabulary;
  std::vector<uint8_t> seen(static_cast<size_t>(vocabulary), 0);
  for (const int32_t token : slot.tokens) seen[static_cast<size_t>(token)] = 1;
  perceiver::upload(seen_.view(number * vocabulary, {vocabulary}), seen);
  const auto rows = static_cast<int64_t>(slot.biases.size());
  if (rows > bias_rows_) grow_biases(rows);
  slot.settings.bias_row = rows == 0 ? -1 : static_cast<int32_t>(number * bias_rows_);
  slot.settings.bias_period = static_cast<int32_t>(std::max<int64_t>(1, rows));
  for (int64_t r = 0; r < rows; ++r)
    perceiver::upload(biases_.view((number * bias_rows_ + r) * vocabulary, {vocabulary}),
                      slot.biases[static_cast<size_t>(r)]);
  constexpr int64_t kSettings = sizeof slot.settings;
  settings_.view(number * kSettings, {kSettings}).copy_from_host(std::as_bytes(std::span(&slot.settings, 1)));
}

/// Room for `rows` rows of biases in each slot; those of the others move.
void Engine::grow_biases(int64_t rows) {
  settle();
  for (auto& recorded : recorded_) recorded.reset();  // they read the biases where they were
  bias_rows_ = rows;
  biases_ = Tensor::zeros(model_.context(), DType::f32, {options_.slots * rows, config_.vocabulary});
  for (int64_t s = 0; s < options_.slots; ++s)
    if (occupied(s) && !slots_[static_cast<size_t>(s)].biases.empty()) put_slot(s);
}

void Engine::set_sampling(int64_t number, const kernels::SamplingParameters& settings) {
  const auto lock = model_.context().exclusive();
  settle();
  slots_[static_cast<size_t>(number)].settings = settings;
  put_slot(number);
}

bool Engine::ended(int64_t number) const {
  const Slot& slot = slots_[static_cast<size_t>(number)];
  const bool stops = options_.context_end == ContextEnd::stop && slot.length > config_.context_length;
  const bool unplaced =
      given_positions(slot) && slot.length * config_.axes() >= static_cast<int64_t>(slot.positions.size());
  return stops || unplaced;
}

int32_t Engine::position_of(const Slot& slot, int64_t token, int64_t axis) const {
  if (!given_positions(slot)) return static_cast<int32_t>(token + 1 - slot.first);
  return slot.positions[static_cast<size_t>(token * config_.axes() + axis)];
}

bool Engine::must_pass(const Slot& slot) const {
  if (slot.computed == 0 || !keeps_cache_) return true;
  const bool slides = slot.computed - slot.first >= config_.context_length;
  // Positions in tables count from the first token that is kept: dropping it moves all the others.
  if (slides && config_.position_encoding == PositionEncoding::absolute && !given_positions(slot))
    return true;
  // Latents in the caches have seen tokens that the context has lost since.
  if (slides && options_.policy == GenerationPolicy::exact) return true;
  const bool full = slot.latents + config_.latents_per_position > options_.latents;
  return full && options_.policy != GenerationPolicy::stream;
}

void Engine::compute() {
  std::vector<int64_t> grown;
  for (int64_t s = 0; s < slots(); ++s)
    if (occupied(s) && slots_[static_cast<size_t>(s)].computed < slots_[static_cast<size_t>(s)].length)
      grown.push_back(s);
  const auto lock = model_.context().exclusive();
  compute(grown);
}

void Engine::compute(const std::vector<int64_t>& slots) {
  std::vector<int64_t> decoding;
  bool passing = false;
  for (const int64_t s : slots) {
    if (must_pass(slots_[static_cast<size_t>(s)])) {
      settle();
      pass(s);
      passing = true;
    } else {
      decoding.push_back(s);
    }
  }
  if (!decoding.empty()) {
    prepare_decode(decoding);
    launch_decode();
    count_decoded(decoding);
  }
  if (passing) active_.clear();
}

void Engine::pass(int64_t number) {
  Slot& slot = slots_[static_cast<size_t>(number)];
  const bool transformer = config_.type == ModelType::transformer;
  const bool refill = slot.computed > 0 && options_.policy == GenerationPolicy::refill;
  const bool slides = slot.computed - slot.first >= config_.context_length;
  const bool moves =
      slides && config_.position_encoding == PositionEncoding::absolute && !given_positions(slot);
  int64_t latents = slot.computed == 0 ? options_.prompt_latents
                    : refill && !moves ? options_.refill
                                       : options_.latents;
  const int64_t window = transformer ? latents : config_.context_length;
  const int64_t length = std::min(slot.length, window);
  if (!has_own_query_rows(config_)) latents = std::min(latents, length * config_.latents_per_position);
  slot.first = slot.length - length;

  Batch batch;
  batch.resize(1, length, config_.axes());
  batch.lengths[0] = static_cast<int32_t>(length);
  std::copy(slot.tokens.end() - length, slot.tokens.end(), batch.tokens.begin());
  for (int64_t n = 0; n < length; ++n)
    for (int64_t a = 0; a < config_.axes(); ++a)
      batch.positions[static_cast<size_t>(n * config_.axes() + a)] = position_of(slot, slot.first + n, a);
  PassOptions options;
  options.latents = latents;
  const ModelInputs inputs = model_.prepare(batch, options);
  const Tensor logits = logits_.view(number * config_.vocabulary, {1, config_.vocabulary});
  model_.prefill(inputs, keeps_cache_ ? &caches_ : nullptr, number, logits);
  slot.computed = slot.length;
  slot.context = length;
  slot.context_row = length % config_.context_length;
  slot.latents = latents;
  slot.latent_row = latents % options_.latents;
  ++passes_;
}

/// Makes the device's state that of the next token of each slot, where it is not so already.
void Engine::prepare_decode(const std::vector<int64_t>& slots) {
  bool ready = active_ == slots;
  for (const int64_t s : slots) {
    Slot& slot = slots_[static_cast<size_t>(s)];
    ready = ready && !given_positions(slot);
    const bool beyond = caches_.positions > 0 && !given_positions(slot) &&
                        position_of(slot, slot.computed, 0) + 2 >= caches_.positions;
    if (!beyond) continue;
    rebase(s);
    ready = false;
  }
  if (!ready) {
    settle();
    upload(slots, false);
  }
  active_ = slots;
}

void Engine::count_decoded(const std::vector<int64_t>& slots) {
  const int64_t copies = config_.latents_per_position;
  for (const int64_t s : slots) {
    Slot& slot = slots_[static_cast<size_t>(s)];
    ++slot.computed;
    slot.context = std::min(slot.context + 1, config_.context_length);
    slot.context_row = (slot.context_row + 1) % config_.context_length;
    slot.latents = std::min(slot.latents + copies, options_.latents);
    slot.latent_row = (slot.latent_row + copies) % options_.latents;
  }
  decoded_ += static_cast<int64_t>(slots.size());
}

void Engine::launch_decode() {
  model_.decode(caches_, state_, logits_, fused_.get());
}

/// The whole step of all active slots; on a GPU recorded once for each mailbox and replayed.
void Engine::launch_step() {
  const auto work = [&] {
    launch_decode();
    launch_choice();
  };
  if (!arena_) return work();
  const ArenaScope scope(model_.context(), arena_);
  if (!warm_) {
    work();
    warm_ = true;
    return;
  }
  std::unique_ptr<RecordedWork>& recorded = recorded_[next_mailbox_];
  if (!recorded) recorded = model_.context().record(work);
  recorded->replay();
}

/// State of the device for the next token of each slot; `active` are those to be computed. `after`: that of
/// the token computed last, as it was when it was computed.
void Engine::upload(const std::vector<int64_t>& active, bool after) {
  const auto count = static_cast<size_t>(slots());
  const int64_t copies = config_.latents_per_position, axes = config_.axes();
  std::vector<int32_t> all(DecodeSlots::kFields * count, 0), query(count * static_cast<size_t>(copies), 0),
      positions(count * static_cast<size_t>(axes), 0);
  const int64_t back = after ? 1 : 0;
  for (size_t s = 0; s < count; ++s) {
    const Slot& slot = slots_[s];
    const int64_t token = slot.computed - back;
    const bool known = slot.occupied && token >= 0 && token < static_cast<int64_t>(slot.tokens.size());
    if (!known) continue;
    const int64_t context = config_.context_length, latents = options_.latents;
    const bool is_active = std::find(active.begin(), active.end(), static_cast<int64_t>(s)) != active.end();
    const bool placed =
        !given_positions(slot) || (token + 1) * axes <= static_cast<int64_t>(slot.positions.size());
    const int32_t position = placed ? position_of(slot, token, 0) : 0;
    const int64_t values[] = {slot.tokens[static_cast<size_t>(token)],
                              position,
                              std::min(slot.context + 1 - back, context),
                              (slot.context_row + context - back) % context,
                              std::min(slot.latents + copies - back * copies, latents),
                              (slot.latent_row + latents - back * copies) % latents,
                              is_active ? 1 : 0,
                              slot.chosen};
    for (size_t f = 0; f < DecodeSlots::kFields; ++f) all[f * count + s] = static_cast<int32_t>(values[f]);
    for (int64_t c = 0; c < copies; ++c)
      query[s * static_cast<size_t>(copies) + static_cast<size_t>(c)] =
          position + (config_.query_offset ? 1 : 0);
    for (int64_t a = 0; a < axes && placed; ++a)
      positions[s * static_cast<size_t>(axes) + static_cast<size_t>(a)] = position_of(slot, token, a);
  }
  perceiver::upload(state_.all, all);
  perceiver::upload(state_.query_position, query);
  perceiver::upload(state_.positions, positions);
}

/// Moves a slot's positions down so that its oldest token stands at 1: rotations of keys are relative, and
/// the rotary tables end somewhere.
void Engine::rebase(int64_t number) {
  settle();
  Slot& slot = slots_[static_cast<size_t>(number)];
  const int64_t oldest = slot.computed - std::min(slot.computed, config_.context_length);
  const auto shift = static_cast<int32_t>(oldest - slot.first);
  PERCEIVER_ASSERT(shift > 0);
  const DType type = model_.type();
  const auto turn_back = [&](const Tensor& rows, int64_t heads, const ops::RotaryTable& rotary) {
    if (rotary.bands == 0 || rotary.heads == 0) return;
    const int64_t count = rows.shape()[0], columns = rows.shape()[1];
    const Tensor shifts = Tensor::from_host<int32_t>(model_.context(), {count},
                                                     std::vector<int32_t>(static_cast<size_t>(count), shift));
    kernels::rotary(model_.context().launch(), {.type = type,
                                                .rows = count,
                                                .row_stride = columns,
                                                .heads = rotary.heads,
                                                .head_dim = columns / 2 / heads,
                                                .bands = rotary.bands,
                                                .x = rows.data(),
                                                .positions = shifts.as<int32_t>(),
                                                .cosine = rotary.cosine.data(),
                                                .sine = rotary.sine.data(),
                                                .direction = -1});
  };
  const auto ring = [&](const LayerCache& layer) {
    const int64_t columns = layer.kv.shape()[2];
    return layer.kv.view(number * layer.capacity * columns, {layer.capacity, columns});
  };
  for (int64_t layer = 0; layer < config_.layers; ++layer)
    turn_back(ring(caches_.self(layer)), config_.self_heads, caches_.self_rotary);
  const int64_t blocks = caches_.context_kv ? caches_.context_kv.shape()[0] : 0;
  for (int64_t block = 0; block < blocks; ++block)
    turn_back(ring(caches_.cross(block)), config_.cross_heads, caches_.cross_rotary);
  slot.first = oldest;
  if (!caches_.by_table()) return;
  std::vector<int32_t> positions(static_cast<size_t>(caches_.context), 1);
  for (int64_t i = 0; i < slot.context; ++i) {
    const int64_t row = (slot.context_row + caches_.context - 1 - i) % caches_.context;
    positions[static_cast<size_t>(row)] = position_of(slot, slot.computed - 1 - i, 0);
  }
  perceiver::upload(caches_.context_positions.view(number * caches_.context, {caches_.context}), positions);
}

void Engine::step() {
  std::vector<int64_t> going_on;
  for (int64_t s = 0; s < slots(); ++s)
    if (occupied(s) && !ended(s)) going_on.push_back(s);
  if (going_on.empty()) return;
  const auto lock = model_.context().exclusive();
  std::vector<int64_t> grown;
  bool passing = false;
  for (const int64_t s : going_on) {
    const Slot& slot = slots_[static_cast<size_t>(s)];
    if (slot.computed == slot.length) continue;
    grown.push_back(s);
    passing = passing || must_pass(slot);
  }
  if (grown == going_on && !passing) return step_together(grown);
  compute(grown);
  choose(going_on);
}

/// All slots take a token out of the caches and choose the next.
void Engine::step_together(const std::vector<int64_t>& slots) {
  prepare_decode(slots);
  make_room();
  launch_step();
  count_decoded(slots);
  send(slots);
}

/// Chooses a token for each of `slots` from its logits, and moves on.
void Engine::choose(const std::vector<int64_t>& slots) {
  if (active_ != slots) {
    settle();
    upload(slots, true);
  }
  make_room();
  launch_choice();
  send(slots);
}

/// A mailbox for the next step.
void Engine::make_room() {
  if (static_cast<int64_t>(flights_.size()) < depth()) return;
  arrived_.push_back(read(flights_.front()));
  flights_.pop_front();
}

/// What `slots` chose is on its way, in the mailbox that launch_choice() wrote to.
void Engine::send(const std::vector<int64_t>& slots) {
  Flight flight{mailboxes_[next_mailbox_].get(), {}};
  next_mailbox_ = (next_mailbox_ + 1) % mailboxes_.size();
  flight.mailbox->seal();
  for (const int64_t s : slots) {
    Slot& slot = slots_[static_cast<size_t>(s)];
    flight.sequences.emplace_back(s, slot.tag);
    ++slot.length;
    ++slot.chosen;
  }
  flights_.push_back(std::move(flight));
  active_ = slots;
}

void Engine::launch_choice() {
  const Launch& launch = model_.context().launch();
  const auto ints = [](const Tensor& tensor) { return tensor.as<int32_t>(); };
  std::byte* content = mailboxes_[next_mailbox_]->content();
  const kernels::AdvanceSlots next{.slots = slots(),
                                   .context_capacity = caches_.context,
                                   .latent_capacity = options_.latents,
                                   .copies = config_.latents_per_position,
                                   .active = ints(state_.active),
                                   .step = ints(state_.step),
                                   .position = ints(state_.position),
                                   .context_count = ints(state_.context_count),
                                   .context_row = ints(state_.context_row),
                                   .latent_count = ints(state_.latent_count),
                                   .latent_row = ints(state_.latent_row),
                                   .query_position = ints(state_.query_position),
                                   .query_offset = config_.query_offset ? 1 : 0};
  kernels::sample(
      launch, {.type = logits_.dtype(),
               .slots = slots(),
               .vocabulary = config_.vocabulary,
               .logits = logits_.data(),
               .parameters = static_cast<const kernels::SamplingParameters*>(settings_.data()),
               .bias = biases_.as<float>(),
               .seen = seen_.as<uint8_t>(),
               .step = ints(state_.step),
               .active = ints(state_.active),
               .token = ints(state_.token),
               .log_probability = reinterpret_cast<double*>(content),
               .posted = reinterpret_cast<int32_t*>(content + static_cast<size_t>(slots()) * sizeof(double)),
               .next = next});
}

std::vector<ChosenToken> Engine::read(const Flight& flight) {
  const auto count = static_cast<size_t>(slots());
  const std::byte* content = flight.mailbox->wait();
  std::vector<ChosenToken> tokens;
  for (const auto& [s, tag] : flight.sequences) {
    ChosenToken chosen{s, tag, 0, 0};
    const auto place = static_cast<size_t>(s);
    std::memcpy(&chosen.log_probability, content + place * sizeof(double), sizeof(double));
    std::memcpy(&chosen.token, content + count * sizeof(double) + place * sizeof(int32_t), sizeof(int32_t));
    if (std::isnan(chosen.log_probability))
      throw_failure(
          "no token can be chosen: the model's logits are not finite (its weights are damaged), or the "
          "biases "
          "forbid every token");
    Slot& slot = slots_[place];
    if (slot.occupied && slot.tag == tag) slot.tokens.push_back(chosen.token);
    tokens.push_back(chosen);
  }
  return tokens;
}

void Engine::settle() {
  while (!flights_.empty()) {
    arrived_.push_back(read(flights_.front()));
    flights_.pop_front();
  }
}

std::vector<ChosenToken> Engine::collect() {
  if (arrived_.empty() && !flights_.empty()) {
    const auto lock = model_.context().exclusive();
    arrived_.push_back(read(flights_.front()));
    flights_.pop_front();
  }
  if (arrived_.empty()) return {};
  std::vector<ChosenToken> tokens = std::move(arrived_.front());
  arrived_.pop_front();
  return tokens;
}

std::vector<double> Engine::logits(int64_t slot) const {
  return host_doubles(logits_.view(slot * config_.vocabulary, {config_.vocabulary}));
}

void Engine::push(int64_t number, int32_t token) {
  Slot& slot = slots_[static_cast<size_t>(number)];
  PERCEIVER_ASSERT(slot.occupied && slot.computed == slot.length);
  if (token <= 0 || token >= config_.vocabulary)
    throw_user("token id {} outside 1 to {}", token, config_.vocabulary - 1);
  if (ended(number)) throw_user("the sequence has ended: its context or its positions are used up");
  slot.tokens.push_back(token);
  ++slot.length;
  active_.clear();
  const uint8_t one = 1;
  seen_.view(number * config_.vocabulary + token, {1}).copy_from_host(std::as_bytes(std::span(&one, 1)));
}

}  // namespace perceiver
