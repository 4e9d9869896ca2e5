// cuDNN's attention computes what the reference kernel computes.
#include "kernels/cuda/attention/cudnn_attention.h"

#include <gtest/gtest.h>

#include <optional>

#include "kernels/attention.h"
#include "perceiver/error.h"
#include "tests/support/cuda_check.h"

namespace perceiver::testing {
namespace {

struct Case {
  int64_t batch, heads, queries, keys, head_dim;
  bool causal;
};

struct Result {
  Values out, lse, d_q, d_k_and_v;
};

/// Keys and values beside one another in one matrix, as models have them.
class Problem {
 public:
  explicit Problem(const Case& c)
      : c_(c),
        q_(random_values<bf16>(c.batch * c.queries * width(), 1)),
        kv_(random_values<bf16>(c.batch * c.keys * 2 * width(), 2)),
        d_out_(random_values<bf16>(c.batch * c.queries * width(), 3)),
        out_(c.batch * c.queries * width()),
        d_q_(c.batch * c.queries * width()),
        d_kv_(c.batch * c.keys * 2 * width()),
        lse_(c.batch * c.heads * c.queries),
        limit_(limits()) {}

  kernels::AttentionBackward arguments(kernels::AttentionKernel kernel) const {
    kernels::AttentionBackward a{};
    kernels::Attention& k = a.forward;
    k.type = DType::bf16;
    k.batch = c_.batch;
    k.heads = c_.heads;
    k.queries = c_.queries;
    k.keys = c_.keys;
    k.head_dim = c_.head_dim;
    k.q = q_.data();
    k.k = kv_.data();
    k.v = kv_.data() + width();
    k.q_stride = k.out_stride = width();
    k.kv_stride = 2 * width();
    k.limit = limit_.data();
    k.out = out_.data();
    k.lse = lse_.data();
    k.kernel = kernel;
    k.mask = c_.causal ? kernels::MaskShape::causal : kernels::MaskShape::full;
    a.d_out = d_out_.data();
    a.d_q = d_q_.data();
    a.d_k = d_kv_.data();
    a.d_v = d_kv_.data() + width();
    return a;
  }

  Result read() const { return {out_.read(), lse_.read(), d_q_.read(), d_kv_.read()}; }

 private:
  int64_t width() const { return c_.heads * c_.head_dim; }
  Ints limits() const {
    Ints limits;
    for (int64_t i = 0; i < c_.batch * c_.queries; ++i)
      limits.push_back(static_cast<int32_t>(c_.causal ? c_.keys - c_.queries + i % c_.queries + 1 : c_.keys));
    return limits;
  }

  Case c_;
  Array<bf16> q_, kv_, d_out_, out_, d_q_, d_kv_;
  Array<float> lse_;
  DeviceArray<int32_t> limit_;
};

/// Root mean square of the difference, relative to that of what was expected; NaN counts as infinite.
double relative_error(const Values& actual, const Values& expected) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return std::isnan(difference) ? INFINITY : std::sqrt(difference / size);
}

class CudaCudnn : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    if (const char* obstacle = kernels::cuda::cudnn_obstacle()) GTEST_SKIP() << obstacle;
    launch_ = launch();
    launch_.cudnn = &plans_.emplace();
  }

  void TearDown() override {
    plans_.reset();  // before its stream
    CudaTest::TearDown();
  }

  Result run(const Case& c, kernels::AttentionKernel kernel) {
    const Problem problem(c);
    kernels::AttentionBackward a = problem.arguments(kernel);
    const DeviceArray<uint8_t> scratch(
        static_cast<size_t>(kernels::attention_backward_workspace(launch_, a)));
    a.scratch = scratch.size() > 0 ? scratch.data() : nullptr;
    kernels::attention(launch_, a.forward);
    kernels::attention_backward(launch_, a);
    return problem.read();
  }

  Launch launch_;

 private:
  std::optional<kernels::cuda::CudnnPlans> plans_;
};

TEST_F(CudaCudnn, ComputesWhatTheReferenceComputes) {
  for (const Case& c :
       {Case{2, 2, 128, 128, 64, true}, Case{2, 3, 128, 512, 64, false}, Case{2, 3, 128, 512, 64, true},
        Case{1, 2, 256, 1024, 128, false}, Case{1, 2, 256, 1024, 128, true},
        // A shape seen before: its plan is used again.
        Case{2, 2, 128, 128, 64, true}}) {
    SCOPED_TRACE(::testing::Message() << c.queries << " queries, " << c.keys << " keys of " << c.head_dim
                                      << (c.causal ? ", causal" : ""));
    const Result actual = run(c, kernels::AttentionKernel::cudnn);
    const Result expected = run(c, kernels::AttentionKernel::reference);
    EXPECT_LT(relative_error(actual.lse, expected.lse), 1e-4);
    EXPECT_LT(relative_error(actual.out, expected.out), 0.01);
    EXPECT_LT(relative_error(actual.d_q, expected.d_q), 0.01);
    EXPECT_LT(relative_error(actual.d_k_and_v, expected.d_k_and_v), 0.01);
  }
}

TEST_F(CudaCudnn, RefusesWhatItCannotDo) {
  using kernels::AttentionKernel;
  const kernels::Attention good = Problem({1, 1, 64, 64, 64, true}).arguments(AttentionKernel::cudnn).forward;
  kernels::Attention k = good;
  k.type = DType::f32;
  EXPECT_THROW(kernels::attention(launch_, k), Error);
  k = good;
  k.queries = 65;
  EXPECT_THROW(kernels::attention(launch_, k), Error);
  k = good;
  k.mask = kernels::MaskShape::general;
  EXPECT_THROW(kernels::attention(launch_, k), Error);
  EXPECT_EQ(kernels::attention_obstacle(launch_, AttentionKernel::cudnn, DType::bf16, 64), nullptr);
  EXPECT_NE(kernels::attention_obstacle(launch_, AttentionKernel::cudnn, DType::f32, 64), nullptr);
  EXPECT_NE(kernels::attention_obstacle(launch_, AttentionKernel::cudnn, DType::bf16, 256), nullptr);
}

}  // namespace
}  // namespace perceiver::testing
