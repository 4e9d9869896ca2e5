// CUDA kernels of embeddings, losses and flat arrays against the CPU's in f64.
#include <limits>
#include <numeric>

#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/loss.h"
#include "tests/support/cuda_check.h"

namespace perceiver {
namespace {

using namespace testing;

template <typename T>
class CudaEmbedding : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaEmbedding, ElementTypes);

struct MatrixSize {
  int64_t rows, columns;
};

TYPED_TEST(CudaEmbedding, SumsTableRows) {
  using T = TypeParam;
  for (const MatrixSize& size : {MatrixSize{300, 512}, {65, 48}, {33, 7}, {5, 1}, {9, 264}})
    for (const int tables : {1, 3}) {
      const auto [rows, columns] = size;
      const Ints ids = random_ints(rows * 4, 1, 21);
      const DeviceArray<int32_t> a_ids(ids);
      Values table[3], expected(static_cast<size_t>(rows * columns));
      std::vector<std::unique_ptr<Array<T>>> a_table;
      const Array<T> out(rows * columns);
      kernels::Embedding host{DType::f64, rows, columns, tables, {}, {}, {}, expected.data()};
      kernels::Embedding device{kType<T>, rows, columns, tables, {}, {}, {}, out.data()};
      for (int t = 0; t < tables; ++t) {
        table[t] = random_values<T>(21 * columns, 2 + static_cast<uint32_t>(t));
        a_table.push_back(std::make_unique<Array<T>>(table[t]));
        host.table[t] = table[t].data(), device.table[t] = a_table.back()->data();
        host.ids[t] = ids.data() + t, device.ids[t] = a_ids.data() + t;
        host.id_stride[t] = device.id_stride[t] = 1 + t;
      }
      kernels::cpu::embedding(host);
      kernels::embedding(this->launch(), device);
      expect_close(out.read(), expected, bound_of<T>(), "out");
    }
}

struct SegmentCase {
  const char* name;
  int64_t rows, columns;
  int32_t table_rows;
  Ints ids;
  int64_t stride = 1;
};

std::vector<SegmentCase> segment_cases() {
  std::vector<SegmentCase> cases;
  cases.push_back({"random", 3000, 64, 259, random_ints(3000, 1, 259)});
  cases.push_back({"one id", 5000, 48, 259, Ints(5000, 258)});
  cases.push_back({"one id of a large table", 9001, 32, 131074, Ints(9001, 77777)});
  cases.push_back({"large table", 6000, 24, 5000, random_ints(6000, 2, 5000)});
  cases.push_back({"three passes", 5000, 8, (1 << 20) + 3, random_ints(5000, 3, (1 << 20) + 3)});
  cases.push_back({"ragged, strided", 700, 37, 11, random_ints(1400, 4, 11), 2});
  cases.push_back({"one row", 1, 520, 3, {2}});
  cases.push_back({"one table row", 100, 5, 1, Ints(100, 0)});
  cases.push_back({"no rows", 0, 16, 4, {0}});
  Ints skewed = random_ints(20000, 5, 1000);
  for (size_t i = 0; i < skewed.size(); ++i)
    if (i % 8 != 0) skewed[i] = i % 3 == 0 ? 0 : 500;
  cases.push_back({"skewed", 20000, 16, 1000, skewed});
  Ints rising(4500);
  for (size_t i = 0; i < rising.size(); ++i) rising[i] = static_cast<int32_t>(i % 1500);
  cases.push_back({"positions", 4500, 40, 2048, rising});
  return cases;
}

TYPED_TEST(CudaEmbedding, SumsSegments) {
  using T = TypeParam;
  for (const SegmentCase& c : segment_cases())
    for (const bool accumulate : {false, true}) {
      SCOPED_TRACE(c.name);
      const Values d_out = random_values<T>(c.rows * c.columns, 6),
                   old = random_values<float>(c.table_rows * c.columns, 7);
      Values expected(old);
      Ints scratch(static_cast<size_t>(c.table_rows + 1 + c.rows));
      kernels::cpu::embedding_backward({.type = DType::f64,
                                        .rows = c.rows,
                                        .columns = c.columns,
                                        .table_rows = c.table_rows,
                                        .ids = c.ids.data(),
                                        .id_stride = c.stride,
                                        .d_out = d_out.data(),
                                        .d_table = expected.data(),
                                        .accumulate = accumulate,
                                        .scratch = scratch.data()});
      const DeviceArray<int32_t> ids(c.ids), a_scratch(scratch.size());
      const Array<T> a_d_out(d_out);
      const Array<float> d_table(old);
      kernels::embedding_backward(this->launch(), {.type = kType<T>,
                                                   .rows = c.rows,
                                                   .columns = c.columns,
                                                   .table_rows = c.table_rows,
                                                   .ids = ids.data(),
                                                   .id_stride = c.stride,
                                                   .d_out = a_d_out.data(),
                                                   .d_table = d_table.data(),
                                                   .accumulate = accumulate,
                                                   .scratch = a_scratch.data()});
      expect_close(d_table.read(), expected, {1e-5, 1e-5}, "d_table");
    }
}

TYPED_TEST(CudaEmbedding, SegmentsRepeat) {
  using T = TypeParam;
  const int64_t rows = 20000, columns = 72;
  const int32_t table_rows = 1300;
  Ints skewed = random_ints(rows, 1, table_rows);
  for (size_t i = 0; i < skewed.size(); i += 2) skewed[i] = 3;
  const DeviceArray<int32_t> ids(skewed), scratch(static_cast<size_t>(table_rows + 1 + rows));
  const Array<T> d_out(random_values<T>(rows * columns, 2));
  const Array<float> d_table(table_rows * columns);
  this->expect_repeatable([] {},
                          [&] {
                            kernels::embedding_backward(this->launch(), {.type = kType<T>,
                                                                         .rows = rows,
                                                                         .columns = columns,
                                                                         .table_rows = table_rows,
                                                                         .ids = ids.data(),
                                                                         .id_stride = 1,
                                                                         .d_out = d_out.data(),
                                                                         .d_table = d_table.data(),
                                                                         .accumulate = false,
                                                                         .scratch = scratch.data()});
                          },
                          d_table);
}

/// The launches can be captured once and replayed on other contents.
TYPED_TEST(CudaEmbedding, SegmentsReplay) {
  using T = TypeParam;
  const int64_t rows = 5000, columns = 64;
  const int32_t table_rows = 3000;
  const Values d_out = random_values<T>(rows * columns, 2);
  const DeviceArray<int32_t> ids(static_cast<size_t>(rows)),
      scratch(static_cast<size_t>(table_rows + 1 + rows));
  const Array<T> a_d_out(d_out);
  const Array<float> d_table(table_rows * columns);
  const auto stream = static_cast<cudaStream_t>(this->launch().stream);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t replay = nullptr;
  require_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  kernels::embedding_backward(this->launch(), {.type = kType<T>,
                                               .rows = rows,
                                               .columns = columns,
                                               .table_rows = table_rows,
                                               .ids = ids.data(),
                                               .id_stride = 1,
                                               .d_out = a_d_out.data(),
                                               .d_table = d_table.data(),
                                               .accumulate = false,
                                               .scratch = scratch.data()});
  require_cuda(cudaStreamEndCapture(stream, &graph), "capture");
  require_cuda(cudaGraphInstantiate(&replay, graph, 0), "instantiate");
  for (const int32_t below : {1, 40, table_rows}) {
    const Ints chosen = random_ints(rows, 3, below);
    ids.write(chosen);
    Values expected(static_cast<size_t>(table_rows * columns));
    Ints host_scratch(static_cast<size_t>(table_rows + 1 + rows));
    kernels::cpu::embedding_backward({.type = DType::f64,
                                      .rows = rows,
                                      .columns = columns,
                                      .table_rows = table_rows,
                                      .ids = chosen.data(),
                                      .id_stride = 1,
                                      .d_out = d_out.data(),
                                      .d_table = expected.data(),
                                      .accumulate = false,
                                      .scratch = host_scratch.data()});
    require_cuda(cudaGraphLaunch(replay, stream), "replay");
    this->synchronize();
    expect_close(d_table.read(), expected, {1e-5, 1e-5}, "d_table");
  }
  require_cuda(cudaGraphExecDestroy(replay), "graph");
  require_cuda(cudaGraphDestroy(graph), "graph");
}

template <typename T>
class CudaLoss : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaLoss, ElementTypes);

