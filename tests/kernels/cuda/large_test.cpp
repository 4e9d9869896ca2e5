// More than 2^31 elements: the last rows of a large matrix give the same results as these rows alone.
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "tests/support/cuda_check.h"

namespace perceiver::testing {
namespace {

constexpr int64_t kColumns = 1024, kRows = (int64_t{1} << 21) + 3, kTail = 5;

/// `rows` rows of bf16: random values in the last kTail, a constant in the others.
class Matrix {
 public:
  Matrix(int64_t rows, uint32_t seed) : rows_(rows) {
    const auto count = static_cast<size_t>(rows * kColumns);
    require_cuda(cudaMalloc(reinterpret_cast<void**>(&data_), count * sizeof(bf16)), "matrix");
    require_cuda(cudaMemset(data_, 0x3F, count * sizeof(bf16)), "matrix");
    std::vector<bf16> tail;
    for (const double x : random_values<bf16>(kTail * kColumns, seed)) tail.push_back(narrow<bf16>(x));
    require_cuda(cudaMemcpy(last_rows(), tail.data(), tail.size() * sizeof(bf16), cudaMemcpyHostToDevice),
                 "matrix");
    require_cuda(cudaDeviceSynchronize(), "matrix");
  }
  ~Matrix() { cudaFree(data_); }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  bf16* data() const { return data_; }
  Values tail() const {
    std::vector<bf16> values(kTail * kColumns);
    require_cuda(cudaDeviceSynchronize(), "a kernel");
    require_cuda(cudaMemcpy(values.data(), last_rows(), values.size() * sizeof(bf16), cudaMemcpyDeviceToHost),
                 "copy");
    Values wide;
    for (const bf16 x : values) wide.push_back(widen(x));
    return wide;
  }

 private:
  bf16* last_rows() const { return data_ + (rows_ - kTail) * kColumns; }

  int64_t rows_;
  bf16* data_ = nullptr;
};

class CudaLarge : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    size_t unused = 0, total = 0;
    require_cuda(cudaMemGetInfo(&unused, &total), "memory");
    if (unused < (size_t{24} << 30)) GTEST_SKIP() << "24 GiB of GPU memory are needed";
  }

  /// Runs `run(rows, x, y)` on all rows and on the last ones alone, and compares the results of the latter.
  template <typename Run>
  void expect_same_tails(Run&& run) {
    const auto tail_of = [&](int64_t rows) {
      const Matrix x(rows, 1), y(rows, 2);
      run(rows, x.data(), y.data());
      return y.tail();
    };
    EXPECT_EQ(tail_of(kRows), tail_of(kTail));
  }
};

TEST_F(CudaLarge, FlatKernels) {
  expect_same_tails([&](int64_t rows, bf16* x, bf16* y) {
    kernels::add(launch(), {.type = DType::bf16, .elements = rows * kColumns, .source = x, .target = y});
  });
  expect_same_tails([&](int64_t rows, bf16* x, bf16* y) {
    kernels::swap(launch(), {.type = DType::bf16, .elements = rows * kColumns, .a = x, .b = y});
  });
}

TEST_F(CudaLarge, Counting) {
  const Matrix x(kRows, 1);
  const std::vector<bf16> bad(2, narrow<bf16>(NAN));
  require_cuda(
      cudaMemcpy(x.data() + kRows * kColumns - 2, bad.data(), 2 * sizeof(bf16), cudaMemcpyHostToDevice),
      "copy");
  const DeviceArray<int64_t> count(1);
  kernels::count_non_finite(
      launch(), {.type = DType::bf16, .elements = kRows * kColumns, .x = x.data(), .count = count.data()});
  EXPECT_EQ(count.read()[0], 2);
}

TEST_F(CudaLarge, LayerNorm) {
  const Array<bf16> scale(random_values<bf16>(kColumns, 3)), offset(random_values<bf16>(kColumns, 4));
  const DeviceArray<float> mean(kRows), rstd(kRows);
  expect_same_tails([&](int64_t rows, bf16* x, bf16* y) {
    kernels::ResidualLayerNorm k{};
    k.type = DType::bf16;
    k.rows = rows;
    k.columns = kColumns;
    k.residual = x;
    k.scale = scale.data();
    k.offset = offset.data();
    k.y = y;
    k.mean = mean.data();
    k.rstd = rstd.data();
    kernels::residual_layer_norm(launch(), k);
  });
}

TEST_F(CudaLarge, BiasAndActivation) {
  const Array<bf16> bias(random_values<bf16>(kColumns, 3));
  expect_same_tails([&](int64_t rows, bf16* x, bf16* y) {
    kernels::bias_activation(launch(), {.type = DType::bf16,
                                        .rows = rows,
                                        .columns = kColumns,
                                        .activation = Activation::gelu,
                                        .pre = x,
                                        .bias = bias.data(),
                                        .out = y});
  });
}

TEST_F(CudaLarge, Rotary) {
  constexpr int64_t kBands = 16, kPositions = 7;
  const Array<float> cosine(random_values<float>(kPositions * kBands, 3)),
      sine(random_values<float>(kPositions * kBands, 4));
  const DeviceArray<int32_t> positions(Ints(kRows, 5));
  expect_same_tails([&](int64_t rows, bf16*, bf16* y) {
    kernels::rotary(launch(), {.type = DType::bf16,
                               .rows = rows,
                               .row_stride = kColumns,
                               .heads = 16,
                               .head_dim = 64,
                               .bands = kBands,
                               .x = y,
                               .positions = positions.data(),
                               .cosine = cosine.data(),
                               .sine = sine.data(),
                               .direction = 1});
  });
}

TEST_F(CudaLarge, Embedding) {
  const Array<bf16> table(random_values<bf16>(11 * kColumns, 3));
  const DeviceArray<int32_t> ids(Ints(kRows, 10));
  expect_same_tails([&](int64_t rows, bf16*, bf16* y) {
    kernels::Embedding k{};
    k.type = DType::bf16;
    k.rows = rows;
    k.columns = kColumns;
    k.tables = 1;
    k.table[0] = table.data();
    k.ids[0] = ids.data();
    k.id_stride[0] = 1;
    k.out = y;
    kernels::embedding(launch(), k);
  });
}

// Keys and values of more than 2^31 elements, of which only the last are visible.
TEST_F(CudaLarge, AttentionOverManyKeys) {
  const int64_t heads = 8, head_dim = 64, width = heads * head_dim, queries = 64;
  const auto out_of = [&](int64_t rows) {
    const int64_t keys = rows;  // a row of kColumns: keys, then values
    const Matrix kv(rows, 1);
    const Array<bf16> q(random_values<bf16>(queries * width, 2)), out(queries * width);
    const DeviceArray<float> lse(static_cast<size_t>(heads * queries));
    const DeviceArray<int32_t> limit(Ints(queries, static_cast<int32_t>(keys))),
        first(Ints(1, static_cast<int32_t>(keys - kTail)));
    kernels::Attention k{};
    k.type = DType::bf16;
    k.batch = 1;
    k.heads = heads;
    k.queries = queries;
    k.keys = keys;
    k.head_dim = head_dim;
    k.q = q.data();
    k.q_stride = k.out_stride = width;
    k.k = kv.data();
    k.v = kv.data() + width;
    k.kv_stride = kColumns;
    k.first = first.data();
    k.limit = limit.data();
    k.out = out.data();
    k.lse = lse.data();
    kernels::attention(launch(), k);
    return out.read();
  };
  expect_close(out_of(kRows), out_of(kTail), {1.0 / 64, 1e-2}, "out");
}

}  // namespace
}  // namespace perceiver::testing
