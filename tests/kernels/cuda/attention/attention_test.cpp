// Attention on CUDA against the CPU kernel in f64. bf16 may err at most twice as much as a plain bf16
// implementation (f32 scores, probabilities and results rounded to bf16).
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <random>

#include "kernels/attention.h"
#include "tests/support/cuda_fixture.h"

namespace perceiver::testing {
namespace {

using kernels::AttentionKernel;

using Doubles = std::vector<double>;
using Ints = std::vector<int32_t>;

float to_bf16(double value) {
  return __bfloat162float(__float2bfloat16(static_cast<float>(value)));
}

/// Queries, keys and values lie in matrices with columns that belong to nobody on either side: one matrix
/// [rows, 3C + gaps] where `packed`, else one of queries and one of keys and values.
struct Problem {
  int64_t batch = 2, heads = 2, queries = 70, keys = 150, head_dim = 64;
  DType type = DType::bf16;
  AttentionKernel kernel = AttentionKernel::automatic;
  bool packed = false;
  bool self_visible = false;
  std::vector<int32_t> first = {}, limit = {};  // first: may be empty
  std::vector<uint8_t> key_mask = {};           // may be empty
  double magnitude = 1;                         // of queries and keys
  int64_t bands = 0, rotated_heads = 0;         // of gradients
  Doubles q_matrix = {}, kv_matrix = {}, d_out = {};

  int64_t width() const { return heads * head_dim; }
  int64_t gap() const { return type == DType::bf16 && head_dim % 16 == 0 ? 8 : 3; }
  int64_t q_stride() const { return packed ? 3 * width() + 4 * gap() : width() + 2 * gap(); }
  int64_t kv_stride() const { return packed ? q_stride() : 2 * width() + 3 * gap(); }
  int64_t q_column() const { return gap(); }
  int64_t k_column() const { return packed ? width() + 2 * gap() : gap(); }
  int64_t v_column() const { return k_column() + width() + gap(); }
  int64_t out_stride() const { return width() + gap(); }

  /// Latents at the end of the keys: query i sees the keys up to its own.
  Problem& causal() {
    limit.clear();
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t i = 0; i < queries; ++i)
        limit.push_back(static_cast<int32_t>(std::max<int64_t>(0, keys - queries + i + 1)));
    return *this;
  }

  Problem& mask(double hidden, unsigned seed = 3) {
    std::mt19937 random(seed);
    key_mask.resize(batch * keys);
    for (uint8_t& m : key_mask) m = std::uniform_real_distribution<>(0, 1)(random) < hidden ? 0 : 1;
    return *this;
  }

  Problem& fill(unsigned seed = 1) {
    std::mt19937 random(seed);
    std::normal_distribution<> normal;
    const auto draw = [&](int64_t count, double factor) {
      Doubles values(count);
      for (double& v : values) {
        v = static_cast<float>(factor * normal(random));
        if (type == DType::bf16) v = to_bf16(v);
      }
      return values;
    };
    q_matrix = draw(batch * queries * q_stride(), magnitude);
    kv_matrix = packed ? q_matrix : draw(batch * keys * kv_stride(), magnitude);
    if (magnitude != 1 && !packed)  // values stay of ordinary size
      for (int64_t row = 0; row < batch * keys; ++row)
        for (int64_t c = 0; c < width(); ++c) {
          double& v = kv_matrix[row * kv_stride() + v_column() + c];
          v = type == DType::bf16 ? to_bf16(v / magnitude) : static_cast<float>(v / magnitude);
        }
    d_out = draw(batch * queries * out_stride(), 1);
    return *this;
  }

