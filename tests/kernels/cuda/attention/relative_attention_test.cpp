// CUDA kernels of relative attention and of the memory before a segment against the CPU's in f64.
#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/relative_attention.h"
#include "tests/support/cuda_check.h"

namespace perceiver::testing {
namespace {

struct RelativeProblemShape {
  int64_t batch, heads, d, queries, memory, distances, window;
  double dropout = 0;
  int64_t keys() const { return memory + queries; }
  int64_t width() const { return heads * d; }
};

const RelativeProblemShape kShapes[] = {
    {2, 2, 16, 5, 7, 12, 0},         {1, 1, 64, 64, 0, 64, 0},      {2, 3, 64, 130, 97, 227, 0},
    {3, 2, 24, 70, 200, 41, 100},    {1, 2, 128, 67, 129, 196, 33}, {2, 2, 10, 33, 20, 9, 20},
    {9, 1, 32, 64, 64, 128, 0, 0.3}, {1, 4, 80, 200, 300, 120, 0},  {2, 1, 3, 4, 4, 2, 0},
    {2, 1, 64, 1, 300, 301, 0},      {1, 1, 96, 300, 5, 305, 0},    {2, 1, 128, 150, 250, 400, 0, 0.2},
    {1, 1, 64, 257, 513, 770, 0},    {9, 2, 64, 129, 255, 90, 70},  {2, 1, 64, 300, 100, 200, 70, 0.1},
};

/// Operands, and what the CPU makes of them in f64.
template <typename T>
struct RelativeProblem {
  RelativeProblemShape shape;
  Values q, kv, u, v, positions, d_out;
  Ints first;
  Values out, lse, d_q, d_kv, d_u, d_v, d_positions;
  uint64_t step = 5;

  explicit RelativeProblem(const RelativeProblemShape& s)
      : shape(s),
        q(random_values<T>(s.batch * s.queries * s.width(), 1)),
        kv(random_values<T>(s.batch * s.keys() * 2 * s.width(), 2)),
        u(random_values<T>(s.width(), 3)),
        v(random_values<T>(s.width(), 4)),
        positions(random_values<T>(s.distances * s.width(), 5)),
        d_out(random_values<T>(q.size(), 6)),
        out(q.size()),
        lse(static_cast<size_t>(s.batch * s.heads * s.queries)),
        d_q(q.size()),
        d_kv(kv.size()),
        d_u(u.size(), 1.0),
        d_v(v.size()),
        d_positions(positions.size()) {
    for (int64_t b = 0; b < s.batch; ++b) first.push_back(static_cast<int32_t>(b == 0 ? 0 : s.memory / b));
    kernels::cpu::relative_attention_backward(backward_on_host());
  }

  kernels::RelativeAttention arguments(DType type) const {
    kernels::RelativeAttention k{};
    k.type = type;
    k.batch = shape.batch, k.heads = shape.heads, k.head_dim = shape.d;
    k.queries = shape.queries, k.keys = shape.keys();
    k.q_stride = k.out_stride = shape.width(), k.kv_stride = 2 * shape.width();
    k.distances = shape.distances, k.window = shape.window;
    if (shape.dropout > 0) {
      k.dropout.seed = 7, k.dropout.op = 3, k.dropout.first_element = 12;
      k.dropout.threshold = static_cast<uint32_t>(std::ldexp(shape.dropout, 32));
      k.dropout.scale = 1 / (1 - shape.dropout);
    }
    return k;
  }

