// Plain configuration structures: how a YAML file, the metadata of a checkpoint or a C++ program describes a
// model, its data and its training. The meaning, unit and range of every field is documented once, in the
// schema that `perceiver config --explain` prints (src/config/schema.cpp). Defaults are defined here.
//
//   perceiver::Config config = perceiver::load_config("configs/quickstart.yaml", {"train.steps=200"});
//   config.optimizer.learning_rate = 1e-3;              // checked where the configuration is used
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "perceiver/export.h"

namespace perceiver {

enum class ModelType { perceiver_ar, transformer, transformer_xl };
enum class Activation { identity, squared_relu, gelu, silu, relu, gelu_exact };
enum class PositionEncoding { rotary, absolute, both };
enum class PositionSource { data, terminal_relative, terminal_relative_negated };
enum class PositionTable { sinusoidal, fourier, learned, random };
enum class QueryStyle { none, mlp, learned };
enum class AttentionWidth { kv, q };
enum class Biases { all, cross_output, none };
enum class LatentKeys { tokens, latents };
enum class ContextDropout { tokens, prefix };
enum class ContextProjection { automatic, table, direct };
enum class AttentionBackend { automatic, hopper, portable, reference, cudnn };

/// The network (docs/model.md; Hawthorne et al. 2022, section 3). Sizes are channels or counts.
struct ModelConfig {
  ModelType type = ModelType::perceiver_ar;
  int64_t vocabulary = 259;          ///< V: ids 0 = PAD, 1 = EOS, 2 = SOS, data from 3; 0 = the data's
  int64_t context_length = 2048;     ///< N, tokens
  int64_t latents = 256;             ///< M
  int64_t latents_per_position = 1;  ///< K
  int64_t input_channels = 256;      ///< E
  int64_t latent_channels = 0;       ///< Z; 0 = input_channels
  int64_t layers = 6;                ///< self-attention blocks
  int64_t cross_heads = 4;
  int64_t self_heads = 4;
  int64_t head_channels = 0;  ///< 0 = the attention's width / its heads
  int64_t cross_widening = 4;
  int64_t self_widening = 4;
  Activation activation = Activation::squared_relu;
  AttentionWidth attention_width = AttentionWidth::kv;
  Biases biases = Biases::all;  ///< of linear layers but the last
  bool query_residual = true;
  QueryStyle query_style = QueryStyle::none;
  bool query_projection = true;                            ///< for query_style none
  int64_t query_mlp_layers = 2;                            ///< for query_style mlp
  Activation query_activation = Activation::squared_relu;  ///< for query_style mlp
  bool shared_learned_query = false;  ///< for query_style learned: one row for all latents
  bool query_offset = false;
  std::vector<int64_t> extra_cross_attention_after;  ///< layer indices, from 0; -1 = before the first
  LatentKeys latent_keys = LatentKeys::tokens;
  PositionEncoding position_encoding = PositionEncoding::rotary;
  PositionSource position_source = PositionSource::data;
  double rotary_fraction = 0.5;
  double rotary_head_fraction = 1.0;
  double max_wavelength = 0;   ///< positions; 0 = context_length
  double rotary_base = 0;      ///< 0 = wavelengths up to max_wavelength
  int64_t rotary_layers = -1;  ///< self-attention blocks that rotate, from the first on; -1 = all
  PositionTable position_table = PositionTable::sinusoidal;
  std::vector<int64_t> position_sizes;  ///< rows of the table of each axis; empty = [context_length + 2]
  bool learnable_positions = false;
  double residual_dropout = 0.1;
  double context_dropout = 0.0;
  ContextDropout context_dropout_from = ContextDropout::tokens;
  double latent_dropout = 0.0;
  int64_t train_input_positions = 0;  ///< 0 = all
  bool output_norm = true;
  bool output_bias = true;
  bool tied_output = false;  ///< the last layer's weight is the token embedding
  bool zero_initial_logits = true;
  ContextProjection context_projection = ContextProjection::automatic;
  AttentionBackend attention = AttentionBackend::automatic;  ///< of training
  // transformer_xl (docs/model.md, "Transformer-XL"). context_length is the length of a segment,
  // input_channels the width of the embedding, latent_channels that of the layers.
  int64_t memory_length = 0;     ///< tokens before a segment that each layer remembers
  int64_t clamp_length = 0;      ///< largest distance with a position of its own; 0 = all have one
  bool same_length = false;      ///< every query sees memory_length keys
  bool shared_biases = true;     ///< u and v are those of all layers
  bool norm_first = false;       ///< LayerNorm before attention and MLP instead of after the sums
  bool zero_memory = false;      ///< a memory that is not yet full is filled with zero vectors
  int64_t mlp_channels = 0;      ///< hidden width of the MLPs; 0 = self_widening * latent_channels
  double attention_dropout = 0;  ///< of attention probabilities

