// Problems of the fused decode step on the device.
#pragma once

#include <cmath>
#include <memory>
#include <vector>

#include "tests/support/cuda_fixture.h"
#include "tests/support/decode_problem.h"

namespace perceiver::testing {

/// A host problem on the device. `slots` may be larger than the host problem's single slot, with keys and
/// values cached: then all slots are alike.
class DeviceDecode {
 public:
  DecodeStep step;
  std::unique_ptr<DeviceArray<uint8_t>> self_kv, context_kv;                // the latter or
  std::unique_ptr<DeviceArray<int32_t>> context_tokens, context_positions;  // these
  std::unique_ptr<DeviceArray<float>> logits;

  DeviceDecode(const Launch& launch, const HostDecode& host, int64_t slots) : step(host.step) {
    step.slots = slots;
    step.token_embedding = upload(host, step.token_embedding);
    for (int t = 0; t < step.position_tables; ++t)
      step.position_table[t] = upload(host, step.position_table[t]);
    place(host, step.query);
    for (int i = 0; i < step.query_layers; ++i) place(host, step.query_mlp[i]);
    place(host, step.output);
    place(host, step.output_norm);
    cross_ = host.cross, self_ = host.self;
    for (DecodeCross& b : cross_) {
      for (DecodeNorm* norm : {&b.norm_q, &b.norm_kv, &b.norm_mlp}) place(host, *norm);
      for (DecodeLinear* linear : {&b.q, &b.kv, &b.out, &b.mlp_0, &b.mlp_1}) place(host, *linear);
    }
    for (DecodeSelf& b : self_) {
      for (DecodeNorm* norm : {&b.norm, &b.norm_mlp}) place(host, *norm);
      for (DecodeLinear* linear : {&b.qkv, &b.out, &b.mlp_0, &b.mlp_1}) place(host, *linear);
    }
    step.cross = cross_.data(), step.self = self_.data();
    for (DecodeRotary* table : {&step.cross_rotary, &step.self_rotary})
      for (const void** angles : {&table->cosine, &table->sine})
        for (const std::vector<float>& array : host.rotary_arrays)
          if (array.data() == *angles) {
            floats_.push_back(std::make_unique<DeviceArray<float>>(array));
            *angles = floats_.back()->data();
            break;
          }
    const auto numbers = [&](const std::vector<int32_t>& values, int64_t each) {
      std::vector<int32_t> all;
      for (int64_t s = 0; s < slots; ++s)
        for (int64_t i = 0; i < each; ++i)
          all.push_back(values[static_cast<size_t>((slots == host.shape.slots ? s : 0) * each + i)]);
      numbers_.push_back(std::make_unique<DeviceArray<int32_t>>(all));
      return numbers_.back()->data();
    };
    step.token = numbers(host.tokens, 1);
    step.position = numbers(host.positions, 1);
    step.table_position = numbers(host.table_positions, host.shape.position_tables);
    step.context_count = numbers(host.contexts, 1);
    step.context_row = numbers(host.context_places, 1);
    step.latent_count = numbers(host.latents, 1);
    step.latent_row = numbers(host.latent_places, 1);
    step.active = numbers(host.actives, 1);
    self_kv = cache(host, host.self_kv, step.layers);
    step.self_kv = self_kv->data();
    place_context(host);
    logits = std::make_unique<DeviceArray<float>>(static_cast<size_t>(slots * step.vocabulary));
    step.logits = logits->data();
    workspace_ = std::make_unique<DeviceArray<uint8_t>>(
        static_cast<size_t>(kernels::cuda::decode_workspace(launch, step)));
    step.workspace = workspace_->data();
    kernels::cuda::decode_prepare(launch, step);
  }

 private:
  const void* upload(const HostDecode& host, const void* from) {
    if (from == nullptr) return nullptr;
    while (arrays_.size() < host.arrays.size()) arrays_.push_back(nullptr);
    for (size_t i = 0; i < host.arrays.size(); ++i) {
      if (host.arrays[i].data() != from) continue;
      if (arrays_[i] == nullptr) arrays_[i] = std::make_unique<DeviceArray<Bits>>(host.arrays[i]);
      return arrays_[i]->data();
    }
    throw std::runtime_error("an array of the step is not among the host problem's");
  }
  void place_context(const HostDecode& host) {
    if (!host.shape.tokens) {
      context_kv = cache(host, host.context_kv, step.cross_blocks);
      step.context_kv = context_kv->data();
      return;
    }
    step.context_table = upload(host, step.context_table);
    context_tokens = std::make_unique<DeviceArray<int32_t>>(host.context_tokens);
    context_positions = std::make_unique<DeviceArray<int32_t>>(host.context_positions);
    step.context_tokens = context_tokens->data(), step.context_positions = context_positions->data();
  }
  void place(const HostDecode& host, DecodeLinear& linear) {
    linear.weight = upload(host, linear.weight);
    linear.bias = upload(host, linear.bias);
  }
  void place(const HostDecode& host, DecodeNorm& norm) {
    norm.scale = upload(host, norm.scale);
    norm.offset = upload(host, norm.offset);
  }
  std::unique_ptr<DeviceArray<uint8_t>> cache(const HostDecode& host, const std::vector<uint8_t>& from,
                                              int64_t blocks) {
    if (step.slots == host.shape.slots) return std::make_unique<DeviceArray<uint8_t>>(from);
    const size_t part = from.size() / static_cast<size_t>(blocks);
    auto all = std::make_unique<DeviceArray<uint8_t>>(from.size() * static_cast<size_t>(step.slots));
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t s = 0; s < step.slots; ++s) {
        uint8_t* to = all->data() + static_cast<size_t>(b * step.slots + s) * part;
        const bool first = s == 0;
        require_cuda(cudaMemcpy(to,
                                first ? from.data() + static_cast<size_t>(b) * part
                                      : all->data() + static_cast<size_t>(b * step.slots) * part,
                                part, first ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToDevice),
                     "cache");
      }
    return all;
  }

  std::vector<DecodeCross> cross_;
  std::vector<DecodeSelf> self_;
  std::vector<std::unique_ptr<DeviceArray<Bits>>> arrays_;
  std::vector<std::unique_ptr<DeviceArray<float>>> floats_;
  std::vector<std::unique_ptr<DeviceArray<int32_t>>> numbers_;
  std::unique_ptr<DeviceArray<uint8_t>> workspace_;
};

/// |actual - expected| / |expected|; NaN if either contains one.
template <typename Actual, typename Expected>
double relative_error(const Actual* actual, const Expected* expected, int64_t count) {
  double difference = 0, norm = 0;
  for (int64_t i = 0; i < count; ++i) {
    const double e = static_cast<double>(expected[i]), d = static_cast<double>(actual[i]) - e;
    difference += d * d;
    norm += e * e;
  }
  return std::sqrt(difference / norm);
}

}  // namespace perceiver::testing
