// Attention problems on the device.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "tests/support/attention_problem.h"
#include "tests/support/cuda_fixture.h"

namespace perceiver::testing {

/// A problem on the device; run() may be called again.
template <typename T>
class DeviceAttention {
 public:
  explicit DeviceAttention(const AttentionProblem& p)
      : p_(p),
        q_(converted(p.q_matrix)),
        kv_(converted(p.packed ? std::vector<double>() : p.kv_matrix)),
        d_out_(converted(p.d_out)),
        first_(p.first),
        limit_(p.limit),
        key_mask_(p.key_mask),
        q_positions_(p.positions(p.queries)),
        k_positions_(p.positions(p.keys)),
        cosine_(p.angles<float>(true)),
        sine_(p.angles<float>(false)),
        out_(p.batch * p.queries * p.out_stride()),
        lse_(p.batch * p.heads * p.queries),
        d_q_(p.q_matrix.size()),
        d_kv_(p.packed ? 0 : p.kv_matrix.size()) {}

  kernels::AttentionBackward arguments() const {
    kernels::AttentionBackward a{};
    kernels::Attention& k = a.forward;
    k = p_.arguments();
    const T* kv = p_.packed ? q_.data() : kv_.data();
    T* d_kv = p_.packed ? d_q_.data() : d_kv_.data();
    k.q = q_.data() + p_.q_column();
    k.k = kv + p_.k_column();
    k.v = kv + p_.v_column();
    k.first = p_.first.empty() ? nullptr : first_.data();
    k.limit = limit_.data();
    k.key_mask = p_.key_mask.empty() ? nullptr : key_mask_.data();
    k.out = out_.data();
    k.lse = lse_.data();
    a.d_out = d_out_.data();
    a.d_q = d_q_.data() + p_.q_column();
    a.d_k = d_kv + p_.k_column();
    a.d_v = d_kv + p_.v_column();
    a.q_rotary = p_.rotation(q_positions_.data(), cosine_.data(), sine_.data());
    a.k_rotary = p_.rotation(k_positions_.data(), cosine_.data(), sine_.data());
    return a;
  }

  void forward(const Launch& launch) const { kernels::attention(launch, arguments().forward); }
  void backward(const Launch& launch) const {
    kernels::AttentionBackward a = arguments();
    const int64_t bytes = kernels::attention_backward_workspace(launch, a);
    if (bytes > 0 && !scratch_) scratch_.emplace(bytes);
    a.scratch = bytes > 0 ? scratch_->data() : nullptr;
    kernels::attention_backward(launch, a);
  }
  bool used_scratch() const { return scratch_.has_value(); }

  /// Also checks that columns that belong to nobody are as they were.
  AttentionResult read() const {
    const std::vector<double> out = read(out_), d_q = read(d_q_), d_kv = p_.packed ? d_q : read(d_kv_);
    if (p_.packed) {
      expect_untouched(d_q_, p_.q_stride(), {p_.q_column(), p_.k_column(), p_.v_column()});
    } else {
      expect_untouched(d_q_, p_.q_stride(), {p_.q_column()});
      expect_untouched(d_kv_, p_.kv_stride(), {p_.k_column(), p_.v_column()});
    }
    expect_untouched(out_, p_.out_stride(), {0});
    const std::vector<float> lse = lse_.read();
    return {matrix_columns(out, p_.out_stride(), 0, p_.width()), std::vector<double>(lse.begin(), lse.end()),
            matrix_columns(d_q, p_.q_stride(), p_.q_column(), p_.width()),
            matrix_columns(d_kv, p_.kv_stride(), p_.k_column(), p_.width()),
            matrix_columns(d_kv, p_.kv_stride(), p_.v_column(), p_.width())};
  }

  /// The bits of everything computed.
  std::vector<uint8_t> bits() const {
    std::vector<uint8_t> all;
    const auto append = [&](const auto& values) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
      all.insert(all.end(), bytes, bytes + values.size() * sizeof(values[0]));
    };
    append(out_.read());
    append(lse_.read());
    append(d_q_.read());
    append(d_kv_.read());
    return all;
  }

 private:
  static std::vector<T> converted(const std::vector<double>& values) {
    std::vector<T> result(values.size());
    std::transform(values.begin(), values.end(), result.begin(),
                   [](double v) { return T(static_cast<float>(v)); });
    return result;
  }
  static std::vector<double> read(const DeviceArray<T>& array) {
    const std::vector<T> values = array.read();
    std::vector<double> result(values.size());
    std::transform(values.begin(), values.end(), result.begin(),
                   [](T v) { return static_cast<double>(static_cast<float>(v)); });
    return result;
  }
  void expect_untouched(const DeviceArray<T>& array, int64_t stride,
                        const std::vector<int64_t>& owned) const {
    const std::vector<T> values = array.read();
    int touched = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const int64_t column = static_cast<int64_t>(i) % stride;
      const bool mine = std::any_of(owned.begin(), owned.end(),
                                    [&](int64_t c) { return column >= c && column < c + p_.width(); });
      const auto* bytes = reinterpret_cast<const uint8_t*>(&values[i]);
      touched += !mine && std::any_of(bytes, bytes + sizeof(T), [](uint8_t b) { return b != 0xFF; });
    }
    EXPECT_EQ(touched, 0) << "elements written in columns that belong to others";
  }

  const AttentionProblem& p_;
  DeviceArray<T> q_, kv_, d_out_;
  DeviceArray<int32_t> first_, limit_;
  DeviceArray<uint8_t> key_mask_;
  DeviceArray<int32_t> q_positions_, k_positions_;
  DeviceArray<float> cosine_, sine_;
  DeviceArray<T> out_;
  DeviceArray<float> lse_;
  DeviceArray<T> d_q_, d_kv_;
  mutable std::optional<DeviceArray<uint8_t>> scratch_;
};

}  // namespace perceiver::testing
