// CUDA kernels of cache attention against the CPU's.
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/attention.h"
#include "kernels/embedding.h"
#include "tests/support/cuda_check.h"

namespace perceiver::testing {
namespace {

/// Infinities must agree.
void expect_lse(const Values& actual, const Values& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isinf(expected[i])) {
      ASSERT_EQ(actual[i], expected[i]) << "lse " << i;
    } else {
      ASSERT_NEAR(actual[i], expected[i], 2e-4 * std::max(1.0, std::fabs(expected[i]))) << "lse " << i;
    }
  }
}

template <typename T>
class CudaCacheAttention : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaCacheAttention, ElementTypes);

TYPED_TEST(CudaCacheAttention, Rows) {
  using T = TypeParam;
  for (const auto& [slots, queries, heads, d, capacity] :
       {std::tuple{1, 1, 1, 4, 1}, {3, 1, 2, 64, 70}, {2, 2, 3, 24, 1000}, {1, 1, 4, 128, 20000}}) {
    const int64_t width = heads * d;
    const Values q = random_values<T>(slots * queries * width, 1),
                 rings = random_values<T>(slots * capacity * 2 * width, 2);
    Ints count;
    for (int64_t s = 0; s < slots; ++s)
      count.push_back(static_cast<int32_t>(capacity - s * capacity / slots));
    if (slots > 1) count.back() = 0;
    Values expected(static_cast<size_t>(slots * queries * width)),
        expected_lse(static_cast<size_t>(slots * queries * heads));
    kernels::CacheAttention k{};
    k.type = DType::f64;
    k.slots = slots, k.queries = queries, k.heads = heads, k.head_dim = d, k.capacity = capacity;
    k.q_stride = k.out_stride = width;
    k.q = q.data(), k.cache = rings.data(), k.count = count.data(), k.out = expected.data();
    k.lse = expected_lse.data();
    kernels::cpu::cache_attention(k);
    const Array<T> q_device(q), rings_device(rings), out(slots * queries * width);
    const Array<float> lse(slots * queries * heads);
    const DeviceArray<int32_t> count_device(count);
    k.type = k.cache_type = kType<T>;
    k.lse = lse.data();
    k.q = q_device.data(), k.cache = rings_device.data(), k.count = count_device.data(), k.out = out.data();
    kernels::cuda::cache_attention(this->launch(), k);
    expect_close(out.read(), expected, {bound_of<T>().relative, 1e-4}, "attention");
    expect_lse(lse.read(), expected_lse);
  }
}

TYPED_TEST(CudaCacheAttention, RowsOfEightBits) {
  using T = TypeParam;
  for (const auto& [slots, queries, heads, d, capacity] :
       {std::tuple{3, 1, 2, 64, 70}, {2, 2, 3, 24, 1000}, {1, 1, 4, 128, 20000}}) {
    const int64_t width = heads * d;
    const Values q = random_values<T>(slots * queries * width, 1);
    Values rings = random_values<T>(slots * capacity * 2 * width, 2);
    const DeviceArray<uint8_t> codes(rounded_to_e4m3(rings));
    const Ints count(static_cast<size_t>(slots), static_cast<int32_t>(capacity - 1));
    Values expected(static_cast<size_t>(slots * queries * width));
    kernels::CacheAttention k{};
    k.type = DType::f64;
    k.slots = slots, k.queries = queries, k.heads = heads, k.head_dim = d, k.capacity = capacity;
    k.q_stride = k.out_stride = width;
    k.q = q.data(), k.cache = rings.data(), k.count = count.data(), k.out = expected.data();
    kernels::cpu::cache_attention(k);
    const Array<T> q_device(q), out(slots * queries * width);
    const DeviceArray<int32_t> count_device(count);
    k.type = kType<T>, k.cache_type = DType::e4m3;
    k.q = q_device.data(), k.cache = codes.data(), k.count = count_device.data(), k.out = out.data();
    kernels::cuda::cache_attention(this->launch(), k);
    expect_close(out.read(), expected, {bound_of<T>().relative, 1e-4}, "attention");
  }
}

/// A context of tokens for attention by table: on the host in f64, with the KV caches that it stands for.
struct TableShape {
  int64_t slots, queries, heads, rotary_heads, d, bands, capacity, vocabulary;
  bool negative = true;  // positions of both signs
  int64_t width() const { return heads * d; }
  int64_t outputs() const { return slots * queries * width(); }
  int64_t lses() const { return slots * queries * heads; }
};

