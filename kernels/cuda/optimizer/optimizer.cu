// Parameter updates and the moving average of the weights.
//
// One launch covers all tiles of the parameter table: a persistent grid (256 threads per block, one tile per
// block at a time), so that each block computes Adam's bias corrections once, in double. Every buffer is read
// and written once, in 16-byte accesses where the tile starts at a multiple of 4. LAMB takes three launches:
// update the moments and measure the norms per tile; form the trust ratios from them (a warp per parameter,
// its tiles in a fixed order); apply the update.
#include <algorithm>
#include <type_traits>

#include "kernels/adam.h"
#include "kernels/cuda/elementwise/elementwise.cuh"
#include "kernels/optimizer.h"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSm = 4;
constexpr double kAverageWarmup = 10;

__global__ void step_control_kernel(StepControl k) {
  StepScalars& scalars = *k.scalars;
  const bool finite = isfinite(*k.sum_of_squares) && isfinite(*k.loss);
  scalars.gradient_norm = sqrt(*k.sum_of_squares);
  scalars.finite = finite;
  if (!finite) return;
  scalars.update += 1;
  const bool clips = k.clip_norm > 0 && scalars.gradient_norm > k.clip_norm;
  scalars.gradient_scale = clips ? k.clip_norm / scalars.gradient_norm : 1;
  scalars.average_decay = fmin(k.ema_decay, (1 + scalars.update) / (kAverageWarmup + scalars.update));
}

/// By one thread of the block, since pow in double is slow. Call it from all of them.
template <typename Arguments>
__device__ inline AdamScalars<float> block_scalars(const Arguments& k) {
  __shared__ AdamScalars<float> shared;
  if (threadIdx.x == 0) shared = adam_scalars<float>(k);
  __syncthreads();
  return shared;
}

/// N neighbouring elements of what Adam and LAMB read: parameters, gradients, moments of type M.
template <int N, typename M = float>
struct AdamVector {
  float p[N], g[N], m[N], v[N];

  template <typename Arguments>
  __device__ AdamVector(const Arguments& k, int64_t at) {
    load(static_cast<const float*>(k.parameters) + at, p);
    load(static_cast<const float*>(k.gradients) + at, g);
    load(static_cast<const M*>(k.first_moment) + at, m);
    load(static_cast<const M*>(k.second_moment) + at, v);
  }
  template <typename Arguments>
  __device__ void store_moments(const Arguments& k, int64_t at) const {
    store(static_cast<float*>(k.first_moment) + at, m);
    store(static_cast<float*>(k.second_moment) + at, v);
  }
};

/// Calls body.template operator()<N>(element) for the vectors of a tile, from all threads of a block.
template <typename Body>
__device__ inline void for_each_vector(const ParameterTile& tile, bool wide, Body&& body) {
  int64_t i = threadIdx.x;
  if (wide && tile.begin % 4 == 0) {
    const int64_t vectors = tile.elements / 4;
#pragma unroll 2
    for (; i < vectors; i += kThreads) body.template operator()<4>(tile.begin + 4 * i);
    i = 4 * vectors + threadIdx.x;
  }
  for (; i < tile.elements; i += kThreads) body.template operator()<1>(tile.begin + i);
}

/// x rounded to bf16, down or up: `bits` are 16 random ones.
__device__ inline __nv_bfloat16 rounded_at_random(float x, uint32_t bits) {
  return __ushort_as_bfloat16(static_cast<unsigned short>((__float_as_uint(x) + bits) >> 16));
}

/// Stores moments in bf16. Vectors start at a multiple of their length in the whole model, too.
template <int N>
__device__ inline void store_rounded_moments(const Adam& k, const AdamVector<N, __nv_bfloat16>& x, int64_t at,
                                             uint64_t update) {
  const int64_t element = k.first_element + at;
  const PhiloxBlock bits = rounding_bits(element / 4, update);
  const auto word = [&](int i) {
    if constexpr (N == 4) return bits[static_cast<size_t>(i)];
    const int64_t place = element % 4;
    return place == 0 ? bits[0] : place == 1 ? bits[1] : place == 2 ? bits[2] : bits[3];
  };
  Pack<__nv_bfloat16, N> m, v;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    m.x[i] = rounded_at_random(x.m[i], word(i) & 0xffff);
    v.x[i] = rounded_at_random(x.v[i], word(i) >> 16);
  }
  *reinterpret_cast<Pack<__nv_bfloat16, N>*>(static_cast<__nv_bfloat16*>(k.first_moment) + at) = m;
  *reinterpret_cast<Pack<__nv_bfloat16, N>*>(static_cast<__nv_bfloat16*>(k.second_moment) + at) = v;
}

/// M: the moments' type.
template <typename M>
struct AdamBody {
  const Adam& k;
  const AdamScalars<float>& s;
  float decay;
  uint64_t update;