 private:
  kernels::RelativeAttentionBackward backward_on_host() {
    kernels::RelativeAttention k = arguments(DType::f64);
    k.q = q.data(), k.k = kv.data(), k.v = kv.data() + shape.width();
    k.content_bias = u.data(), k.position_bias = v.data(), k.positions = positions.data();
    k.first = first.data(), k.dropout.step = &step, k.out = out.data(), k.lse = lse.data();
    kernels::cpu::relative_attention(k);
    return {.forward = k,
            .d_out = d_out.data(),
            .d_q = d_q.data(),
            .d_k = d_kv.data(),
            .d_v = d_kv.data() + shape.width(),
            .d_content_bias = d_u.data(),
            .d_position_bias = d_v.data(),
            .accumulate_content_bias = true,
            .d_positions = d_positions.data()};
  }
};

/// The same on the device.
template <typename T>
struct RelativeOnDevice {
  explicit RelativeOnDevice(const RelativeProblem<T>& p)
      : q(p.q),
        kv(p.kv),
        u(p.u),
        v(p.v),
        positions(p.positions),
        d_out(p.d_out),
        out(static_cast<int64_t>(p.out.size())),
        d_q(static_cast<int64_t>(p.d_q.size())),
        d_kv(static_cast<int64_t>(p.d_kv.size())),
        d_positions(static_cast<int64_t>(p.d_positions.size())),
        lse(static_cast<int64_t>(p.lse.size())),
        d_u(Values(p.u.size(), 1.0)),
        d_v(static_cast<int64_t>(p.v.size())),
        first(p.first),
        step(std::vector<uint64_t>{p.step}),
        forward(p.arguments(kType<T>)) {
    const int64_t width = p.shape.width();
    forward.q = q.data(), forward.k = kv.data(), forward.v = kv.data() + width;
    forward.content_bias = u.data(), forward.position_bias = v.data(), forward.positions = positions.data();
    forward.first = first.data(), forward.dropout.step = step.data();
    forward.out = out.data(), forward.lse = lse.data();
  }

  kernels::RelativeAttentionBackward backward(const DeviceArray<uint8_t>& scratch) const {
    return {.forward = forward,
            .d_out = d_out.data(),
            .d_q = d_q.data(),
            .d_k = d_kv.data(),
            .d_v = d_kv.data() + forward.heads * forward.head_dim,
            .d_content_bias = d_u.data(),
            .d_position_bias = d_v.data(),
            .accumulate_content_bias = true,
            .d_positions = d_positions.data(),
            .scratch = scratch.data()};
  }

