#include "perceiver/batch_generator.h"

#include <map>

#include "api/model_state.h"
#include "api/requests.h"
#include "base/check.h"
#include "generate/generation_queue.h"

namespace perceiver {
namespace {

void refuse_batch_options(const GenerateOptions& options) {
  const GenerateOptions defaults;
  if (options.policy == defaults.policy && options.latents == 0 && options.refill == 0 &&
      options.prompt_latents == 0 && options.context_end == defaults.context_end &&
      options.kv_cache == defaults.kv_cache)
    return;
  throw_user(
      "policy, latents, refill, prompt_latents, context_end and kv_cache are those of the whole batch; set "
      "them in "
      "BatchOptions");
}

}  // namespace

struct BatchGenerator::State {
  State(std::shared_ptr<const Model::State> owner, const BatchOptions& options, BatchTokenCallback callback)
      : model(std::move(owner)),
        on_token(std::move(callback)),
        engine(*model->loaded.model, engine_options(options, model->loaded.metadata)),
        queue(
            engine, model->text(),
            [this](int64_t id, const ChosenToken& token, const std::string& text) {
              return take(id, token, text);
            },
            {}, true) {}

  bool take(int64_t id, const ChosenToken& token, const std::string& text) {
    GeneratedToken generated{token.token, token.log_probability, text, {}};
    const auto found = watched.find(id);
    if (found != watched.end()) generated.alternatives = next_alternatives(*found->second.pending);
    return !on_token || on_token(id, generated);
  }

  /// What the owner of a sequence sees of its logits.
  struct Watched {
    GenerateOptions options;
    std::shared_ptr<PendingAlternatives> pending;
  };
  /// Prepares to watch a sequence that will be added next.
  LogitsObserver observe(const GenerateOptions& options, Watched& out) const {
    out = {options, std::make_shared<PendingAlternatives>()};
    return observer_of(options, out.pending);
  }

  const Completion& completion_of(int64_t id) const {
    require(id);
    return queue.completion(id);
  }
  void require(int64_t id) const {
    if (!queue.known(id)) throw_user("there is no sequence {}: it was never added, or was taken", id);
  }

  GeneratedSequence result(int64_t id) const {
    const Completion& completion = completion_of(id);
    const GenerationRequest& request = queue.request(id);
    GeneratedSequence result;
    result.tokens = completion.tokens;
    std::vector<int32_t> all = request.prompt;
    all.insert(all.end(), completion.tokens.begin(), completion.tokens.end());
    result.sequence = model->sequence_of(all, request.positions);
    result.text = completion.text;
    result.log_probability = completion.log_probability;
    result.finish_reason = completion.finish_reason;
    return result;
  }

  std::shared_ptr<const Model::State> model;
  BatchTokenCallback on_token;
  std::map<int64_t, Watched> watched;
  Engine engine;
  GenerationQueue queue;
};

BatchGenerator::BatchGenerator(const Model& model, const BatchOptions& options, BatchTokenCallback on_token)
    : state_(std::make_unique<State>(model.state_, options, std::move(on_token))) {}
BatchGenerator::BatchGenerator(BatchGenerator&&) noexcept = default;
BatchGenerator& BatchGenerator::operator=(BatchGenerator&&) noexcept = default;
BatchGenerator::~BatchGenerator() = default;

int64_t BatchGenerator::add(std::string_view prompt, const GenerateOptions& options) {
  return add(state_->model->tokenizer.prompt(std::string(prompt)), options);
}

int64_t BatchGenerator::add(const TokenPrompt& prompt, const GenerateOptions& options) {
  refuse_batch_options(options);
  GenerationRequest request = request_of(prompt, options);
  State::Watched watched;
  request.logits = state_->observe(options, watched);
  const bool sees = static_cast<bool>(request.logits);
  const int64_t id = state_->queue.add(std::move(request));
  if (sees) state_->watched[id] = std::move(watched);
  return id;
}

int64_t BatchGenerator::fork(int64_t id, uint64_t seed) {
  state_->require(id);
  const auto found = state_->watched.find(id);
  if (found == state_->watched.end()) return state_->queue.fork(id, seed);
  State::Watched watched;
  LogitsObserver observer = state_->observe(found->second.options, watched);
  const int64_t copy = state_->queue.fork(id, seed, std::move(observer));
  state_->watched[copy] = std::move(watched);
  return copy;
}

void BatchGenerator::cancel(int64_t id) {
  state_->queue.cancel(id);
}

bool BatchGenerator::step() {
  return state_->queue.step();
}

int64_t BatchGenerator::unfinished() const {
  return state_->queue.unfinished();
}
int64_t BatchGenerator::waiting() const {
  return state_->queue.waiting();
}
bool BatchGenerator::finished(int64_t id) const {
  return state_->completion_of(id).finish_reason.has_value();
}
GeneratedSequence BatchGenerator::result(int64_t id) const {
  return state_->result(id);
}

GeneratedSequence BatchGenerator::take(int64_t id) {
  if (!finished(id)) throw_user("sequence {} has not ended; cancel it first", id);
  GeneratedSequence result = state_->result(id);
  state_->queue.forget(id);
  state_->watched.erase(id);
  return result;
}

std::vector<double> BatchGenerator::next_logits(int64_t id) {
  state_->require(id);
  return state_->queue.next_logits(id);
}

}  // namespace perceiver
