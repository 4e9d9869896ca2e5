// Eight threads that generate, score and train at once, on the same weights and on others.
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "perceiver/batch_generator.h"
#include "perceiver/train.h"
#include "tests/support/api_model.h"
#include "tests/support/own_data.h"

namespace perceiver {
namespace {

using namespace testing;

std::string digest(const std::vector<double>& values) {
  std::string text;
  for (const double value : values) text += std::to_string(value) + " ";
  return text;
}

std::string generate(const Model& model, uint64_t seed) {
  GenerateOptions options;
  options.tokens = 40;
  options.seed = seed;
  options.ignore_eos = true;
  options.alternatives = static_cast<int64_t>(seed % 2);
  return model.generate("prompt", options);
}

std::string generate_batch(const Model& model) {
  BatchGenerator batch(model, {.slots = 2});
  for (uint64_t seed = 0; seed < 4; ++seed)
    batch.add("prompt", {.tokens = 30, .seed = seed, .ignore_eos = true});
  while (batch.step()) {
  }
  std::string all;
  for (int64_t id = 0; id < 4; ++id) all += batch.take(id).text;
  return all;
}

std::string score(const Model& model) {
  const std::vector<TokenSequence> documents(3, model.tokenizer().encode("To be, or not to be"));
  std::vector<double> values;
  for (const Score& each : model.score(documents, {.stride = 2})) values.push_back(each.nats);
  for (const float value : model.embed("To be").values) values.push_back(value);
  return digest(values);
}

std::string train(uint64_t seed) {
  Config config = own_config(6);
  config.threads = 2;
  config.train.seed = seed;
  TrainingRun run(config, own_options());
  const TrainResult result = run.run();
  return digest(
      {static_cast<double>(result.step), run.model().score(TokenSequence{.ids = {3, 4, 5, 6}}).nats});
}

TEST(Threads, GenerateScoreAndTrainAtOnceAsAlone) {
  const Model model = api_model("text", {}, 2), other = api_model("text", {}, 1, 32);
  const std::array<std::function<std::string()>, 8> work{
      [&] { return generate(model, 1); }, [&] { return generate(model, 2); },
      [&] { return generate(other, 3); }, [&] { return generate_batch(model); },
      [&] { return score(model); },       [&] { return score(other); },
      [&] { return train(1); },           [&] { return train(2); }};
  std::array<std::string, 8> alone, together;
  for (size_t i = 0; i < work.size(); ++i) alone[i] = work[i]();
  std::vector<std::thread> threads;
  for (size_t i = 0; i < work.size(); ++i) threads.emplace_back([&, i] { together[i] = work[i](); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(together, alone);
}

}  // namespace
}  // namespace perceiver