template <typename T>
struct TableProblem {
  TableShape shape;
  Values q, table, rings, cosine, sine, expected, expected_lse;
  Ints tokens, positions, count;

  explicit TableProblem(const TableShape& s)
      : shape(s),
        q(random_values<T>(s.outputs(), 1)),
        table(random_values<T>(s.vocabulary * 2 * s.width(), 2)),
        rings(static_cast<size_t>(s.slots * s.capacity * 2 * s.width())),
        expected(static_cast<size_t>(s.outputs())),
        expected_lse(static_cast<size_t>(s.lses())),
        tokens(random_ints(s.slots * s.capacity, 3, static_cast<int32_t>(s.vocabulary))) {
    const int64_t rows = 2 * s.capacity + 1;
    for (int64_t p = 0; p < rows; ++p)
      for (int64_t i = 0; i < s.bands; ++i) {
        const double angle =
            static_cast<double>(p) *
            std::pow(static_cast<double>(rows), -static_cast<double>(i) / static_cast<double>(s.bands));
        cosine.push_back(static_cast<double>(static_cast<float>(std::cos(angle))));
        sine.push_back(static_cast<double>(static_cast<float>(std::sin(angle))));
      }
    positions = random_ints(s.slots * s.capacity, 4, static_cast<int32_t>(s.negative ? 2 * rows - 1 : rows));
    if (s.negative)
      for (int32_t& p : positions) p -= static_cast<int32_t>(rows - 1);
    // Full, empty, one row, and in between.
    for (int64_t i = 0; i < s.slots; ++i)
      count.push_back(static_cast<int32_t>(i == 0   ? s.capacity
                                           : i == 1 ? 0
                                           : i == 2 ? 1
                                                    : s.capacity * i / s.slots));
    fill();
  }

  /// Computes what follows from the query, the table, the tokens and the positions.
  void fill() {
    const int64_t row = 2 * shape.width(), rows = shape.slots * shape.capacity;
    for (int64_t i = 0; i < rows; ++i)
      std::copy_n(table.begin() + tokens[static_cast<size_t>(i)] * row, row, rings.begin() + i * row);
    kernels::cpu::rotary({.type = DType::f64,
                          .rows = rows,
                          .row_stride = row,
                          .heads = shape.rotary_heads,
                          .head_dim = shape.d,
                          .bands = shape.bands,
                          .x = rings.data(),
                          .positions = positions.data(),
                          .cosine = cosine.data(),
                          .sine = sine.data(),
                          .direction = 1});
    kernels::CacheAttention k = sizes(DType::f64);
    k.q = q.data(), k.cache = rings.data(), k.count = count.data(), k.out = expected.data();
    k.lse = expected_lse.data();
    kernels::cpu::cache_attention(k);
  }

  kernels::CacheAttention sizes(DType type) const {
    kernels::CacheAttention k{};
    k.type = k.cache_type = type;
    k.slots = shape.slots, k.queries = shape.queries, k.heads = shape.heads, k.head_dim = shape.d;
    k.capacity = shape.capacity;
    k.q_stride = k.out_stride = shape.width();
    return k;
  }
};

/// The same on the device.
template <typename T>
struct DeviceTableProblem {
  Array<T> q, table, rings, out;
  Array<float> lse, cosine, sine;
  DeviceArray<int32_t> tokens, positions, count;
  kernels::CacheAttention by_rings, by_table;

  /// `shift`: elements by which q, the table and the angles miss an aligned address.
  explicit DeviceTableProblem(const TableProblem<T>& p, int64_t shift = 0)
      : q(p.q, shift),
        table(p.table, shift),
        rings(p.rings),
        out(p.shape.outputs()),
        lse(p.shape.lses()),
        cosine(p.cosine, shift),
        sine(p.sine, shift),
        tokens(p.tokens),
        positions(p.positions),
        count(p.count),
        by_rings(p.sizes(kType<T>)) {
    by_rings.q = q.data(), by_rings.count = count.data(), by_rings.out = out.data();
    by_rings.lse = lse.data();
    by_table = by_rings;
    by_rings.cache = rings.data();
    by_table.table = table.data(), by_table.vocabulary = p.shape.vocabulary;
    by_table.tokens = tokens.data(), by_table.positions = positions.data();
    by_table.cosine = cosine.data(), by_table.sine = sine.data();
    by_table.bands = p.shape.bands, by_table.rotary_heads = p.shape.rotary_heads;
  }
};