struct LossCase {
  int64_t rows, vocabulary;
  double smoothing = 0, z_loss = 0;
  int64_t shift = 0;
};

const LossCase kLossCases[] = {{70, 259, 0.1, 1e-4},  {33, 512},      {9, 1024, 0.1},     {5, 1000, 0, 1e-3},
                               {6, 32768, 0.1, 1e-4}, {7, 4099, 0.2}, {3, 2048, 0, 0, 1}, {65, 2, 0.1},
                               {9, 4096, 0, 1e-4}};

template <typename T>
void check_loss(const Launch& launch, const LossCase& c, bool gradient, bool statistics, int64_t gap = 0) {
  SCOPED_TRACE(::testing::Message() << c.rows << " x " << c.vocabulary);
  const int64_t stride = c.vocabulary + gap, n = c.rows * stride;
  const auto rows = static_cast<size_t>(c.rows);
  Values logits = random_values<T>(n, 1, 3);
  Ints targets = random_ints(c.rows, 2, static_cast<int32_t>(c.vocabulary));
  for (size_t r = 0; r < rows; ++r) {
    double* row = logits.data() + r * static_cast<size_t>(stride);
    if (r % 4 == 1 && targets[r] != 0) row[targets[r]] = 16;                      // correct
    if (r % 8 == 5 && targets[r] != 0) row[targets[r] / 2] = 16;                  // a tie before the target
    if (r % 8 == 1 && targets[r] + 1 < c.vocabulary) row[c.vocabulary - 1] = 16;  // a tie after the target
  }
  targets[0] = 0;
  double scale = 0.37;
  Values expected(logits), nll(rows), loss(rows), z(rows);
  std::vector<uint8_t> correct(rows);
  kernels::cpu::cross_entropy({.type = DType::f64,
                               .rows = c.rows,
                               .vocabulary = c.vocabulary,
                               .stride = stride,
                               .logits = expected.data(),
                               .targets = targets.data(),
                               .label_smoothing = c.smoothing,
                               .z_loss = c.z_loss,
                               .gradient_scale = gradient ? &scale : nullptr,
                               .nll = nll.data(),
                               .loss = loss.data(),
                               .z = z.data(),
                               .correct = correct.data()});
  const Array<T> a_logits(logits, c.shift);
  const Array<float> a_nll(c.rows), a_loss(c.rows), a_z(c.rows);
  const DeviceArray<int32_t> a_targets(targets);
  const DeviceArray<uint8_t> a_correct(rows);
  const DeviceArray<double> a_scale(std::vector<double>{scale});
  kernels::cross_entropy(launch, {.type = kType<T>,
                                  .rows = c.rows,
                                  .vocabulary = c.vocabulary,
                                  .stride = stride,
                                  .logits = a_logits.data(),
                                  .targets = a_targets.data(),
                                  .label_smoothing = c.smoothing,
                                  .z_loss = c.z_loss,
                                  .gradient_scale = gradient ? a_scale.data() : nullptr,
                                  .nll = statistics ? a_nll.data() : nullptr,
                                  .loss = statistics ? a_loss.data() : nullptr,
                                  .z = statistics ? a_z.data() : nullptr,
                                  .correct = statistics ? a_correct.data() : nullptr});
  expect_close(a_logits.read(), gradient ? expected : logits, {bound_of<T>().relative, 1e-6}, "gradient");
  if (!statistics) return;
  expect_close(a_nll.read(), nll, {1e-5, 1e-5}, "nll");
  expect_close(a_loss.read(), loss, {1e-5, 1e-5}, "loss");
  expect_close(a_z.read(), z, {1e-5, 1e-5}, "z");
  EXPECT_EQ(a_correct.read(), correct);
}