  template <int N>
  __device__ void operator()(int64_t at) const {
    AdamVector<N, M> x(k, at);
    auto& [p, g, m, v] = x;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      s.update_moments(m[i], v[i], s.scale * g[i] + (k.decoupled ? 0 : decay) * p[i]);
      if (k.decoupled) p[i] *= 1 - s.rate * decay;
      p[i] -= s.rate * s.direction(m[i], v[i]);
    }
    store(static_cast<float*>(k.parameters) + at, p);
    if (k.rounded != nullptr) store(static_cast<__nv_bfloat16*>(k.rounded) + at, p);
    if constexpr (std::is_same_v<M, float>) {
      x.store_moments(k, at);
    } else {
      store_rounded_moments<N>(k, x, at, update);
    }
  }
};

template <typename M>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm) adam_kernel(Adam k, bool wide) {
  if (!k.scalars->finite) return;
  const AdamScalars<float> s = block_scalars(k);
  const auto update = static_cast<uint64_t>(k.scalars->update);
  for (int64_t t = blockIdx.x; t < k.tile_count; t += gridDim.x) {
    const ParameterTile tile = k.tiles[t];
    for_each_vector(tile, wide, AdamBody<M>{k, s, static_cast<float>(tile.weight_decay), update});
  }
}

struct SgdBody {
  const Sgd& k;
  float rate, scale, momentum, decay;

  template <int N>
  __device__ void operator()(int64_t at) const {
    float p[N], g[N], b[N] = {};
    load(static_cast<const float*>(k.parameters) + at, p);
    load(static_cast<const float*>(k.gradients) + at, g);
    if (k.momentum_buffer != nullptr) load(static_cast<const float*>(k.momentum_buffer) + at, b);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      g[i] = scale * g[i] + decay * p[i];
      b[i] = momentum * b[i] + g[i];
      p[i] -= rate * (k.nesterov ? g[i] + momentum * b[i] : b[i]);
    }
    store(static_cast<float*>(k.parameters) + at, p);
    if (k.momentum_buffer != nullptr) store(static_cast<float*>(k.momentum_buffer) + at, b);
  }
};

__global__ void __launch_bounds__(kThreads, kBlocksPerSm) sgd_kernel(Sgd k, bool wide) {
  if (!k.scalars->finite) return;
  // Without a buffer there is no momentum, and the formulas become p -= rate * g.
  const float momentum = k.momentum_buffer != nullptr ? static_cast<float>(k.momentum) : 0;
  for (int64_t t = blockIdx.x; t < k.tile_count; t += gridDim.x) {
    const ParameterTile tile = k.tiles[t];
    for_each_vector(tile, wide,
                    SgdBody{k, static_cast<float>(k.scalars->learning_rate),
                            static_cast<float>(k.scalars->gradient_scale), momentum,
                            static_cast<float>(tile.weight_decay)});
  }
}

/// Updates the moments and sums the squares of parameter and direction.
struct LambMeasure {
  const Lamb& k;
  const AdamScalars<float>& s;
  float decay;
  double& parameter;
  double& direction;

  template <int N>
  __device__ void operator()(int64_t at) const {
    AdamVector<N> x(k, at);
    auto& [p, g, m, v] = x;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      s.update_moments(m[i], v[i], s.scale * g[i]);
      const double u = s.direction(m[i], v[i]) + decay * p[i];
      parameter += static_cast<double>(p[i]) * p[i];
      direction += u * u;
    }
    x.store_moments(k, at);
  }
};

__global__ void __launch_bounds__(kThreads, kBlocksPerSm) lamb_measure_kernel(Lamb k, bool wide) {
  if (!k.scalars->finite) return;
  const AdamScalars<float> s = block_scalars(k);
  for (int64_t t = blockIdx.x; t < k.tile_count; t += gridDim.x) {
    const ParameterTile tile = k.tiles[t];
    double parameter = 0, direction = 0;
    for_each_vector(tile, wide,
                    LambMeasure{k, s, static_cast<float>(tile.weight_decay), parameter, direction});
    parameter = block_sum<kThreads>(parameter);
    direction = block_sum<kThreads>(direction);
    if (threadIdx.x == 0) {
      k.norms[2 * t] = parameter;
      k.norms[2 * t + 1] = direction;
    }
  }
}

/// The warp of a parameter's first tile replaces the squared norms of all its tiles by the trust ratio.
__global__ void __launch_bounds__(kThreads) lamb_ratio_kernel(Lamb k) {
  if (!k.scalars->finite) return;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (first >= k.tile_count) return;
  const int64_t number = k.tiles[first].parameter;
  if (first > 0 && k.tiles[first - 1].parameter == number) return;
  double parameter = 0, direction = 0;
  int64_t end = first;  // one past the parameter's last tile
  for (int64_t base = first;; base += 32) {
    const int64_t t = base + threadIdx.x % 32;
    const bool own = t < k.tile_count && k.tiles[t].parameter == number;
    if (own) {
      parameter += k.norms[2 * t];
      direction += k.norms[2 * t + 1];
    }
    const int found = __popc(__ballot_sync(0xffffffffu, own));
    end = base + found;
    if (found < 32) break;
  }
  parameter = warp_sum(parameter);
  direction = warp_sum(direction);
  const bool scaled = k.tiles[first].layerwise && parameter > 0 && direction > 0;
  const double ratio = scaled ? sqrt(parameter / direction) : 1;
  for (int64_t t = first + threadIdx.x % 32; t < end; t += 32) k.norms[2 * t] = ratio;
}

