// Trains a small model on sequences made here, then lets it continue one.   train_own_data RUN_FOLDER
// Each sequence counts in steps of some size, modulo 10: the model must find out the step from its beginning.
#include <perceiver/perceiver.h>

#include <iostream>

namespace {

constexpr int kFirstId = 3;  // ids 0 to 2 are padding, end and start
constexpr int kValues = 10, kLength = 16;

std::vector<int32_t> count_from(int start, int step) {
  std::vector<int32_t> ids;
  for (int i = 0; i < kLength; ++i) ids.push_back(kFirstId + (start + i * step) % kValues);
  return ids;
}

struct Printer : perceiver::TrainObserver {
  void on_log(const perceiver::LogEntry& entry) override { std::cout << progress_line(entry) << "\n"; }
  void on_eval(const perceiver::EvalEntry& entry) override { std::cout << progress_line(entry) << "\n"; }
};

}  // namespace

int main(int argc, char** argv) try {
  perceiver::Documents documents;
  for (int start = 0; start < kValues; ++start)
    for (int step = 0; step < kValues; ++step)
      ((start + step) % 7 == 6 ? documents.validation : documents.train).push_back(count_from(start, step));

  perceiver::Config config;
  config.device = "cpu";
  config.model.vocabulary = 0;  // that of the data
  config.model.context_length = config.model.latents = kLength;
  config.model.input_channels = 64;
  config.model.layers = 2;
  config.model.residual_dropout = 0;
  config.optimizer.learning_rate = 3e-3;
  config.train.steps = 400;
  config.train.log_every = 100;

  Printer printer;
  perceiver::TrainOptions options;
  options.folder = argc > 1 ? argv[1] : "";  // none: nothing is written
  options.observer = &printer;
  options.data = perceiver::data_in_memory({.vocabulary = kFirstId + kValues}, documents);
  perceiver::TrainingRun run(config, options);
  run.run();

  const perceiver::TokenPrompt prompt{{2, kFirstId + 1, kFirstId + 4, kFirstId + 7}, {}};  // start, 1, 4, 7
  auto sequence = run.model().start(prompt, {.tokens = 8, .temperature = 0});
  std::cout << "1 4 7";
  while (const auto token = sequence.next()) std::cout << ' ' << token->id - kFirstId;
  std::cout << "\n";
} catch (const perceiver::Error& error) {
  std::cerr << error.what() << "\n";
  return error.kind() == perceiver::ErrorKind::user ? 2 : 1;
}