  Array<T> q, kv, u, v, positions, d_out, out, d_q, d_kv, d_positions;
  Array<float> lse, d_u, d_v;
  DeviceArray<int32_t> first;
  DeviceArray<uint64_t> step;
  kernels::RelativeAttention forward;
};

template <typename T>
class CudaRelativeAttention : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaRelativeAttention, ElementTypes);

/// Sums of products of rounded operands: the error grows with what is added up.
template <typename T>
constexpr Bound relative_bound() {
  return sizeof(T) == 2 ? Bound{2.0 / 128, 1.5e-2} : Bound{2e-5, 2e-5};
}

TYPED_TEST(CudaRelativeAttention, ForwardAndBackward) {
  using T = TypeParam;
  for (const RelativeProblemShape& shape : kShapes) {
    SCOPED_TRACE(::testing::Message()
                 << shape.queries << " queries, memory " << shape.memory << ", d " << shape.d);
    const RelativeProblem<T> problem(shape);
    const RelativeOnDevice<T> device(problem);
    kernels::cuda::relative_attention(this->launch(), device.forward);
    expect_close(device.out.read(), problem.out, relative_bound<T>(), "out");
    expect_close(device.lse.read(), problem.lse, {2e-2, 2e-3}, "lse");
    const DeviceArray<uint8_t> scratch(
        static_cast<size_t>(kernels::cuda::relative_attention_backward_scratch(device.forward)));
    kernels::cuda::relative_attention_backward(this->launch(), device.backward(scratch));
    expect_close(device.d_q.read(), problem.d_q, relative_bound<T>(), "d_q");
    expect_close(device.d_kv.read(), problem.d_kv, relative_bound<T>(), "d_kv");
    expect_close(device.d_positions.read(), problem.d_positions, relative_bound<T>(), "d_positions");
    const Bound sums{relative_bound<T>().relative, 3 * relative_bound<T>().absolute};  // much cancels out
    expect_close(device.d_u.read(), problem.d_u, sums, "d_u");
    expect_close(device.d_v.read(), problem.d_v, sums, "d_v");
  }
}

TYPED_TEST(CudaRelativeAttention, RowsThatSeeNothing) {
  using T = TypeParam;
  RelativeProblem<T> problem({1, 2, 32, 40, 8, 48, 0});
  const RelativeOnDevice<T> device(problem);
  device.first.write({48});  // beyond the keys
  kernels::cuda::relative_attention(this->launch(), device.forward);
  for (const double x : device.out.read()) ASSERT_EQ(x, 0);
  for (const double x : device.lse.read()) ASSERT_EQ(x, INFINITY);
  const DeviceArray<uint8_t> scratch(
      static_cast<size_t>(kernels::cuda::relative_attention_backward_scratch(device.forward)));
  kernels::cuda::relative_attention_backward(this->launch(), device.backward(scratch));
  for (const Array<T>* gradient : {&device.d_q, &device.d_kv, &device.d_positions})
    for (const double x : gradient->read()) ASSERT_EQ(x, 0);
}

TYPED_TEST(CudaRelativeAttention, Repeats) {
  using T = TypeParam;
  const RelativeProblem<T> problem({4, 2, 64, 130, 97, 100, 0});
  const RelativeOnDevice<T> device(problem);
  const DeviceArray<uint8_t> scratch(
      static_cast<size_t>(kernels::cuda::relative_attention_backward_scratch(device.forward)));
  const auto run = [&] {
    kernels::cuda::relative_attention(this->launch(), device.forward);
    kernels::cuda::relative_attention_backward(this->launch(), device.backward(scratch));
  };
  this->expect_repeatable([] {}, run, device.d_positions);
  this->expect_repeatable([] {}, run, device.d_kv);
  this->expect_repeatable([&] { device.d_u.write(Values(problem.u.size(), 1.0)); }, run, device.d_u);
}

TYPED_TEST(CudaRelativeAttention, Caches) {
  using T = TypeParam;
  for (const auto& [slots, heads, d, capacity, distances, window] : {std::tuple{1, 1, 4, 1, 1, 0},
                                                                     {3, 2, 64, 70, 70, 0},
                                                                     {2, 3, 24, 300, 40, 0},
                                                                     {4, 2, 128, 65, 65, 33}}) {
    const int64_t width = heads * d;
    const Values q = random_values<T>(slots * width, 1), u = random_values<T>(width, 3),
                 v = random_values<T>(width, 4), positions = random_values<T>(distances * width, 5);
    Values rings = random_values<T>(slots * capacity * 2 * width, 2);
    Ints count, row;
    for (int64_t s = 0; s < slots; ++s) {
      count.push_back(static_cast<int32_t>(std::max<int64_t>(1, capacity - s * capacity / slots)));
      row.push_back(static_cast<int32_t>((s * 7 + 3) % capacity));
    }
    Values expected(static_cast<size_t>(slots * width));
    kernels::RelativeCacheAttention k{};
    k.type = DType::f64;
    k.slots = slots, k.heads = heads, k.head_dim = d, k.capacity = capacity;
    k.q_stride = k.out_stride = width, k.distances = distances, k.window = window;
    k.q = q.data(), k.cache = rings.data(), k.count = count.data(), k.row = row.data();
    k.content_bias = u.data(), k.position_bias = v.data(), k.positions = positions.data();
    k.out = expected.data();
    kernels::cpu::relative_cache_attention(k);
    const Array<T> q_device(q), rings_device(rings), u_device(u), v_device(v), positions_device(positions),
        out(slots * width);
    const DeviceArray<int32_t> count_device(count), row_device(row);
    k.type = k.cache_type = kType<T>;
    k.q = q_device.data(), k.cache = rings_device.data(), k.count = count_device.data(),
    k.row = row_device.data();
    k.content_bias = u_device.data(), k.position_bias = v_device.data(),
    k.positions = positions_device.data();
    k.out = out.data();
    kernels::cuda::relative_cache_attention(this->launch(), k);
    expect_close(out.read(), expected, relative_bound<T>(), "attention");

    const DeviceArray<uint8_t> codes(rounded_to_e4m3(rings));
    const Array<T> rounded_device(rings), out_of_codes(slots * width);
    k.cache = rounded_device.data();
    kernels::cuda::relative_cache_attention(this->launch(), k);
    k.cache = codes.data(), k.cache_type = DType::e4m3, k.out = out_of_codes.data();
    kernels::cuda::relative_cache_attention(this->launch(), k);
    expect_close(out_of_codes.read(), out.read(), relative_bound<T>(), "attention with e4m3");
  }
}

template <typename T>
class CudaSegmentMemory : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaSegmentMemory, ElementTypes);

