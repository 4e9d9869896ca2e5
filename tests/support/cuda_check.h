// For tests of the CUDA kernels against the CPU's in f64: values rounded to the element type, arrays on host
// and device, and error bounds.
#pragma once

#include <cmath>
#include <random>

#include "kernels/backend.h"
#include "kernels/fp8_codes.h"
#include "tests/support/cuda_fixture.h"

namespace perceiver::testing {

using Values = std::vector<double>;
using Ints = std::vector<int32_t>;
using bf16 = __nv_bfloat16;

template <typename T>
inline constexpr DType kType = DType::f32;
template <>
inline constexpr DType kType<bf16> = DType::bf16;

inline double widen(double x) {
  return x;
}
inline double widen(float x) {
  return static_cast<double>(x);
}
inline double widen(bf16 x) {
  return static_cast<double>(__bfloat162float(x));
}

template <typename T>
T narrow(double x) {
  return static_cast<T>(x);
}
template <>
inline bf16 narrow<bf16>(double x) {
  return __float2bfloat16_rn(static_cast<float>(x));
}

/// The values as T holds them.
template <typename T>
Values rounded(Values values) {
  for (double& x : values) x = widen(narrow<T>(x));
  return values;
}

/// Rounds the values to e4m3 and returns their codes.
inline std::vector<uint8_t> rounded_to_e4m3(Values& values) {
  std::vector<uint8_t> codes;
  for (double& x : values) {
    codes.push_back(kernels::encode_fp8(x, kernels::Fp8Format::e4m3));
    x = static_cast<double>(kernels::decode_fp8(codes.back(), kernels::Fp8Format::e4m3));
  }
  return codes;
}

/// Normal numbers that T holds exactly.
template <typename T>
Values random_values(int64_t count, uint32_t seed, double deviation = 1, double mean = 0) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal(mean, deviation);
  Values values(static_cast<size_t>(count));
  for (double& x : values) x = widen(narrow<T>(normal(generator)));
  return values;
}

inline Ints random_ints(int64_t count, uint32_t seed, int32_t below) {
  std::mt19937 generator(seed);
  Ints values(static_cast<size_t>(count));
  for (int32_t& x : values) x = static_cast<int32_t>(generator() % static_cast<uint32_t>(below));
  return values;
}

/// Values on the device, `shift` elements after an aligned address. Without values: poisoned.
template <typename T>
class Array {
 public:
  explicit Array(int64_t count, int64_t shift = 0)
      : count_(static_cast<size_t>(count)), shift_(shift), array_(static_cast<size_t>(count + shift)) {}
  explicit Array(const Values& values, int64_t shift = 0)
      : Array(static_cast<int64_t>(values.size()), shift) {
    write(values);
  }

  T* data() const { return array_.data() + shift_; }
  void write(const Values& values) const {
    std::vector<T> all(count_ + static_cast<size_t>(shift_));
    for (size_t i = 0; i < count_; ++i) all[i + static_cast<size_t>(shift_)] = narrow<T>(values[i]);
    array_.write(all);
  }
  Values read() const {
    const std::vector<T> all = array_.read();
    Values values(count_);
    for (size_t i = 0; i < count_; ++i) values[i] = widen(all[i + static_cast<size_t>(shift_)]);
    return values;
  }
  /// As bytes, to compare bit by bit.
  std::vector<uint8_t> bytes() const {
    const std::vector<T> all = array_.read();
    std::vector<uint8_t> bytes(all.size() * sizeof(T));
    std::memcpy(bytes.data(), all.data(), bytes.size());
    return bytes;
  }

 private:
  size_t count_;
  int64_t shift_;
  DeviceArray<T> array_;
};

/// |actual - expected| <= relative * |expected| + absolute * max |expected|.
struct Bound {
  double relative, absolute;
};

/// For results rounded to T once: one ulp of bf16, or a few roundings of f32.
template <typename T>
constexpr Bound bound_of() {
  return sizeof(T) == 2 ? Bound{1.0 / 128, 2e-5} : Bound{1e-5, 1e-5};
}

inline void expect_close(const Values& actual, const Values& expected, Bound bound, const char* what) {
  ASSERT_EQ(actual.size(), expected.size());
  double largest = 0;
  for (const double x : expected) largest = std::max(largest, std::fabs(x));
  for (size_t i = 0; i < actual.size(); ++i) {
    const double allowed = bound.relative * std::fabs(expected[i]) + bound.absolute * largest;
    if (std::fabs(actual[i] - expected[i]) <= allowed) continue;
    ADD_FAILURE() << what << '[' << i << "] is " << actual[i] << ", expected " << expected[i] << ", allowed "
                  << allowed << " of " << actual.size();
    return;
  }
}

template <typename T>
class CudaKernelTest : public CudaTest {
 protected:
  static constexpr DType kElement = kType<T>;

  /// Runs a launch a hundred times and expects the same bits every time. `prepare` restores what a run
  /// changes.
  template <typename Run, typename Prepare, typename Target>
  void expect_repeatable(Prepare&& prepare, Run&& run, const Target& target) {
    std::vector<uint8_t> first;
    for (int i = 0; i < 100; ++i) {
      prepare();
      run();
      const std::vector<uint8_t> bytes = target.bytes();
      if (i == 0) first = bytes;
      ASSERT_EQ(bytes, first) << "in run " << i;
    }
  }
};

using ElementTypes = ::testing::Types<float, bf16>;

}  // namespace perceiver::testing
