// CUDA kernels of projected tables against the CPU's in f64.
#include <gtest/gtest.h>

#include "kernels/projection.h"
#include "tests/support/cuda_check.h"

namespace perceiver {
namespace {

using namespace testing;

template <typename T>
class CudaProjection : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaProjection, ElementTypes);

struct Case {
  const char* name;
  int64_t examples, places, columns;
  std::vector<int32_t> sizes;  // rows of each table
  bool scaled = false;
  int64_t heads = 0, head_dim = 0, bands = 0;  // of the rotation
};

const Case kCases[] = {{"tokens", 3, 700, 512, {259}},
                       {"rotated", 2, 1003, 512, {259}, false, 4, 64, 16},
                       {"rotated, some heads", 1, 300, 256, {31}, false, 1, 64, 32},
                       {"rotated, wide", 2, 700, 1536, {259}, false, 12, 64, 16},
                       {"rotated, heads of 96", 1, 300, 1536, {31}, false, 8, 96, 24},
                       {"rotated, odd bands", 2, 77, 96, {13}, false, 2, 24, 3},
                       {"rotated, ragged", 1, 50, 37, {13}, false, 2, 9, 2},
                       {"rotated, narrow heads", 2, 90, 48, {13}, false, 4, 6, 3},
                       {"positions", 4, 500, 1024, {259, 502}, true},
                       {"image", 3, 400, 264, {259, 66, 66, 5}, true},
                       {"ragged", 2, 130, 37, {11, 132}, true},
                       {"nine tables", 2, 65, 48, {5, 3, 3, 3, 3, 3, 3, 3, 3}, true},
                       {"one id", 3, 1100, 264, {1, 3}, true},
                       {"long table", 1, 900, 64, {1500}, true},
                       {"one row", 1, 1, 64, {3, 2}, true},
                       // In bf16 from shared memory:
                       {"many tokens", 3, 11111, 512, {259}, false, 4, 64, 16},
                       {"many tokens, some heads", 1, 33000, 256, {31}, false, 1, 64, 32},
                       {"many tokens of more", 2, 16500, 192, {700}, false, 1, 64, 8},
                       {"many tokens of too many", 1, 32800, 64, {1000}},
                       {"many pixels", 4, 8300, 384, {259, 66, 66, 5}, true}};

constexpr int64_t kAngles = 400;  // positions with angles

/// The values of a case on host and device. Ids of all tables are interleaved, as the positions of a batch
/// are.
template <typename T>
struct Data {
  explicit Data(const Case& c)
      : rows(c.examples * c.places),
        tables(static_cast<int64_t>(c.sizes.size())),
        d_out(random_values<T>(rows * c.columns, 5)),
        rstd(random_values<float>(rows, 6, 0.3, 1)),
        offset(random_values<float>(c.columns, 7)),
        cosine(random_values<float>(kAngles * std::max<int64_t>(1, c.bands), 8)),
        sine(random_values<float>(kAngles * std::max<int64_t>(1, c.bands), 9)),
        positions(random_ints(rows, 10, kAngles)),
        ids(static_cast<size_t>(rows * tables)),
        a_d_out(d_out),
        a_rstd(rstd),
        a_offset(offset),
        a_cosine(cosine),
        a_sine(sine),
        a_positions(positions),
        a_ids(ids.size()) {
    for (size_t r = 0; r < positions.size(); r += 3) positions[r] = -positions[r];
    a_positions.write(positions);
    for (int64_t t = 0; t < tables; ++t) {
      const Ints own = random_ints(rows, static_cast<uint32_t>(20 + t), c.sizes[static_cast<size_t>(t)]);
      for (int64_t r = 0; r < rows; ++r)
        ids[static_cast<size_t>(r * tables + t)] = own[static_cast<size_t>(r)];
      table.push_back(
          random_values<float>(c.sizes[static_cast<size_t>(t)] * c.columns, static_cast<uint32_t>(40 + t)));
      a_table.push_back(std::make_unique<Array<float>>(table.back()));
    }
    a_ids.write(ids);
    host.tables = device.tables = static_cast<int>(tables);
    for (int64_t t = 0; t < tables; ++t) {
      host.table[t] = table[static_cast<size_t>(t)].data();
      device.table[t] = a_table[static_cast<size_t>(t)]->data();
      host.ids[t] = ids.data() + t, device.ids[t] = a_ids.data() + t;
      host.id_stride[t] = device.id_stride[t] = tables;
      host.table_rows[t] = device.table_rows[t] = c.sizes[static_cast<size_t>(t)];
    }
    if (c.bands == 0) return;
    rotation = {.heads = c.heads,
                .head_dim = c.head_dim,
                .bands = c.bands,
                .positions = positions.data(),
                .cosine = cosine.data(),
                .sine = sine.data()};
    a_rotation = {.heads = c.heads,
                  .head_dim = c.head_dim,
                  .bands = c.bands,
                  .positions = a_positions.data(),
                  .cosine = a_cosine.data(),
                  .sine = a_sine.data()};
  }