  double q(int64_t b, int64_t h, int64_t i, int64_t c) const {
    return q_matrix[(b * queries + i) * q_stride() + q_column() + h * head_dim + c];
  }
  double key(int64_t b, int64_t h, int64_t n, int64_t c) const {
    return kv_matrix[(b * keys + n) * kv_stride() + k_column() + h * head_dim + c];
  }
  double value(int64_t b, int64_t h, int64_t n, int64_t c) const {
    return kv_matrix[(b * keys + n) * kv_stride() + v_column() + h * head_dim + c];
  }
  double d_out_at(int64_t b, int64_t h, int64_t i, int64_t c) const {
    return d_out[(b * queries + i) * out_stride() + h * head_dim + c];
  }
  /// Positions of rows, some negative, and angles for them.
  Ints positions(int64_t rows) const {
    Ints all;
    for (int64_t r = 0; r < batch * rows; ++r)
      all.push_back(static_cast<int32_t>(r * 7 % kPositions) * (r % 5 == 0 ? -1 : 1));
    return all;
  }
  template <typename T>
  std::vector<T> angles(bool cosines) const {
    std::vector<T> all;
    for (int64_t i = 0; i < kPositions * bands; ++i) {
      const float angle = 0.37f * static_cast<float>(i);
      all.push_back(static_cast<T>(cosines ? std::cos(angle) : std::sin(angle)));
    }
    return all;
  }
  kernels::AttentionRotary rotation(const int32_t* at, const void* cosine, const void* sine) const {
    if (bands == 0) return {};
    return {.positions = at, .cosine = cosine, .sine = sine, .bands = bands, .heads = rotated_heads};
  }
  static constexpr int64_t kPositions = 61;

  bool visible(int64_t b, int64_t i, int64_t n) const {
    if (n < (first.empty() ? 0 : first[b]) || n >= limit[b * queries + i]) return false;
    return key_mask.empty() || key_mask[b * keys + n] != 0 || (self_visible && n == i);
  }

