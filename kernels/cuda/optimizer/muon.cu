// Muon's elementwise parts (elementwise.cuh); each array is read or written once. The products between them,
// five times three for all matrices of a shape, are what its time goes to.
#include "kernels/cuda/elementwise/elementwise.cuh"
#include "kernels/muon.h"

namespace perceiver::kernels::cuda {
namespace {

struct MomentumOp {
  const float* gradients;
  float* momentum;
  float* update;
  float decay;
  const StepScalars* scalars;
  float scale = 0;

  template <int N>
  struct Values {
    Pack<float, N> g, b;
  };
  __device__ bool begin() {
    scale = static_cast<float>(scalars->gradient_scale);
    return scalars->finite != 0;
  }
  template <int N>
  __device__ void load(int64_t i, Values<N>& v) const {
    v = {load_pack<N>(gradients + i), load_pack<N>(momentum + i)};
  }
  template <int N>
  __device__ void store(int64_t i, const Values<N>& v) const {
    float g[N], b[N];
    unpack(v.g, g), unpack(v.b, b);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      g[j] *= scale;
      b[j] = decay * b[j] + g[j];
      g[j] += decay * b[j];
    }
    cuda::store(momentum + i, b);
    cuda::store(update + i, g);
  }
};

template <typename To>
struct NormalizeOp {
  const float* x;
  To* y;
  const double* sum_of_squares;
  float factor = 0;

  template <int N>
  struct Values {
    Pack<float, N> x;
  };
  __device__ bool begin() {
    factor = static_cast<float>(1 / (sqrt(*sum_of_squares) + kMuonEpsilon));
    return true;
  }
  template <int N>
  __device__ void load(int64_t i, Values<N>& v) const {
    v.x = load_pack<N>(x + i);
  }
  template <int N>
  __device__ void store(int64_t i, const Values<N>& v) const {
    float values[N];
    unpack(v.x, values);
#pragma unroll
    for (int j = 0; j < N; ++j) values[j] *= factor;
    cuda::store(y + i, values);
  }
};

template <typename T>
struct PolynomialOp {
  const T* matrix;
  T* square;
  int64_t size;

  template <int N>
  struct Values {
    Pack<T, N> matrix, square;
  };
  __device__ bool begin() { return true; }
  template <int N>
  __device__ void load(int64_t i, Values<N>& v) const {
    v = {load_pack<N>(matrix + i), load_pack<N>(square + i)};
  }
  template <int N>
  __device__ void store(int64_t i, const Values<N>& v) const {
    constexpr auto a = static_cast<float>(kMuonA), b = static_cast<float>(kMuonB),
                   c = static_cast<float>(kMuonC);
    float m[N], s[N];
    unpack(v.matrix, m), unpack(v.square, s);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const bool diagonal = (i + j) % (size * size) % (size + 1) == 0;
      s[j] = b * m[j] + c * s[j] + (diagonal ? a : 0.0f);
    }
    cuda::store(square + i, s);
  }
};

template <typename T>
struct StepOp {
  float* parameters;
  const T* update;
  double scale, weight_decay;
  const StepScalars* scalars;
  float keep = 0, rate = 0;

  template <int N>
  struct Values {
    Pack<float, N> p;
    Pack<T, N> update;
  };
  __device__ bool begin() {
    keep = static_cast<float>(1 - scalars->learning_rate * weight_decay);
    rate = static_cast<float>(scalars->learning_rate * scale);
    return scalars->finite != 0;
  }
  template <int N>
  __device__ void load(int64_t i, Values<N>& v) const {
    v = {load_pack<N>(parameters + i), load_pack<N>(update + i)};
  }
  template <int N>
  __device__ void store(int64_t i, const Values<N>& v) const {
    float p[N], u[N];
    unpack(v.p, p), unpack(v.update, u);
#pragma unroll
    for (int j = 0; j < N; ++j) p[j] = keep * p[j] - rate * u[j];
    cuda::store(parameters + i, p);
  }
};

}  // namespace

void muon_momentum(const Launch& launch, const MuonMomentum& k) {
  require(k.type == DType::f32, "gradients in f32");
  const MomentumOp op{static_cast<const float*>(k.gradients), static_cast<float*>(k.momentum),
                      static_cast<float*>(k.update), static_cast<float>(k.decay), k.scalars};
  for_each_element<4>(launch, k.elements, aligned({k.gradients, k.momentum, k.update}), op, "muon_momentum");
}

void muon_normalize(const Launch& launch, const MuonNormalize& k) {
  require(k.from == DType::f32, "updates in f32");
  with_type(k.to, [&]<typename T>() {
    const NormalizeOp<T> op{static_cast<const float*>(k.x), static_cast<T*>(k.y), k.sum_of_squares};
    for_each_element<kWide<T>>(launch, k.elements, aligned({k.x, k.y}), op, "muon_normalize");
  });
}

void muon_polynomial(const Launch& launch, const MuonPolynomial& k) {
  with_type(k.type, [&]<typename T>() {
    const PolynomialOp<T> op{static_cast<const T*>(k.matrix), static_cast<T*>(k.square), k.size};
    for_each_element<kWide<T>>(launch, k.count * k.size * k.size, aligned({k.matrix, k.square}), op,
                               "muon_polynomial");
  });
}

void muon_step(const Launch& launch, const MuonStep& k) {
  require(k.type == DType::f32, "parameters in f32");
  with_type(k.update_type, [&]<typename T>() {
    const StepOp<T> op{static_cast<float*>(k.parameters), static_cast<const T*>(k.update), k.scale,
                       k.weight_decay, k.scalars};
    for_each_element<kWide<T>>(launch, k.elements, aligned({k.parameters, k.update}), op, "muon_step");
  });
}

}  // namespace perceiver::kernels::cuda
