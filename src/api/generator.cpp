#include "perceiver/generator.h"

#include <atomic>
#include <nlohmann/json.hpp>

#include "api/model_state.h"
#include "api/requests.h"
#include "base/check.h"
#include "generate/completion.h"
#include "generate/engine.h"
#include "io/json_document.h"
#include "kernels/sampling.h"

namespace perceiver {
namespace {

constexpr const char* kOptions = "options";  // key in the metadata of a saved generator

/// The options that end a sequence or determine its caches; the engine saves those of sampling.
nlohmann::ordered_json saved_options(const GenerateOptions& options, size_t prompt) {
  return {{"tokens", options.tokens},
          {"prompt", prompt},
          {"policy", static_cast<int>(options.policy)},
          {"latents", options.latents},
          {"refill", options.refill},
          {"prompt_latents", options.prompt_latents},
          {"context_end", static_cast<int>(options.context_end)},
          {"kv_cache", static_cast<int>(options.kv_cache)},
          {"stop", options.stop},
          {"stop_tokens", options.stop_tokens}};
}

}  // namespace

struct Generator::State {
  /// `given.tokens` is a number of tokens, not 0.
  State(std::shared_ptr<const Model::State> owner, GenerateOptions given, const GenerationRequest& request)
      : model(std::move(owner)),
        options(std::move(given)),
        engine(*model->loaded.model, engine_options(batch_options(options), model->loaded.metadata)),
        stream(request, model->text()) {}

  /// After the sequence has got its slot.
  void watch() {
    SlotWatch watch{.cancelled = &cancelled};
    if (const LogitsObserver observer = observer_of(options, pending))
      watch.logits = [this, observer](std::span<double> logits) { observer(engine.tokens(0), logits); };
    engine.watch(0, std::move(watch));
  }

  const Completion& completion() const { return stream.completion(); }
  /// Ends the sequence after `tokens` new tokens if the engine can take no more.
  void limit_to_context(size_t tokens) {
    if (engine.ended(0)) stream.limit(static_cast<int64_t>(tokens), FinishReason::context);
  }
  GeneratedToken take(int32_t id, double log_probability) {
    return {id, log_probability, stream.put(id, log_probability), next_alternatives(*pending)};
  }

  std::shared_ptr<const Model::State> model;
  GenerateOptions options;
  Engine engine;
  CompletionStream stream;
  std::shared_ptr<PendingAlternatives> pending = std::make_shared<PendingAlternatives>();
  size_t prompt = 0;               ///< tokens
  std::vector<int32_t> positions;  ///< given ones
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
    if (s.engine.failed(0) && s.cancelled) return std::nullopt;  // in a prefill
    s.limit_to_context(s.completion().tokens.size() + 1);
    chosen = s.engine.collect();
  } catch (...) {
    if (s.engine.failed(0)) s.stream.fail();
    throw;
  }
  PERCEIVER_ASSERT(chosen.size() == 1);
  return s.take(chosen[0].token, chosen[0].log_probability);
}

void Generator::run(const std::function<bool(const GeneratedToken&)>& on_token) {
  while (const std::optional<GeneratedToken> token = next()) {
    if (on_token(*token)) continue;
    state_->stream.stop();
    return;
  }
}

void Generator::cancel() {
  state_->cancelled = true;
}
bool Generator::ended() const {
  return state_->stream.finished() || state_->cancelled;
}
std::optional<FinishReason> Generator::finish_reason() const {
  const State& s = *state_;
  if (!s.stream.finished() && s.cancelled) return FinishReason::cancelled;
  return s.completion().finish_reason;
}
const std::vector<int32_t>& Generator::tokens() const {
  return state_->engine.tokens(0);
}
double Generator::log_probability() const {
  return state_->completion().log_probability;
}

TokenSequence Generator::sequence() const {
  const State& s = *state_;
  return s.model->sequence_of(tokens(), s.positions);
}

std::vector<double> Generator::next_logits() {
  State& s = *state_;
  if (ended()) throw_user("the sequence has ended; no token follows");
  s.engine.compute();
  if (s.engine.failed(0)) throw_user("the sequence was cancelled");
  return s.engine.logits(0);
}

GeneratedToken Generator::push(int32_t id) {
  State& s = *state_;
  const std::vector<double> logits = next_logits();
  s.engine.push(0, id);  // refuses ids that are none
  s.limit_to_context(s.completion().tokens.size() + 1);
  return s.take(id, logits[static_cast<size_t>(id)] - log_normalizer(logits));
}

Generator Generator::fork(uint64_t seed) const {
  State& s = *state_;
  GenerateOptions options = s.options;
  options.seed = seed;
  auto other = std::make_unique<State>(s.model, options, GenerationRequest{});
  other->engine.copy(s.engine, 0, 0);
  kernels::SamplingParameters settings = s.engine.sampling(0);
  settings.seed = seed;
  other->engine.set_sampling(0, settings);
  other->stream = s.stream;
  other->prompt = s.prompt;
  other->positions = s.positions;
  other->watch();
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
  return start(state_->tokenizer.prompt(std::string(prompt)), options);
}

Generator Model::start(const TokenPrompt& prompt, const GenerateOptions& options) const {
  const GenerationRequest request = request_of(prompt, options);
  GenerateOptions resolved = options;
  resolved.tokens = request.tokens;
  auto generator = std::make_unique<Generator::State>(state_, std::move(resolved), request);
  Generator::State& s = *generator;
  check_request(s.engine.model(), s.engine.options(), request);
  s.prompt = request.prompt.size();
  s.positions = request.positions;
  s.engine.admit(0, sequence_of(request, s.engine.model().config().vocabulary));
  s.watch();
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
    options.kv_cache = static_cast<KvCache>(json.value("kv_cache", 0));
    options.stop = json.at("stop").get<std::vector<std::string>>();
    options.stop_tokens = json.at("stop_tokens").get<std::vector<int32_t>>();
    ended = json.at("ended").get<bool>();
    log_probability = json.at("log_probability").get<double>();
  } catch (const nlohmann::json::exception&) {
    throw_user("{}: the saved options are damaged", file.source());
  }
  if (options.policy < GenerationPolicy::automatic || options.policy > GenerationPolicy::stream)
    throw_user("{}: the saved policy is unknown", file.source());
  if (options.kv_cache < KvCache::automatic || options.kv_cache > KvCache::fp8)
    throw_user("{}: the saved type of the KV cache is unknown", file.source());
  GenerationRequest request;
  request.tokens = options.tokens;
  request.stop = options.stop;
  request.stop_tokens = options.stop_tokens;
  auto generator = std::make_unique<Generator::State>(state_, options, request);
  Generator::State& s = *generator;
  s.engine.restore(0, file);
  s.positions = s.engine.given_positions(0);
  s.watch();
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