  /// Without the pointers to matrices.
  kernels::Attention arguments() const {
    kernels::Attention k{};
    k.type = type;
    k.batch = batch;
    k.heads = heads;
    k.queries = queries;
    k.keys = keys;
    k.head_dim = head_dim;
    k.q_stride = q_stride();
    k.kv_stride = kv_stride();
    k.self_visible = self_visible;
    k.out_stride = out_stride();
    k.kernel = kernel;
    return k;
  }
};

/// Compact: [batch * queries, C], [batch, heads, queries], [batch * keys, C].
struct Result {
  Doubles out, lse, d_q, d_k, d_v;
};

Doubles columns(const Doubles& matrix, int64_t stride, int64_t column, int64_t width) {
  Doubles block;
  for (size_t row = 0; row < matrix.size(); row += stride)
    block.insert(block.end(), matrix.begin() + row + column, matrix.begin() + row + column + width);
  return block;
}

Result on_cpu(const Problem& p) {
  kernels::Attention k = p.arguments();
  k.type = DType::f64;
  Doubles out(p.batch * p.queries * p.out_stride()), lse(p.batch * p.heads * p.queries);
  k.q = p.q_matrix.data() + p.q_column();
  k.k = p.kv_matrix.data() + p.k_column();
  k.v = p.kv_matrix.data() + p.v_column();
  k.first = p.first.empty() ? nullptr : p.first.data();
  k.limit = p.limit.data();
  k.key_mask = p.key_mask.empty() ? nullptr : p.key_mask.data();
  k.out = out.data();
  k.lse = lse.data();
  kernels::cpu::attention(k);
  Doubles d_q(p.q_matrix.size()), d_kv(p.kv_matrix.size());
  const Ints q_positions = p.positions(p.queries), k_positions = p.positions(p.keys);
  const Doubles cosine = p.angles<double>(true), sine = p.angles<double>(false);
  kernels::cpu::attention_backward({.forward = k,
                                    .d_out = p.d_out.data(),
                                    .d_q = d_q.data() + p.q_column(),
                                    .d_k = d_kv.data() + p.k_column(),
                                    .d_v = d_kv.data() + p.v_column(),
                                    .q_rotary = p.rotation(q_positions.data(), cosine.data(), sine.data()),
                                    .k_rotary = p.rotation(k_positions.data(), cosine.data(), sine.data())});
  return {columns(out, p.out_stride(), 0, p.width()), lse,
          columns(d_q, p.q_stride(), p.q_column(), p.width()),
          columns(d_kv, p.kv_stride(), p.k_column(), p.width()),
          columns(d_kv, p.kv_stride(), p.v_column(), p.width())};
}

/// The inverse rotation of a compact gradient, in bf16.
void rotate_back(const Problem& p, const Ints& positions, Doubles& gradient) {
  const std::vector<float> cosine = p.angles<float>(true), sine = p.angles<float>(false);
  for (size_t row = 0; row < positions.size(); ++row)
    for (int64_t h = 0; h < p.rotated_heads; ++h)
      for (int64_t band = 0; band < p.bands; ++band) {
        double* pair = gradient.data() + static_cast<int64_t>(row) * p.width() + h * p.head_dim + 2 * band;
        const int64_t at = std::abs(positions[row]) * p.bands + band;
        const double c = cosine[at], s = positions[row] < 0 ? sine[at] : -sine[at];
        const double even = pair[0], odd = pair[1];
        pair[0] = to_bf16(even * c - odd * s);
        pair[1] = to_bf16(odd * c + even * s);
      }
}

/// The plain bf16 implementation.
Result plainly(const Problem& p) {
  const int64_t c_all = p.width(), d = p.head_dim;
  Result r{Doubles(p.batch * p.queries * c_all),
           {},
           Doubles(p.batch * p.queries * c_all),
           Doubles(p.batch * p.keys * c_all),
           Doubles(p.batch * p.keys * c_all)};
  const float scale = 1 / std::sqrt(static_cast<float>(d));
  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t h = 0; h < p.heads; ++h) {
      std::vector<float> d_k(p.keys * d), d_v(p.keys * d), prob(p.keys);
      for (int64_t i = 0; i < p.queries; ++i) {
        float largest = -INFINITY, sum = 0;
        for (int64_t n = 0; n < p.keys; ++n) {
          float s = -INFINITY;
          if (p.visible(b, i, n)) {
            s = 0;
            for (int64_t c = 0; c < d; ++c) s += static_cast<float>(p.q(b, h, i, c) * p.key(b, h, n, c));
            s *= scale;
          }
          prob[n] = s;
          largest = std::max(largest, s);
        }
        if (largest == -INFINITY) continue;
        for (float& s : prob) sum += s = std::exp(s - largest);
        std::vector<float> out(d), d_q(d);
        float delta = 0;
        for (int64_t n = 0; n < p.keys; ++n) {
          prob[n] /= sum;
          for (int64_t c = 0; c < d; ++c)
            out[c] += to_bf16(prob[n]) * static_cast<float>(p.value(b, h, n, c));
        }
        for (int64_t c = 0; c < d; ++c) {
          const float rounded = to_bf16(out[c]);
          r.out[(b * p.queries + i) * c_all + h * d + c] = rounded;
          delta += rounded * static_cast<float>(p.d_out_at(b, h, i, c));
        }
        for (int64_t n = 0; n < p.keys; ++n) {
          if (prob[n] == 0) continue;
          float dp = 0;
          for (int64_t c = 0; c < d; ++c)
            dp += static_cast<float>(p.d_out_at(b, h, i, c) * p.value(b, h, n, c));
          const float ds = to_bf16(prob[n] * (dp - delta)), rounded = to_bf16(prob[n]);
          for (int64_t c = 0; c < d; ++c) {
            d_v[n * d + c] += rounded * static_cast<float>(p.d_out_at(b, h, i, c));
            d_k[n * d + c] += ds * static_cast<float>(p.q(b, h, i, c));
            d_q[c] += ds * static_cast<float>(p.key(b, h, n, c));
          }
        }
        for (int64_t c = 0; c < d; ++c)
          r.d_q[(b * p.queries + i) * c_all + h * d + c] = to_bf16(d_q[c] * scale);
      }
      for (int64_t n = 0; n < p.keys; ++n)
        for (int64_t c = 0; c < d; ++c) {
          r.d_k[(b * p.keys + n) * c_all + h * d + c] = to_bf16(d_k[n * d + c] * scale);
          r.d_v[(b * p.keys + n) * c_all + h * d + c] = to_bf16(d_v[n * d + c]);
        }
    }
  rotate_back(p, p.positions(p.queries), r.d_q);
  rotate_back(p, p.positions(p.keys), r.d_k);
  return r;
}