TYPED_TEST(CudaSegmentMemory, PrependsAndRemembers) {
  using T = TypeParam;
  for (const auto& [batch, memory, rows, columns] :
       {std::tuple{2, 3, 5, 7}, {3, 70, 33, 100}, {1, 8, 1, 1030}, {2, 1, 9, 64}}) {
    const Values hidden = random_values<T>(batch * memory * columns, 1),
                 x = random_values<T>(batch * rows * columns, 2),
                 d_out = random_values<T>(batch * (memory + rows) * columns, 3);
    Ints remembered;
    for (int64_t b = 0; b < batch; ++b) remembered.push_back(static_cast<int32_t>(memory - b % (memory + 1)));
    Values joined(d_out.size()), next(hidden.size()), d_x = x;
    kernels::PrependMemory k{.type = DType::f64,
                             .batch = batch,
                             .memory = memory,
                             .rows = rows,
                             .columns = columns,
                             .hidden = hidden.data(),
                             .remembered = remembered.data(),
                             .x = x.data(),
                             .out = joined.data(),
                             .next = next.data()};
    kernels::PrependMemoryBackward backward{.type = DType::f64,
                                            .batch = batch,
                                            .memory = memory,
                                            .rows = rows,
                                            .columns = columns,
                                            .d_out = d_out.data(),
                                            .d_x = d_x.data(),
                                            .accumulate = true};
    kernels::cpu::prepend_memory(k);
    kernels::cpu::prepend_memory_backward(backward);
    const Array<T> hidden_device(hidden), x_device(x), d_out_device(d_out), d_x_device(x),
        joined_device(static_cast<int64_t>(joined.size())), next_device(static_cast<int64_t>(next.size()));
    const DeviceArray<int32_t> remembered_device(remembered);
    k.type = backward.type = kType<T>;
    k.hidden = hidden_device.data(), k.remembered = remembered_device.data(), k.x = x_device.data();
    k.out = joined_device.data(), k.next = next_device.data();
    backward.d_out = d_out_device.data(), backward.d_x = d_x_device.data();
    kernels::cuda::prepend_memory(this->launch(), k);
    kernels::cuda::prepend_memory_backward(this->launch(), backward);
    EXPECT_EQ(joined_device.read(), joined);
    EXPECT_EQ(next_device.read(), next);
    expect_close(d_x_device.read(), d_x, bound_of<T>(), "d_x");
  }
}

TYPED_TEST(CudaSegmentMemory, CopiesOnlyWhatIsFinite) {
  using T = TypeParam;
  const Values source = random_values<T>(1000, 1), target = random_values<T>(1000, 2);
  for (const uint64_t finite : {0, 1}) {
    const Array<T> source_device(source), target_device(target);
    const DeviceArray<uint64_t> flag(std::vector<uint64_t>{finite});
    kernels::cuda::copy_if_finite(this->launch(), {.type = kType<T>,
                                                   .elements = 1000,
                                                   .source = source_device.data(),
                                                   .target = target_device.data(),
                                                   .finite = flag.data()});
    EXPECT_EQ(target_device.read(), finite != 0 ? source : target);
  }
}

}  // namespace
}  // namespace perceiver::testing
