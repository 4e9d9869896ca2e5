#include "config/schema.h"

#include <array>
#include <type_traits>

namespace perceiver {
namespace {

constexpr double most_tokens = 1 << 30;  // positions and their sums fit in int32
constexpr double most_channels = 1 << 16;
constexpr double most_steps = 1e12;

template <typename Enum>
struct Names;
template <>
struct Names<ModelType> {
  static constexpr std::array values{"perceiver_ar", "transformer", "transformer_xl"};
};
template <>
struct Names<Activation> {
  static constexpr std::array values{"identity", "squared_relu", "gelu", "silu", "relu", "gelu_exact"};
};
template <>
struct Names<PositionEncoding> {
  static constexpr std::array values{"rotary", "absolute", "both"};
};
template <>
struct Names<PositionSource> {
  static constexpr std::array values{"data", "terminal_relative", "terminal_relative_negated"};
};
template <>
struct Names<PositionTable> {
  static constexpr std::array values{"sinusoidal", "fourier", "learned", "random"};
};
template <>
struct Names<QueryStyle> {
  static constexpr std::array values{"none", "mlp", "learned"};
};
template <>
struct Names<AttentionWidth> {
  static constexpr std::array values{"kv", "q"};
};
template <>
struct Names<Biases> {
  static constexpr std::array values{"all", "cross_output", "none"};
};
template <>
struct Names<LatentKeys> {
  static constexpr std::array values{"tokens", "latents"};
};
template <>
struct Names<ContextDropout> {
  static constexpr std::array values{"tokens", "prefix"};
};
template <>
struct Names<Crops> {
  static constexpr std::array values{"uniform", "even"};
};
template <>
struct Names<Reduction> {
  static constexpr std::array values{"mean", "sum"};
};
template <>
struct Names<OptimizerType> {
  static constexpr std::array values{"adam", "adamw", "sgd", "lamb", "adafactor", "muon"};
};
template <>
struct Names<OptimizerState> {
  static constexpr std::array values{"float32", "bfloat16"};
};
template <>
struct Names<ScheduleType> {
  static constexpr std::array values{"constant", "cosine", "steps", "t5", "linear"};
};
template <>
struct Names<Precision> {
  static constexpr std::array values{"auto", "bfloat16", "tf32", "float32", "float64", "fp8"};
};
template <>
struct Names<ContextProjection> {
  static constexpr std::array values{"auto", "table", "direct"};
};
template <>
struct Names<AttentionBackend> {
  static constexpr std::array values{"auto", "hopper", "portable", "reference", "cudnn"};
};
template <>
struct Names<Recompute> {
  static constexpr std::array values{"none", "block", "attention_mlp"};
};
template <>
struct Names<Sharding> {
  static constexpr std::array values{"none", "optimizer", "gradients"};
};

std::vector<std::string> data_types() {
  return {
#define MODALITY(name) #name,
#include "config/modalities.inc"
#undef MODALITY
      "copy"};
}

ValueRange any() {
  return {};
}
ValueRange between(double min, double max) {
  return {min, max, false, false};
}
ValueRange at_least(double min) {
  return {min, std::numeric_limits<double>::infinity(), false, false};
}
ValueRange above(double min) {
  return {min, std::numeric_limits<double>::infinity(), true, false};
}
ValueRange above_up_to(double min, double max) {
  return {min, max, true, false};
}
ValueRange from_below(double min, double max) {
  return {min, max, false, true};
}

template <typename Member>
constexpr ValueKind kind_of() {
  if constexpr (std::is_enum_v<Member> || std::is_same_v<Member, std::string>) {
    return ValueKind::choice;
  } else {
    return static_cast<ValueKind>(ConfigValue(Member{}).index());
  }
}

/// A key bound to the member that `access` selects from a (const or mutable) Config.
template <typename Access>
ConfigKey bind(const char* path, Access access, ValueRange range, const char* doc) {
  using Member = std::decay_t<decltype(access(std::declval<Config&>()))>;
  ConfigKey key{.path = path,
                .kind = kind_of<Member>(),
                .range = range,
                .choices = {},
                .doc = doc,
                .zero_name = {},
                .get = {},
                .set = {}};
  if constexpr (std::is_enum_v<Member>) {
    constexpr const auto& names = Names<Member>::values;
    key.choices.assign(names.begin(), names.end());
    key.get = [access](const Config& config) {
      return ConfigValue(std::string(names.at(static_cast<size_t>(access(config)))));
    };
    key.set = [access](Config& config, const ConfigValue& value) {
      size_t index = 0;
      while (names.at(index) != std::get<std::string>(value)) ++index;
      access(config) = static_cast<Member>(index);
    };
  } else {
    key.get = [access](const Config& config) { return ConfigValue(access(config)); };
    key.set = [access](Config& config, const ConfigValue& value) {
      access(config) = std::get<Member>(value);
    };
  }
  return key;
}

/// An integer key whose 0, below its range, is written as a word.
template <typename Access>
ConfigKey bind_or_zero(const char* path, Access access, const char* zero_name, ValueRange range,
                       const char* doc) {
  ConfigKey key = bind(path, access, range, doc);
  key.zero_name = zero_name;
  return key;
}

/// A key whose value is one of `words`, stored as text.
template <typename Access>
ConfigKey bind_words(const char* path, Access access, std::vector<std::string> words, const char* doc) {
  ConfigKey key = bind(path, access, any(), doc);
  key.choices = std::move(words);
  return key;
}

/// A key whose value is any text, also none.
template <typename Access>
ConfigKey bind_text(const char* path, Access access, const char* doc) {
  ConfigKey key = bind(path, access, any(), doc);
  key.kind = ValueKind::text;
  return key;
}

/// A length of time, stored in seconds; 0 means none.
template <typename Access>
ConfigKey bind_duration(const char* path, Access access, const char* doc) {
  ConfigKey key = bind(path, access, any(), doc);
  key.kind = ValueKind::duration;
  return key;
}

// Derives the path from the member's name, so the two always agree.
#define MEMBER(path)                 \
#path, [](auto& config) -> auto& { \
    return config.path;              \
  }

std::vector<ConfigKey> general_keys() {
  return {
      bind_words(MEMBER(device), {"auto", "cpu", "cuda"},
                 "Where to run; auto uses a GPU if this build supports it and the machine has one."),
      bind(MEMBER(threads), between(0, 4096), "CPU threads; 0 = one per CPU."),
  };
}

std::vector<ConfigKey> model_keys() {
  return {
      bind(MEMBER(model.type), any(),
           "perceiver_ar, or what it is compared with: the decoder-only transformer (the same layers with "
           "latents = context_length and no cross-attention), or transformer_xl (segments of context_length "
           "tokens, a memory of earlier segments in each layer, relative positions)."),
      bind_or_zero(MEMBER(model.vocabulary), "auto", between(4, most_tokens),
                   "Number of token ids V: 0 = padding, 1 = end, 2 = start, data from 3. Bytes need 259; "
                   "auto = as many as the data has. Ids that stand for nothing are never generated."),
      bind(MEMBER(model.context_length), between(1, most_tokens), "Longest input N, tokens."),
      bind(MEMBER(model.latents), between(1, most_tokens),
           "Latents M: one for each of the last M tokens of the input, each predicting the next token. At "
           "most context_length. A transformer always has context_length of them (which replaces the "
           "default)."),
      bind(MEMBER(model.latents_per_position), between(1, 1024),
           "Latents K that share one position; latents / K positions are predicted. Values above 1 need "
           "absolute positions."),
      bind(MEMBER(model.input_channels), between(1, most_channels),
           "Width E of the token embedding, channels."),
      bind(MEMBER(model.latent_channels), between(0, most_channels),
           "Width Z of the latents, channels; 0 = input_channels."),
      bind(MEMBER(model.layers), between(1, 10'000), "Self-attention blocks."),
      bind(MEMBER(model.cross_heads), between(1, most_channels),
           "Heads of the cross-attention; must divide its width (attention_width)."),
      bind(MEMBER(model.self_heads), between(1, most_channels),
           "Heads of the self-attention; must divide the width of the latents."),
      bind(MEMBER(model.head_channels), between(0, most_channels),
           "Channels of each head, in queries, keys and values of every attention; 0 = the width of the "
           "attention divided by its heads."),
      bind(MEMBER(model.cross_widening), between(1, 256),
           "Hidden width of the MLP in the cross-attention block, as a multiple of the width of the "
           "latents."),
      bind(MEMBER(model.self_widening), between(1, 256),
           "Hidden width of the MLPs in the self-attention blocks, as a multiple of the width of the "
           "latents."),
      bind(MEMBER(model.activation), any(),
           "Activation of the MLPs; squared_relu is relu(x)^2, gelu the tanh approximation of gelu_exact."),
      bind(MEMBER(model.biases), any(),
           "Linear layers that have a bias, but for the last (output_bias): all, the output projection of "
           "the cross-attention alone, or none."),
      bind(MEMBER(model.attention_width), any(),
           "Width of the queries, keys and values of the cross-attention: kv = input_channels, q = "
           "latent_channels."),
      bind(MEMBER(model.query_residual), any(), "Add the query to the output of the cross-attention."),
      bind(MEMBER(model.query_style), any(),
           "Initial value of the latents: none = the token embeddings through one linear layer, mlp = "
           "further layers after it, learned = a table of parameters instead."),
      bind(MEMBER(model.query_projection), any(),
           "false: the latents start as the token embeddings themselves, without a linear layer; for "
           "query_style none, with latent_channels = input_channels."),
      bind(MEMBER(model.query_mlp_layers), between(1, 100), "Number of further layers for query_style mlp."),
      bind(MEMBER(model.query_activation), any(), "Activation after each further layer for query_style mlp."),
      bind(MEMBER(model.shared_learned_query), any(),
           "Share one learned row among all latents instead of one each; for query_style learned."),
      bind(MEMBER(model.query_offset), any(),
           "Rotate the latents by their position + 1 (and increase the longest wavelength by 1); rotary "
           "positions only."),
      bind(MEMBER(model.extra_cross_attention_after), between(-1, 10'000),
           "Self-attention blocks, counted from 0, that are followed by another cross-attention; -1 = one "
           "before the first, and may be repeated."),
      bind(MEMBER(model.latent_keys), any(),
           "What the cross-attention's keys and values for the latents' own tokens are made of: tokens = "
           "their embeddings, normalised like the rest of the context; latents = the latents, normalised as "
           "for the queries."),
      bind(MEMBER(model.position_encoding), any(),
           "rotary: queries and keys are rotated; absolute: a table row is added to each token embedding; "
           "both: both."),
      bind(MEMBER(model.position_source), any(),
           "data: positions from the data (the start token is 1); terminal_relative: distance to the last "
           "token of the input; terminal_relative_negated: minus that (rotary only)."),
      bind(MEMBER(model.rotary_fraction), above_up_to(0, 1),
           "Fraction of the channels of each head that is rotated."),
      bind(MEMBER(model.rotary_head_fraction), above_up_to(0, 1), "Fraction of the heads that is rotated."),
      bind(MEMBER(model.max_wavelength), between(0, 1e12),
           "Longest rotary wavelength, positions; at least context_length; 0 = context_length."),
      bind(MEMBER(model.rotary_base), between(0, 1e12),
           "Base b of the rotary frequencies b^(-2t/r) of the pairs t of r rotated channels, as in RoFormer "
           "(10000 there); 0 = wavelengths spaced up to max_wavelength instead, both ends included."),
      bind(MEMBER(model.rotary_layers), between(-1, 10'000),
           "Self-attention blocks that rotate, from the first on; -1 = all. The cross-attention always "
           "does."),
      bind(MEMBER(model.position_table), any(),
           "Absolute position tables: sinusoidal and fourier are formulas, learned is trained from a "
           "random start, random stays as drawn."),
      bind(MEMBER(model.position_sizes), between(1, most_tokens),
           "Rows of the absolute position table of each axis, one number per axis; [] = one axis of "
           "context_length + 2 rows."),
      bind(MEMBER(model.learnable_positions), any(), "Train the absolute position tables."),
      bind(MEMBER(model.residual_dropout), from_below(0, 1),
           "Probability of dropping a channel of an attention or MLP output in training."),
      bind(MEMBER(model.context_dropout), from_below(0, 1),
           "Probability of hiding an input position from the cross-attention in training, for all latents "
           "at once."),
      bind(MEMBER(model.context_dropout_from), any(),
           "What context_dropout hides: tokens = each input position with that probability; prefix = exactly "
           "that share, rounded down, of the positions before the latents, chosen anew for each "
           "cross-attention."),
      bind(MEMBER(model.latent_dropout), from_below(0, 1),
           "Probability of hiding a latent from the other latents in training."),
      bind(MEMBER(model.train_input_positions), between(0, most_tokens),
           "Exact number of randomly chosen input positions that the cross-attention sees in training; "
           "the others cost nothing. 0 = all."),
      bind(MEMBER(model.output_norm), any(), "Normalise the latents before the last layer."),
      bind(MEMBER(model.output_bias), any(), "Whether the last layer has a bias."),
      bind(MEMBER(model.tied_output), any(),
           "Use the token embedding as the weights of the last layer; needs latent_channels = "
           "input_channels."),
      bind(MEMBER(model.zero_initial_logits), any(),
           "Initialize the weights of the last layer to zero, which makes every token equally likely at "
           "first."),
      bind(MEMBER(model.context_projection), any(),
           "How the context becomes keys and values, which depend only on token and position: table "
           "projects each row of the token and position tables once and gathers the results, direct "
           "projects every token of the context. Both give the same numbers up to rounding; auto picks "
           "the one with less work."),
      bind(MEMBER(model.attention), any(),
           "Attention kernels used in training: auto picks by GPU, precision and shape; hopper (compute "
           "capability 9.0, bf16, heads of up to 256 channels, a multiple of 8), portable (bf16, heads of up "
           "to 128 channels, a multiple of 16) and reference (everything) are this library's own; cudnn is "
           "NVIDIA's library, loaded at run time (bf16, heads of up to 128 channels, a multiple of 8; no "
           "dropped context or latents, and only batches whose examples all fill their rows). With cudnn two "
           "runs differ in the last bits. A choice that cannot be used is an error. The CPU has one "
           "implementation: auto or reference. Evaluation and generation always use auto. transformer_xl has "
           "kernels of its own: auto."),
      bind(MEMBER(model.memory_length), between(0, most_tokens),
           "transformer_xl: tokens before a segment whose hidden states each layer remembers and attends to; "
           "0 = none (in generation each token then sees itself alone)."),
      bind(MEMBER(model.clamp_length), between(0, most_tokens),
           "transformer_xl: distances above this count as this one; 0 = no limit."),
      bind(
          MEMBER(model.same_length), any(),
          "transformer_xl: each token sees itself and the memory_length - 1 tokens before it, instead of the "
          "whole memory and its segment up to itself."),
      bind(MEMBER(model.shared_biases), any(),
           "transformer_xl: all layers have the same biases u and v of the attention, or each its own."),
      bind(MEMBER(model.norm_first), any(),
           "transformer_xl: LayerNorm before attention and MLP (pre-norm) instead of after the residual "
           "sums."),
      bind(
          MEMBER(model.zero_memory), any(),
          "transformer_xl: what is missing of the memory of a stream's first segments is zero vectors, which "
          "are attended to, instead of nothing."),
      bind(MEMBER(model.mlp_channels), between(0, most_channels * 256),
           "transformer_xl: hidden channels of the MLPs; 0 = self_widening * latent_channels."),
      bind(MEMBER(model.attention_dropout), from_below(0, 1),
           "transformer_xl: probability of dropping an attention weight in training."),
  };
}

std::vector<ConfigKey> data_keys() {
  return {
      bind_words(
          MEMBER(data.type), data_types(),
          "Kind of data (perceiver data modalities lists them and the files they read), or copy: random "
          "bytes followed by their mirror image, generated on the fly. A folder of shards knows its own "
          "kind."),
      bind(MEMBER(data.options), any(),
           "Options of that kind, e.g. {sample_rate: 8000}; perceiver data modalities lists them."),
      bind(MEMBER(data.train), any(),
           "Training data: files and folders, or one folder made by perceiver data build; one path or a "
           "list. A folder with train/ and validation/ or test/ in it, or a folder of shards, has its own "
           "splits. Otherwise, without validation or test paths, parts of it are held out for them."),
      bind(
          MEMBER(data.validation), any(),
          "Validation data: files and folders; empty = the validation/ in train, else part of train. Must be "
          "empty if train is a folder of shards."),
      bind(MEMBER(data.test), any(),
           "Test data: files and folders; empty = the test/ in train, else part of train. Must be empty if "
           "train "
           "is a folder of shards."),
      bind(MEMBER(data.validation_fraction), from_below(0, 1),
           "Fraction of train held out for validation if there is no other validation data: whole documents, "
           "or bytes if there is only one document."),
      bind(MEMBER(data.test_fraction), from_below(0, 1),
           "Fraction of train held out for testing if there is no other test data, as for validation."),
      bind(MEMBER(data.strict), any(),
           "Skip files that can only be read after a repair (damaged in a known way), instead of repairing "
           "and "
           "noting them. Shards were read by perceiver data build, which has its own --strict."),
      bind(
          MEMBER(data.copy_length), between(4, 131072),
          "Length of a copy sequence, tokens: start, random bytes, their mirror image, end. data.options: "
          "{positions: centered} for positions of the middle of the longest sequence, so that what is learnt "
          "at one length holds at another; {shortest: 32} for half of the sequences to be shorter."),
      bind(MEMBER(data.seed), any(), "Seed of the split and of the copy task."),
  };
}

std::vector<ConfigKey> loss_keys() {
  return {
      bind(MEMBER(loss.z_loss), at_least(0),
           "Weight of log(Z)^2, where Z is the sum of the exponentiated logits; keeps them small. 0 = "
           "off."),
      bind(MEMBER(loss.label_smoothing), from_below(0, 1),
           "Probability in the target that is spread over all other tokens; a perfect prediction still "
           "has loss 0."),
      bind(MEMBER(loss.reduction), any(),
           "Whether the loss of a step is the mean or the sum over its targets."),
  };
}

std::vector<ConfigKey> optimizer_keys() {
  return {
      bind(MEMBER(optimizer.type), any(),
           "adam, adamw (decoupled weight decay), sgd (with momentum), lamb (scales each matrix's step by "
           "the matrix's norm), adafactor (factored second moments with decay 1 - step^-0.8; updates "
           "clipped to a root mean square of 1; no first moment) or muon (steps of the layers' matrices are "
           "their Nesterov momentum of 0.95 made orthogonal, as large as those of adamw, which everything "
           "else gets: learning_rate and weight_decay of adamw fit)."),
      bind(MEMBER(optimizer.learning_rate), at_least(0),
           "Peak learning rate, which the schedule scales. Per step, no unit."),
      bind(MEMBER(optimizer.beta1), from_below(0, 1),
           "Decay of the first moment per step: adam, adamw, lamb, muon where it is adamw."),
      bind(MEMBER(optimizer.beta2), from_below(0, 1),
           "Decay of the second moment per step: adam, adamw, lamb, muon where it is adamw."),
      bind(MEMBER(optimizer.epsilon), above(0),
           "Added to the root of the second moment: adam, adamw, lamb, muon where it is adamw."),
      bind(MEMBER(optimizer.weight_decay), at_least(0),
           "Weight decay, as a fraction of each weight per unit of learning rate; 0 = off. Applies to the "
           "matrices of linear layers, not to biases, LayerNorm parameters, embeddings and learned "
           "tables. adam and sgd add it to the gradient, lamb to the direction that it scales; adamw, "
           "adafactor and muon subtract it from the weights."),
      bind(MEMBER(optimizer.momentum), from_below(0, 1), "Momentum of sgd; 0 = off."),
      bind(MEMBER(optimizer.nesterov), any(), "Use Nesterov momentum in sgd."),
      bind(MEMBER(optimizer.clip_norm), at_least(0),
           "Maximum global norm of the gradient; a larger gradient is scaled down to it. 0 = off."),
      bind(MEMBER(optimizer.state), any(),
           "Type of the moments of adam and adamw in memory; bfloat16 rounds them stochastically, and saves "
           "four bytes per parameter."),
  };
}

std::vector<ConfigKey> schedule_keys() {
  return {
      bind(MEMBER(schedule.type), any(),
           "Learning rate after the warm-up: constant; cosine or linear decay to final_learning_rate; "
           "steps (factors at given steps); t5 (learning_rate * sqrt(w / step) from step w on, with w = "
           "warmup_steps, at least 1: without a warm-up the rate drops tenfold in the first 100 steps)."),
      bind(MEMBER(schedule.warmup_steps), between(0, most_steps),
           "Steps over which the learning rate rises linearly from warmup_initial; 0 = no warm-up."),
      bind(MEMBER(schedule.warmup_initial), at_least(0), "Learning rate at step 0 of the warm-up."),
      bind(MEMBER(schedule.final_learning_rate), at_least(0), "Final learning rate of cosine and linear."),
      bind(MEMBER(schedule.decay_steps), between(0, most_steps),
           "Step at which cosine and linear reach final_learning_rate; 0 = train.steps."),
      bind_duration(MEMBER(schedule.until),
                    "Cosine and linear follow the clock: they reach final_learning_rate after this much time "
                    "of training, validations and resumed parts included, and the run ends there after as "
                    "many steps as that makes; train.steps is not used. 90s, 20m or 1.5h; 0 = off."),
      bind(MEMBER(schedule.step_boundaries), between(1, most_steps),
           "Steps, in increasing order, at which type steps changes the learning rate."),
      bind(MEMBER(schedule.step_factors), at_least(0),
           "Factors by which type steps multiplies the learning rate at the boundaries, one per boundary."),
  };
}

std::vector<ConfigKey> train_keys() {
  return {
      bind(MEMBER(train.steps), between(0, most_steps),
           "Total training steps; not used with schedule.until."),
      bind(MEMBER(train.batch), between(1, 1 << 20),
           "Examples per step, of all ranks together if the run has several."),
      bind(MEMBER(train.micro_batches), between(1, 1 << 20),
           "Equal parts into which the batch of a step is split and computed one at a time, to save "
           "memory; must divide batch."),
      bind(MEMBER(train.precision), any(),
           "Floating-point type of the computation; auto is bfloat16 on a GPU and float32 on the CPU. "
           "bfloat16 keeps weights, optimizer state, statistics and weight gradients in float32; tf32 is "
           "float32 with matrix product operands rounded to ten bits. fp8 is bfloat16 with the matrix "
           "products of the blocks in 8 bits, in training passes alone: validation, evaluation and sampling "
           "compute in "
           "bfloat16. bfloat16, tf32 and fp8 need a GPU (fp8 compute capability 8.9), float64 the CPU."),
      bind(MEMBER(train.recompute), any(),
           "What the backward pass recomputes instead of keeping it in memory: nothing, whole blocks, or "
           "attention and MLP separately. Results are bitwise identical."),
      bind(MEMBER(train.seed), any(), "Seed of initial weights, batches and dropout."),
      bind(MEMBER(train.crops), any(),
           "Which parts of documents are trained: uniform, all crops alike, as in the paper (the first and "
           "the last targets of a document are in few of them); even, the first and the last crop so often "
           "that every target counts, for short documents that are generated from their beginning, such as "
           "sounds and pieces."),
      bind(MEMBER(train.ema_decay), from_below(0, 1),
           "Decay per step of an exponential moving average of the weights, stored in checkpoints beside "
           "them and used for validation and sampling; the first updates use (1 + update) / (10 + update) "
           "if that is less. 0 = off."),
      bind(MEMBER(train.log_every), between(1, most_steps),
           "Steps between entries in the metrics and the log."),
      bind(MEMBER(train.max_nonfinite_steps), between(1, most_steps),
           "Training stops after this many consecutive steps with a non-finite loss or gradient."),
      bind(MEMBER(train.max_minutes), at_least(0),
           "After this many minutes training validates, saves and stops; a resumed run starts counting "
           "again. 0 = no limit."),
      bind(MEMBER(train.cuda_graph), any(),
           "On a GPU: record the launches of a step as a CUDA graph and replay it. Results are bitwise "
           "identical."),
      bind(MEMBER(train.shard), any(),
           "What several ranks divide among them instead of each keeping all of it: nothing; the state of "
           "the optimizer, the master weights and the moving average (optimizer); the sums of gradients too "
           "(gradients). The last two need optimizer.type adam, adamw or sgd; muon divides its momentum and "
           "its matrix products, other optimizers keep all. "
           "Losses agree within rounding."),
      bind(MEMBER(train.context_shards), between(1, 4096),
           "Ranks that share the context of each example: each reads its part, and all compute the latents. "
           "Must divide the number of ranks."),
      bind(MEMBER(train.deterministic_reduction), any(),
           "With several GPUs: fix NCCL's algorithm and protocol, so that a run repeats bitwise with the "
           "same number of ranks. Between CPUs this is always so."),
      bind(MEMBER(train.tensorboard), any(), "Write TensorBoard event files beside the metrics."),
      bind_text(
          MEMBER(train.initialize),
          "Start from the weights of this run folder, checkpoint folder or model file instead of random "
          "ones (fine-tuning): with a fresh optimizer at step 0, and everything else as configured here. "
          "Context, latents and dropout may differ from the checkpoint's, the sizes of the model may "
          "not. With data to validate on, the starting point is validated too. \"\" = random weights."),
      bind(MEMBER(train.initialize_partial), any(),
           "Take from train.initialize what fits and start the rest afresh: allows another vocabulary or "
           "kind of data, other numbers of layers, other queries and position tables."),
      bind(MEMBER(train.early_stopping), between(0, most_steps),
           "Training ends after this many validations in a row without a better loss; needs eval.every. 0 = "
           "off."),
      bind(MEMBER(train.early_stopping_delta), at_least(0),
           "How much lower than the best so far, in nats per target, a validation loss must be to count as "
           "better for train.early_stopping."),
      bind(
          MEMBER(train.sample_every), between(0, most_steps),
          "Steps between samples that the model writes to the run's folder samples/, with the moving average "
          "of the weights if there is one (temperature 1, top-p 0.95). They do not affect training. 0 = "
          "never."),
      bind(
          MEMBER(train.sample_tokens), between(0, most_tokens),
          "Length of these samples, new tokens; 0 = the whole sequence if its length is known (images), else "
          "256."),
      bind_text(MEMBER(train.sample_prompt), "Text that these samples continue; only for text."),
  };
}

std::vector<ConfigKey> eval_keys() {
  return {
      bind(MEMBER(eval.every), between(0, most_steps),
           "Steps between validations; 0 = only at the end. There is always one at the end."),
      bind(MEMBER(eval.max_documents), between(0, most_steps), "Documents used in a validation; 0 = all."),
      bind(MEMBER(eval.stride), between(0, most_tokens),
           "Tokens scored per window; a smaller stride gives each token more context and costs more. 0 = "
           "the number of latents."),
      bind(MEMBER(eval.latents), between(0, most_tokens),
           "Latents used in evaluation, for transformer_xl the length of a segment; 0 = model.latents."),
      bind(MEMBER(eval.memory_length), between(0, most_tokens),
           "transformer_xl: memory in evaluation, tokens; 0 = model.memory_length."),
      bind(MEMBER(eval.batch), between(0, 1 << 20),
           "Windows per batch in evaluation, on each rank; 0 = the sequences that a rank trains on at once: "
           "train.batch, divided by train.micro_batches and among the ranks."),
  };
}

std::vector<ConfigKey> checkpoint_keys() {
  return {
      bind(MEMBER(checkpoint.every), between(0, most_steps),
           "Steps between checkpoints; 0 = by the clock only. One is always saved at the end."),
      bind(MEMBER(checkpoint.minutes), between(0, 1e6),
           "Minutes from one checkpoint to the next, whatever the other keys save: what a killed run can "
           "lose. Longer where saving would take more than a twentieth of the time. 0 = by steps only."),
      bind(MEMBER(checkpoint.keep), between(1, 1'000'000), "Number of most recent checkpoints to keep."),
      bind(MEMBER(checkpoint.keep_best), any(),
           "Also keep the checkpoint with the lowest validation loss; one is saved at every validation "
           "that improves on the best so far."),
  };
}

#undef MEMBER

std::vector<ConfigKey> all_keys() {
  std::vector<ConfigKey> keys;
  for (auto group : {general_keys, model_keys, data_keys, loss_keys, optimizer_keys, schedule_keys,
                     train_keys, eval_keys, checkpoint_keys})
    for (ConfigKey& key : group()) keys.push_back(std::move(key));
  return keys;
}

}  // namespace

const std::vector<ConfigSection>& config_sections() {
  static const std::vector<ConfigSection> sections{
      {"", "the machine"},
      {"model", "the network"},
      {"data", "the training data"},
      {"loss", "the training objective"},
      {"optimizer", "how gradients update the weights"},
      {"schedule", "the learning rate over time"},
      {"train", "the training run"},
      {"eval", "validation during training, and defaults for perceiver eval"},
      {"checkpoint", "what is saved"},
  };
  return sections;
}

const std::vector<ConfigKey>& config_keys() {
  static const std::vector<ConfigKey> keys = all_keys();
  return keys;
}

}  // namespace perceiver