  int64_t rows, tables;
  Values d_out, rstd, offset, cosine, sine;
  Ints positions, ids;
  std::vector<Values> table;
  Array<T> a_d_out;
  Array<float> a_rstd, a_offset, a_cosine, a_sine;
  DeviceArray<int32_t> a_positions, a_ids;
  std::vector<std::unique_ptr<Array<float>>> a_table;
  kernels::TableRows host, device;
  kernels::Rotation rotation, a_rotation;
};

TYPED_TEST(CudaProjection, Gathers) {
  using T = TypeParam;
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    const Data<T> d(c);
    Values expected(static_cast<size_t>(d.rows * c.columns));
    const Array<T> out(d.rows * c.columns);
    kernels::cpu::projected_rows({.type = DType::f64,
                                  .rows = d.rows,
                                  .columns = c.columns,
                                  .examples = c.examples,
                                  .terms = d.host,
                                  .rstd = c.scaled ? d.rstd.data() : nullptr,
                                  .offset = c.scaled ? d.offset.data() : nullptr,
                                  .rotation = d.rotation,
                                  .out = expected.data()});
    kernels::projected_rows(this->launch(), {.type = kType<T>,
                                             .rows = d.rows,
                                             .columns = c.columns,
                                             .examples = c.examples,
                                             .terms = d.device,
                                             .rstd = c.scaled ? d.a_rstd.data() : nullptr,
                                             .offset = c.scaled ? d.a_offset.data() : nullptr,
                                             .rotation = d.a_rotation,
                                             .out = out.data()});
    // Where vectors do not hold whole pairs, the rotation rounds a second time.
    Bound bound = bound_of<T>();
    if (c.bands > 0 && sizeof(T) == 2) bound.absolute = 8e-3;
    expect_close(out.read(), expected, bound, "out");
  }
}

TYPED_TEST(CudaProjection, SumsById) {
  using T = TypeParam;
  for (const Case& c : kCases)
    for (const bool accumulate : {false, true}) {
      SCOPED_TRACE(c.name);
      const Data<T> d(c);
      for (size_t t = 0; t < c.sizes.size(); ++t) {
        const int32_t size = c.sizes[t];
        const Values old = random_values<float>(size * c.columns, 11);
        Values expected(old), d_out(d.d_out);
        Ints scratch(static_cast<size_t>(size + 1 + d.rows));
        const DeviceArray<int32_t> a_scratch(scratch.size());
        const Array<float> d_table(old);
        const Array<T> a_d_out(d.d_out);
        kernels::cpu::projected_rows_backward({.type = DType::f64,
                                               .rows = d.rows,
                                               .columns = c.columns,
                                               .table_rows = size,
                                               .ids = d.host.ids[t],
                                               .id_stride = d.tables,
                                               .rstd = c.scaled ? d.rstd.data() : nullptr,
                                               .rotation = d.rotation,
                                               .d_out = d_out.data(),
                                               .d_table = expected.data(),
                                               .accumulate = accumulate,
                                               .scratch = scratch.data()});
        kernels::projected_rows_backward(this->launch(), {.type = kType<T>,
                                                          .rows = d.rows,
                                                          .columns = c.columns,
                                                          .table_rows = size,
                                                          .ids = d.device.ids[t],
                                                          .id_stride = d.tables,
                                                          .rstd = c.scaled ? d.a_rstd.data() : nullptr,
                                                          .rotation = d.a_rotation,
                                                          .d_out = a_d_out.data(),
                                                          .d_table = d_table.data(),
                                                          .accumulate = accumulate,
                                                          .scratch = a_scratch.data()});
        const bool rounds = c.bands > 0 && sizeof(T) == 2;
        expect_close(d_table.read(), expected, rounds ? Bound{1e-2, 1e-2} : Bound{1e-5, 2e-5}, "d_table");
      }
    }
}

