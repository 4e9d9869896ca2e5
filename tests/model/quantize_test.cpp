#include "model/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/read_tensor.h"
#include "model/model_file.h"
#include "perceiver/error.h"
#include "perceiver/experimental/host_values.h"
#include "tests/support/small_model.h"
#include "tests/support/temp_folder.h"

namespace perceiver {
namespace {

using testing::random_batch;
using testing::small_model;

constexpr std::pair<Weights, DType> kTypes[] = {{Weights::int8, DType::i8}, {Weights::fp8, DType::e4m3}};

TEST(Quantize, ARowIsAScaleTimesIntegersToNearestEven) {
  const auto context = DeviceContext::cpu(1);
  // The largest magnitudes are 127, 2 * 127, 0 and a subnormal number, whose scale is inexact.
  const std::vector<float> values{-127, 0.5F, 1.5F, -2.5F, 254,    1, 3,       -5.5F,
                                  0,    0,    0,    0,     3e-43F, 0, -3e-43F, 0};
  const Tensor weight = Tensor::from_host<float>(*context, {4, 4}, values);
  const NarrowWeight narrow = allocate_narrow(*context, DType::i8, {4, 4});
  quantize_rows(context->workers(), weight, narrow);
  const std::vector<int> expected{-127, 0, 2, -2, 127, 0, 2, -3, 0, 0, 0, 0};
  for (size_t i = 0; i < 16; ++i) {
    if (i < expected.size()) {
      EXPECT_EQ(narrow.values.as<int8_t>()[i], expected[i]) << i;
    }
    EXPECT_EQ(weight.as<float>()[i],
              narrow.scale.as<float>()[i / 4] * static_cast<float>(narrow.values.as<int8_t>()[i]));
  }
  EXPECT_EQ(narrow.scale.as<float>()[1], 2);
  EXPECT_EQ(narrow.scale.as<float>()[2], 0);
  EXPECT_GE(narrow.values.as<int8_t>()[14], -127);
}

TEST(Quantize, ARowIsAScaleTimesNumbersOfThreeBitsOfMantissa) {
  const auto context = DeviceContext::cpu(1);
  // Scales 1, 2, 0 and 1; ties go to even mantissas, the smallest numbers are multiples of 2^-9.
  const std::vector<float> values{448, 17, 19, -21, 896,  1,           -0.75F,     34,
                                  0,   0,  0,  0,   -448, 0.00390625F, 0.0009765F, -0.0048828125F};
  const std::vector<float> expected{448, 16, 20, -20, 896,  1,           -0.75F, 32,
                                    0,   0,  0,  0,   -448, 0.00390625F, 0,      -0.00390625F};
  const Tensor weight = Tensor::from_host<float>(*context, {4, 4}, values);
  const NarrowWeight narrow = allocate_narrow(*context, DType::e4m3, {4, 4});
  quantize_rows(context->workers(), weight, narrow);
  for (size_t i = 0; i < 16; ++i) EXPECT_EQ(weight.as<float>()[i], expected[i]) << i;
  EXPECT_EQ(narrow.values.as<uint8_t>()[0], 0x7e);
  EXPECT_EQ(narrow.values.as<uint8_t>()[13], 0x02);
  EXPECT_EQ(narrow.scale.as<float>()[1], 2);
  EXPECT_EQ(narrow.scale.as<float>()[2], 0);
}

/// Four significant bits: half a unit of the last one, and less than that of the smallest numbers.
TEST(Quantize, ErrorsAreThoseOfTheType) {
  const auto context = DeviceContext::cpu(1);
  std::vector<float> values;
  for (int i = 0; i < 1000; ++i) values.push_back(std::sin(static_cast<float>(i)) * 0.3F);
  const Tensor weight = Tensor::from_host<float>(*context, {1, 1000}, values);
  const NarrowWeight narrow = allocate_narrow(*context, DType::e4m3, {1, 1000});
  quantize_rows(context->workers(), weight, narrow);
  const float scale = narrow.scale.as<float>()[0];
  for (size_t i = 0; i < values.size(); ++i)
    EXPECT_NEAR(weight.as<float>()[i], values[i], std::max(std::abs(values[i]) / 16, scale / 1024) * 1.0001F);
}

TEST(Quantize, RefusesWeightsThatAreNotFinite) {
  const auto context = DeviceContext::cpu(1);
  for (const auto& [weights, type] : kTypes)
    for (const float bad : {INFINITY, NAN}) {
      const Tensor weight = Tensor::from_host<float>(*context, {1, 2}, std::vector<float>{1, bad});
      EXPECT_THROW(quantize_rows(context->workers(), weight, allocate_narrow(*context, type, {1, 2})), Error);
    }
}

std::unique_ptr<PerceiverAR> initialized(const ModelConfig& config, DType type) {
  auto model = std::make_unique<PerceiverAR>(config, DeviceContext::cpu(1), type);
  model->parameters().initialize(1);
  return model;
}

std::vector<double> logits_of(const PerceiverAR& model) {
  const Batch batch = random_batch(model.config(), 2, 1, false);
  return host_doubles(model.logits(model.prepare(batch, {})));
}

/// With weights of eight bits, what was written is what is read, bit for bit, in all types.
void check_file(const ModelConfig& config, Weights weights, DType type) {
  SCOPED_TRACE(name_of(type));
  const TempFolder folder;
  ModelMetadata metadata;
  metadata.model = config;
  const auto model = initialized(config, DType::f32);
  save_model(folder.path("wide"), *model, metadata);
  model->set_weights(weights);
  EXPECT_EQ(model->weight_type(), type);
  save_model(folder.path("narrow"), *model, metadata);
  const LoadedModel read = load_model(folder.path("narrow"), DeviceContext::cpu(1), DType::f32);
  EXPECT_EQ(read.model->weight_type(), type);
  EXPECT_EQ(logits_of(*read.model), logits_of(*model));
  int64_t quantized = 0;
  for (const ParameterInfo& info : model->parameters().infos()) {
    const NarrowWeight written = model->narrow_weight(info), found = read.model->narrow_weight(info);
    ASSERT_EQ(static_cast<bool>(written.values), static_cast<bool>(found.values)) << info.name;
    if (!written.values) continue;
    ++quantized;
    EXPECT_EQ(written.values.shape(), info.shape);
    EXPECT_EQ(std::memcmp(written.values.data(), found.values.data(), written.values.bytes()), 0)
        << info.name;
    EXPECT_EQ(std::memcmp(written.scale.data(), found.scale.data(), written.scale.bytes()), 0) << info.name;
  }
  EXPECT_GT(quantized, 10);
  // Quantized again, it is the same file.
  read.model->set_weights(weights);
  save_model(folder.path("again"), *read.model, read.metadata);
  EXPECT_EQ(SafetensorsFile::open(folder.path("again")).metadata(),
            SafetensorsFile::open(folder.path("narrow")).metadata());
  const LoadedModel wide = load_model(folder.path("narrow"), DeviceContext::cpu(1), DType::f64);
  EXPECT_EQ(wide.model->weight_type(), DType::f64);
  const std::vector<double> expected = logits_of(*model), exact = logits_of(*wide.model);
  for (size_t i = 0; i < exact.size(); ++i) ASSERT_NEAR(exact[i], expected[i], 1e-4);
  const auto loaded = [&](Weights other) {
    return load_model(folder.path("narrow"), DeviceContext::cpu(1), DType::f32, true, other)
        .model->weight_type();
  };
  EXPECT_EQ(loaded(weights), type);
  EXPECT_EQ(loaded(Weights::float32), DType::f32);
  EXPECT_EQ(loaded(Weights::bfloat16), DType::bf16);
}

TEST(Quantize, AModelFileCarriesTheIntegersAndScales) {
  for (const auto& [weights, type] : kTypes) check_file(small_model(), weights, type);
}

TEST(Quantize, AModelFileCarriesThoseOfAnEmbeddingThatIsTheOutput) {
  ModelConfig config = testing::with_own_latent_keys(small_model());
  for (const auto& [weights, type] : kTypes) check_file(config, weights, type);
  const auto model = initialized(config, DType::f32);
  model->quantize_weights(DType::i8);
  EXPECT_TRUE(model->narrow_weight(*model->parameters().find("token_embedding.weight")).values);
}

TEST(Quantize, EmbeddingsAndVectorsStayAsTheyWere) {
  const auto before = initialized(small_model(), DType::f32), after = initialized(small_model(), DType::f32);
  after->quantize_weights(DType::i8);
  for (const ParameterInfo& info : before->parameters().infos()) {
    const Tensor a = before->parameters().value(info), b = after->parameters().value(info);
    const bool same = std::memcmp(a.data(), b.data(), a.bytes()) == 0;
    EXPECT_EQ(same, !after->narrow_weight(info).values) << info.name;
  }
}

TEST(Quantize, OtherTypesReplaceEightBits) {
  const auto model = initialized(small_model(), DType::f32);
  const int64_t f32 = model->linear_bytes();
  model->set_weights(Weights::int8);
  const int64_t i8 = model->linear_bytes();
  EXPECT_LT(i8, f32);
  model->set_weights(Weights::automatic);
  EXPECT_EQ(model->linear_bytes(), i8);
  model->set_weights(Weights::bfloat16);
  EXPECT_EQ(model->linear_bytes(), f32 / 2);
  model->set_weights(Weights::fp8);
  EXPECT_EQ(model->weight_type(), DType::e4m3);
  EXPECT_EQ(model->linear_bytes(), f32);  // the CPU reads the rounded weights as float32
  model->set_weights(Weights::float32);
  EXPECT_EQ(model->weight_type(), DType::f32);
  EXPECT_EQ(model->linear_bytes(), f32);
  EXPECT_THROW(initialized(small_model(), DType::f64)->set_weights(Weights::int8), Error);
}

/// A file of these tensors and weights `w` of eight bits, each of its bytes `code`, read as one.
std::string error_of(const std::vector<std::pair<std::string, std::vector<int64_t>>>& tensors,
                     const std::string& weights = "I8", std::byte code = {}) {
  SafetensorsWriter writer;
  const std::vector<std::byte> zeros(64, code);
  for (const auto& [name, shape] : tensors) {
    const std::string type = name == "w" ? weights : "F32";
    const auto bytes = static_cast<size_t>(safetensors_byte_count(type, shape));
    writer.add(name, type, shape, std::span(zeros).first(bytes));
  }
  const std::string text = writer.file();
  const SafetensorsFile file = SafetensorsFile::parse(std::as_bytes(std::span(text)), "here");
  try {
    read_tensor(file, "w", {2, 3}, Tensor::empty(*DeviceContext::cpu(1), DType::f32, {2, 3}));
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Quantize, IntegersNeedAScaleForEachRow) {
  EXPECT_EQ(error_of({{"w", {2, 3}}, {"w_scale", {2}}}), "");
  EXPECT_EQ(error_of({{"w", {2, 3}}}), "here: tensor w_scale is missing");
  EXPECT_EQ(error_of({{"w", {2, 3}}, {"w_scale", {3}}}),
            "here: tensor w_scale is F32 [3]; F32 [2] is needed");
  EXPECT_EQ(error_of({{"w", {2, 3}}, {"w_scale", {2}}}, "F8_E4M3", std::byte{0x7e}), "");
  EXPECT_EQ(error_of({{"w", {2, 3}}, {"w_scale", {2}}}, "F8_E4M3", std::byte{0xff}),
            "here: tensor w holds codes that are no numbers");
}

TEST(Quantize, AFileOfAnUnknownTypeIsRefused) {
  const TempFolder folder;
  SafetensorsWriter writer;
  const auto model = initialized(small_model(), DType::f32);
  ModelMetadata metadata;
  metadata.model = model->config();
  add_model(writer, *model, metadata, model->parameters().values());
  writer.set_metadata("weights", "int4");
  writer.write_atomically(folder.path("int4"));
  try {
    load_model(folder.path("int4"), DeviceContext::cpu(1), DType::f32);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(
        std::string(error.what()).find("its weights are of type 'int4'; this program reads 'int8' and 'fp8'"),
        std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace perceiver
