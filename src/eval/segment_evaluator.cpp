#include "eval/segment_evaluator.h"

#include <chrono>

#include "base/check.h"
#include "data/batches/segments.h"
#include "distributed/together.h"
#include "eval/scores.h"
#include "model/segment_memory.h"
#include "perceiver/experimental/host_values.h"

namespace perceiver {
namespace {

/// Scores the segments of this rank's documents.
class SegmentScorer {
 public:
  SegmentScorer(const PerceiverAR& model, DocumentSegments& segments, int64_t memory_length,
                const EvaluationOptions& options, const std::function<void(int64_t, int64_t)>& progress)
      : model_(model), segments_(segments), options_(options), progress_(progress) {
    if (memory_length == 0 || segments.rows() == 0) return;
    memory_ =
        SegmentMemory::make(model.context(), model.type(), model.config(), segments.rows(), memory_length);
    pass_.memory = &memory_;
  }
  SegmentScorer(const SegmentScorer&) = delete;
  SegmentScorer& operator=(const SegmentScorer&) = delete;

  /// False if there are no more.
  bool step() {
    if (!segments_.next(batch_)) return false;
    const ModelInputs inputs = model_.prepare(batch_.batch, pass_);
    Tape tape(model_.context(), false);
    add(model_.loss(tape, inputs, {}, Recompute::none));
    memory_.commit(model_.context());
    if (options_.world != nullptr) options_.world->still_working();
    if (progress_) progress_(scores_.tokens(), segments_.share_targets());
    return true;
  }
  const Scores& scores() const { return scores_; }

 private:
  void add(const ops::LossResult& loss) {
    const std::vector<double> nll = host_doubles(loss.nll);
    const std::vector<uint8_t> correct = loss.correct.to_host<uint8_t>();
    for (size_t b = 0; b < batch_.scored.size(); ++b) {
      const int64_t end = static_cast<int64_t>(b) * batch_.batch.length + batch_.batch.lengths[b];
      for (int64_t i = 0; i < batch_.scored[b]; ++i) {
        const auto row = static_cast<size_t>(end - batch_.scored[b] + i);
        const int64_t place = batch_.first_targets[b] + i;
        scores_.add(place, nll[row], correct[row] != 0);
        if (options_.target) options_.target(batch_.documents[b], place, nll[row]);
      }
    }
  }

  const PerceiverAR& model_;
  DocumentSegments& segments_;
  const EvaluationOptions& options_;
  const std::function<void(int64_t, int64_t)>& progress_;
  SegmentMemory memory_;
  PassOptions pass_;
  WindowBatch batch_;
  Scores scores_;
};

}  // namespace

EvaluationResult evaluate_segments(const PerceiverAR& model, const Dataset& data, Split split,
                                   const EvaluationOptions& options,
                                   const std::function<void(int64_t, int64_t)>& progress) {
  const ModelConfig& config = model.config();
  if (options.stride != 0)
    throw_user("a stride of {} requested; model.type transformer_xl scores whole segments", options.stride);
  if (options.latents < 0 || options.memory_length < 0 || options.batch < 1)
    throw_user("segments of {} tokens, a memory of {}, {} at once requested", options.latents,
               options.memory_length, options.batch);
  if (options.memory_length > 0 && config.memory_length == 0)
    throw_user("a memory of {} tokens requested; the model has none (model.memory_length is 0)",
               options.memory_length);
  EvaluationResult result;
  result.latents = options.latents > 0 ? options.latents : config.context_length;
  result.stride = result.latents;
  result.unit = data.unit();
  DocumentSegments segments(data, split,
                            {.length = result.latents,
                             .rows = options.batch,
                             .max_documents = options.max_documents,
                             .share = options.world != nullptr ? options.world->rank() : 0,
                             .shares = options.world != nullptr ? options.world->size() : 1});
  result.documents = segments.documents();
  result.units = segments.units();
  result.words = segments.words();
  const auto start = std::chrono::steady_clock::now();
  const int64_t memory = options.memory_length > 0 ? options.memory_length : config.memory_length;
  SegmentScorer scorer(model, segments, memory, options, progress);
  together(options.world, "an evaluation", [&] {
    while (scorer.step()) {
    }
  });
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  Scores scores = scorer.scores();
  add_up(options.world, scores, result.seconds);
  scores.write(result);
  PERCEIVER_ASSERT(result.tokens == segments.targets() && result.tokens > 0);
  return result;
}

}  // namespace perceiver
