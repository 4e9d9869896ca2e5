#include "eval/evaluator.h"

#include <chrono>
#include <cmath>
#include <numbers>

#include "base/check.h"
#include "distributed/together.h"
#include "eval/scores.h"
#include "eval/segment_evaluator.h"
#include "perceiver/experimental/host_values.h"

namespace perceiver {
namespace {

/// Adds the scores of one batch of windows.
void add_batch(const WindowBatch& windows, const ops::LossResult& loss, int64_t positions,
               const EvaluationOptions& options, Scores& scores) {
  const std::vector<double> nll = host_doubles(loss.nll);
  const std::vector<uint8_t> correct = loss.correct.to_host<uint8_t>();
  for (int64_t b = 0; b < windows.batch.size; ++b) {
    const int64_t scored = windows.scored[static_cast<size_t>(b)];
    for (int64_t i = 0; i < scored; ++i) {
      const auto row = static_cast<size_t>((b + 1) * positions - scored + i);
      const int64_t place = windows.first_targets[static_cast<size_t>(b)] + i;
      scores.add(place, nll[row], correct[row] != 0);
      if (options.target) options.target(windows.documents[static_cast<size_t>(b)], place, nll[row]);
    }
  }
}

/// M, in latents.
int64_t latents_of(const EvaluationOptions& options, const ModelConfig& config) {
  if (options.latents < 0 || options.latents > config.context_length)
    throw_user("{} latents requested; must be 1 to model.context_length {}", options.latents,
               config.context_length);
  const int64_t latents = config.decoder_only() ? config.context_length
                          : options.latents > 0 ? options.latents
                                                : config.latents;
  if (latents % config.latents_per_position != 0)
    throw_user("{} latents are not a multiple of model.latents_per_position {}", latents,
               config.latents_per_position);
  return latents;
}

/// The ranks as groups that score the same windows: adjacent ones, which share a context.
struct Groups {
  explicit Groups(const EvaluationOptions& options) {
    if (options.world == nullptr) return;
    const int ranks = options.context_group != nullptr ? options.context_group->size() : 1;
    PERCEIVER_ASSERT(options.world->size() % ranks == 0);
    count = options.world->size() / ranks;
    index = options.world->rank() / ranks;
    counts = options.world->rank() % ranks == 0;
  }
  int64_t count = 1, index = 0;
  bool counts = true;  ///< whether this rank's scores count, not those of another rank of its group
};

/// Scores this rank's windows, one batch at a time.
class WindowScorer {
 public:
  WindowScorer(const PerceiverAR& model, Windows& windows, int64_t latents, const EvaluationOptions& options,
               const std::function<void(int64_t, int64_t)>& progress)
      : model_(model), windows_(windows), options_(options), world_(options.world), progress_(progress) {
    pass_.latents = latents;
    pass_.context_group = options.context_group;
  }

  /// False if there are no more.
  bool step() {
    if (!windows_.next(batch_)) return false;
    const ModelInputs inputs = model_.prepare(batch_.batch, pass_);
    Tape tape(model_.context(), false);
    add_batch(batch_, model_.loss(tape, inputs, {}, Recompute::none), inputs.latent_positions, options_,
              scores_);
    if (world_ != nullptr) world_->still_working();
    if (progress_) progress_(scores_.tokens(), windows_.share_targets());
    return true;
  }
  const Scores& scores() const { return scores_; }

 private:
  const PerceiverAR& model_;
  Windows& windows_;
  const EvaluationOptions& options_;
  World* world_;
  const std::function<void(int64_t, int64_t)>& progress_;
  PassOptions pass_;
  WindowBatch batch_;
  Scores scores_;
};

/// The ranks of a context group wait for each other inside a batch, so all must agree before each whether to
/// go on. Others need not.
void score_all(WindowScorer& scorer, const Windows& windows, const EvaluationOptions& options) {
  constexpr const char* kWhat = "an evaluation";
  if (options.world == nullptr || options.context_group == nullptr)
    return together(options.world, kWhat, [&] {
      while (scorer.step()) {
      }
    });
  for (int64_t round = 0; round < windows.rounds(); ++round)
    together(options.world, kWhat, [&] { scorer.step(); });
}

}  // namespace

double EvaluationResult::bits_per_token() const {
  return nats_per_token() / std::numbers::ln2;
}
double EvaluationResult::bits_per_unit() const {
  return nats_per_unit() / std::numbers::ln2;
}
double EvaluationResult::perplexity() const {
  return std::exp(nats_per_token());
}
double EvaluationResult::word_perplexity() const {
  return std::exp(nats / static_cast<double>(words));
}

EvaluationResult evaluate(const PerceiverAR& model, const Dataset& data, Split split,
                          const EvaluationOptions& options,
                          const std::function<void(int64_t, int64_t)>& progress) {
  const ModelConfig& config = model.config();
  check_fits(data, config);
  if (config.recurrent()) return evaluate_segments(model, data, split, options, progress);
  if (options.memory_length != 0)
    throw_user("a memory of {} tokens requested; only model.type transformer_xl has one",
               options.memory_length);
  const int64_t latents = latents_of(options, config);
  const int64_t positions = latents / config.latents_per_position;
  EvaluationResult result;
  result.latents = latents;
  result.stride = options.stride > 0 ? options.stride : positions;
  result.unit = data.unit();
  const Groups groups(options);
  Windows windows(data, split,
                  {.context = config.context_length,
                   .latents = positions,
                   .stride = options.stride,
                   .batch = options.batch,
                   .max_documents = options.max_documents,
                   .share = groups.index,
                   .shares = groups.count});
  result.documents = windows.documents();
  result.units = windows.units();
  result.words = windows.words();

  const auto start = std::chrono::steady_clock::now();
  WindowScorer scorer(model, windows, latents, options, progress);
  score_all(scorer, windows, options);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  Scores scores = groups.counts ? scorer.scores() : Scores();
  add_up(options.world, scores, result.seconds);
  scores.write(result);
  PERCEIVER_ASSERT(result.tokens == windows.targets() && result.tokens > 0);
  return result;
}

}  // namespace perceiver