double largest_error(const Values& actual, const Values& expected) {
  double error = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double each = std::fabs(actual[i] - expected[i]);
    error = each <= error ? error : each;  // a NaN stays
  }
  return error;
}

// At most twice the error, against f64, of attention over the KV caches.
TYPED_TEST(CudaCacheAttention, Table) {
  using T = TypeParam;
  std::vector<TableShape> shapes{{1, 1, 1, 1, 2, 1, 1, 3},        {4, 1, 2, 2, 64, 16, 70, 259},
                                 {3, 2, 5, 3, 24, 5, 1000, 40},   {5, 3, 3, 0, 33, 0, 300, 7},
                                 {2, 1, 4, 4, 128, 64, 1500, 60}, {1, 1, 16, 16, 64, 16, 3000, 393},
                                 {4, 2, 3, 2, 32, 8, 900, 3000},  {2, 1, 1, 1, 512, 100, 600, 200}};
  if (!brief_tests()) shapes.push_back({2, 1, 16, 16, 64, 16, 40000, 259});
  for (const TableShape& shape : shapes) {
    SCOPED_TRACE(::testing::Message() << shape.slots << " slots, " << shape.heads << " heads of " << shape.d
                                      << ", " << shape.bands << " bands, " << shape.vocabulary << " tokens");
    const TableProblem<T> problem(shape);
    for (const int64_t shift : {0, 1}) {
      const DeviceTableProblem<T> device(problem, shift);
      kernels::cuda::cache_attention(this->launch(), device.by_rings);
      const double plain = largest_error(device.out.read(), problem.expected);
      kernels::cuda::cache_attention(this->launch(), device.by_table);
      const Values out = device.out.read();
      double largest = 0;
      for (const double x : problem.expected) largest = std::max(largest, std::fabs(x));
      EXPECT_LE(largest_error(out, problem.expected), 2 * plain + 1e-6 * largest) << "shift " << shift;
      expect_close(out, problem.expected, {bound_of<T>().relative, 1e-4}, "by table");
      expect_lse(device.lse.read(), problem.expected_lse);
    }
  }
}

// Scores far apart, and a context that repeats one token.
TYPED_TEST(CudaCacheAttention, TableOfExtremes) {
  using T = TypeParam;
  for (const double size : {1e-3, 30.0}) {
    TableProblem<T> problem({2, 1, 4, 2, 64, 16, 2000, 100, false});
    for (double& x : problem.q) x = widen(narrow<T>(x * size));
    std::fill_n(problem.tokens.begin(), 1500, 17);
    problem.fill();
    const DeviceTableProblem<T> device(problem);
    kernels::cuda::cache_attention(this->launch(), device.by_rings);
    const double plain = largest_error(device.out.read(), problem.expected);
    kernels::cuda::cache_attention(this->launch(), device.by_table);
    EXPECT_LE(largest_error(device.out.read(), problem.expected), 2 * plain + 1e-6) << size;
  }
}

// A slot's results are bitwise those of the slot alone.
TYPED_TEST(CudaCacheAttention, TableDoesNotDependOnTheOtherSlots) {
  using T = TypeParam;
  for (const int64_t vocabulary : {259, 3000}) {
    const TableProblem<T> problem({5, 2, 6, 6, 32, 8, 1300, vocabulary});
    const DeviceTableProblem<T> device(problem);
    kernels::cuda::cache_attention(this->launch(), device.by_table);
    const Values all = device.out.read();
    const int64_t part = problem.shape.outputs() / problem.shape.slots;
    for (int64_t s = 0; s < problem.shape.slots; ++s) {
      kernels::CacheAttention alone = device.by_table;
      alone.slots = 1;
      alone.q = device.q.data() + s * part, alone.count = device.count.data() + s;
      alone.tokens = device.tokens.data() + s * alone.capacity;
      alone.positions = device.positions.data() + s * alone.capacity;
      kernels::cuda::cache_attention(this->launch(), alone);
      const Values out = device.out.read();
      ASSERT_TRUE(std::equal(out.begin(), out.begin() + part, all.begin() + s * part)) << "slot " << s;
    }
  }
}

TYPED_TEST(CudaCacheAttention, TableIsRepeatable) {
  using T = TypeParam;
  const TableProblem<T> problem({3, 1, 8, 8, 64, 16, 6000, 259});
  const DeviceTableProblem<T> device(problem);
  this->expect_repeatable([] {}, [&] { kernels::cuda::cache_attention(this->launch(), device.by_table); },
                          device.out);
}

}  // namespace
}  // namespace perceiver::testing