TYPED_TEST(CudaLoss, CrossEntropy) {
  for (const LossCase& c : kLossCases) {
    check_loss<TypeParam>(this->launch(), c, true, true);
    check_loss<TypeParam>(this->launch(), c, false, true);
    check_loss<TypeParam>(this->launch(), c, true, false);
    check_loss<TypeParam>(this->launch(), c, true, true, 5);
  }
}

/// A row with a NaN does not count as a finite loss.
TYPED_TEST(CudaLoss, NotANumberShows) {
  using T = TypeParam;
  for (const int64_t vocabulary : {300, 3000}) {
    Values logits = random_values<T>(vocabulary, 1);
    logits[7] = std::numeric_limits<double>::quiet_NaN();
    const Array<T> a_logits(logits);
    const DeviceArray<int32_t> targets(Ints{5});
    const Array<float> loss(1);
    kernels::cross_entropy(this->launch(), {.type = kType<T>,
                                            .rows = 1,
                                            .vocabulary = vocabulary,
                                            .stride = vocabulary,
                                            .logits = a_logits.data(),
                                            .targets = targets.data(),
                                            .label_smoothing = 0,
                                            .z_loss = 0,
                                            .gradient_scale = nullptr,
                                            .nll = nullptr,
                                            .loss = loss.data(),
                                            .z = nullptr,
                                            .correct = nullptr});
    EXPECT_TRUE(std::isnan(loss.read()[0]));
  }
}

