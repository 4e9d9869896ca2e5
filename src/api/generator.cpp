#include "perceiver/generator.h"

#include <atomic>
#include <nlohmann/json.hpp>

#include "api/model_state.h"
#include "base/check.h"
#include "data/text/utf8_stream.h"
#include "generate/generate.h"
#include "generate/stop_strings.h"
#include "io/json_document.h"
#include "kernels/sampling.h"

namespace perceiver {
namespace {

constexpr const char* kOptions = "options";  // key in the metadata of a saved generator

EngineOptions engine_options(const GenerateOptions& options, const std::string& modality) {
  EngineOptions engine;
  engine.policy = options.policy;
  engine.latents = options.latents;
  engine.refill = options.refill;
  engine.prompt_latents = options.prompt_latents;
  engine.context_end = options.context_end;
  return suited_options(engine, modality);
}

SamplingOptions sampling_options(const GenerateOptions& options) {
  return {options.temperature, options.top_k, options.top_p,
          options.min_p,       options.seed,  options.repetition_penalty};
}

GenerationRequest request_of(const TokenPrompt& prompt, const GenerateOptions& options) {
  GenerationRequest request;
  request.prompt = prompt.tokens;
  request.positions = prompt.positions;
  request.biases = options.logit_masks;
  request.token_biases = options.logit_bias;
  request.tokens = options.tokens;
  request.stop_tokens = options.stop_tokens;
  request.sampling = sampling_options(options);
  request.ignore_eos = options.ignore_eos;
  return request;
}

/// The options that end a sequence or lay out its caches; sampling is saved with the sequence.
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
        engine(*model->loaded.model, engine_options(options, model->loaded.metadata.modality)),
        stop(options.stop) {}

  /// Text that became certain with the bytes of one more token.
  std::string text_of(int32_t token) {
    return characters.put(stop.put(model->tokenizer->decode({&token, 1})));
  }
  std::string rest() { return characters.put(stop.flush()) + characters.flush(); }
  /// Whether the token is the last of its sequence.
  bool is_last(int32_t token) const {
    const auto& ids = options.stop_tokens;
    const bool ends = token == eos_token || std::find(ids.begin(), ids.end(), token) != ids.end();
    return ends || stop.found() || generated >= options.tokens || engine.ended(0);
  }

  std::shared_ptr<const Model::State> model;
  GenerateOptions options;
  Engine engine;
  StopStrings stop;
  Utf8Stream characters;
  size_t prompt = 0;  ///< tokens
  int64_t generated = 0;
  double log_probability = 0;
  bool ended = false;
  std::atomic<bool> cancelled = false;
};

Generator::Generator(std::unique_ptr<State> state) : state_(std::move(state)) {}
Generator::Generator(Generator&&) noexcept = default;
Generator& Generator::operator=(Generator&&) noexcept = default;
Generator::~Generator() = default;

std::optional<GeneratedToken> Generator::next() {
  State& s = *state_;
  if (s.ended || s.cancelled) return std::nullopt;
  s.engine.step();
  const std::vector<ChosenToken> chosen = s.engine.collect();
  PERCEIVER_ASSERT(chosen.size() == 1);
  GeneratedToken token{chosen[0].token, chosen[0].log_probability, s.text_of(chosen[0].token)};
  ++s.generated;
  s.log_probability += token.log_probability;
  s.ended = s.is_last(token.id);
  if (s.ended) token.text += s.rest();
  return token;
}

void Generator::run(const std::function<bool(const GeneratedToken&)>& on_token) {
  while (const std::optional<GeneratedToken> token = next())
    if (!on_token(*token)) return;
}

void Generator::cancel() {
  state_->cancelled = true;
}
bool Generator::ended() const {
  return state_->ended || state_->cancelled;
}
const std::vector<int32_t>& Generator::tokens() const {
  return state_->engine.tokens(0);
}
double Generator::log_probability() const {
  return state_->log_probability;
}

Generator Generator::fork(uint64_t seed) const {
  State& s = *state_;
  GenerateOptions options = s.options;
  options.seed = seed;
  auto other = std::make_unique<State>(s.model, options);
  other->engine.copy(s.engine, 0, 0);
  other->engine.set_sampling(0, sampling_parameters(sampling_options(options), 0, !options.ignore_eos));
  other->stop = s.stop;
  other->characters = s.characters;
  other->prompt = s.prompt;
  other->generated = s.generated;
  other->log_probability = s.log_probability;
  other->ended = s.ended;
  return Generator(std::move(other));
}

std::string Generator::save() const {
  SafetensorsWriter writer;
  Engine::Storage storage;
  state_->engine.save(0, writer, storage);
  nlohmann::ordered_json options = saved_options(state_->options, state_->prompt);
  options["ended"] = state_->ended;
  options["log_probability"] = state_->log_probability;
  writer.set_metadata(kOptions, options.dump());
  return writer.file();
}

Generator Model::start(std::string_view prompt, const GenerateOptions& options) const {
  TokenPrompt tokens{state_->tokenizer->encode(prompt), {}};
  tokens.tokens.insert(tokens.tokens.begin(), sos_token);
  return start(std::move(tokens), options);
}

Generator Model::start(TokenPrompt prompt, const GenerateOptions& options) const {
  auto generator = std::make_unique<Generator::State>(state_, options);
  const GenerationRequest request = request_of(prompt, options);
  check_request(generator->engine, request);
  generator->prompt = prompt.tokens.size();
  generator->engine.admit(0, sequence_of(request, state_->loaded.model->config().vocabulary));
  generator->ended = options.tokens == 0 || generator->engine.ended(0);
  return Generator(std::move(generator));
}

Generator Model::restore(std::string_view saved) const {
  const SafetensorsFile file = SafetensorsFile::parse(std::as_bytes(std::span(saved)), "the saved generator");
  const std::string* text = file.find_metadata(kOptions);
  if (text == nullptr) throw_user("{}: it holds no generator", file.source());
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
    throw_user("{}: its options are damaged", file.source());
  }
  if (options.policy < GenerationPolicy::automatic || options.policy > GenerationPolicy::stream)
    throw_user("{}: its policy is unknown", file.source());
  auto generator = std::make_unique<Generator::State>(state_, options);
  Generator::State& s = *generator;
  s.engine.restore(0, file);
  const std::vector<int32_t>& tokens = s.engine.tokens(0);
  if (prompt == 0 || prompt > tokens.size()) throw_user("{}: its prompt is damaged", file.source());
  const kernels::SamplingParameters& settings = s.engine.sampling(0);
  s.options.temperature = settings.temperature;
  s.options.top_k = settings.top_k;
  s.options.top_p = settings.top_p;
  s.options.min_p = settings.min_p;
  s.options.repetition_penalty = settings.repetition_penalty;
  s.options.seed = settings.seed;
  s.options.ignore_eos = settings.allow_eos == 0;
  check_sampling(sampling_options(s.options));
  for (size_t i = prompt; i < tokens.size(); ++i) s.text_of(tokens[i]);  // what is pending of the text
  s.prompt = prompt;
  s.generated = static_cast<int64_t>(tokens.size() - prompt);
  s.log_probability = log_probability;
  s.ended = ended;
  return Generator(std::move(generator));
}

}  // namespace perceiver
