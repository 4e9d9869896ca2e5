// Samples of the model that is being trained, so that people can see (and hear) what it has learned.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "data/dataset.h"
#include "data/modality.h"
#include "data/text/tokenizer.h"
#include "generate/request.h"
#include "model/perceiver_ar.h"
#include "perceiver/config.h"
#include "perceiver/train_report.h"

namespace perceiver {

class TrainingSamples {
 public:
  /// Throws `user` if the data, the prompt or the length does not allow samples. `model` must outlive this;
  /// nothing in it but its rotary tables, which may grow, is changed.
  TrainingSamples(const TrainConfig& config, const Dataset& data, const PerceiverAR& model,
                  std::filesystem::path folder);

  /// Generates a sample with the model's present weights and writes it to step-000000100.txt (.png, .mid, …)
  /// in the folder. It depends only on weights, step and train.seed. `cancelled` is called after each token;
  /// once it returns true, nothing is written or returned. Throws `failure` if memory is short or the file
  /// cannot be written.
  std::optional<SampleEntry> make(int64_t step, const std::function<bool()>& cancelled) const;

  /// Whether the sample of that step was written.
  bool exists(int64_t step) const;

 private:
  void plan(const TrainConfig& config);
  std::filesystem::path path(int64_t step) const;

  const PerceiverAR& model_;
  std::filesystem::path folder_;
  EngineOptions options_;
  std::string ending_ = ".txt";
  std::unique_ptr<Modality> modality_;        ///< null for the copy task
  std::unique_ptr<TextTokenizer> tokenizer_;  ///< for text; null: files of another kind
  GenerationRequest request_;
};

}  // namespace perceiver
