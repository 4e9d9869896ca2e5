// Attention over parts of the keys, joined on CUDA: the join against the CPU's in f64, and split attention,
// forward and backward, against attention over all keys.
#include "kernels/attention_join.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "kernels/attention.h"
#include "model/context_share.h"
#include "tests/support/cuda_check.h"

namespace perceiver::testing {
namespace {

using kernels::AttentionKernel;

struct Shape {
  int64_t batch, heads, queries, head_dim;
  int64_t width() const { return heads * head_dim; }
  int64_t outs() const { return batch * queries * width(); }
  int64_t lses() const { return batch * heads * queries; }
};

template <typename T>
class CudaAttentionJoin : public CudaKernelTest<T> {};
TYPED_TEST_SUITE(CudaAttentionJoin, ElementTypes);

/// A third of the log-sum-exps are infinite, and all of the first row's.
Values log_sum_exps(const Shape& s, uint32_t seed) {
  Values lse = random_values<float>(s.lses(), seed, 4);
  const Ints choice = random_ints(s.lses(), seed + 100, 3);
  for (size_t i = 0; i < lse.size(); ++i)
    if (choice[i] == 0 || i == 0) lse[i] = INFINITY;
  return lse;
}

template <typename T>
void set_blind_rows_to_zero(const Shape& s, const Values& lse, Values& out) {
  for (int64_t row = 0; row < s.batch * s.queries; ++row)
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t b = row / s.queries, i = row % s.queries;
      if (std::isinf(lse[static_cast<size_t>((b * s.heads + h) * s.queries + i)]))
        std::fill_n(out.begin() + row * s.width() + h * s.head_dim, s.head_dim, 0.0);
    }
}

TYPED_TEST(CudaAttentionJoin, MatchesTheCpu) {
  using T = TypeParam;
  for (const Shape& s : {Shape{2, 3, 37, 64}, Shape{1, 1, 1, 16}, Shape{2, 2, 65, 5}, Shape{3, 4, 130, 128}})
    for (const int64_t parts : {1, 2, 3, 8})
      for (const int64_t shift : {0, 2}) {
        const int64_t out_bytes = (s.outs() * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16,
                      piece = out_bytes + s.lses() * static_cast<int64_t>(sizeof(float)) + 4 * shift;
        std::vector<uint8_t> bytes(static_cast<size_t>(parts * piece), 0xFF);
        Values wide;
        for (int64_t p = 0; p < parts; ++p) {
          const auto seed = static_cast<uint32_t>(10 * p);
          const Values lse = log_sum_exps(s, seed + 1);
          Values out = random_values<T>(s.outs(), seed + 2);
          set_blind_rows_to_zero<T>(s, lse, out);
          for (size_t i = 0; i < out.size(); ++i) {
            const T value = narrow<T>(out[i]);
            std::memcpy(bytes.data() + p * piece + static_cast<int64_t>(i * sizeof(T)), &value, sizeof(T));
          }
          for (size_t i = 0; i < lse.size(); ++i) {
            const auto value = static_cast<float>(lse[i]);
            std::memcpy(bytes.data() + p * piece + out_bytes + static_cast<int64_t>(i * sizeof(float)),
                        &value, sizeof(float));
          }
          wide.insert(wide.end(), out.begin(), out.end());
          wide.insert(wide.end(), lse.begin(), lse.end());
        }
        Values expected_out(static_cast<size_t>(s.outs())), expected_lse(static_cast<size_t>(s.lses()));
        kernels::cpu::attention_join({.type = DType::f64,
                                      .parts = parts,
                                      .batch = s.batch,
                                      .heads = s.heads,
                                      .queries = s.queries,
                                      .head_dim = s.head_dim,
                                      .part_out = wide.data(),
                                      .part_lse = wide.data() + s.outs(),
                                      .part_bytes = (s.outs() + s.lses()) * 8,
                                      .out = expected_out.data(),
                                      .lse = expected_lse.data()});
        const DeviceArray<uint8_t> on_device(bytes);
        const Array<T> out(s.outs(), shift);
        const Array<float> lse(s.lses());
        const auto run = [&] {
          kernels::attention_join(this->launch(), {.type = kType<T>,
                                                   .parts = parts,
                                                   .batch = s.batch,
                                                   .heads = s.heads,
                                                   .queries = s.queries,
                                                   .head_dim = s.head_dim,
                                                   .part_out = on_device.data(),
                                                   .part_lse = on_device.data() + out_bytes,
                                                   .part_bytes = piece,
                                                   .out = out.data(),
                                                   .lse = lse.data()});
        };
        run();
        expect_close(out.read(), expected_out, bound_of<T>(), "out");
        const Values actual_lse = lse.read();
        for (size_t i = 0; i < expected_lse.size(); ++i) {
          if (std::isinf(expected_lse[i])) {
            ASSERT_EQ(actual_lse[i], expected_lse[i]) << i;
          } else {
            ASSERT_NEAR(actual_lse[i], expected_lse[i], 1e-5) << i;
          }
        }
        if (parts == 3) this->expect_repeatable([] {}, run, out);
      }
}

/// Ragged examples whose keys are split as a shared context is (model/context_share.h). Of the short example,
/// the first queries see nothing, and some parts have no key at all.
struct Split {
  Shape shape;
  int64_t keys;
  AttentionKernel kernel;
  std::vector<int64_t> lengths;
  Values q, kv, d_out;

  template <typename T>
  static Split make(int64_t head_dim, AttentionKernel kernel) {
    Split s{{3, 2, 150, head_dim}, 700, kernel, {700, 1, 333}, {}, {}, {}};
    s.q = random_values<T>(s.shape.outs(), 1);
    s.kv = random_values<T>(s.shape.batch * s.keys * 2 * s.shape.width(), 2);
    s.d_out = random_values<T>(s.shape.outs(), 3);
    return s;
  }
  /// Calls body(key, place in the part) for the part's keys of example b.
  template <typename Body>
  void for_own_keys(int64_t b, int64_t part, int64_t parts, Body&& body) const {
    for (int64_t n = part; n < lengths[static_cast<size_t>(b)]; n += parts) body(n, n / parts);
  }
  Ints limits(int64_t part, int64_t parts) const {
    Ints limit;
    for (int64_t b = 0; b < shape.batch; ++b)
      for (int64_t i = 0; i < shape.queries; ++i)
        limit.push_back(static_cast<int32_t>(
            shared_columns(lengths[static_cast<size_t>(b)] - shape.queries + i + 1, part, parts)));
    return limit;
  }
  kernels::Attention arguments(int64_t columns) const {
    kernels::Attention k{};
    k.batch = shape.batch, k.heads = shape.heads, k.queries = shape.queries, k.keys = columns;
    k.head_dim = shape.head_dim;
    k.q_stride = k.out_stride = shape.width();
    k.kv_stride = 2 * shape.width();
    k.kernel = kernel;
    return k;
  }
};

struct Gradients {
  Values out, lse, d_q, d_kv;
};

Gradients whole_on_cpu(const Split& s) {
  const Shape& shape = s.shape;
  Gradients r{Values(s.q.size()), Values(static_cast<size_t>(shape.lses())), Values(s.q.size()),
              Values(s.kv.size())};
  const Ints limit = s.limits(0, 1);
  kernels::Attention k = s.arguments(s.keys);
  k.type = DType::f64;
  k.q = s.q.data(), k.k = s.kv.data(), k.v = s.kv.data() + shape.width();
  k.limit = limit.data();
  k.out = r.out.data(), k.lse = r.lse.data();
  kernels::cpu::attention(k);
  kernels::cpu::attention_backward({.forward = k,
                                    .d_out = s.d_out.data(),
                                    .d_q = r.d_q.data(),
                                    .d_k = r.d_kv.data(),
                                    .d_v = r.d_kv.data() + shape.width()});
  return r;
}

/// The keys of a part on the device, and what is computed with them.
template <typename T>
struct Part {
  int64_t columns;
  DeviceArray<int32_t> limit;
  Array<T> kv, d_q, d_kv;

  Part(const Split& s, int64_t part, int64_t parts)
      : columns(shared_columns(s.keys, 0, parts)),
        limit(s.limits(part, parts)),
        kv(own_rows(s, part, parts, columns)),
        d_q(s.shape.outs()),
        d_kv(s.shape.batch * columns * 2 * s.shape.width()) {}

  /// Rows beyond an example's keys hold arbitrary numbers.
  static Values own_rows(const Split& s, int64_t part, int64_t parts, int64_t columns) {
    const int64_t row = 2 * s.shape.width();
    Values own = random_values<T>(s.shape.batch * columns * row, 9, 10);
    for (int64_t b = 0; b < s.shape.batch; ++b)
      s.for_own_keys(b, part, parts, [&](int64_t key, int64_t place) {
        std::copy_n(s.kv.begin() + (b * s.keys + key) * row, row, own.begin() + (b * columns + place) * row);
      });
    return own;
  }
};

template <typename T>
class CudaSplitAttention : public CudaKernelTest<T> {
 protected:
  /// `parts` parts, one after the other.
  Gradients split(const Split& s, int64_t parts) {
    const Shape& shape = s.shape;
    const int64_t out_bytes = (shape.outs() * static_cast<int64_t>(sizeof(T)) + 15) / 16 * 16,
                  piece = (out_bytes + shape.lses() * 4 + 15) / 16 * 16;
    const DeviceArray<uint8_t> gathered(static_cast<size_t>(parts * piece));
    const Array<T> q(s.q), d_out(s.d_out), out(shape.outs());
    const Array<float> lse(shape.lses());
    std::vector<std::unique_ptr<Part<T>>> all;
    for (int64_t p = 0; p < parts; ++p) {
      const auto& part = all.emplace_back(std::make_unique<Part<T>>(s, p, parts));
      kernels::Attention k = arguments(s, q, *part);
      k.out = gathered.data() + p * piece;
      k.lse = gathered.data() + p * piece + out_bytes;
      kernels::attention(this->launch(), k);
    }
    kernels::attention_join(this->launch(), {.type = kType<T>,
                                             .parts = parts,
                                             .batch = shape.batch,
                                             .heads = shape.heads,
                                             .queries = shape.queries,
                                             .head_dim = shape.head_dim,
                                             .part_out = gathered.data(),
                                             .part_lse = gathered.data() + out_bytes,
                                             .part_bytes = piece,
                                             .out = out.data(),
                                             .lse = lse.data()});
    for (const auto& part : all) {
      kernels::AttentionBackward a{.forward = arguments(s, q, *part),
                                   .d_out = d_out.data(),
                                   .d_q = part->d_q.data(),
                                   .d_k = part->d_kv.data(),
                                   .d_v = part->d_kv.data() + shape.width()};
      a.forward.out = out.data();
      a.forward.lse = lse.data();
      const int64_t bytes = kernels::attention_backward_workspace(this->launch(), a);
      std::optional<DeviceArray<uint8_t>> scratch;
      if (bytes > 0) scratch.emplace(static_cast<size_t>(bytes));
      a.scratch = bytes > 0 ? scratch->data() : nullptr;
      kernels::attention_backward(this->launch(), a);
      this->synchronize();
    }
    return together(s, all, out.read(), lse.read());
  }

  void check(const Split& s) {
    const Gradients expected = whole_on_cpu(s), unsplit = split(s, 1);
    for (const int64_t parts : {2, 3}) {
      SCOPED_TRACE(parts);
      const Gradients actual = split(s, parts);
      for (size_t i = 0; i < expected.lse.size(); ++i) {
        if (std::isinf(expected.lse[i])) {
          ASSERT_EQ(actual.lse[i], expected.lse[i]) << i;
        } else {
          ASSERT_NEAR(actual.lse[i], expected.lse[i], 2e-5) << i;
        }
      }
      compare("out", actual.out, unsplit.out, expected.out);
      compare("d_q", actual.d_q, unsplit.d_q, expected.d_q);
      compare("d_kv", actual.d_kv, unsplit.d_kv, expected.d_kv);
    }
  }

 private:
  static kernels::Attention arguments(const Split& s, const Array<T>& q, const Part<T>& part) {
    kernels::Attention k = s.arguments(part.columns);
    k.type = kType<T>;
    k.q = q.data();
    k.k = part.kv.data();
    k.v = part.kv.data() + s.shape.width();
    k.limit = part.limit.data();
    return k;
  }

  /// The parts' queries' gradients added up, their keys' put in order. Those of keys beyond an example's must
  /// be 0.
  static Gradients together(const Split& s, const std::vector<std::unique_ptr<Part<T>>>& all, Values out,
                            Values lse) {
    const int64_t row = 2 * s.shape.width(), parts = static_cast<int64_t>(all.size());
    Gradients r{std::move(out), std::move(lse), Values(s.q.size(), 0), Values(s.kv.size(), 0)};
    for (int64_t p = 0; p < parts; ++p) {
      const Part<T>& part = *all[static_cast<size_t>(p)];
      const Values d_q = part.d_q.read(), d_kv = part.d_kv.read();
      for (size_t i = 0; i < d_q.size(); ++i) r.d_q[i] += d_q[i];
      for (int64_t b = 0; b < s.shape.batch; ++b) {
        const auto first = d_kv.begin() + b * part.columns * row;
        s.for_own_keys(b, p, parts, [&](int64_t key, int64_t place) {
          std::copy_n(first + place * row, row, r.d_kv.begin() + (b * s.keys + key) * row);
        });
        const int64_t own = shared_columns(s.lengths[static_cast<size_t>(b)], p, parts);
        EXPECT_TRUE(
            std::all_of(first + own * row, first + part.columns * row, [](double x) { return x == 0; }));
      }
    }
    return r;
  }

  static double error(const Values& actual, const Values& expected) {
    double sum = 0;
    for (size_t i = 0; i < expected.size(); ++i) sum = std::hypot(sum, actual[i] - expected[i]);
    return sum;
  }
  /// Splitting rounds each part once more.
  static void compare(const char* what, const Values& actual, const Values& unsplit, const Values& expected) {
    const double allowed = error(unsplit, expected), size = error(expected, Values(expected.size(), 0));
    EXPECT_LE(error(actual, expected), 2.5 * allowed + 1e-6 * size) << what;
    EXPECT_LE(allowed, (sizeof(T) == 2 ? 0.02 : 1e-5) * size) << what;
  }
};
TYPED_TEST_SUITE(CudaSplitAttention, ElementTypes);

TYPED_TEST(CudaSplitAttention, ReferenceKernels) {
  this->check(Split::make<TypeParam>(64, AttentionKernel::reference));
  this->check(Split::make<TypeParam>(20, AttentionKernel::reference));
}

class CudaSplitFastAttention : public CudaSplitAttention<bf16> {
 protected:
  void check_kernel(AttentionKernel kernel) {
    for (const int64_t head_dim : {64, 128}) {
      SCOPED_TRACE(head_dim);
      if (kernels::attention_obstacle(launch(), kernel, DType::bf16, head_dim) != nullptr) continue;
      check(Split::make<bf16>(head_dim, kernel));
    }
  }
};

TEST_F(CudaSplitFastAttention, PortableKernels) {
  check_kernel(AttentionKernel::portable);
  check(Split::make<bf16>(48, AttentionKernel::portable));
}

TEST_F(CudaSplitFastAttention, HopperKernels) {
  check_kernel(AttentionKernel::hopper);
}

}  // namespace
}  // namespace perceiver::testing
