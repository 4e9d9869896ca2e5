// Transformer-XL against what the original code and Hugging Face's computed (docs/model.md,
// "Transformer-XL"): log-probabilities, loss and memories of successive segments, every gradient. Files of
// tests/golden/ports/transformer_xl, or of the folder that PERCEIVER_PORTS_DIR names.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include "model/segment_memory.h"
#include "perceiver/experimental/host_values.h"
#include "port/import.h"
#include "tests/support/golden.h"

namespace perceiver::testing {

namespace fs = std::filesystem;

struct RecurrentTolerances {
  double log_probabilities, memories, loss;  ///< absolute
  std::optional<double> gradients;           ///< relative to the largest element; none: not compared
};
inline std::vector<fs::path> recurrent_files() {
  const char* given = std::getenv("PERCEIVER_PORTS_DIR");
  const fs::path folder =
      given != nullptr ? fs::path(given) : fs::path(PERCEIVER_SOURCE_DIR) / "tests/golden/ports";
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder / "transformer_xl"))
    if (entry.path().filename().string().starts_with("golden")) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

/// A golden file and its model; only Hugging Face's own first segment attends to zero vectors.
class RecurrentSegments {
 public:
  RecurrentSegments(const fs::path& path, DType type, const std::shared_ptr<DeviceContext>& context)
      : file_(SafetensorsFile::open(path)),
        imported_(import_model(path.parent_path() / "hf", {}, context, type)) {
    ModelConfig config = imported_.model->config();
    config.zero_memory = path.filename() == "golden_hf.safetensors";
    model_ = std::make_unique<PerceiverAR>(config, context, type);
    model_->parameters().values().copy_from(imported_.model->parameters().values());
    model_->parameters().publish();
    const auto& shape = file_.find("in/tokens.0")->shape;
    streams_ = shape[0], length_ = shape[1];
    memory_ = SegmentMemory::make(*context, type, config, streams_, config.memory_length);
  }

  void check(const RecurrentTolerances& tolerances, Recompute recompute) {
    for (int64_t k = 0; has("in/tokens.", k); ++k) {
      SCOPED_TRACE(::testing::Message() << "segment " << k);
      PassOptions options;
      options.memory = &memory_;
      const ModelInputs inputs = model_->prepare(batch(k), options);
      check_log_probabilities(k, inputs, tolerances.log_probabilities);
      check_loss(k, inputs, tolerances, recompute);
      check_memories(k, tolerances.memories);
      memory_.commit(model_->context());
      ++segments_;
    }
    EXPECT_GE(segments_, 3);
    EXPECT_TRUE(compared_gradients_);
  }

 private:
  static std::string at(const std::string& name, int64_t k) { return name + std::to_string(k); }
  bool has(const std::string& name, int64_t k) const { return file_.find(at(name, k)) != nullptr; }

  Batch batch(int64_t k) const {
    const std::vector<int64_t> ours = imported_.vocabulary.inverse();
    const auto translated = [&](std::vector<int32_t> ids) {
      for (int32_t& id : ids) id = static_cast<int32_t>(ours[static_cast<size_t>(id)]);
      return ids;
    };
    Batch batch;
    batch.resize(streams_, length_, 1);
    batch.tokens = translated(integers(file_, at("in/tokens.", k)));
    batch.targets = translated(integers(file_, at("in/targets.", k)));
    batch.lengths.assign(static_cast<size_t>(streams_), static_cast<int32_t>(length_));
    batch.preceding.assign(static_cast<size_t>(streams_), k * length_);
    return batch;
  }

  void check_log_probabilities(int64_t k, const ModelInputs& inputs, double tolerance) const {
    const std::vector<float> expected = floats(file_, at("out/logprobs_exact.", k));
    const std::vector<double> logits = host_doubles(model_->logits(inputs));
    const std::vector<int64_t>& theirs = imported_.vocabulary.theirs;
    const size_t ids = theirs.size(), their_ids = static_cast<size_t>(imported_.vocabulary.size);
    double difference = 0;
    for (size_t row = 0; row < logits.size() / ids; ++row) {
      double sum = 0;
      for (size_t id = 0; id < ids; ++id) sum += std::exp(logits[row * ids + id]);
      for (size_t id = 0; id < ids; ++id) {
        if (theirs[id] < 0) continue;
        const auto want = static_cast<double>(expected[row * their_ids + static_cast<size_t>(theirs[id])]);
        difference = std::max(difference, std::abs(logits[row * ids + id] - std::log(sum) - want));
      }
    }
    EXPECT_LE(difference, tolerance);
  }

