#include "perceiver/experimental/tensor_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "perceiver/experimental/host_values.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class TensorFile : public ::testing::Test {
 protected:
  Tensor ramp(DType type, Shape shape) {
    const Tensor tensor = Tensor::empty(*context_, type, shape);
    fill(tensor, [](int64_t i) { return 0.5 * static_cast<double>(i); });
    return tensor;
  }

  std::shared_ptr<DeviceContext> context_ = DeviceContext::cpu(1);
  TempFolder folder_;
  std::filesystem::path path_ = folder_.path("tensors.safetensors");
};

TEST_F(TensorFile, HoldsEveryTypeAndMetadata) {
  const std::vector<int32_t> integers{3, -1};
  const std::vector<uint8_t> bytes{0, 255, 7};
  const std::vector<NamedTensor> written{{"f32", ramp(DType::f32, {2, 3})},
                                         {"f64", ramp(DType::f64, {4})},
                                         {"bf16", ramp(DType::bf16, {2, 1, 2})},
                                         {"i32", Tensor::from_host<int32_t>(*context_, {2}, integers)},
                                         {"u8", Tensor::from_host<uint8_t>(*context_, {3}, bytes)}};
  write_tensors(path_, written, {{"updates", "12"}, {"note", "größer"}});
  std::vector<NamedTensor> read;
  for (const NamedTensor& each : written)
    read.push_back({each.name, Tensor::zeros(*context_, each.tensor.dtype(), each.tensor.shape())});
  const auto metadata = read_tensors(path_, read);
  EXPECT_EQ(metadata.at("updates"), "12");
  EXPECT_EQ(metadata.at("note"), "größer");
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(host_doubles(read[i].tensor), host_doubles(written[i].tensor));
  EXPECT_EQ(read[3].tensor.to_host<int32_t>(), integers);
  EXPECT_EQ(read[4].tensor.to_host<uint8_t>(), bytes);
}

TEST_F(TensorFile, ConvertsFloatAndDoubleAndReadsASubset) {
  write_tensors(path_, std::vector<NamedTensor>{{"a", ramp(DType::f32, {3})}, {"b", ramp(DType::f64, {3})}});
  const Tensor a = Tensor::zeros(*context_, DType::f64, {3}), b = Tensor::zeros(*context_, DType::f32, {3});
  read_tensors(path_, std::vector<NamedTensor>{{"a", a}});
  read_tensors(path_, std::vector<NamedTensor>{{"b", b}});
  EXPECT_THAT(a.to_host<double>(), ElementsAre(0, 0.5, 1));
  EXPECT_THAT(b.to_host<float>(), ElementsAre(0, 0.5F, 1));
}

TEST_F(TensorFile, WhatDoesNotFitChangesNothing) {
  write_tensors(path_, std::vector<NamedTensor>{{"a", ramp(DType::f32, {3})}, {"b", ramp(DType::f32, {3})}});
  const Tensor a = Tensor::zeros(*context_, DType::f32, {3});
  const auto error = [&](const std::string& name, DType type, Shape shape) {
    const std::vector<NamedTensor> places{{"a", a}, {name, Tensor::zeros(*context_, type, shape)}};
    const std::string message = message_of([&] { read_tensors(path_, places); });
    EXPECT_THAT(message, HasSubstr("tensors.safetensors: tensor " + name));
    EXPECT_THAT(a.to_host<float>(), Each(0));
    return message;
  };
  EXPECT_THAT(error("c", DType::f32, {3}), HasSubstr("missing"));
  EXPECT_THAT(error("b", DType::f32, {1, 3}), HasSubstr("[3]"));
  EXPECT_THAT(error("b", DType::bf16, {3}), HasSubstr("F32; BF16 is needed"));
  EXPECT_THAT(error("b", DType::i32, {3}), HasSubstr("I32"));
  EXPECT_THAT(message_of([&] {
                read_tensors(path_, std::vector<NamedTensor>{{"a", {}}});
              }),
              HasSubstr("no place"));
  EXPECT_THAT(message_of([&] {
                read_tensors(folder_.path("none"), std::vector<NamedTensor>{{"a", a}});
              }),
              HasSubstr("none"));
}

TEST_F(TensorFile, AFileIsWrittenWholeOrNotAtAll) {
  write_tensors(path_, std::vector<NamedTensor>{{"a", ramp(DType::f32, {3})}});
  const auto size = std::filesystem::file_size(path_);
  const std::vector<NamedTensor> twice{{"a", ramp(DType::f32, {9})}, {"a", ramp(DType::f32, {9})}};
  EXPECT_THAT(message_of([&] { write_tensors(path_, twice); }), HasSubstr("two tensors are named a"));
  EXPECT_THAT(message_of([&] {
                write_tensors(path_, std::vector<NamedTensor>{{"x", {}}});
              }),
              HasSubstr("no value"));
  EXPECT_EQ(std::filesystem::file_size(path_), size);
}

}  // namespace
}  // namespace perceiver
