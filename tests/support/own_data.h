// Small runs on data of the caller, for tests of the public interface.
#pragma once

#include <string>
#include <vector>

#include "perceiver/train.h"
#include "tests/support/tiny_run.h"

namespace perceiver {

/// Counting up modulo 7 from some number: ids 3 to 9.
inline std::vector<int32_t> counting(int32_t from, int length) {
  std::vector<int32_t> ids;
  for (int i = 0; i < length; ++i) ids.push_back(3 + (from + i) % 7);
  return ids;
}

inline std::shared_ptr<const DataSource> counting_data(int length = 20) {
  Documents documents;
  for (int i = 0; i < 7; ++i) documents.train.push_back(counting(i, length));
  documents.validation = {counting(3, length)};
  DataFormat format;
  format.vocabulary = 3 + 7;
  return data_in_memory(format, std::move(documents));
}

inline Config own_config(int64_t steps = 8) {
  Config config = tiny_config(steps);
  config.data = {};
  config.model.vocabulary = 0;
  return config;
}

inline TrainOptions own_options(const std::filesystem::path& folder = {}, TrainObserver* observer = nullptr) {
  TrainOptions options;
  options.folder = folder;
  options.observer = observer;
  options.data = counting_data();
  return options;
}

/// What the model makes of a beginning, always its most likely token, with their log-probabilities.
inline std::vector<std::pair<int32_t, double>> continuation(const Model& model, int64_t tokens = 10) {
  GenerateOptions options;
  options.tokens = tokens;
  options.temperature = 0;
  TokenPrompt prompt;
  prompt.tokens = {2, 3, 4};
  std::vector<std::pair<int32_t, double>> made;
  model.start(prompt, options).run([&](const GeneratedToken& token) {
    made.emplace_back(token.id, token.log_probability);
    return true;
  });
  return made;
}

}  // namespace perceiver
