// Checks of the fused decode step on a GPU: a step against the plain reference in f64, and repeats of it.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "tests/support/decode_reference.h"
#include "tests/support/device_decode.h"

namespace perceiver::testing {

// Sums in f32 round a few inputs of products and cached rows differently from the reference's in f64, and
// each moves what follows by a fraction of its ulp. The reference itself in f32, its sums changed by up to
// 3e-6, ends up to 6.4e-3 away from the one in f64 on these problems, 3.6e-3 in the mean of a problem.
inline constexpr double kDecodeBound = 8e-3, kDecodeMeanBound = 5e-3;
// With caches of e4m3, the same moves some numbers of a new row to the neighbour, 6 to 12% away.
inline constexpr double kNarrowBound = 2e-2, kNarrowRowBound = 4e-2;
inline constexpr int64_t kMinSlotsForMean = 5;  // the mean of fewer says little
inline constexpr int kReports = 8;              // deviating rows reported per cache

class CudaDecode : public CudaTest {
 protected:
  /// Whether this GPU has the kernel, which is documented for compute capability 9.0 alone.
  bool supported(const DecodeStep& step) const {
    cudaDeviceProp properties{};
    require_cuda(cudaGetDeviceProperties(&properties, 0), "properties");
    const bool expected = properties.major == 9 && properties.minor == 0;
    EXPECT_EQ(kernels::decode_supports(launch(), step), expected);
    return expected;
  }

  void check(const DecodeShape& shape, const std::function<void(HostDecode&)>& change = {}) {
    SCOPED_TRACE(::testing::Message() << shape.slots << " slots, widths " << shape.input << ' '
                                      << shape.latent << ' ' << shape.attention);
    HostDecode host(shape, 11);
    if (change) change(host);
    host.fill_caches();
    const DeviceDecode device(launch(), host, shape.slots);
    if (!supported(device.step)) GTEST_SKIP() << "no fused decode step on this GPU";
    kernels::cuda::decode_step(launch(), device.step);
    synchronize();
    const std::vector<float> first = device.logits->read();
    // Once more, with the workspace as the first step left it.
    kernels::cuda::decode_step(launch(), device.step);
    synchronize();
    compare_repeated(host, first, device.logits->read());
    compare(host, device);
  }

  void check_repeatable(const DecodeShape& shape, int runs) {
    HostDecode host(shape, 3);
    const DeviceDecode device(launch(), host, shape.slots);
    if (!supported(device.step)) GTEST_SKIP() << "no fused decode step on this GPU";
    std::vector<float> first;
    for (int i = 0; i < runs; ++i) {
      require_cuda(cudaMemset(device.logits->data(), 0xFF, device.logits->size() * 4), "poison");
      kernels::cuda::decode_step(launch(), device.step);
      synchronize();
      const std::vector<float> logits = device.logits->read();
      if (i == 0) first = logits;
      ASSERT_EQ(std::memcmp(logits.data(), first.data(), first.size() * 4), 0) << "in run " << i;
    }
  }

  static void compare_repeated(const HostDecode& host, const std::vector<float>& first,
                               const std::vector<float>& second) {
    const int64_t v = host.step.vocabulary;
    for (int64_t i = 0; i < static_cast<int64_t>(first.size()); ++i) {
      if (host.actives[static_cast<size_t>(i / v)] == 0) continue;
      ASSERT_EQ(std::bit_cast<uint32_t>(first[static_cast<size_t>(i)]),
                std::bit_cast<uint32_t>(second[static_cast<size_t>(i)]))
          << "the same step twice: logit " << i % v << " of " << slot_text(host, i / v) << ", "
          << first[static_cast<size_t>(i)] << " and " << second[static_cast<size_t>(i)];
    }
  }