/// A problem on the device; run() may be called again.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(const Problem& p)
      : p_(p),
        q_(converted(p.q_matrix)),
        kv_(converted(p.packed ? Doubles() : p.kv_matrix)),
        d_out_(converted(p.d_out)),
        first_(p.first),
        limit_(p.limit),
        key_mask_(p.key_mask),
        q_positions_(p.positions(p.queries)),
        k_positions_(p.positions(p.keys)),
        cosine_(p.angles<float>(true)),
        sine_(p.angles<float>(false)),
        out_(p.batch * p.queries * p.out_stride()),
        lse_(p.batch * p.heads * p.queries),
        d_q_(p.q_matrix.size()),
        d_kv_(p.packed ? 0 : p.kv_matrix.size()) {}

  kernels::AttentionBackward arguments() const {
    kernels::AttentionBackward a{};
    kernels::Attention& k = a.forward;
    k = p_.arguments();
    const T* kv = p_.packed ? q_.data() : kv_.data();
    T* d_kv = p_.packed ? d_q_.data() : d_kv_.data();
    k.q = q_.data() + p_.q_column();
    k.k = kv + p_.k_column();
    k.v = kv + p_.v_column();
    k.first = p_.first.empty() ? nullptr : first_.data();
    k.limit = limit_.data();
    k.key_mask = p_.key_mask.empty() ? nullptr : key_mask_.data();
    k.out = out_.data();
    k.lse = lse_.data();
    a.d_out = d_out_.data();
    a.d_q = d_q_.data() + p_.q_column();
    a.d_k = d_kv + p_.k_column();
    a.d_v = d_kv + p_.v_column();
    a.q_rotary = p_.rotation(q_positions_.data(), cosine_.data(), sine_.data());
    a.k_rotary = p_.rotation(k_positions_.data(), cosine_.data(), sine_.data());
    return a;
  }

  void forward(const Launch& launch) const { kernels::attention(launch, arguments().forward); }
  void backward(const Launch& launch) const {
    kernels::AttentionBackward a = arguments();
    const int64_t bytes = kernels::attention_backward_workspace(launch, a);
    if (bytes > 0 && !scratch_) scratch_.emplace(bytes);
    a.scratch = bytes > 0 ? scratch_->data() : nullptr;
    kernels::attention_backward(launch, a);
  }
  bool used_scratch() const { return scratch_.has_value(); }

  /// Also checks that columns that belong to nobody are as they were.
  Result read() const {
    const Doubles out = read(out_), d_q = read(d_q_), d_kv = p_.packed ? d_q : read(d_kv_);
    if (p_.packed) {
      expect_untouched(d_q_, p_.q_stride(), {p_.q_column(), p_.k_column(), p_.v_column()});
    } else {
      expect_untouched(d_q_, p_.q_stride(), {p_.q_column()});
      expect_untouched(d_kv_, p_.kv_stride(), {p_.k_column(), p_.v_column()});
    }
    expect_untouched(out_, p_.out_stride(), {0});
    const std::vector<float> lse = lse_.read();
    return {columns(out, p_.out_stride(), 0, p_.width()), Doubles(lse.begin(), lse.end()),
            columns(d_q, p_.q_stride(), p_.q_column(), p_.width()),
            columns(d_kv, p_.kv_stride(), p_.k_column(), p_.width()),
            columns(d_kv, p_.kv_stride(), p_.v_column(), p_.width())};
  }

  /// The bits of everything computed.
  std::vector<uint8_t> bits() const {
    std::vector<uint8_t> all;
    const auto append = [&](const auto& values) {
      const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
      all.insert(all.end(), bytes, bytes + values.size() * sizeof(values[0]));
    };
    append(out_.read());
    append(lse_.read());
    append(d_q_.read());
    append(d_kv_.read());
    return all;
  }

 private:
  static std::vector<T> converted(const Doubles& values) {
    std::vector<T> result(values.size());
    std::transform(values.begin(), values.end(), result.begin(),
                   [](double v) { return T(static_cast<float>(v)); });
    return result;
  }
  static Doubles read(const DeviceArray<T>& array) {
    const std::vector<T> values = array.read();
    Doubles result(values.size());
    std::transform(values.begin(), values.end(), result.begin(),
                   [](T v) { return static_cast<double>(static_cast<float>(v)); });
    return result;
  }
  void expect_untouched(const DeviceArray<T>& array, int64_t stride,
                        const std::vector<int64_t>& owned) const {
    const std::vector<T> values = array.read();
    int touched = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const int64_t column = static_cast<int64_t>(i) % stride;
      const bool mine = std::any_of(owned.begin(), owned.end(),
                                    [&](int64_t c) { return column >= c && column < c + p_.width(); });
      const auto* bytes = reinterpret_cast<const uint8_t*>(&values[i]);
      touched += !mine && std::any_of(bytes, bytes + sizeof(T), [](uint8_t b) { return b != 0xFF; });
    }
    EXPECT_EQ(touched, 0) << "elements written in columns that belong to others";
  }

  const Problem& p_;
  DeviceArray<T> q_, kv_, d_out_;
  DeviceArray<int32_t> first_, limit_;
  DeviceArray<uint8_t> key_mask_;
  DeviceArray<int32_t> q_positions_, k_positions_;
  DeviceArray<float> cosine_, sine_;
  DeviceArray<T> out_;
  DeviceArray<float> lse_;
  DeviceArray<T> d_q_, d_kv_;
  mutable std::optional<DeviceArray<uint8_t>> scratch_;
};