/// In vectors, gradients are rotated back in f32: only the sums are rounded.
TYPED_TEST(CudaProjection, RotatesBackWithoutRounding) {
  using T = TypeParam;
  for (const Case& c : {kCases[1], kCases[3], kCases[4]}) {
    SCOPED_TRACE(c.name);
    const Data<T> d(c);
    Values expected(static_cast<size_t>(c.sizes[0] * c.columns)), d_out(d.d_out);
    Ints scratch(static_cast<size_t>(c.sizes[0] + 1 + d.rows));
    const DeviceArray<int32_t> a_scratch(scratch.size());
    const Array<float> d_table(c.sizes[0] * c.columns);
    kernels::cpu::projected_rows_backward({.type = DType::f64,
                                           .rows = d.rows,
                                           .columns = c.columns,
                                           .table_rows = c.sizes[0],
                                           .ids = d.host.ids[0],
                                           .id_stride = 1,
                                           .rstd = nullptr,
                                           .rotation = d.rotation,
                                           .d_out = d_out.data(),
                                           .d_table = expected.data(),
                                           .accumulate = false,
                                           .scratch = scratch.data()});
    kernels::projected_rows_backward(this->launch(), {.type = kType<T>,
                                                      .rows = d.rows,
                                                      .columns = c.columns,
                                                      .table_rows = c.sizes[0],
                                                      .ids = d.device.ids[0],
                                                      .id_stride = 1,
                                                      .rstd = nullptr,
                                                      .rotation = d.a_rotation,
                                                      .d_out = d.a_d_out.data(),
                                                      .d_table = d_table.data(),
                                                      .accumulate = false,
                                                      .scratch = a_scratch.data()});
    expect_close(d_table.read(), expected, {1e-5, 2e-5}, "d_table");
    expect_close(d.a_d_out.read(), d.d_out, {0, 0}, "d_out");
  }
}

/// The sort's tiles grow with the number of rows. Sums of small whole numbers are exact in any order.
TYPED_TEST(CudaProjection, SumsManyRows) {
  using T = TypeParam;
  constexpr int64_t kColumns = 8, kTableRows = 1100;  // two passes of the sort
  for (const int64_t rows : {300001, 600001})
    for (const int32_t ids_below : {37, 1100}) {
      const Ints ids = random_ints(rows, 1, ids_below), whole = random_ints(rows * kColumns, 2, 5);
      const Values x(whole.begin(), whole.end());
      Values expected(static_cast<size_t>(kTableRows * kColumns)), d_out(x);
      Ints scratch(static_cast<size_t>(kTableRows + 1 + rows));
      kernels::cpu::projected_rows_backward({.type = DType::f64,
                                             .rows = rows,
                                             .columns = kColumns,
                                             .table_rows = kTableRows,
                                             .ids = ids.data(),
                                             .id_stride = 1,
                                             .rstd = nullptr,
                                             .rotation = {},
                                             .d_out = d_out.data(),
                                             .d_table = expected.data(),
                                             .accumulate = false,
                                             .scratch = scratch.data()});
      const DeviceArray<int32_t> a_ids(ids), a_scratch(scratch.size());
      const Array<T> a_d_out(x);
      for (const int64_t table_rows : {int64_t{ids_below}, kTableRows}) {
        const Array<float> d_table(random_values<float>(table_rows * kColumns, 3));
        kernels::projected_rows_backward(this->launch(), {.type = kType<T>,
                                                          .rows = rows,
                                                          .columns = kColumns,
                                                          .table_rows = table_rows,
                                                          .ids = a_ids.data(),
                                                          .id_stride = 1,
                                                          .rstd = nullptr,
                                                          .rotation = {},
                                                          .d_out = a_d_out.data(),
                                                          .d_table = d_table.data(),
                                                          .accumulate = false,
                                                          .scratch = a_scratch.data()});
        const Values part(expected.begin(), expected.begin() + table_rows * kColumns);
        expect_close(d_table.read(), part, {0, 0}, "d_table");
      }
    }
}

