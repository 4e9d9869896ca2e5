// CUDA kernels of embeddings, rotary positions and several latents per position against the CPU's in f64.
#include <gtest/gtest.h>

#include "kernels/embedding.h"
#include "tests/support/cuda_check.h"

namespace perceiver::testing {
namespace {

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
      kernels::Embedding host{
          .type = DType::f64, .rows = rows, .columns = columns, .tables = tables, .out = expected.data()};
      kernels::Embedding device{
          .type = kType<T>, .rows = rows, .columns = columns, .tables = tables, .out = out.data()};
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

struct CopiesCase {
  int64_t rows, copies, columns;
};
const CopiesCase kCopiesCases[] = {{50, 3, 512}, {9, 4, 33}, {300, 1, 64}, {1, 7, 5}};

TYPED_TEST(CudaEmbedding, RepeatRows) {
  using T = TypeParam;
  for (const auto& [rows, copies, columns] : kCopiesCases) {
    const int64_t wide = rows * copies * columns;
    const Values x = random_values<T>(rows * columns, 1), encoding = random_values<T>(copies * columns, 2),
                 d_y = random_values<T>(wide, 3), old_encoding = random_values<float>(copies * columns, 4);
    Values y(static_cast<size_t>(wide));
    kernels::cpu::repeat_rows({.type = DType::f64,
                               .rows = rows,
                               .copies = copies,
                               .columns = columns,
                               .x = x.data(),
                               .encoding = encoding.data(),
                               .y = y.data()});
    const Array<T> a_x(x), a_encoding(encoding), a_y(wide), a_d_y(d_y);
    kernels::repeat_rows(this->launch(), {.type = kType<T>,
                                          .rows = rows,
                                          .copies = copies,
                                          .columns = columns,
                                          .x = a_x.data(),
                                          .encoding = a_encoding.data(),
                                          .y = a_y.data()});
    expect_close(a_y.read(), y, bound_of<T>(), "y");
    for (const bool accumulate : {false, true}) {
      Values d_x(x), d_encoding(old_encoding);
      kernels::cpu::repeat_rows_backward({.type = DType::f64,
                                          .rows = rows,
                                          .copies = copies,
                                          .columns = columns,
                                          .d_y = d_y.data(),
                                          .d_x = d_x.data(),
                                          .accumulate_x = accumulate,
                                          .d_encoding = d_encoding.data(),
                                          .accumulate_encoding = accumulate});
      const Array<T> a_d_x(x);
      const Array<float> a_d_encoding(old_encoding);
      kernels::repeat_rows_backward(this->launch(), {.type = kType<T>,
                                                     .rows = rows,
                                                     .copies = copies,
                                                     .columns = columns,
                                                     .d_y = a_d_y.data(),
                                                     .d_x = a_d_x.data(),
                                                     .accumulate_x = accumulate,
                                                     .d_encoding = a_d_encoding.data(),
                                                     .accumulate_encoding = accumulate});
      expect_close(a_d_x.read(), d_x, bound_of<T>(), "d_x");
      expect_close(a_d_encoding.read(), d_encoding, {1e-5, 1e-5}, "d_encoding");
      kernels::repeat_rows_backward(this->launch(), {.type = kType<T>,
                                                     .rows = rows,
                                                     .copies = copies,
                                                     .columns = columns,
                                                     .d_y = a_d_y.data(),
                                                     .d_x = nullptr,
                                                     .accumulate_x = false,
                                                     .d_encoding = nullptr,
                                                     .accumulate_encoding = false});
    }
  }
}

TYPED_TEST(CudaEmbedding, AverageRows) {
  using T = TypeParam;
  for (const auto& [rows, copies, columns] : kCopiesCases) {
    const int64_t wide = rows * copies * columns;
    const Values x = random_values<T>(wide, 1), d_y = random_values<T>(rows * columns, 2);
    Values y(d_y);
    kernels::cpu::average_rows({.type = DType::f64,
                                .rows = rows,
                                .copies = copies,
                                .columns = columns,
                                .x = x.data(),
                                .y = y.data()});
    const Array<T> a_x(x), a_y(rows * columns), a_d_y(d_y);
    kernels::average_rows(this->launch(), {.type = kType<T>,
                                           .rows = rows,
                                           .copies = copies,
                                           .columns = columns,
                                           .x = a_x.data(),
                                           .y = a_y.data()});
    expect_close(a_y.read(), y, bound_of<T>(), "y");
    for (const bool accumulate : {false, true}) {
      Values d_x(x);
      kernels::cpu::average_rows_backward({.type = DType::f64,
                                           .rows = rows,
                                           .copies = copies,
                                           .columns = columns,
                                           .d_y = d_y.data(),
                                           .d_x = d_x.data(),
                                           .accumulate = accumulate});
      const Array<T> a_d_x(x);
      kernels::average_rows_backward(this->launch(), {.type = kType<T>,
                                                      .rows = rows,
                                                      .copies = copies,
                                                      .columns = columns,
                                                      .d_y = a_d_y.data(),
                                                      .d_x = a_d_x.data(),
                                                      .accumulate = accumulate});
      expect_close(a_d_x.read(), d_x, bound_of<T>(), "d_x");
    }
  }
}

TYPED_TEST(CudaEmbedding, PlaceRows) {
  using T = TypeParam;
  for (const int64_t columns : {1, 36, 1024}) {
    const int64_t rows = 70, all = 100;
    std::vector<int32_t> places;
    for (int32_t r = 0; r < rows; ++r) places.push_back(r % 9 == 4 ? -1 : (r * 37) % 100);
    const Values x = random_values<T>(rows * columns, 1);
    const Array<T> a_x(x);
    const DeviceArray<int32_t> a_places(places);
    Values target = random_values<T>(all * columns, 2);
    const Array<T> a_target(target);
    kernels::cpu::place_rows({.type = DType::f64,
                              .rows = rows,
                              .columns = columns,
                              .x = x.data(),
                              .row = places.data(),
                              .target = target.data()});
    kernels::place_rows(this->launch(), {.type = kType<T>,
                                         .rows = rows,
                                         .columns = columns,
                                         .x = a_x.data(),
                                         .row = a_places.data(),
                                         .target = a_target.data()});
    expect_close(a_target.read(), target, {0, 0}, "target");
    for (const bool accumulate : {false, true})
      for (const bool wanted : {true, false}) {
        Values d_target = random_values<T>(all * columns, 3), d_x(x);
        const Array<T> a_d_target(d_target), a_d_x(x);
        kernels::cpu::take_rows({.type = DType::f64,
                                 .rows = rows,
                                 .columns = columns,
                                 .row = places.data(),
                                 .d_target = d_target.data(),
                                 .d_x = wanted ? d_x.data() : nullptr,
                                 .accumulate = accumulate});
        kernels::take_rows(this->launch(), {.type = kType<T>,
                                            .rows = rows,
                                            .columns = columns,
                                            .row = a_places.data(),
                                            .d_target = a_d_target.data(),
                                            .d_x = wanted ? a_d_x.data() : nullptr,
                                            .accumulate = accumulate});
        expect_close(a_d_target.read(), d_target, {0, 0}, "d_target");
        expect_close(a_d_x.read(), d_x, bound_of<T>(), "d_x");
      }
  }
}

struct RotaryCase {
  int64_t rows, stride, heads, head_dim, bands, shift = 0;
};

TYPED_TEST(CudaEmbedding, Rotary) {
  using T = TypeParam;
  const RotaryCase cases[] = {{70, 192, 3, 64, 32},  {70, 200, 3, 64, 16}, {9, 50, 2, 20, 5},
                              {33, 64, 1, 64, 4, 1}, {5, 3, 1, 3, 1},      {40, 512, 8, 64, 2}};
  for (const RotaryCase& c : cases) {
    const int64_t positions = 50, n = c.rows * c.stride;
    const Values x = random_values<T>(n, 1), angles = random_values<float>(positions * c.bands, 2, 3);
    Values cosine(angles), sine(angles);
    for (size_t i = 0; i < angles.size(); ++i) {
      cosine[i] = widen(static_cast<float>(std::cos(angles[i])));
      sine[i] = widen(static_cast<float>(std::sin(angles[i])));
    }
    Ints at = random_ints(c.rows, 3, 99);
    for (int32_t& position : at) position -= 49;
    const DeviceArray<int32_t> a_at(at);
    const Array<float> a_cosine(cosine), a_sine(sine);
    for (const int direction : {1, -1}) {
      Values expected(x);
      kernels::cpu::rotary({.type = DType::f64,
                            .rows = c.rows,
                            .row_stride = c.stride,
                            .heads = c.heads,
                            .head_dim = c.head_dim,
                            .bands = c.bands,
                            .x = expected.data(),
                            .positions = at.data(),
                            .cosine = cosine.data(),
                            .sine = sine.data(),
                            .direction = direction});
      const Array<T> a_x(x, c.shift);
      kernels::rotary(this->launch(), {.type = kType<T>,
                                       .rows = c.rows,
                                       .row_stride = c.stride,
                                       .heads = c.heads,
                                       .head_dim = c.head_dim,
                                       .bands = c.bands,
                                       .x = a_x.data(),
                                       .positions = a_at.data(),
                                       .cosine = a_cosine.data(),
                                       .sine = a_sine.data(),
                                       .direction = direction});
      expect_close(a_x.read(), expected, bound_of<T>(), "x");
    }
  }
}

}  // namespace
}  // namespace perceiver::testing