struct Errors {
  double largest = 0, rms = 0;
  double size = 0, peak = 0;  // root mean square and largest magnitude of what was expected
};

/// Infinities must agree; NaN gives infinite errors.
Errors errors(const Doubles& actual, const Doubles& expected) {
  Errors e;
  EXPECT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    double error = actual[i] == expected[i] ? 0 : std::abs(actual[i] - expected[i]);
    if (std::isnan(error)) error = INFINITY;
    e.largest = std::max(e.largest, error);
    e.rms += error * error;
    if (!std::isfinite(expected[i])) continue;
    e.size += expected[i] * expected[i];
    e.peak = std::max(e.peak, std::abs(expected[i]));
  }
  const double count = static_cast<double>(std::max<size_t>(1, expected.size()));
  e.rms = std::sqrt(e.rms / count);
  e.size = std::sqrt(e.size / count);
  return e;
}

class CudaAttention : public CudaTest {
 protected:
  template <typename T>
  Result on_device(const Problem& p) {
    const OnDevice<T> device(p);
    device.forward(launch());
    device.backward(launch());
    return device.read();
  }

  /// The tensor-core kernels that this GPU has for heads of this width.
  static std::vector<AttentionKernel> fast_kernels(int64_t head_dim) {
    int major = 0, minor = 0;
    require_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "capability");
    require_cuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0), "capability");
    const bool hopper = major == 9 && minor == 0 && (head_dim == 64 || head_dim == 128);
    if (!hopper) return {AttentionKernel::portable};
    return {AttentionKernel::portable, AttentionKernel::hopper};
  }
  /// check() with each of them.
  void check_fast(Problem p) {
    for (const AttentionKernel kernel : fast_kernels(p.head_dim)) {
      SCOPED_TRACE(kernel == AttentionKernel::hopper ? "hopper" : "portable");
      p.kernel = kernel;
      check(p);
    }
  }

  /// `tolerance`: of f32, relative to the size of what is expected; of lse absolute.
  void check(const Problem& p, double tolerance = 1e-5) {
    const Result expected = on_cpu(p);
    const Result actual = p.type == DType::bf16 ? on_device<__nv_bfloat16>(p) : on_device<float>(p);
    double largest_lse = 1;
    for (double lse : expected.lse)
      if (std::isfinite(lse)) largest_lse = std::max(largest_lse, std::abs(lse));
    EXPECT_LE(errors(actual.lse, expected.lse).largest, 4e-6 * largest_lse) << "lse";
    const Result plain = p.type == DType::bf16 ? plainly(p) : Result();
    const auto compare = [&](const char* what, Doubles Result::*member) {
      const Errors e = errors(actual.*member, expected.*member);
      if (p.type != DType::bf16) {
        EXPECT_LE(e.largest, tolerance * (1e-3 + 10 * e.size)) << what;
        return;
      }
      const Errors allowed = errors(plain.*member, expected.*member);
      // A single value may also be off by one in the last place of bf16 where the plain one had luck.
      EXPECT_LE(e.largest, std::max(2 * allowed.largest, e.peak / 128) + 1e-6) << what;
      EXPECT_LE(e.rms, 2 * allowed.rms + 1e-7) << what;
    };
    compare("out", &Result::out);
    compare("d_q", &Result::d_q);
    compare("d_k", &Result::d_k);
    compare("d_v", &Result::d_v);
  }
};