TYPED_TEST(CudaProjection, SumsByIdRepeat) {
  using T = TypeParam;
  const Case& c = kCases[3];
  const Data<T> d(c);
  const DeviceArray<int32_t> scratch(static_cast<size_t>(c.sizes[0] + 1 + d.rows));
  const Array<float> d_table(c.sizes[0] * c.columns);
  this->expect_repeatable([] {},
                          [&] {
                            kernels::projected_rows_backward(this->launch(), {.type = kType<T>,
                                                                              .rows = d.rows,
                                                                              .columns = c.columns,
                                                                              .table_rows = c.sizes[0],
                                                                              .ids = d.device.ids[0],
                                                                              .id_stride = 1,
                                                                              .rstd = nullptr,
                                                                              .rotation = d.a_rotation,
                                                                              .d_out = d.a_d_out.data(),
                                                                              .d_table = d_table.data(),
                                                                              .accumulate = false,
                                                                              .scratch = scratch.data()});
                          },
                          d_table);
}

TYPED_TEST(CudaProjection, ScaleBackward) {
  using T = TypeParam;
  for (const Case& c : kCases)
    for (const bool accumulate : {false, true}) {
      SCOPED_TRACE(c.name);
      const Data<T> d(c);
      Values d_rstd(d.rstd), d_offset(d.offset);
      const Array<float> a_d_rstd(d_rstd), a_d_offset(d_offset);
      kernels::cpu::projected_scale_backward({.type = DType::f64,
                                              .rows = d.rows,
                                              .columns = c.columns,
                                              .examples = c.examples,
                                              .terms = d.host,
                                              .d_out = d.d_out.data(),
                                              .d_rstd = d_rstd.data(),
                                              .accumulate_rstd = accumulate,
                                              .d_offset = d_offset.data(),
                                              .accumulate_offset = accumulate});
      kernels::projected_scale_backward(this->launch(), {.type = kType<T>,
                                                         .rows = d.rows,
                                                         .columns = c.columns,
                                                         .examples = c.examples,
                                                         .terms = d.device,
                                                         .d_out = d.a_d_out.data(),
                                                         .d_rstd = a_d_rstd.data(),
                                                         .accumulate_rstd = accumulate,
                                                         .d_offset = a_d_offset.data(),
                                                         .accumulate_offset = accumulate});
      expect_close(a_d_rstd.read(), d_rstd, {1e-5, 2e-5}, "d_rstd");
      expect_close(a_d_offset.read(), d_offset, {1e-5, 2e-5}, "d_offset");
    }
}

/// The following tests are of tables, all in f32.
class CudaTables : public CudaKernelTest<float> {};

TEST_F(CudaTables, VariancesOfSums) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    const Data<float> d(c);
    Values rstd(static_cast<size_t>(d.rows));
    const Array<float> a_rstd(d.rows);
    const kernels::SumRstd host{.type = DType::f64,
                                .rows = d.rows,
                                .columns = c.columns,
                                .examples = c.examples,
                                .terms = d.host,
                                .rstd = rstd.data()},
        device{DType::f32, d.rows, c.columns, c.examples, d.device, a_rstd.data()};
    kernels::cpu::sum_rstd(host);
    kernels::sum_rstd(launch(), device);
    expect_close(a_rstd.read(), rstd, {1e-5, 1e-6}, "rstd");
    const Values d_rstd = random_values<float>(d.rows, 12);
    const Array<float> a_d_rstd(d_rstd);
    for (size_t t = 0; t < c.sizes.size(); ++t)
      for (const bool accumulate : {false, true}) {
        const int32_t size = c.sizes[t];
        const Values old = random_values<float>(size * c.columns, 13);
        Values expected(old);
        Ints scratch(static_cast<size_t>(size + 1 + d.rows));
        const DeviceArray<int32_t> a_scratch(scratch.size());
        const Array<float> d_table(old);
        kernels::cpu::sum_rstd_backward({.forward = host,
                                         .d_rstd = d_rstd.data(),
                                         .table = static_cast<int>(t),
                                         .table_rows = size,
                                         .d_table = expected.data(),
                                         .accumulate = accumulate,
                                         .scratch = scratch.data()});
        kernels::sum_rstd_backward(launch(), {.forward = device,
                                              .d_rstd = a_d_rstd.data(),
                                              .table = static_cast<int>(t),
                                              .table_rows = size,
                                              .d_table = d_table.data(),
                                              .accumulate = accumulate,
                                              .scratch = a_scratch.data()});
        expect_close(d_table.read(), expected, {2e-5, 2e-5}, "d_table");
      }
  }
}

