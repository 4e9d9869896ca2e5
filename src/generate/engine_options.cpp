#include "generate/engine_options.h"

#include <algorithm>

#include "base/check.h"
#include "data/sample_files.h"
#include "distributed/communicator.h"
#include "model/context_share.h"

namespace perceiver {
namespace {

// The fused step recomputes the table's products for every token. Measured: at a context of 10 times the
// vocabulary the table costs 4%, at 47 times it breaks even, at 500 times it is a third faster.
constexpr int64_t kTableRepays = 32;

// A prefill of a few tokens is bound by its hundreds of launches: on a GPU it takes as long as 5 to 10 fused
// steps.
constexpr int64_t kPromptStepsOnGpu = 8;

/// Why keys and values of earlier tokens cannot be cached; "" if they can.
std::string cache_obstacle(const ModelConfig& config) {
  if (config.position_source != PositionSource::data)
    return "positions count from the sequence's end and change with every token (model.position_source)";
  if (has_query_per_latent(config))
    return "each latent has its own query and moves to another with every token (model.query_style: learned)";
  return "";
}

/// Whether generation is faster with the context kept as tokens.
bool table_pays(const PerceiverAR& model, const EngineOptions& options) {
  const ModelConfig& config = model.config();
  // Each token reads the whole table, but keys and values only up to the context's length.
  if (2 * config.vocabulary > config.context_length) return false;
  // A fused step can save more than reading keys and values costs.
  const auto fuses = [&](bool by_table) {
    return options.fused && keeps_cache(config) && context_ranks(options) == 1 &&
           model.has_fused_step(options.slots, options.latents, config.context_length, by_table,
                                cache_type(model, options));
  };
  if (fuses(true) && fuses(false)) return config.context_length >= kTableRepays * config.vocabulary;
  return fuses(true) || !fuses(false);
}

/// A cache holds the memory and the newest token; a prompt is read like any text.
void resolve_memory(const ModelConfig& config, EngineOptions& options) {
  const int64_t rows = config.memory_length + 1;
  if (options.latents != 0 && options.latents != rows)
    throw_user("{} latents requested; model.type transformer_xl remembers {} tokens", options.latents,
               config.memory_length);
  if (options.policy != GenerationPolicy::automatic && options.policy != GenerationPolicy::stream)
    throw_user("model.type transformer_xl remembers what it has read: its policy is stream");
  options.latents = options.prompt_latents = rows;
  options.refill = 1;
  options.policy = GenerationPolicy::stream;
  options.context_end = ContextEnd::drop;  // there is none
}

void resolve_latents(const ModelConfig& config, EngineOptions& options) {
  const int64_t copies = config.latents_per_position;
  const bool transformer = config.decoder_only();
  const auto check = [&](int64_t value, int64_t most, const char* what) {
    if (value < 1 || value > most || value % copies != 0)
      throw_user("{} {} requested; must be {} to {}{}", value, what, copies, most,
                 copies > 1 ? fmt::format(" in multiples of {}", copies) : "");
  };
  const int64_t latents = transformer ? config.context_length : config.latents;
  if (options.latents == 0) options.latents = latents;
  if ((transformer || has_query_per_latent(config)) && options.latents != latents)
    throw_user("{} latents requested; this model has exactly {}", options.latents, latents);
  check(options.latents, config.context_length / copies * copies, "latents");
  if (options.refill == 0) options.refill = std::max(copies, options.latents / 2 / copies * copies);
  check(options.refill, options.latents, "latents to refill");
  if (transformer && options.prompt_latents != 0)
    throw_user("prompt latents cannot be chosen for model.type: transformer");
  if (options.prompt_latents == 0) options.prompt_latents = options.latents;
  check(options.prompt_latents, options.latents, "prompt latents");
}

/// Steps make a latent of each token of the prompt, so a prefill that makes fewer cannot be replaced.
void resolve_prompt_steps(const PerceiverAR& model, EngineOptions& options) {
  const ModelConfig& config = model.config();
  if (options.prompt_steps < 0) options.prompt_steps = model.context().is_cuda() ? kPromptStepsOnGpu : 0;
  const bool possible = keeps_cache(config) && !config.recurrent() && context_ranks(options) == 1;
  options.prompt_steps =
      possible ? std::min(options.prompt_steps, options.prompt_latents / config.latents_per_position) : 0;
}

void resolve_policy(const ModelConfig& config, EngineOptions& options) {
  const std::string obstacle = cache_obstacle(config);
  const bool cached =
      options.policy == GenerationPolicy::refill || options.policy == GenerationPolicy::stream;
  if (cached && !obstacle.empty()) throw_user("this model allows only policy exact: {}", obstacle);
  if (options.policy == GenerationPolicy::automatic)
    options.policy = obstacle.empty() ? GenerationPolicy::refill : GenerationPolicy::exact;
}

void resolve_context(const PerceiverAR& model, EngineOptions& options) {
  const ModelConfig& config = model.config();
  const bool table_possible = config.position_encoding == PositionEncoding::rotary &&
                              !config.decoder_only() && config.latent_keys == LatentKeys::tokens;
  if (options.context == ContextProjection::table && !table_possible)
    throw_user(
        "only rotary Perceiver AR models whose keys depend on the token alone can keep the context as "
        "tokens");
  if (options.context == ContextProjection::automatic)
    options.context =
        table_possible && table_pays(model, options) ? ContextProjection::table : ContextProjection::direct;
}

std::string_view name_of_cache(KvCache type) {
  switch (type) {
    case KvCache::float32:
      return "float32";
    case KvCache::bfloat16:
      return "bfloat16";
    case KvCache::fp8:
      return "fp8";
    case KvCache::automatic:
      break;
  }
  return "auto";
}

/// The kernels read what the model computes in; on the CPU also bf16 in place of f32, on a GPU e4m3.
void resolve_cache_type(const PerceiverAR& model, EngineOptions& options) {
  const DType type = model.type();
  const bool cuda = model.context().is_cuda();
  const KvCache own = type == DType::bf16  ? KvCache::bfloat16
                      : type == DType::f32 ? KvCache::float32
                                           : KvCache::automatic;
  if (options.kv_cache == KvCache::automatic) options.kv_cache = own;
  const KvCache narrow = cuda ? KvCache::fp8 : type == DType::f32 ? KvCache::bfloat16 : KvCache::automatic;
  if (options.kv_cache == own || options.kv_cache == narrow) return;
  const std::string allowed = narrow == KvCache::automatic
                                  ? "in that type alone"
                                  : fmt::format("{} or {}", name_of_cache(own), name_of_cache(narrow));
  throw_user("a KV cache in {} was requested; this model computes in {} on {}, and its cache can be {}",
             name_of_cache(options.kv_cache), name_of(type), cuda ? "a GPU" : "the CPU", allowed);
}

int64_t mebibytes(int64_t bytes) {
  return (bytes + (1 << 20) - 1) >> 20;
}

}  // namespace

EngineOptions suited_options(EngineOptions options, const ModelMetadata& metadata) {
  if (metadata.modality == "copy" && options.prompt_latents == 0) options.prompt_latents = 1;
  if (options.token_ids == 0) options.token_ids = token_ids(metadata.modality, metadata.tokenizer);
  return options;
}

int64_t context_ranks(const EngineOptions& options) {
  return options.context_group == nullptr ? 1 : options.context_group->size();
}

DType cache_type(const PerceiverAR& model, const EngineOptions& options) {
  switch (options.kv_cache) {
    case KvCache::bfloat16:
      return DType::bf16;
    case KvCache::fp8:
      return DType::e4m3;
    default:
      return model.type();
  }
}

bool keeps_cache(const ModelConfig& config) {
  return cache_obstacle(config).empty();
}

bool has_query_per_latent(const ModelConfig& config) {
  return config.query_style == QueryStyle::learned && !config.shared_learned_query;
}

EngineOptions resolve_options(const PerceiverAR& model, EngineOptions options) {
  if (options.slots < 1) throw_user("{} simultaneous sequences requested; must be at least 1", options.slots);
  const int64_t vocabulary = model.config().vocabulary;
  if (options.token_ids == 0) options.token_ids = vocabulary;
  if (options.token_ids < 0 || options.token_ids > vocabulary)
    throw_user("the data has {} token ids but the model only {}; the model file is damaged",
               options.token_ids, vocabulary);
  if (context_ranks(options) > 1 && model.config().decoder_only())
    throw_user("ranks cannot share a context: model.type {} has none",
               model.config().recurrent() ? "transformer_xl" : "transformer");
  if (context_ranks(options) > 1 && model.config().latent_keys == LatentKeys::latents)
    throw_user("ranks cannot share a context: the latents' keys change with every layer (model.latent_keys)");
  if (model.config().recurrent()) {
    resolve_memory(model.config(), options);
  } else {
    resolve_latents(model.config(), options);
    resolve_policy(model.config(), options);
  }
  resolve_prompt_steps(model, options);
  resolve_cache_type(model, options);
  resolve_context(model, options);
  return options;
}

void check_memory(const PerceiverAR& model, const EngineOptions& options) {
  const ModelConfig& config = model.config();
  const auto element = static_cast<int64_t>(size_of(model.type()));
  const int64_t z = config.z_channels(), e = config.input_channels;
  const int64_t width = config.cross_width();
  const bool transformer = config.decoder_only();
  const int64_t blocks =
      transformer ? 0 : 1 + static_cast<int64_t>(config.extra_cross_attention_after.size());
  const int64_t columns = shared_columns(config.context_length, 0, context_ranks(options));
  int64_t slot = config.vocabulary * (static_cast<int64_t>(size_of(accumulation_type(model.type()))) + 1);
  if (keeps_cache(config)) {
    const auto cached = static_cast<int64_t>(size_of(cache_type(model, options)));
    slot += config.layers * options.latents * 2 * config.self_width() * cached;
    slot += options.context == ContextProjection::table ? 2 * int64_t{sizeof(int32_t)} * columns
                                                        : blocks * columns * 2 * width * cached;
  }
  // A prefill: the context's embeddings, norms, keys and values; the widest activations.
  const int64_t prefill = element * ((blocks > 0 ? columns * (2 * e + 2 * width) : 0) +
                                     options.latents * (6 + config.self_widening) * z);
  const int64_t free = model.context().memory()->available();
  if (slot * options.slots + prefill <= free) return;
  const int64_t fitting = std::max<int64_t>(0, (free - prefill) / slot);
  throw_failure(
      "out of memory: {} simultaneous sequences need {} MiB beside the model, {} MiB are free; at most {} "
      "fit",
      options.slots, mebibytes(slot * options.slots + prefill), free >> 20, fitting);
}

}  // namespace perceiver