TEST_F(CudaAttention, EveryHeadWidth) {
  for (int64_t d : {16, 32, 48, 64, 80, 96, 112, 128}) {
    SCOPED_TRACE(d);
    Problem p{.queries = 150, .keys = 333, .head_dim = d};
    p.first = {5, 0};
    check_fast(p.causal().fill());
    check_fast(p.mask(0.3).fill(2));
  }
}

TEST_F(CudaAttention, OtherWidthsAndF32) {
  for (int64_t d : {1, 20, 40, 64, 136, 300}) {
    SCOPED_TRACE(d);
    Problem p{.queries = 70, .keys = 150, .head_dim = d, .self_visible = true};
    p.first = {7, 0};
    check(p.causal().mask(0.3).fill());
    p.type = DType::f32;
    check(p.fill());
  }
}

TEST_F(CudaAttention, ReferenceTakesEverything) {
  Problem p{.queries = 150, .keys = 333, .kernel = AttentionKernel::reference, .packed = false};
  check(p.causal().fill());
}

TEST_F(CudaAttention, PortableIsForBf16) {
  Problem p{.type = DType::f32, .kernel = AttentionKernel::portable};
  p.causal().fill();
  const OnDevice<float> device(p);
  EXPECT_ANY_THROW(device.forward(launch()));
  EXPECT_ANY_THROW(device.backward(launch()));
}

TEST_F(CudaAttention, PackedMatrix) {
  for (bool self_visible : {false, true}) {
    Problem p{.queries = 200, .keys = 200, .packed = true, .self_visible = self_visible};
    p.first = {0, 130};
    check_fast(p.causal().mask(0.5).fill());
  }
}

TEST_F(CudaAttention, RotatedGradients) {
  for (const int64_t d : {32, 64, 128})
    for (const bool packed : {true, false}) {
      SCOPED_TRACE(d);
      Problem p{.queries = 200, .keys = packed ? 200 : 330, .head_dim = d, .packed = packed};
      p.causal();
      for (const auto& [bands, heads] :
           {std::pair{d / 4, int64_t{2}}, {d / 2, int64_t{1}}, {3, int64_t{2}}}) {
        p.bands = bands, p.rotated_heads = heads;
        check_fast(p.fill());
      }
      p.kernel = AttentionKernel::reference;
      check(p);
    }
}

