#include "generate/generate.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "data/special_tokens.h"

namespace perceiver {
namespace {

void check_ids(const GenerationRequest& request, int64_t vocabulary) {
  for (const int32_t token : request.stop_tokens)
    if (token < 0 || token >= vocabulary)
      throw_user("stop token {} outside the vocabulary of {}", token, vocabulary);
  for (const auto& [token, bias] : request.token_biases) {
    if (token < 0 || token >= vocabulary)
      throw_user("logit bias of token {}, which is outside the vocabulary of {}", token, vocabulary);
    if (std::isnan(bias) || bias == INFINITY)
      throw_user("logit bias {} of token {}: a number or -infinity is needed", bias, token);
  }
}

/// The requests on their way through an engine's slots.
class Queue {
 public:
  Queue(Engine& engine, const std::vector<GenerationRequest>& requests, const TokenCallback& callback)
      : engine_(engine),
        requests_(requests),
        callback_(callback),
        results_(requests.size()),
        done_(requests.size(), false),
        slot_(static_cast<size_t>(engine.slots()), kFree),
        started_(static_cast<size_t>(engine.slots()), 0) {}
  ~Queue() {
    for (int64_t s = 0; s < engine_.slots(); ++s)
      if (slot_[static_cast<size_t>(s)] != kFree) engine_.release(s);
    while (engine_.in_flight() > 0) drop();
  }

  std::vector<Continuation> run() {
    while (fill()) {
      engine_.step();
      for (size_t s = 0; s < slot_.size(); ++s)
        if (slot_[s] != kFree) ++started_[s];
      retire();
      if (engine_.in_flight() >= engine_.depth()) take(engine_.collect());
    }
    while (engine_.in_flight() > 0) take(engine_.collect());
    return std::move(results_);
  }

 private:
  static constexpr int64_t kFree = -1;

  void drop() {
    try {
      engine_.collect();
    } catch (const Error&) {  // told to the caller already, or of no interest
    }
  }

  /// Puts waiting requests into free slots; whether any slot is busy.
  bool fill() {
    bool busy = false;
    for (size_t s = 0; s < slot_.size(); ++s) {
      while (slot_[s] == kFree && next_ < requests_.size()) {
        const size_t request = next_++;
        if (requests_[request].tokens == 0) continue;
        engine_.admit(static_cast<int64_t>(s),
                      sequence_of(requests_[request], engine_.model().config().vocabulary), request);
        slot_[s] = static_cast<int64_t>(request);
        started_[s] = 0;
      }
      busy = busy || slot_[s] != kFree;
    }
    return busy;
  }

  /// Frees the slots whose last token has been asked for; it may still be on its way.
  void retire() {
    for (size_t s = 0; s < slot_.size(); ++s) {
      if (slot_[s] == kFree) continue;
      const auto request = static_cast<size_t>(slot_[s]);
      if (started_[s] >= requests_[request].tokens) {
        free(s);
      } else if (engine_.ended(static_cast<int64_t>(s))) {
        results_[request].ending = Ending::context;
        free(s);
      }
    }
  }

  void free(size_t slot) {
    engine_.release(static_cast<int64_t>(slot));
    slot_[slot] = kFree;
  }

  void take(const std::vector<ChosenToken>& tokens) {
    for (const ChosenToken& token : tokens) {
      const auto request = static_cast<size_t>(token.tag);
      if (done_[request]) continue;
      Continuation& result = results_[request];
      result.tokens.push_back(token.token);
      result.log_probability += token.log_probability;
      const auto& stops = requests_[request].stop_tokens;
      const bool last =
          token.token == eos_token || std::find(stops.begin(), stops.end(), token.token) != stops.end();
      const bool stopped = callback_ && !callback_(static_cast<int64_t>(request), token);
      if (last) {
        end(request, Ending::end_token);
      } else if (stopped) {
        end(request, Ending::caller);
      }
    }
  }

  void end(size_t request, Ending ending) {
    done_[request] = true;
    results_[request].ending = ending;
    const auto slot = std::find(slot_.begin(), slot_.end(), static_cast<int64_t>(request));
    if (slot != slot_.end()) free(static_cast<size_t>(slot - slot_.begin()));
  }

  Engine& engine_;
  const std::vector<GenerationRequest>& requests_;
  const TokenCallback& callback_;
  std::vector<Continuation> results_;
  std::vector<bool> done_;
  std::vector<int64_t> slot_;     ///< the request in each slot
  std::vector<int64_t> started_;  ///< tokens asked for
  size_t next_ = 0;
};

}  // namespace

EngineOptions suited_options(EngineOptions options, const std::string& modality) {
  if (modality == "copy" && options.prompt_latents == 0) options.prompt_latents = 1;
  return options;
}

Sequence sequence_of(const GenerationRequest& request, int64_t vocabulary) {
  Sequence sequence;
  sequence.tokens = request.prompt;
  sequence.positions = request.positions;
  sequence.settings = sample_settings(request.sampling, request.sequence, !request.ignore_eos);
  sequence.biases = request.biases;
  for (auto& row : sequence.biases) row.resize(static_cast<size_t>(vocabulary), 0.0f);
  if (request.token_biases.empty()) return sequence;
  if (sequence.biases.empty()) sequence.biases.emplace_back(static_cast<size_t>(vocabulary), 0.0f);
  for (const auto& [token, bias] : request.token_biases)
    for (auto& row : sequence.biases) row[static_cast<size_t>(token)] += bias;
  return sequence;
}

void check_request(const Engine& engine, const GenerationRequest& request) {
  check_sampling(request.sampling);
  if (request.tokens < 0) throw_user("{} tokens asked for; 0 or more are possible", request.tokens);
  const int64_t vocabulary = engine.model().config().vocabulary;
  check_ids(request, vocabulary);
  for (const auto& row : request.biases)
    if (static_cast<int64_t>(row.size()) > vocabulary)
      throw_user("{} logit biases for a vocabulary of {}", row.size(), vocabulary);
  engine.check(sequence_of(request, vocabulary));
}

std::vector<Continuation> generate(Engine& engine, const std::vector<GenerationRequest>& requests,
                                   const TokenCallback& callback) {
  for (const GenerationRequest& request : requests) check_request(engine, request);
  return Queue(engine, requests, callback).run();
}

}  // namespace perceiver
