#include <gtest/gtest.h>

#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/loss.h"
#include "tests/support/cuda_check.h"

namespace perceiver {
namespace {

using namespace testing;

template <typename T>
class CudaSegmentSum : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaSegmentSum, ElementTypes);

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

TYPED_TEST(CudaSegmentSum, SumsSegments) {
  using T = TypeParam;
  for (const SegmentCase& c : segment_cases())
    for (const bool accumulate : {false, true}) {
      SCOPED_TRACE(c.name);
      const Values d_out = random_values<T>(c.rows * c.columns, 6),
                   old = random_values<float>(c.table_rows * c.columns, 7);
      Values expected(old);
      Ints scratch(static_cast<size_t>(c.table_rows + 1 + c.rows));
      kernels::cpu::embedding_backward({DType::f64, c.rows, c.columns, c.table_rows, c.ids.data(), c.stride,
                                        d_out.data(), expected.data(), accumulate, scratch.data()});
      const DeviceArray<int32_t> ids(c.ids), a_scratch(scratch.size());
      const Array<T> a_d_out(d_out);
      const Array<float> d_table(old);
      kernels::embedding_backward(
          this->launch(), {kType<T>, c.rows, c.columns, c.table_rows, ids.data(), c.stride, a_d_out.data(),
                           d_table.data(), accumulate, a_scratch.data()});
      expect_close(d_table.read(), expected, {1e-5, 1e-5}, "d_table");
    }
}

TYPED_TEST(CudaSegmentSum, SegmentsRepeat) {
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
                            kernels::embedding_backward(
                                this->launch(), {kType<T>, rows, columns, table_rows, ids.data(), 1,
                                                 d_out.data(), d_table.data(), false, scratch.data()});
                          },
                          d_table);
}

/// The launches can be recorded once and replayed on other contents.
TYPED_TEST(CudaSegmentSum, SegmentsReplay) {
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
  kernels::embedding_backward(this->launch(), {kType<T>, rows, columns, table_rows, ids.data(), 1,
                                               a_d_out.data(), d_table.data(), false, scratch.data()});
  require_cuda(cudaStreamEndCapture(stream, &graph), "capture");
  require_cuda(cudaGraphInstantiate(&replay, graph, 0), "instantiate");
  for (const int32_t below : {1, 40, table_rows}) {
    const Ints chosen = random_ints(rows, 3, below);
    ids.write(chosen);
    Values expected(static_cast<size_t>(table_rows * columns));
    Ints host_scratch(static_cast<size_t>(table_rows + 1 + rows));
    kernels::cpu::embedding_backward({DType::f64, rows, columns, table_rows, chosen.data(), 1, d_out.data(),
                                      expected.data(), false, host_scratch.data()});
    require_cuda(cudaGraphLaunch(replay, stream), "replay");
    this->synchronize();
    expect_close(d_table.read(), expected, {1e-5, 1e-5}, "d_table");
  }
  require_cuda(cudaGraphExecDestroy(replay), "graph");
  require_cuda(cudaGraphDestroy(graph), "graph");
}

}  // namespace
}  // namespace perceiver