TEST_F(CudaAttention, RowsWithoutKeys) {
  // Queries at the front see nothing, and the second example nothing at all.
  Problem p{.batch = 3, .queries = 300, .keys = 100};
  p.first = {0, 90, 60};
  p.causal();
  for (int64_t i = 0; i < p.queries; ++i) p.limit[p.queries + i] = 80;
  check_fast(p.fill());
  p.mask(1).fill();
  check_fast(p);
  p.self_visible = true;
  check_fast(p);
}

TEST_F(CudaAttention, LimitsThatJump) {
  for (int64_t d : {32, 64, 128}) {
    Problem p{.batch = 2, .queries = 300, .keys = 700, .head_dim = d};
    for (int64_t b = 0; b < p.batch; ++b)
      for (int64_t i = 0; i < p.queries; ++i)
        p.limit.push_back(static_cast<int32_t>(i < 40 ? 0 : i < 170 ? 3 + 64 * b : i < 171 ? 512 : 700));
    check_fast(p.fill());
  }
}

TEST_F(CudaAttention, OffsetsOfEveryResidue) {
  for (int64_t offset = 0; offset < 130; offset += brief_tests() ? 13 : 1) {
    SCOPED_TRACE(offset);
    for (int64_t d : {32, 64}) {
      Problem p{.batch = 1, .heads = 1, .queries = 131, .keys = 131 + offset, .head_dim = d};
      check_fast(p.causal().fill());
      p.first = {static_cast<int32_t>(offset)};
      p.queries = 1 + offset;
      check_fast(p.causal().fill());
    }
  }
}

TEST_F(CudaAttention, ExtremeLogits) {
  for (int64_t d : {64, 128}) {
    Problem p{.queries = 100, .keys = 200, .head_dim = d, .magnitude = 50};
    check_fast(p.causal().fill());  // logits to 1e4
    p.magnitude = 1e-3;
    check_fast(p.fill());
    p.type = DType::f32;
    p.magnitude = 50;
    check(p.fill(), 0.02);
  }
}

TEST_F(CudaAttention, FewQueriesAndManyKeys) {
  for (int64_t d : {48, 64, 128}) {
    Problem p{.batch = 1, .heads = 2, .queries = 3, .keys = 5000, .head_dim = d};
    check_fast(p.causal().fill());
    p.first = {4000};
    check_fast(p.mask(0.1).fill());
    // Most parts of the keys see nothing.
    std::fill(p.limit.begin(), p.limit.end(), 4100);
    p.limit[0] = 0;
    check_fast(p);
  }
}

TEST_F(CudaAttention, AnyNumberOfProcessors) {
  Problem p{.batch = 1, .heads = 3, .queries = 400, .keys = 1100};
  p.first = {200};
  p.causal().fill();
  const Result expected = on_cpu(p), plain = plainly(p);
  for (const AttentionKernel kernel : fast_kernels(p.head_dim)) {
    p.kernel = kernel;
    const OnDevice<__nv_bfloat16> device(p);
    for (int sm_count : {1, 2, 3, 5, 8, 500}) {
      Launch some = launch();
      some.sm_count = sm_count;
      device.forward(some);
      device.backward(some);
      const Result actual = device.read();
      EXPECT_LE(errors(actual.out, expected.out).rms, 2 * errors(plain.out, expected.out).rms);
      EXPECT_LE(errors(actual.d_q, expected.d_q).rms, 2 * errors(plain.d_q, expected.d_q).rms);
      EXPECT_LE(errors(actual.d_k, expected.d_k).rms, 2 * errors(plain.d_k, expected.d_k).rms);
      EXPECT_LE(errors(actual.d_v, expected.d_v).rms, 2 * errors(plain.d_v, expected.d_v).rms);
    }
  }
}