struct MatrixSize {
  int64_t rows, columns;
};

const MatrixSize kSizes[] = {{300, 512}, {65, 48}, {33, 7}, {5, 1}, {2048, 264}};

TEST_F(CudaTables, CentreRows) {
  for (const auto& [rows, columns] : kSizes)
    for (const bool accumulate : {false, true}) {
      const Values x = random_values<float>(rows * columns, 1, 1, 2),
                   old = random_values<float>(rows * columns, 2);
      Values y(old);
      const Array<float> a_x(x), a_y(old);
      kernels::cpu::center_rows({.type = DType::f64,
                                 .rows = rows,
                                 .columns = columns,
                                 .x = x.data(),
                                 .y = y.data(),
                                 .accumulate = accumulate});
      kernels::center_rows(launch(), {.type = DType::f32,
                                      .rows = rows,
                                      .columns = columns,
                                      .x = a_x.data(),
                                      .y = a_y.data(),
                                      .accumulate = accumulate});
      expect_close(a_y.read(), y, {1e-5, 1e-5}, "y");
      if (accumulate) continue;
      kernels::center_rows(launch(), {.type = DType::f32,
                                      .rows = rows,
                                      .columns = columns,
                                      .x = a_x.data(),
                                      .y = a_x.data(),
                                      .accumulate = false});
      expect_close(a_x.read(), y, {1e-5, 1e-5}, "y in place");
    }
}

TEST_F(CudaTables, ScaleColumns) {
  for (const auto& [rows, columns] : kSizes)
    for (const bool accumulate : {false, true}) {
      const int64_t n = rows * columns;
      const Values x = random_values<float>(n, 1), scale = random_values<float>(columns, 2),
                   d_y = random_values<float>(n, 3);
      Values y(x), d_x(x), d_scale(scale);
      const Array<float> a_x(x), a_scale(scale), a_d_y(d_y), a_y(n), a_d_x(d_x), a_d_scale(d_scale);
      kernels::cpu::scale_columns({.type = DType::f64,
                                   .rows = rows,
                                   .columns = columns,
                                   .x = x.data(),
                                   .scale = scale.data(),
                                   .y = y.data()});
      kernels::scale_columns(launch(), {.type = DType::f32,
                                        .rows = rows,
                                        .columns = columns,
                                        .x = a_x.data(),
                                        .scale = a_scale.data(),
                                        .y = a_y.data()});
      expect_close(a_y.read(), y, {1e-6, 0}, "y");
      kernels::cpu::scale_columns_backward({.type = DType::f64,
                                            .rows = rows,
                                            .columns = columns,
                                            .x = x.data(),
                                            .scale = scale.data(),
                                            .d_y = d_y.data(),
                                            .d_x = d_x.data(),
                                            .accumulate_x = accumulate,
                                            .d_scale = d_scale.data(),
                                            .accumulate_scale = accumulate});
      kernels::scale_columns_backward(launch(), {.type = DType::f32,
                                                 .rows = rows,
                                                 .columns = columns,
                                                 .x = a_x.data(),
                                                 .scale = a_scale.data(),
                                                 .d_y = a_d_y.data(),
                                                 .d_x = a_d_x.data(),
                                                 .accumulate_x = accumulate,
                                                 .d_scale = a_d_scale.data(),
                                                 .accumulate_scale = accumulate});
      expect_close(a_d_x.read(), d_x, {1e-5, 1e-6}, "d_x");
      expect_close(a_d_scale.read(), d_scale, {1e-5, 1e-5}, "d_scale");
    }
}

}  // namespace
}  // namespace perceiver