struct LambApply {
  const Lamb& k;
  const AdamScalars<float>& s;
  float rate, decay;

  template <int N>
  __device__ void operator()(int64_t at) const {
    float p[N], m[N], v[N];
    load(static_cast<const float*>(k.parameters) + at, p);
    load(static_cast<const float*>(k.first_moment) + at, m);
    load(static_cast<const float*>(k.second_moment) + at, v);
#pragma unroll
    for (int i = 0; i < N; ++i) p[i] -= rate * (s.direction(m[i], v[i]) + decay * p[i]);
    store(static_cast<float*>(k.parameters) + at, p);
  }
};

__global__ void __launch_bounds__(kThreads, kBlocksPerSm) lamb_apply_kernel(Lamb k, bool wide) {
  if (!k.scalars->finite) return;
  const AdamScalars<float> s = block_scalars(k);
  for (int64_t t = blockIdx.x; t < k.tile_count; t += gridDim.x) {
    const ParameterTile tile = k.tiles[t];
    const float rate = static_cast<float>(k.scalars->learning_rate * k.norms[2 * t]);
    for_each_vector(tile, wide, LambApply{k, s, rate, static_cast<float>(tile.weight_decay)});
  }
}

struct MovingAverageOp {
  const float* values;
  float* average;
  const StepScalars* scalars;
  float rest = 0;

  template <int N>
  struct Values {
    float value[N], average[N];
  };
  __device__ bool begin() {
    rest = static_cast<float>(1 - scalars->average_decay);
    return scalars->finite != 0;
  }
  template <int N>
  __device__ void load(int64_t i, Values<N>& v) const {
    cuda::load(values + i, v.value);
    cuda::load(static_cast<const float*>(average) + i, v.average);
  }
  template <int N>
  __device__ void store(int64_t i, Values<N>& v) const {
#pragma unroll
    for (int j = 0; j < N; ++j) v.average[j] += rest * (v.value[j] - v.average[j]);
    cuda::store(average + i, v.average);
  }
};

unsigned resident_blocks(const Launch& launch, int64_t tiles) {
  return static_cast<unsigned>(std::min<int64_t>(tiles, int64_t{kBlocksPerSm} * launch.sm_count));
}

}  // namespace

void step_control(const Launch& launch, const StepControl& k) {
  step_control_kernel<<<1, 1, 0, stream_of(launch)>>>(k);
  check_launch("step_control");
}

void adam(const Launch& launch, const Adam& k) {
  require(k.type == DType::f32, "parameters in f32");
  if (k.tile_count == 0) return;
  const bool wide = aligned({k.parameters, k.gradients, k.first_moment, k.second_moment, k.rounded}) &&
                    k.first_element % 4 == 0;
  with_type(k.moment_type, [&]<typename M>() {
    adam_kernel<M><<<resident_blocks(launch, k.tile_count), kThreads, 0, stream_of(launch)>>>(k, wide);
  });
  check_launch("adam");
}

void sgd(const Launch& launch, const Sgd& k) {
  require(k.type == DType::f32, "parameters in f32");
  if (k.tile_count == 0) return;
  const bool wide = aligned({k.parameters, k.gradients, k.momentum_buffer});
  sgd_kernel<<<resident_blocks(launch, k.tile_count), kThreads, 0, stream_of(launch)>>>(k, wide);
  check_launch("sgd");
}

void lamb(const Launch& launch, const Lamb& k) {
  require(k.type == DType::f32, "parameters in f32");
  if (k.tile_count == 0) return;
  const bool wide = aligned({k.parameters, k.gradients, k.first_moment, k.second_moment});
  const unsigned blocks = resident_blocks(launch, k.tile_count);
  const unsigned ratio_blocks = static_cast<unsigned>(ceil_div(k.tile_count, kThreads / 32));
  lamb_measure_kernel<<<blocks, kThreads, 0, stream_of(launch)>>>(k, wide);
  lamb_ratio_kernel<<<ratio_blocks, kThreads, 0, stream_of(launch)>>>(k);
  lamb_apply_kernel<<<blocks, kThreads, 0, stream_of(launch)>>>(k, wide);
  check_launch("lamb");
}

void moving_average(const Launch& launch, const MovingAverage& k) {
  require(k.type == DType::f32, "parameters in f32");
  const MovingAverageOp op{static_cast<const float*>(k.values), static_cast<float*>(k.average), k.scalars};
  for_each_element<4>(launch, k.elements, aligned({k.values, k.average}), op, "moving_average");
}

}  // namespace perceiver::kernels::cuda