TEST_F(CudaAttention, ScratchForManyQueries) {
  for (int64_t d : {64, 128}) {
    Problem p{.batch = 1, .heads = 16, .queries = 4200, .keys = 4300, .head_dim = d};
    p.kernel = AttentionKernel::portable;
    p.causal().fill();
    const OnDevice<__nv_bfloat16> device(p);
    device.forward(launch());
    device.backward(launch());
    EXPECT_TRUE(device.used_scratch());
    Problem same = p;
    same.kernel = AttentionKernel::reference;
    const OnDevice<__nv_bfloat16> reference(same);
    reference.forward(launch());
    reference.backward(launch());
    const Result actual = device.read(), expected = reference.read();
    const auto compare = [&](const char* what, Doubles Result::*member) {
      const Errors e = errors(actual.*member, expected.*member);
      EXPECT_LE(e.rms, 0.01 * e.size) << what;
    };
    compare("out", &Result::out);
    compare("d_q", &Result::d_q);
    compare("d_k", &Result::d_k);
    compare("d_v", &Result::d_v);
  }
}

TEST_F(CudaAttention, SameBitsEveryTime) {
  for (int64_t d : {32, 64, 96, 128})
    for (const auto& [queries, kernel] :
         std::vector<std::pair<int64_t, AttentionKernel>>{{5, AttentionKernel::portable},
                                                          {500, AttentionKernel::portable},
                                                          {500, fast_kernels(d).back()}}) {
      Problem p{.heads = 4, .queries = queries, .keys = 1500, .head_dim = d, .kernel = kernel};
      p.causal().mask(0.1).fill();
      const OnDevice<__nv_bfloat16> device(p);
      std::vector<uint8_t> bits;
      for (int run = 0; run < 100; ++run) {
        device.forward(launch());
        device.backward(launch());
        const std::vector<uint8_t> again = device.bits();
        if (run == 0) bits = again;
        ASSERT_EQ(bits, again) << "run " << run << ", head width " << d;
      }
    }
}

/// As many tiles of queries and keys as in earnest, against the reference on the device.
TEST_F(CudaAttention, ManyTiles) {
  for (int64_t d : {64, 128}) {
    Problem p{.batch = 3, .heads = 8, .queries = 1000, .keys = 3333, .head_dim = d};
    p.first = {0, 700, 3000};
    p.causal().mask(0.02).fill();
    const auto run = [&](AttentionKernel kernel) {
      Problem with = p;
      with.kernel = kernel;
      return on_device<__nv_bfloat16>(with);
    };
    const Result expected = run(AttentionKernel::reference);
    for (const AttentionKernel kernel : fast_kernels(d)) {
      const Result actual = run(kernel);
      for (Doubles Result::*member : {&Result::out, &Result::d_q, &Result::d_k, &Result::d_v}) {
        const Errors e = errors(actual.*member, expected.*member);
        EXPECT_LE(e.rms, 0.01 * e.size);
      }
    }
  }
}

TEST_F(CudaAttention, CanBeRecorded) {
  Problem p{.queries = 200, .keys = 1500};
  p.kernel = fast_kernels(p.head_dim).back();
  p.causal().fill();
  const OnDevice<__nv_bfloat16> device(p), recorded(p);
  device.forward(launch());
  device.backward(launch());
  const auto stream = static_cast<cudaStream_t>(launch().stream);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t program = nullptr;
  require_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "begin");
  recorded.forward(launch());
  recorded.backward(launch());
  require_cuda(cudaStreamEndCapture(stream, &graph), "end");
  require_cuda(cudaGraphInstantiate(&program, graph, 0), "instantiate");
  for (int i = 0; i < 3; ++i) require_cuda(cudaGraphLaunch(program, stream), "launch");
  EXPECT_EQ(device.bits(), recorded.bits());
  require_cuda(cudaGraphExecDestroy(program), "destroy");
  require_cuda(cudaGraphDestroy(graph), "destroy");
}

}  // namespace
}  // namespace perceiver::testing