  int64_t z_channels() const { return latent_channels > 0 ? latent_channels : input_channels; }
  /// Tokens become latents one for one: there is no cross-attention.
  bool decoder_only() const { return type != ModelType::perceiver_ar; }
  bool recurrent() const { return type == ModelType::transformer_xl; }
  bool rotates() const { return !recurrent() && position_encoding != PositionEncoding::absolute; }
  bool has_position_tables() const { return !recurrent() && position_encoding != PositionEncoding::rotary; }
  /// Channels of the queries, keys and values of all heads together.
  int64_t cross_width() const {
    if (head_channels > 0) return head_channels * cross_heads;
    return attention_width == AttentionWidth::kv ? input_channels : z_channels();
  }
  int64_t mlp_width() const { return mlp_channels > 0 ? mlp_channels : self_widening * z_channels(); }
  int64_t self_width() const { return head_channels > 0 ? head_channels * self_heads : z_channels(); }
  int64_t axes() const { return position_sizes.empty() ? 1 : static_cast<int64_t>(position_sizes.size()); }
};

struct DataConfig {
  std::string type = "text";                   ///< "copy", or a modality's name (src/data/modalities.inc)
  std::map<std::string, std::string> options;  ///< of the modality
  std::vector<std::string> train;              ///< files and folders, or one folder with splits of its own
  std::vector<std::string> validation;         ///< empty: a fraction of `train`
  std::vector<std::string> test;               ///< empty: a fraction of `train`
  double validation_fraction = 0.05;           ///< of documents (of bytes if there is only one document)
  double test_fraction = 0.0;
  bool strict = false;       ///< skip files that would have to be repaired
  int64_t copy_length = 32;  ///< tokens per sequence: SOS, payload, mirrored payload, EOS
  uint64_t seed = 0;         ///< of the split and of the copy task
};

enum class Reduction { mean, sum };

struct LossConfig {
  double z_loss = 1e-4;
  double label_smoothing = 0.0;
  Reduction reduction = Reduction::mean;
};

enum class OptimizerType { adam, adamw, sgd, lamb, adafactor, muon };
enum class OptimizerState { float32, bfloat16 };

struct OptimizerConfig {
  OptimizerType type = OptimizerType::adam;
  double learning_rate = 3e-4;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
  double momentum = 0.9;                           ///< sgd
  bool nesterov = false;                           ///< sgd
  double clip_norm = 1.0;                          ///< global norm; 0 = off
  OptimizerState state = OptimizerState::float32;  ///< adam, adamw: type of the moments in memory
};

enum class ScheduleType { constant, cosine, steps, t5, linear };

struct ScheduleConfig {
  ScheduleType type = ScheduleType::constant;
  int64_t warmup_steps = 0;
  double warmup_initial = 0.0;           ///< learning rate at step 0
  double final_learning_rate = 0.0;      ///< cosine, linear
  int64_t decay_steps = 0;               ///< cosine, linear: 0 = train.steps
  double until = 0;                      ///< cosine, linear: seconds, in place of train.steps; 0 = off
  std::vector<int64_t> step_boundaries;  ///< steps
  std::vector<double> step_factors;      ///< steps
};

enum class Precision { automatic, bfloat16, tf32, float32, float64, fp8 };
/// How generation stores the weights of linear layers. It computes in the model's precision with any of them.
enum class Weights {
  automatic,  ///< as the model file has them
  float32,
  bfloat16,
  int8,  ///< integers of eight bits, and a float32 scale for each output
  fp8,   ///< e4m3: the same with eight bits of floating point
};
enum class Recompute { none, block, attention_mlp };
enum class Sharding { none, optimizer, gradients };
/// How often the parts of a document are trained (src/data/batches/crops.h).
enum class Crops { uniform, even };

struct TrainConfig {
  int64_t steps = 1000;
  int64_t batch = 16;         ///< examples per step
  int64_t micro_batches = 1;  ///< equal parts of the batch, computed one at a time
  Precision precision = Precision::automatic;
  Recompute recompute = Recompute::none;
  uint64_t seed = 0;
  Crops crops = Crops::uniform;
  double ema_decay = 0.0;  ///< 0 = off
  int64_t log_every = 10;
  int64_t max_nonfinite_steps = 10;
  double max_minutes = 0;  ///< 0 = no limit
  bool tensorboard = true;
  bool cuda_graph = true;                ///< GPU: record each step as a CUDA graph and replay it
  Sharding shard = Sharding::optimizer;  ///< what several ranks divide among them
  int64_t context_shards = 1;            ///< ranks that share the context of an example
  bool deterministic_reduction = true;   ///< GPU: sums over ranks in a fixed order
  std::string initialize;  ///< run folder, checkpoint folder or model file; empty: random weights
  bool initialize_partial = false;
  int64_t early_stopping = 0;       ///< validations without improvement; 0 = off
  double early_stopping_delta = 0;  ///< nats per target
  int64_t sample_every = 0;         ///< steps; 0 = never
  int64_t sample_tokens = 0;        ///< 0 = a whole sequence of known length, else 256
  std::string sample_prompt;        ///< text
};

struct EvalConfig {
  int64_t every = 0;          ///< steps; 0 = only at the end
  int64_t max_documents = 0;  ///< 0 = all
  int64_t stride = 0;         ///< 0 = latents
  int64_t latents = 0;        ///< 0 = model.latents
  int64_t memory_length = 0;  ///< transformer_xl; 0 = model.memory_length
  int64_t batch = 0;          ///< 0 = train.batch
};

struct CheckpointConfig {
  int64_t every = 0;   ///< steps; 0 = by the clock only
  double minutes = 5;  ///< of training; 0 = by steps only
  int64_t keep = 3;
  bool keep_best = true;
};

struct Config {
  std::string device = "auto";  ///< auto | cpu | cuda
  int64_t threads = 0;          ///< CPU threads; 0 = all
  ModelConfig model;
  DataConfig data;
  LossConfig loss;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  TrainConfig train;
  EvalConfig eval;
  CheckpointConfig checkpoint;

  /// Steps of a run; 0: schedule.until ends it.
  int64_t planned_steps() const { return schedule.until > 0 ? 0 : train.steps; }
};

/// Reads a YAML file, applies the overrides ("train.steps=200", the value in YAML) in order, fills in
/// dependent values and checks everything. Throws a `user` error: for an unknown key, with file, line, full
/// path and the nearest known key; for a bad value, with what was expected and what was found.
PERCEIVER_API Config load_config(const std::filesystem::path& path,
                                 const std::vector<std::string>& overrides = {});

/// The same for a text; `source` names it in errors.
PERCEIVER_API Config parse_config(std::string_view yaml, const std::string& source = "configuration",
                                  const std::vector<std::string>& overrides = {});

/// Every key by section, as parse_config reads it back; doubles are exact.
PERCEIVER_API std::string to_yaml(const Config& config);

/// The reference that `perceiver config --explain` prints: every key with its values, default, unit and
/// meaning, in lines of at most 100 columns. `prefix` selects a section ("train") or a key ("train.steps");
/// for anything else a `user` error suggests the nearest.
PERCEIVER_API std::string explain_config(const std::string& prefix = "");

}  // namespace perceiver
