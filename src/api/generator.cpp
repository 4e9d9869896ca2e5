#include "perceiver/generator.h"

#include <atomic>
#include <nlohmann/json.hpp>

#include "api/model_state.h"
#include "base/check.h"
#include "generate/completion.h"
#include "generate/engine.h"
#include "generate/request.h"
#include "io/json_document.h"
#include "kernels/sampling.h"

namespace perceiver {
namespace {

constexpr const char* kOptions = "options";  // key in the metadata of a saved generator

EngineOptions engine_options(const GenerateOptions& options, const ModelMetadata& metadata) {
  EngineOptions engine;
  engine.policy = options.policy;
  engine.latents = options.latents;
  engine.refill = options.refill;
  engine.prompt_latents = options.prompt_latents;
  engine.context_end = options.context_end;
  return suited_options(engine, metadata);
}

SamplingOptions sampling_options(const GenerateOptions& options) {
  return {options.temperature, options.top_k, options.top_p,
          options.min_p,       options.seed,  options.repetition_penalty};
}

/// All but the prompt.
GenerationRequest request_of(const GenerateOptions& options) {
  GenerationRequest request;
  request.biases = options.logit_masks;
  request.token_biases = options.logit_bias;
  request.tokens = options.tokens;
  request.stop_tokens = options.stop_tokens;
  request.stop = options.stop;
  request.sampling = sampling_options(options);
  request.ignore_eos = options.ignore_eos;
  return request;
}

/// The options that end a sequence or determine its caches; the engine saves those of sampling.
nlohmann::ordered_json saved_options(const GenerateOptions& options, size_t prompt) {
  return {{"tokens", options.tokens},
          {"prompt", prompt},
          {"policy", static_cast<int>(options.policy)},
          {"latents", options.latents},
          {"refill", options.refill},
          {"prompt_latents", options.prompt_latents},
          {"context_end", static_cast<int>(options.context_end)},
          {"stop", options.stop},
          {"stop_tokens", options.stop_tokens}};
}

}  // namespace

struct Generator::State {
  State(std::shared_ptr<const Model::State> owner, GenerateOptions given)
      : model(std::move(owner)),
        options(std::move(given)),
        engine(*model->loaded.model, engine_options(options, model->loaded.metadata)),
        stream(request_of(options), model->tokenizer.get()) {}

  const Completion& completion() const { return stream.completion(); }
  /// Ends the sequence after `tokens` new tokens if the engine can take no more.
  void limit_to_context(size_t tokens) {
    if (engine.ended(0)) stream.limit(static_cast<int64_t>(tokens), FinishReason::context);
  }