  /// Runs the reference on `host`, whose caches it updates as the step must.
  static void compare(HostDecode& host, const DeviceDecode& device) {
    const std::vector<float> logits = device.logits->read();
    const int64_t v = host.step.vocabulary;
    double sum = 0;
    int64_t count = 0;
    for (int64_t s = 0; s < host.step.slots; ++s) {
      if (host.actives[static_cast<size_t>(s)] == 0) continue;
      const DecodeReference::Row expected = DecodeReference(host.step, s).run();
      const double error = relative_error(logits.data() + s * v, expected.data(), v);
      EXPECT_LT(error, host.shape.caches == DType::bf16 ? kDecodeBound : kNarrowBound)
          << "logits of " << slot_text(host, s);
      sum += error, ++count;
    }
    if (count >= kMinSlotsForMean && host.shape.caches == DType::bf16) {
      EXPECT_LT(sum / static_cast<double>(count), kDecodeMeanBound) << "mean of slots";
    }
    const DecodeShape& shape = host.shape;
    if (shape.tokens) {
      EXPECT_EQ(device.context_tokens->read(), host.context_tokens);
      EXPECT_EQ(device.context_positions->read(), host.context_positions);
    } else {
      compare_cache(*device.context_kv, host.context_kv, host, host.context_places, shape.context_rows,
                    shape.attention, shape.cross_heads, "context of cross block");
    }
    compare_cache(*device.self_kv, host.self_kv, host, host.latent_places, shape.latent_rows, shape.latent,
                  shape.self_heads, "latents of self layer");
  }

  /// Rows that the step must not write are unchanged, bit for bit. Reports the first rows that differ, in the
  /// order in which the step computes them.
  static void compare_cache(const DeviceArray<uint8_t>& device, const std::vector<uint8_t>& host,
                            const HostDecode& problem, const std::vector<int32_t>& places, int64_t ring_rows,
                            int64_t width, int64_t heads, const char* what) {
    const std::vector<uint8_t> actual = device.read();
    ASSERT_EQ(actual.size(), host.size());
    const DType type = problem.shape.caches;
    const auto row_bytes = 2 * width * static_cast<int64_t>(size_of(type));
    int reports = 0;
    for (int64_t row = 0; row < static_cast<int64_t>(host.size()) / row_bytes; ++row) {
      const auto a = actual.begin() + row * row_bytes, e = host.begin() + row * row_bytes;
      if (std::equal(a, a + row_bytes, e)) continue;
      std::vector<double> x, y;
      for (int64_t i = row * 2 * width; i < (row + 1) * 2 * width; ++i) {
        x.push_back(cached_number(actual.data(), type, i));
        y.push_back(cached_number(host.data(), type, i));
      }
      const double error = relative_error(x.data(), y.data(), 2 * width);
      const int64_t slot = row / ring_rows % problem.shape.slots;
      const auto s = static_cast<size_t>(slot);
      const bool written = problem.actives[s] != 0 && row % ring_rows == places[s];
      if (written && error < (type == DType::bf16 ? kDecodeBound : kNarrowRowBound)) continue;
      ADD_FAILURE() << what << ' ' << row / ring_rows / problem.shape.slots << ", row " << row % ring_rows
                    << " of " << slot_text(problem, slot) << ": error " << error << ", "
                    << worst_head(x, y, width / heads, heads);
      if (++reports == kReports) return;
    }
  }

  static std::string slot_text(const HostDecode& host, int64_t slot) {
    const auto s = static_cast<size_t>(slot);
    return (::testing::Message() << "slot " << slot << " (context " << host.contexts[s] << ", latents "
                                 << host.latents[s] << ", rows written " << host.context_places[s] << " and "
                                 << host.latent_places[s] << ')')
        .GetString();
  }
  /// The head with the largest error in a row of keys and values.
  static std::string worst_head(const std::vector<double>& x, const std::vector<double>& y, int64_t head_dim,
                                int64_t heads) {
    double worst = -1;
    int64_t at = 0;
    for (int64_t h = 0; h < 2 * heads && !std::isnan(worst); ++h) {
      const double error = relative_error(x.data() + h * head_dim, y.data() + h * head_dim, head_dim);
      if (!(error <= worst)) worst = error, at = h;
    }
    return (::testing::Message() << (at < heads ? "keys" : "values") << " of head " << at % heads << ' '
                                 << worst)
        .GetString();
  }
};

}  // namespace perceiver::testing
