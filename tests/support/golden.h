// Golden files: results of the authors' own code. Every file of the folder that PERCEIVER_GOLDEN_DIR names,
// or tests/golden, is compared, whatever its options.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "perceiver/experimental/host_values.h"
#include "port/import.h"

namespace perceiver::testing {

namespace fs = std::filesystem;

inline fs::path golden_folder() {
  const char* given = std::getenv("PERCEIVER_GOLDEN_DIR");
  return given != nullptr ? fs::path(given) : fs::path(PERCEIVER_SOURCE_DIR) / "tests" / "golden";
}

inline std::vector<fs::path> golden_files(bool cached) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(golden_folder())) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() == ".safetensors" && name.starts_with("cached_") == cached)
      files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

inline std::vector<int32_t> integers(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr || entry->dtype != "I32")
    throw std::runtime_error(file.source() + ": no int32 tensor " + name);
  std::vector<int32_t> values(file.bytes(*entry).size() / 4);
  std::memcpy(values.data(), file.bytes(*entry).data(), file.bytes(*entry).size());
  return values;
}

inline std::vector<float> floats(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr || entry->dtype != "F32")
    throw std::runtime_error(file.source() + ": no float32 tensor " + name);
  std::vector<float> values(file.bytes(*entry).size() / 4);
  std::memcpy(values.data(), file.bytes(*entry).data(), file.bytes(*entry).size());
  return values;
}

inline Batch golden_batch(const SafetensorsFile& file) {
  const auto& shape = file.find("in/positions")->shape;
  Batch batch;
  batch.resize(shape[0], shape[1], shape[2]);
  batch.tokens = integers(file, "in/tokens");
  batch.targets = integers(file, "in/targets");
  batch.positions = integers(file, "in/positions");
  for (int64_t b = 0; b < batch.size; ++b) {
    const auto row = batch.tokens.begin() + b * batch.length;
    batch.lengths[b] = static_cast<int32_t>(std::find(row, row + batch.length, 0) - row);
  }
  return batch;
}

template <typename T>
double norm(const std::vector<T>& values) {
  double sum = 0;
  for (const T value : values) sum += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(sum);
}

/// Relative to the largest logit, the loss, the norm of a gradient.
struct Tolerances {
  double logits, loss, gradients;
};

inline void check_logits(const PerceiverAR& model, const ModelInputs& inputs, const SafetensorsFile& file,
                         double tolerance) {
  const std::vector<float> expected = floats(file, "out/logits");
  const std::vector<double> actual = host_doubles(model.logits(inputs));
  ASSERT_EQ(actual.size(), expected.size());
  double difference = 0, size = 0;
  const auto vocabulary = static_cast<size_t>(model.config().vocabulary);
  for (size_t row = 0; row < inputs.steps.size(); ++row) {
    if (inputs.steps[row] < 0) continue;
    for (size_t i = row * vocabulary; i < (row + 1) * vocabulary; ++i) {
      difference = std::max(difference, std::abs(actual[i] - static_cast<double>(expected[i])));
      size = std::max(size, std::abs(static_cast<double>(expected[i])));
    }
  }
  EXPECT_GT(size, 0);
  EXPECT_LE(difference, tolerance * size);
}

inline std::vector<double> golden_gradient(const TensorMap& map, const Shape& shape,
                                           const SafetensorsFile& file, const std::string& prefix = "") {
  const std::vector<float> theirs = floats(file, "grad/" + prefix + map.theirs);
  return gather(map, shape, {theirs.begin(), theirs.end()});
}

inline void check_golden_gradients(const ImportedModel& imported, const SafetensorsFile& file,
                                   double tolerance) {
  const ParameterStore& store = imported.model->parameters();
  double all = 0;
  const double floor = std::max(1e-3, tolerance / 20);
  for (const TensorMap& map : imported.tensors)
    all = std::hypot(all, norm(floats(file, "grad/" + map.theirs)));
  for (const TensorMap& map : imported.tensors) {
    const ParameterInfo& info = *store.find(map.ours);
    const std::vector<double> expected = golden_gradient(map, info.shape, file);
    const std::vector<double> actual = host_doubles(store.gradient(info));
    ASSERT_EQ(actual.size(), expected.size()) << map.ours;
    std::vector<double> difference(actual.size());
    std::transform(actual.begin(), actual.end(), expected.begin(), difference.begin(), std::minus<>());
    // A gradient that vanishes by symmetry (a key's bias without rotation) is rounding noise.
    EXPECT_LE(norm(difference), tolerance * std::max(norm(expected), floor * all)) << map.ours;
  }
}

inline void check_file(const fs::path& path, const std::shared_ptr<DeviceContext>& context, DType type,
                       const Tolerances& tolerances, Recompute recompute, ContextProjection projection) {
  SCOPED_TRACE(path.filename().string() + " " + std::string(name_of(type)) +
               (projection == ContextProjection::table ? " by tables" : " directly"));
  const SafetensorsFile file = SafetensorsFile::open(path);
  const ImportedModel imported = import_model(path, {}, context, type);
  PerceiverAR* const model = imported.model.get();
  model->set_context_projection(projection);
  const auto configuration = nlohmann::json::parse(*file.find_metadata("config"));
  const ModelInputs inputs = model->prepare(golden_batch(file), {});
  EXPECT_EQ(inputs.steps, integers(file, "out/latent_last_steps"));
  check_logits(*model, inputs, file, tolerances.logits);

  model->parameters().start_gradients();
  Tape tape(model->context(), true);
  ops::LossOptions options;
  options.label_smoothing = configuration.value("label_smoothing", 0.0);
  options.z_loss = configuration.value("z_loss", 0.0);
  const ops::LossResult result = model->loss(tape, inputs, options, recompute);
  const std::vector<double> totals = result.totals.to_host<double>();
  const double loss = floats(file, "out/loss_sum")[0], z = floats(file, "out/z_loss_sum")[0];
  EXPECT_NEAR(totals[0], loss, tolerances.loss * std::abs(loss));
  EXPECT_NEAR(totals[2], z, std::max(1e-4, 10 * tolerances.loss) * std::abs(z));
  EXPECT_EQ(totals[4], floats(file, "out/num_targets")[0]);
  const std::vector<float> per_latent = floats(file, "out/loss_per_latent");
  const std::vector<double> actual = host_doubles(result.loss);
  for (size_t i = 0; i < per_latent.size(); ++i) {
    if (inputs.steps[i] < 0) continue;
    const double expected = static_cast<double>(per_latent[i]);
    EXPECT_NEAR(actual[i], expected,
                std::max(2e-4, 2 * tolerances.logits) * std::max(1.0, std::abs(expected)))
        << i;
  }
  tape.backward();
  model->parameters().finish_gradients();
  check_golden_gradients(imported, file, tolerances.gradients);
}

/// Each file with both projections of the context.
inline void check_golden_file(const fs::path& path, const std::shared_ptr<DeviceContext>& context, DType type,
                              const Tolerances& tolerances, Recompute recompute) {
  for (const ContextProjection projection : {ContextProjection::direct, ContextProjection::table})
    check_file(path, context, type, tolerances, recompute, projection);
}

}  // namespace perceiver::testing