  std::shared_ptr<const Model::State> model;
  GenerateOptions options;
  Engine engine;
  CompletionStream stream;
  size_t prompt = 0;  ///< tokens
  std::atomic<bool> cancelled = false;
};

Generator::Generator(std::unique_ptr<State> state) : state_(std::move(state)) {}
Generator::Generator(Generator&&) noexcept = default;
Generator& Generator::operator=(Generator&&) noexcept = default;
Generator::~Generator() = default;

std::optional<GeneratedToken> Generator::next() {
  State& s = *state_;
  if (ended()) return std::nullopt;
  std::vector<ChosenToken> chosen;
  try {
    s.engine.step();
    s.limit_to_context(s.completion().tokens.size() + 1);
    chosen = s.engine.collect();
  } catch (...) {
    if (s.engine.ended(0)) s.stream.cancel();
    throw;
  }
  PERCEIVER_ASSERT(chosen.size() == 1);
  const auto [slot, tag, token, log_probability] = chosen[0];
  return GeneratedToken{token, log_probability, s.stream.put(token, log_probability)};
}

void Generator::run(const std::function<bool(const GeneratedToken&)>& on_token) {
  while (const std::optional<GeneratedToken> token = next())
    if (!on_token(*token)) return;
}

void Generator::cancel() {
  state_->cancelled = true;
}
bool Generator::ended() const {
  return state_->stream.finished() || state_->cancelled;
}
const std::vector<int32_t>& Generator::tokens() const {
  return state_->engine.tokens(0);
}
double Generator::log_probability() const {
  return state_->completion().log_probability;
}

Generator Generator::fork(uint64_t seed) const {
  State& s = *state_;
  GenerateOptions options = s.options;
  options.seed = seed;
  auto other = std::make_unique<State>(s.model, options);
  other->engine.copy(s.engine, 0, 0);
  other->engine.set_sampling(0, sampling_parameters(sampling_options(options), 0, !options.ignore_eos));
  other->stream = s.stream;
  other->prompt = s.prompt;
  return Generator(std::move(other));
}

std::string Generator::save() const {
  SafetensorsWriter writer;
  Engine::Storage storage;
  state_->engine.save(0, writer, storage);
  nlohmann::ordered_json options = saved_options(state_->options, state_->prompt);
  options["ended"] = state_->stream.finished();
  options["log_probability"] = state_->completion().log_probability;
  writer.set_metadata(kOptions, options.dump());
  return writer.file();
}

Generator Model::start(std::string_view prompt, const GenerateOptions& options) const {
  require_text(state_->loaded.metadata);
  TokenPrompt tokens{state_->tokenizer->encode(prompt), {}};
  tokens.tokens.insert(tokens.tokens.begin(), sos_token);
  return start(std::move(tokens), options);
}

Generator Model::start(TokenPrompt prompt, const GenerateOptions& options) const {
  GenerationRequest request = request_of(options);
  request.prompt = std::move(prompt.tokens);
  request.positions = std::move(prompt.positions);
  auto generator = std::make_unique<Generator::State>(state_, options);
  Generator::State& s = *generator;
  check_request(s.engine.model(), s.engine.options(), request);
  s.prompt = request.prompt.size();
  s.engine.admit(0, sequence_of(request, s.engine.model().config().vocabulary));
  s.limit_to_context(0);
  return Generator(std::move(generator));
}

Generator Model::restore(std::string_view saved) const {
  const SafetensorsFile file = SafetensorsFile::parse(std::as_bytes(std::span(saved)), "the saved generator");
  const std::string* text = file.find_metadata(kOptions);
  if (text == nullptr) throw_user("{}: not a saved generator", file.source());
  file.verify();
  const nlohmann::json json = parse_json_document(*text, file.source());
  GenerateOptions options;
  size_t prompt = 0;
  bool ended = false;
  double log_probability = 0;
  try {
    options.tokens = json.at("tokens").get<int64_t>();
    prompt = json.at("prompt").get<size_t>();
    options.policy = static_cast<GenerationPolicy>(json.at("policy").get<int>());
    options.latents = json.at("latents").get<int64_t>();
    options.refill = json.at("refill").get<int64_t>();
    options.prompt_latents = json.at("prompt_latents").get<int64_t>();
    options.context_end = json.at("context_end").get<int>() == 0 ? ContextEnd::drop : ContextEnd::stop;
    options.stop = json.at("stop").get<std::vector<std::string>>();
    options.stop_tokens = json.at("stop_tokens").get<std::vector<int32_t>>();
    ended = json.at("ended").get<bool>();
    log_probability = json.at("log_probability").get<double>();
  } catch (const nlohmann::json::exception&) {
    throw_user("{}: the saved options are damaged", file.source());
  }
  if (options.policy < GenerationPolicy::automatic || options.policy > GenerationPolicy::stream)
    throw_user("{}: the saved policy is unknown", file.source());
  auto generator = std::make_unique<Generator::State>(state_, options);
  Generator::State& s = *generator;
  s.engine.restore(0, file);
  const std::vector<int32_t>& tokens = s.engine.tokens(0);
  if (prompt == 0 || prompt > tokens.size()) throw_user("{}: the saved prompt is damaged", file.source());
  const kernels::SamplingParameters& settings = s.engine.sampling(0);
  s.options.temperature = settings.temperature;
  s.options.top_k = settings.top_k;
  s.options.top_p = settings.top_p;
  s.options.min_p = settings.min_p;
  s.options.repetition_penalty = settings.repetition_penalty;
  s.options.seed = settings.seed;
  s.options.ignore_eos = settings.allow_eos == 0;
  check_sampling(sampling_options(s.options));
  s.prompt = prompt;
  s.stream.replay(std::span(tokens).subspan(prompt), log_probability);
  const size_t generated = tokens.size() - prompt;
  if (ended) s.stream.limit(static_cast<int64_t>(generated), FinishReason::context);
  s.limit_to_context(generated);
  return Generator(std::move(generator));
}

}  // namespace perceiver