class CudaTotals : public CudaKernelTest<float> {};

TEST_F(CudaTotals, SumRows) {
  for (const int64_t rows : {1, 300, 100000}) {
    const Values loss = random_values<float>(rows, 1), nll = random_values<float>(rows, 2),
                 z = random_values<float>(rows, 3);
    const Ints targets = random_ints(rows, 4, 3), right = random_ints(rows, 5, 2);
    const std::vector<uint8_t> correct(right.begin(), right.end());
    const Array<float> a_loss(loss), a_nll(nll), a_z(z);
    const DeviceArray<uint8_t> a_correct(correct);
    const DeviceArray<int32_t> a_targets(targets);
    Values totals(5, 0);
    const DeviceArray<double> a_totals(5);
    for (const bool accumulate : {false, true}) {
      kernels::cpu::loss_totals({.type = DType::f64,
                                 .rows = rows,
                                 .loss = loss.data(),
                                 .nll = nll.data(),
                                 .z = z.data(),
                                 .correct = correct.data(),
                                 .targets = targets.data(),
                                 .totals = totals.data(),
                                 .accumulate = accumulate});
      kernels::loss_totals(launch(), {.type = DType::f32,
                                      .rows = rows,
                                      .loss = a_loss.data(),
                                      .nll = a_nll.data(),
                                      .z = a_z.data(),
                                      .correct = a_correct.data(),
                                      .targets = a_targets.data(),
                                      .totals = a_totals.data(),
                                      .accumulate = accumulate});
      expect_close(a_totals.read(), totals, {1e-12, 1e-12}, "totals");
    }
  }
}

template <typename T>
class CudaFlat : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaFlat, ElementTypes);

constexpr int64_t kSizes[] = {1, 7, 1024, 5001, 100003};

TYPED_TEST(CudaFlat, Add) {
  using T = TypeParam;
  for (const int64_t n : kSizes)
    for (const int64_t shift : {0, 1}) {
      const Values source = random_values<T>(n, 1), target = random_values<T>(n, 2);
      Values expected(target);
      kernels::cpu::add({DType::f64, n, source.data(), expected.data()});
      const Array<T> a_source(source), a_target(target, shift);
      kernels::add(this->launch(), {kType<T>, n, a_source.data(), a_target.data()});
      expect_close(a_target.read(), expected, bound_of<T>(), "target");
    }
}

