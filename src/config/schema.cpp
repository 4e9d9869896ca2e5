#include "config/schema.h"

#include <array>
#include <type_traits>

namespace perceiver {
namespace {

constexpr double most_tokens = 1 << 30;  // positions and their sums fit into int32
constexpr double most_channels = 1 << 16;
constexpr double most_steps = 1e12;

template <typename Enum>
struct Names;
template <>
struct Names<ModelType> {
  static constexpr std::array values{"perceiver_ar", "transformer"};
};
template <>
struct Names<Activation> {
  static constexpr std::array values{"identity", "squared_relu", "gelu", "silu", "relu"};
};
template <>
struct Names<PositionEncoding> {
  static constexpr std::array values{"rotary", "absolute"};
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
struct Names<Reduction> {
  static constexpr std::array values{"mean", "sum"};
};
template <>
struct Names<OptimizerType> {
  static constexpr std::array values{"adam", "adamw", "sgd", "lamb", "adafactor"};
};
template <>
struct Names<ScheduleType> {
  static constexpr std::array values{"constant", "cosine", "steps", "t5", "linear"};
};
template <>
struct Names<Precision> {
  static constexpr std::array values{"auto", "bfloat16", "tf32", "float32", "float64"};
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
  ConfigKey key{path, kind_of<Member>(), range, {}, doc, {}, {}};
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

/// A key that takes one of some words and is stored as such.
template <typename Access>
ConfigKey bind_words(const char* path, Access access, std::vector<std::string> words, const char* doc) {
  ConfigKey key = bind(path, access, any(), doc);
  key.choices = std::move(words);
  return key;
}

// The path is the member's own name, so that the two cannot differ.
#define MEMBER(path)                 \
#path, [](auto& config) -> auto& { \
    return config.path;              \
  }

std::vector<ConfigKey> general_keys() {
  return {
      bind_words(MEMBER(device), {"auto", "cpu", "cuda"},
                 "Where the computation runs; auto takes a GPU where this build and this machine have one."),
      bind(MEMBER(threads), between(0, 4096), "CPU threads; 0 = as many as the machine has."),
  };
}

std::vector<ConfigKey> model_keys() {
  return {
      bind(MEMBER(model.type), any(),
           "perceiver_ar, or the decoder-only transformer that it is compared with: the same layers with "
           "latents = context_length and no cross-attention."),
      bind(MEMBER(model.vocabulary), between(4, most_tokens),
           "Token ids V: 0 = padding, 1 = end, 2 = start, data from 3 on. Bytes need 259."),
      bind(MEMBER(model.context_length), between(1, most_tokens), "Longest input N, tokens."),
      bind(MEMBER(model.latents), between(1, most_tokens),
           "Latents M: the last M tokens of the input are computed on and predict their successors. At most "
           "context_length. A transformer's are always context_length (the default is replaced by it)."),
      bind(MEMBER(model.latents_per_position), between(1, 1024),
           "Latents K that share one position; latents / K positions are predicted. More than 1 needs "
           "absolute "
           "positions."),
      bind(MEMBER(model.input_channels), between(1, most_channels),
           "Width E of the token embedding, channels."),
      bind(MEMBER(model.latent_channels), between(0, most_channels),
           "Width Z of the latents, channels; 0 = input_channels."),
      bind(MEMBER(model.layers), between(1, 10'000), "Self-attention blocks."),
      bind(MEMBER(model.cross_heads), between(1, most_channels),
           "Heads of the cross-attention; must divide its width (attention_width)."),
      bind(MEMBER(model.self_heads), between(1, most_channels),
           "Heads of the self-attention; must divide the latents' width."),
      bind(MEMBER(model.cross_widening), between(1, 256),
           "Hidden width of the cross block's MLP, as a multiple of the latents' width."),
      bind(MEMBER(model.self_widening), between(1, 256),
           "Hidden width of the self blocks' MLPs, as a multiple of the latents' width."),
      bind(MEMBER(model.activation), any(),
           "Activation of the MLPs; squared_relu is relu(x)^2, gelu its tanh form."),
      bind(MEMBER(model.attention_width), any(),
           "Width of the cross-attention's queries, keys and values: kv = input_channels, q = latent "
           "channels."),
      bind(MEMBER(model.query_residual), any(), "Add the query to the cross-attention's output."),
      bind(
          MEMBER(model.query_style), any(),
          "First value of the latents: none = the tokens' embeddings through one linear layer, mlp = further "
          "layers behind it, learned = a table of parameters instead."),
      bind(MEMBER(model.query_mlp_layers), between(1, 100), "Further layers of query_style mlp."),
      bind(MEMBER(model.query_activation), any(), "Activation after each further layer of query_style mlp."),
      bind(MEMBER(model.shared_learned_query), any(),
           "One learned row for all latents instead of one each; for query_style learned."),
      bind(MEMBER(model.query_offset), any(),
           "Rotate the latents by their position + 1 (and enlarge the longest wavelength by 1); rotary "
           "positions "
           "only."),
      bind(MEMBER(model.extra_cross_attention_after), between(0, 10'000),
           "Self-attention blocks, counted from 0, after which a further cross-attention follows."),
      bind(MEMBER(model.position_encoding), any(),
           "rotary: queries and keys of every attention are rotated; absolute: a table row is added to each "
           "token's embedding."),
      bind(MEMBER(model.position_source), any(),
           "data: positions of the data (the start token is 1); terminal_relative: distance to the input's "
           "last "
           "token; terminal_relative_negated: minus that (rotary only)."),
      bind(MEMBER(model.rotary_fraction), above_up_to(0, 1), "Part of each head's channels that is rotated."),
      bind(MEMBER(model.rotary_head_fraction), above_up_to(0, 1), "Part of the heads that is rotated."),
      bind(MEMBER(model.max_wavelength), between(0, 1e12),
           "Longest rotary wavelength, positions; at least context_length; 0 = context_length."),
      bind(MEMBER(model.position_table), any(),
           "Absolute position tables: sinusoidal and fourier are formulas, learned starts random and is "
           "trained, random stays as drawn."),
      bind(MEMBER(model.position_sizes), between(1, most_tokens),
           "Rows of each axis' absolute position table, one number per axis; [] = one axis of context_length "
           "+ 2 "
           "rows."),
      bind(MEMBER(model.learnable_positions), any(), "Train the absolute position tables."),
      bind(MEMBER(model.residual_dropout), from_below(0, 1),
           "Probability that a channel of an attention's or MLP's output is dropped in training."),
      bind(MEMBER(model.context_dropout), from_below(0, 1),
           "Probability that an input position is hidden from the cross-attention in training, for all "
           "latents at "
           "once."),
      bind(MEMBER(model.latent_dropout), from_below(0, 1),
           "Probability that a latent is hidden from the other latents in training."),
      bind(MEMBER(model.train_input_positions), between(0, most_tokens),
           "Exact number of randomly chosen input positions that the cross-attention sees in training, the "
           "others "
           "costing nothing; 0 = all."),
      bind(MEMBER(model.zero_initial_logits), any(),
           "Start with zero weights of the last layer, so that every token is equally likely at first."),
      bind(
          MEMBER(model.context_projection), any(),
          "How the context becomes keys and values, which are functions of token and position alone: table "
          "projects each row of the token and position tables once and gathers, direct projects every token "
          "of "
          "the context. Both give the same numbers up to rounding; auto counts and takes what is less work."),
      bind(MEMBER(model.attention), any(),
           "Attention kernels used in training: auto picks by GPU, precision and shape; hopper (compute "
           "capability 9.0, bf16, heads of 64 or 128 channels), portable (bf16, heads of up to 128 channels, "
           "a "
           "multiple of 16) and reference (everything) are this library's own; cudnn is NVIDIA's library, "
           "loaded at run time (bf16, heads of up to 128 channels, a multiple of 8; no dropped context or "
           "latents, and only batches whose examples all fill their rows). With cudnn two runs differ in the "
           "last bits. A choice that cannot be used is an error. The CPU has one implementation: auto or "
           "reference. Evaluation and generation always use auto."),
  };
}

std::vector<ConfigKey> data_keys() {
  return {
      bind_words(MEMBER(data.type), data_types(),
                 "Kind of the files (perceiver data modalities tells what each reads), or copy: random bytes "
                 "followed by their mirror image, made on the fly. A folder of shards knows its own kind."),
      bind(MEMBER(data.options), any(),
           "Options of that kind, e.g. {sample_rate: 8000}; perceiver data modalities lists them."),
      bind(MEMBER(data.train), any(),
           "Files and folders with the training data, or one folder that perceiver data build made; one path "
           "or "
           "a list. Without validation or test paths, parts of it are kept for these; a folder of shards "
           "brings "
           "its own."),
      bind(MEMBER(data.validation), any(), "Files and folders with the validation data; [] = part of train."),
      bind(MEMBER(data.test), any(), "Files and folders with the test data; [] = part of train."),
      bind(MEMBER(data.validation_fraction), from_below(0, 1),
           "Part of train that is kept for validation when it has no paths of its own: whole documents, or "
           "bytes "
           "if there is one document only."),
      bind(MEMBER(data.test_fraction), from_below(0, 1),
           "Part of train that is kept for testing when it has no paths of its own, as for validation."),
      bind(MEMBER(data.copy_length), between(4, 131072),
           "Length of a copy sequence, tokens: start, random bytes, their mirror image, end."),
      bind(MEMBER(data.seed), any(), "Seed of the split and of the copy task."),
  };
}

std::vector<ConfigKey> loss_keys() {
  return {
      bind(MEMBER(loss.z_loss), at_least(0),
           "Weight of log(Z)^2, Z being the sum of the exponentiated logits; keeps them small. 0 = off."),
      bind(MEMBER(loss.label_smoothing), from_below(0, 1),
           "Probability spread over all other tokens in the target; the loss of a perfect prediction stays "
           "0."),
      bind(MEMBER(loss.reduction), any(),
           "Whether the loss of a step is the mean or the sum over its targets."),
  };
}

std::vector<ConfigKey> optimizer_keys() {
  return {
      bind(MEMBER(optimizer.type), any(),
           "adam, adamw (weight decay apart from the gradient), sgd (with momentum), lamb (the step of each "
           "matrix in "
           "proportion to its norm) or adafactor (second moments by rows and columns, decaying by 1 - "
           "step^-0.8; "
           "updates clipped to a root mean square of 1; no first moment)."),
      bind(MEMBER(optimizer.learning_rate), at_least(0),
           "Highest learning rate; the schedule scales it. Per step, no unit."),
      bind(MEMBER(optimizer.beta1), from_below(0, 1),
           "Decay of the first moment per step: adam, adamw, lamb."),
      bind(MEMBER(optimizer.beta2), from_below(0, 1),
           "Decay of the second moment per step: adam, adamw, lamb."),
      bind(MEMBER(optimizer.epsilon), above(0), "Added to the root of the second moment: adam, adamw, lamb."),
      bind(MEMBER(optimizer.weight_decay), at_least(0),
           "Weight decay, as a part of each weight per unit of learning rate; 0 = off. It applies to the "
           "matrices of "
           "linear layers, not to biases, LayerNorm parameters, embeddings and learned tables. adam and sgd "
           "add it to "
           "the gradient, lamb to the direction it scales, adamw and adafactor take it from the weights."),
      bind(MEMBER(optimizer.momentum), from_below(0, 1), "Momentum of sgd; 0 = off."),
      bind(MEMBER(optimizer.nesterov), any(), "Nesterov's form of sgd's momentum."),
      bind(MEMBER(optimizer.clip_norm), at_least(0),
           "Largest global norm of the gradient; a longer one is scaled down to it. 0 = off."),
  };
}

std::vector<ConfigKey> schedule_keys() {
  return {
      bind(MEMBER(schedule.type), any(),
           "Course of the learning rate after the warm-up: constant; cosine or linear down to "
           "final_learning_rate; steps (factors at given steps); t5 (learning_rate * sqrt(w / step) from "
           "step w "
           "on, w = warmup_steps, at least 1: without a warm-up the rate falls by ten in the first 100 "
           "steps)."),
      bind(MEMBER(schedule.warmup_steps), between(0, most_steps),
           "Steps over which the learning rate rises linearly from warmup_initial; 0 = no warm-up."),
      bind(MEMBER(schedule.warmup_initial), at_least(0), "Learning rate at step 0 of the warm-up."),
      bind(MEMBER(schedule.final_learning_rate), at_least(0),
           "Learning rate at the end of cosine and linear."),
      bind(MEMBER(schedule.decay_steps), between(0, most_steps),
           "Step at which cosine and linear reach final_learning_rate; 0 = train.steps."),
      bind(MEMBER(schedule.step_boundaries), between(1, most_steps),
           "Steps, rising, at which type steps changes the learning rate."),
      bind(MEMBER(schedule.step_factors), at_least(0),
           "What type steps multiplies the learning rate by at each boundary; one number per boundary."),
  };
}

std::vector<ConfigKey> train_keys() {
  return {
      bind(MEMBER(train.steps), between(0, most_steps), "Training steps in all."),
      bind(MEMBER(train.batch), between(1, 1 << 20), "Examples per step."),
      bind(MEMBER(train.micro_batches), between(1, 1 << 20),
           "Equal parts in which a step's batch is computed one after the other, to save memory; must divide "
           "batch."),
      bind(MEMBER(train.precision), any(),
           "Floating-point type of the computation; auto is bfloat16 on a GPU and float32 on the CPU. "
           "bfloat16 keeps "
           "weights, optimizer state, statistics and gradients of weights in float32; tf32 is float32 with "
           "products of operands rounded to ten bits. bfloat16 and tf32 need a GPU, float64 the CPU."),
      bind(MEMBER(train.recompute), any(),
           "What the backward pass computes again instead of keeping it in memory: nothing, whole blocks, or "
           "attention and MLP separately. The results are the same bit by bit."),
      bind(MEMBER(train.seed), any(), "Seed of initial weights, batches and dropout."),
      bind(MEMBER(train.ema_decay), from_below(0, 1),
           "Decay per step of an exponential average of the weights, kept in checkpoints beside them and "
           "used for "
           "validation and sampling; the first updates use (1 + update) / (10 + update) where that is less. "
           "0 = off."),
      bind(MEMBER(train.log_every), between(1, most_steps),
           "Steps between two entries of the metrics and the log."),
      bind(MEMBER(train.max_nonfinite_steps), between(1, most_steps),
           "Training stops after this many steps in a row whose loss or gradient is not finite."),
      bind(MEMBER(train.max_minutes), at_least(0),
           "Training validates, saves and stops after this time, minutes, counted anew when resumed; 0 = no "
           "limit."),
      bind(MEMBER(train.cuda_graph), any(),
           "On a GPU: record the launches of a step once and replay them. The results are the same bit by "
           "bit."),
      bind(MEMBER(train.tensorboard), any(), "Write TensorBoard event files beside the metrics."),
  };
}

std::vector<ConfigKey> eval_keys() {
  return {
      bind(MEMBER(eval.every), between(0, most_steps),
           "Steps between two validations; 0 = only at the end. There is one at the end in any case."),
      bind(MEMBER(eval.max_documents), between(0, most_steps), "Documents used in a validation; 0 = all."),
      bind(MEMBER(eval.stride), between(0, most_tokens),
           "Tokens scored per window; smaller gives each more context and costs more. 0 = as many as there "
           "are "
           "latents."),
      bind(MEMBER(eval.latents), between(0, most_tokens), "Latents used in evaluation; 0 = model.latents."),
      bind(MEMBER(eval.batch), between(0, 1 << 20), "Windows per batch in evaluation; 0 = train.batch."),
  };
}

std::vector<ConfigKey> checkpoint_keys() {
  return {
      bind(MEMBER(checkpoint.every), between(0, most_steps),
           "Steps between two checkpoints; 0 = only at the end."),
      bind(MEMBER(checkpoint.keep), between(1, 1'000'000), "Newest checkpoints that are kept."),
      bind(MEMBER(checkpoint.keep_best), any(),
           "Also keep the checkpoint with the smallest validation loss; one is saved at each validation that "
           "is the "
           "best so far."),
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
      {"data", "what it learns from"},
      {"loss", "what it minimises"},
      {"optimizer", "how the weights follow the gradient"},
      {"schedule", "the learning rate over time"},
      {"train", "the training run"},
      {"eval", "validation during training, and the defaults of perceiver eval"},
      {"checkpoint", "what is saved"},
  };
  return sections;
}

const std::vector<ConfigKey>& config_keys() {
  static const std::vector<ConfigKey> keys = all_keys();
  return keys;
}

}  // namespace perceiver