  void check_loss(int64_t k, const ModelInputs& inputs, const RecurrentTolerances& tolerances,
                  Recompute recompute) {
    ParameterStore& store = model_->parameters();
    store.start_gradients();
    Tape tape(model_->context(), true);
    const std::vector<double> totals = host_doubles(model_->loss(tape, inputs, {}, recompute).totals);
    EXPECT_EQ(totals[4], streams_ * length_);
    EXPECT_NEAR(totals[0] / totals[4], floats(file_, at("out/loss.", k))[0], tolerances.loss);
    tape.backward();
    store.finish_gradients();
    if (k != 1) return;
    if (tolerances.gradients)
      for (const TensorMap& map : imported_.tensors) check_gradient(map, totals[4], *tolerances.gradients);
    compared_gradients_ = true;
  }

  /// The original code's names lack the first part of Hugging Face's.
  void check_gradient(TensorMap map, double targets, double tolerance) const {
    const ParameterInfo& info = *model_->parameters().find(map.ours);
    constexpr std::string_view kFirst = "transformer.";
    if (file_.find("grad/" + map.theirs) == nullptr && map.theirs.starts_with(kFirst))
      map.theirs.erase(0, kFirst.size());
    const std::vector<double> expected = golden_gradient(map, info.shape, file_);
    const std::vector<double> actual = host_doubles(model_->parameters().gradient(info));
    ASSERT_EQ(actual.size(), expected.size());
    const size_t columns = actual.size() / static_cast<size_t>(info.shape[0]);
    double largest = 0, difference = 0;
    for (size_t i = 0; i < actual.size(); ++i) {
      if (!map.rows.empty() && map.rows[i / columns] < 0) continue;
      largest = std::max(largest, std::abs(expected[i]));
      difference = std::max(difference, std::abs(actual[i] / targets - expected[i]));
    }
    EXPECT_GT(largest, 0) << map.ours;
    EXPECT_LE(difference, tolerance * largest) << map.ours << " of " << largest;
  }

  /// out/mems.k.l is [rows, B, Z]: the last rows of ours.
  void check_memories(int64_t k, double tolerance) const {
    const int64_t channels = model_->config().z_channels();
    for (int64_t layer = 0; layer < model_->config().layers; ++layer) {
      const std::string name = at("out/mems.", k) + "." + std::to_string(layer);
      const int64_t rows = file_.find(name)->shape[0];
      const std::vector<float> expected = floats(file_, name);
      const std::vector<double> actual = host_doubles(memory_.layer(memory_.next, layer, 0, streams_));
      double difference = 0;
      for (int64_t b = 0; b < streams_; ++b)
        for (int64_t n = 0; n < rows; ++n)
          for (int64_t c = 0; c < channels; ++c)
            difference = std::max(
                difference,
                std::abs(
                    actual[static_cast<size_t>(((b + 1) * memory_.length - rows + n) * channels + c)] -
                    static_cast<double>(expected[static_cast<size_t>((n * streams_ + b) * channels + c)])));
      EXPECT_LE(difference, tolerance) << "layer " << layer;
    }
  }

  SafetensorsFile file_;
  ImportedModel imported_;
  std::unique_ptr<PerceiverAR> model_;
  SegmentMemory memory_;
  int64_t streams_ = 0, length_ = 0, segments_ = 0;
  bool compared_gradients_ = false;
};

/// All files, on `context`.
inline void check_recurrent_files(DType type, const std::shared_ptr<DeviceContext>& context,
                                  const RecurrentTolerances& tolerances,
                                  Recompute recompute = Recompute::none) {
  const std::vector<fs::path> files = recurrent_files();
  EXPECT_GE(files.size(), 4u);
  for (const fs::path& path : files) {
    SCOPED_TRACE(path.string());
    RecurrentSegments(path, type, context).check(tolerances, recompute);
  }
}

}  // namespace perceiver::testing