TYPED_TEST(CudaFlat, CastRoundsToNearest) {
  using T = TypeParam;
  for (const int64_t n : kSizes)
    for (const int64_t shift : {0, 1}) {
      const Values x = random_values<T>(n, 1);
      const Array<T> a_x(x, shift);
      const Array<float> wide(n);
      const Array<bf16> narrow_one(n);
      kernels::cast(this->launch(),
                    {.from = kType<T>, .to = DType::f32, .elements = n, .x = a_x.data(), .y = wide.data()});
      kernels::cast(
          this->launch(),
          {.from = kType<T>, .to = DType::bf16, .elements = n, .x = a_x.data(), .y = narrow_one.data()});
      EXPECT_EQ(wide.read(), x);
      EXPECT_EQ(narrow_one.read(), rounded<bf16>(x));
    }
}

TYPED_TEST(CudaFlat, Exchange) {
  using T = TypeParam;
  for (const int64_t n : kSizes)
    for (const int64_t shift : {0, 1}) {
      const Values a = random_values<T>(n, 1), b = random_values<T>(n, 2);
      const Array<T> a_a(a), a_b(b, shift);
      kernels::swap(this->launch(), {kType<T>, n, a_a.data(), a_b.data()});
      EXPECT_EQ(a_a.read(), b);
      EXPECT_EQ(a_b.read(), a);
    }
}

TYPED_TEST(CudaFlat, SumOfSquares) {
  using T = TypeParam;
  for (const int64_t n : kSizes)
    for (const int64_t shift : {0, 1}) {
      const Values x = random_values<T>(n, 1);
      double expected = 0;
      kernels::cpu::sum_of_squares({DType::f64, n, x.data(), &expected});
      const Array<T> a_x(x, shift);
      const DeviceArray<double> sum(1);
      kernels::sum_of_squares(this->launch(), {kType<T>, n, a_x.data(), sum.data()});
      expect_close(sum.read(), {expected}, {1e-12, 0}, "sum");
    }
}

TYPED_TEST(CudaFlat, SumOfSquaresRepeats) {
  using T = TypeParam;
  const int64_t n = 300001;
  const Array<T> x(random_values<T>(n, 1));
  const Array<double> sum(1);
  this->expect_repeatable([] {},
                          [&] {
                            kernels::sum_of_squares(this->launch(), {kType<T>, n, x.data(), sum.data()});
                          },
                          sum);
}

TYPED_TEST(CudaFlat, CountNonFinite) {
  using T = TypeParam;
  for (const int64_t n : kSizes) {
    Values x = random_values<T>(n, 1);
    for (size_t i = 0; i < x.size(); i += 1000) x[i] = std::numeric_limits<double>::quiet_NaN();
    for (size_t i = 5; i < x.size(); i += 700) x[i] = -std::numeric_limits<double>::infinity();
    x.back() = std::numeric_limits<double>::infinity();
    int64_t expected = 0;
    kernels::cpu::count_non_finite({DType::f64, n, x.data(), &expected});
    const Array<T> a_x(x);
    const DeviceArray<int64_t> count(1);
    kernels::count_non_finite(this->launch(), {kType<T>, n, a_x.data(), count.data()});
    EXPECT_EQ(count.read()[0], expected);
  }
}

TYPED_TEST(CudaFlat, NothingToDo) {
  using T = TypeParam;
  const DeviceArray<double> sum(1);
  const DeviceArray<int64_t> count(1);
  kernels::sum_of_squares(this->launch(), {kType<T>, 0, nullptr, sum.data()});
  kernels::count_non_finite(this->launch(), {kType<T>, 0, nullptr, count.data()});
  kernels::add(this->launch(), {kType<T>, 0, nullptr, nullptr});
  EXPECT_EQ(sum.read()[0], 0);
  EXPECT_EQ(count.read()[0], 0);
}

TEST_F(CudaTotals, DoublesAreRefused) {
  EXPECT_THROW(kernels::add(launch(), {DType::f64, 1, nullptr, nullptr}), std::exception);
}

}  // namespace
}  // namespace perceiver
