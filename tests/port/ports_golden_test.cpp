// Imported models against what the implementations they come from computed: logits, loss, every gradient,
// greedy generation. Files of tests/golden/ports, or of the folder that PERCEIVER_PORTS_DIR names.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "port/golden_rows.h"
#include "tests/support/generation_model.h"
#include "tests/support/golden.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

fs::path ports_folder() {
  const char* given = std::getenv("PERCEIVER_PORTS_DIR");
  return given != nullptr ? fs::path(given) : fs::path(PERCEIVER_SOURCE_DIR) / "tests/golden/ports";
}

/// Files "<start>….safetensors" of the PyTorch implementations.
std::vector<fs::path> port_files(const std::string& start) {
  std::vector<fs::path> files;
  for (const char* port : {"krasserm", "lucidrains"})
    for (const auto& entry : fs::recursive_directory_iterator(ports_folder() / port)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with(start) && name.ends_with(".safetensors")) files.push_back(entry.path());
    }
  std::sort(files.begin(), files.end());
  return files;
}

ImportedModel model_beside(const fs::path& golden, DType type) {
  for (const char* name : {"weights.safetensors", "hf", "model.pt"})
    if (fs::exists(golden.parent_path() / name))
      return import_model(golden.parent_path() / name, {}, DeviceContext::cpu(2), type);
  throw std::runtime_error("no model beside " + golden.string());
}

struct PortTolerances {
  double logits;     ///< absolute
  double loss;       ///< absolute
  double gradients;  ///< relative to the largest element
};

/// Gradients of the mean of the losses.
void expect_gradients(const ImportedModel& imported, const SafetensorsFile& file, double targets,
                      double tolerance) {
  size_t compared = 0;
  // As the state dict names them, whatever the file of weights puts before that.
  const bool wrapped = file.find("grad/net.token_emb.weight") != nullptr;
  const std::string prefix = wrapped ? "net." : "";
  for (const TensorMap& map : imported.tensors) {
    if (map.theirs.empty()) continue;
    const ParameterInfo& info = *imported.model->parameters().find(map.ours);
    const std::vector<double> expected = testing::golden_gradient(map, info.shape, file, prefix);
    const std::vector<double> actual = host_doubles(imported.model->parameters().gradient(info));
    ASSERT_EQ(actual.size(), expected.size());
    const size_t columns = actual.size() / static_cast<size_t>(info.shape[0]);
    double largest = 0, difference = 0;
    for (const float value : testing::floats(file, "grad/" + prefix + map.theirs))
      largest = std::max(largest, std::abs(static_cast<double>(value)));
    for (size_t i = 0; i < actual.size(); ++i) {
      if (!map.rows.empty() && map.rows[i / columns] < 0) continue;
      difference = std::max(difference, std::abs(actual[i] / targets - expected[i]));
      ++compared;
    }
    EXPECT_LE(difference, largest > 0 ? tolerance * largest : 1e-12) << map.ours << " of " << largest;
  }
  EXPECT_GT(compared, 1000u);
}

void check_port_file(const fs::path& path, DType type, const PortTolerances& tolerances) {
  SCOPED_TRACE(path.string());
  const SafetensorsFile file = SafetensorsFile::open(path);
  const ImportedModel imported = model_beside(path, type);
  const GoldenRows golden = read_golden_rows(file, imported);
  ASSERT_FALSE(golden.rows.empty());
  const GoldenDifference difference = golden_difference(file, imported, golden);
  EXPECT_LE(*std::max_element(difference.logits.begin(), difference.logits.end()), tolerances.logits);
  if (!golden.leaking.empty()) return;  // their loss and gradients are of all rows together
  ASSERT_TRUE(difference.has_loss);
  EXPECT_NEAR(difference.loss, difference.their_loss, tolerances.loss);

  const PerceiverAR& model = *imported.model;
  imported.model->parameters().start_gradients();
  Tape tape(model.context(), true);
  const ops::LossResult result = model.loss(tape, golden_inputs(model, golden), {}, Recompute::none);
  const double targets = host_doubles(result.totals)[4];
  EXPECT_EQ(targets, testing::integers(file, "out/num_targets")[0]);
  tape.backward();
  imported.model->parameters().finish_gradients();
  expect_gradients(imported, file, targets, tolerances.gradients);
}

// What is left is the rounding of the files, which are float32: logits reach 26.
TEST(Ports, ForwardAndBackwardInFloat64) {
  const std::vector<fs::path> files = port_files("golden");
  EXPECT_GE(files.size(), 2u);
  for (const fs::path& path : files) check_port_file(path, DType::f64, {2e-6, 2e-6, 2e-5});
}

TEST(Ports, ForwardAndBackwardInFloat32) {
  for (const fs::path& path : port_files("golden")) check_port_file(path, DType::f32, {3e-5, 4e-6, 4e-5});
}

TEST(Ports, RowsThatLeakTheFutureAreLeftOut) {
  const fs::path path = ports_folder() / "krasserm/clm_odd/golden_pad_in_latents.safetensors";
  if (!fs::exists(path)) GTEST_SKIP() << path << " is missing; PERCEIVER_PORTS_DIR names the whole set";
  const GoldenRows golden = read_golden_rows(SafetensorsFile::open(path), model_beside(path, DType::f64));
  EXPECT_EQ(golden.rows, (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(golden.leaking, (std::vector<int64_t>{2, 3}));
}

/// Greedily, as documented there: latents grow to M, then the prefix, then the window slides.
void check_generation(const fs::path& path, DType type) {
  SCOPED_TRACE(path.string() + " " + std::string(name_of(type)));
  const SafetensorsFile file = SafetensorsFile::open(path);
  const ImportedModel imported = model_beside(path, type);
  const std::vector<int64_t> ours = imported.vocabulary.inverse();
  const auto translated = [&](const std::string& name) {
    std::vector<int32_t> ids = testing::integers(file, name);
    for (int32_t& id : ids) id = static_cast<int32_t>(ours[static_cast<size_t>(id)]);
    return ids;
  };
  Sequence sequence;
  sequence.tokens = translated("in/prompt");
  const std::vector<int32_t> expected = translated("out/tokens");
  const ModelConfig& config = imported.model->config();
  EngineOptions options;
  options.policy = GenerationPolicy::exact;
  options.prompt_latents =
      file.find("in/num_latents") != nullptr
          ? testing::integers(file, "in/num_latents")[0]
          : static_cast<int64_t>(sequence.tokens.size()) - (config.context_length - config.latents);
  Engine engine(*imported.model, options);
  engine.admit(0, sequence);
  while (engine.tokens(0).size() < expected.size()) {
    engine.compute();
    engine.push(0, testing::greedy(engine.logits(0)));
  }
  EXPECT_EQ(engine.tokens(0), expected);
}

TEST(Ports, GreedyGenerationAsDocumented) {
  const std::vector<fs::path> files = port_files("generate");
  EXPECT_GE(files.size(), 2u);
  for (const fs::path& path : files)
    for (const DType type : {DType::f32, DType::f64}) check_generation(path, type);
}

}  // namespace
}  // namespace perceiver
