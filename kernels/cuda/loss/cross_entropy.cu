// Softmax cross-entropy with label smoothing and z-loss, and the sums over rows.
//
// Up to 1024 ids a warp holds one row in registers (16 or 32 elements per lane): one read and, for gradients,
// one write. Larger vocabularies take a block of 512 threads per row: the first pass keeps each thread's
// running maximum and sum of exponentials (Milakov and Gimelshein 2018), the second writes the gradient; it
// finds the row in the L2 cache, so that device memory again sees one read and one write.
//
// The sums over rows: at most 256 blocks write five f64 each, and one block adds them up in block order.
#include <cmath>

#include <algorithm>
#include <numeric>

#include "kernels/cuda/support/constants.cuh"
#include "kernels/cuda/support/vector.cuh"
#include "kernels/loss.h"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kWarpThreads = 256;

/// Soft targets: `on` for the target, `off` for every other id; `normalizer` makes the loss of a perfect
/// prediction 0.
struct Smoothing {
  float on, off, normalizer;
};

Smoothing smoothing(double amount, int64_t vocabulary) {
  const double others = static_cast<double>(vocabulary - 1);
  const double on = 1 - amount, off = amount / others;
  const double off_entropy = off > 0 ? others * off * std::log(off) : 0;
  return {static_cast<float>(on), static_cast<float>(off),
          static_cast<float>(-(on * std::log(on) + off_entropy))};
}

/// exp(x) for x <= 0, a few ulps off where |x| is large; tiny results become 0.
__device__ inline float fast_exp(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * kLog2E));
  return y;
}

/// What the loss and gradient of a row need of its logits.
struct RowSums {
  float largest, exponentials, total, chosen;
  bool correct;
};

/// The gradient of logit x with p = exp(x - largest): weight * p - off, minus `on` for the target.
struct RowGradient {
  float weight, off, on;

  __device__ float of(float p, bool is_target) const { return weight * p - off - (is_target ? on : 0.0f); }
};

__device__ inline void write_statistics(const CrossEntropy& k, int64_t row, float nll, float loss, float z,
                                        bool correct) {
  if (k.nll != nullptr) static_cast<float*>(k.nll)[row] = nll;
  if (k.loss != nullptr) static_cast<float*>(k.loss)[row] = loss;
  if (k.z != nullptr) static_cast<float*>(k.z)[row] = z;
  if (k.correct != nullptr) k.correct[row] = correct;
}

/// Writes the row's statistics if `writes`; returns what its gradient needs.
__device__ inline RowGradient finish_row(const CrossEntropy& k, const Smoothing& soft, int64_t row,
                                         const RowSums& sums, bool writes) {
  const float log_z = sums.largest + logf(sums.exponentials);
  const float nll = log_z - sums.chosen;
  const float z_loss = static_cast<float>(k.z_loss), z = z_loss * log_z * log_z;
  if (writes) {
    const float others = log_z * static_cast<float>(k.vocabulary - 1) - (sums.total - sums.chosen);
    write_statistics(k, row, nll, soft.on * nll + soft.off * others - soft.normalizer + z, z, sums.correct);
  }
  if (k.gradient_scale == nullptr) return {};
  const float scale = static_cast<float>(*k.gradient_scale);
  return {scale * (1 + 2 * z_loss * log_z) / sums.exponentials, scale * soft.off,
          scale * (soft.on - soft.off)};
}

/// One warp per row of at most 32 * kElements logits; element e of a lane is logit 32 * e + lane.
template <typename T, int kElements>
__global__ void __launch_bounds__(kWarpThreads, kElements == 32 ? 2 : 4)
    warp_kernel(CrossEntropy k, Smoothing soft) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kWarpThreads / 32) + threadIdx.x / 32;
  if (row >= k.rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32, vocabulary = static_cast<int>(k.vocabulary);
  const int target = k.targets[row];
  T* logits = static_cast<T*>(k.logits) + row * k.stride;
  if (target == 0) {
    if (lane == 0) write_statistics(k, row, 0, 0, 0, false);
    if (k.gradient_scale == nullptr) return;
    for (int i = lane; i < k.stride; i += 32) logits[i] = from_float<T>(0);
    return;
  }
  logits += min(lane, vocabulary - 1);
  const int rest = vocabulary - lane, target_rest = target - lane;  // element e exists where 32 * e < rest
  // Lanes without an element reload one of the row's instead of branching, so that all loads are issued
  // together.
  T raw[kElements];
#pragma unroll
  for (int e = 0; e < kElements; ++e) raw[e] = logits[32 * e < rest ? 32 * e : 0];
  float x[kElements];
  float largest = -INFINITY, total = 0;
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    const float value = to_float(raw[e]);
    x[e] = 32 * e < rest ? value : -INFINITY;
    largest = fmaxf(largest, x[e]);
    total += 32 * e < rest ? value : 0.0f;
  }
  RowSums sums;
  sums.largest = warp_max(largest);
  sums.total = warp_sum(total);
  float chosen = 0, exponentials = 0;
  bool earlier = false;  // an equal logit before the target, which would be the first arg max
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    if (32 * e == target_rest) chosen = x[e];
    earlier |= 32 * e < target_rest && x[e] == sums.largest;
    x[e] = fast_exp(x[e] - sums.largest);
    exponentials += x[e];
  }
  sums.chosen = __shfl_sync(0xffffffffu, chosen, target % 32);
  sums.exponentials = warp_sum(exponentials);
  sums.correct = !__any_sync(0xffffffffu, earlier) && sums.chosen == sums.largest;
  const RowGradient gradient = finish_row(k, soft, row, sums, lane == 0);
  if (k.gradient_scale == nullptr) return;
#pragma unroll
  for (int e = 0; e < kElements; ++e)
    if (32 * e < rest) logits[32 * e] = from_float<T>(gradient.of(x[e], 32 * e == target_rest));
  T* begin = static_cast<T*>(k.logits) + row * k.stride;
  for (int64_t i = vocabulary + lane; i < k.stride; i += 32) begin[i] = from_float<T>(0);
}

/// Maximum over a block, in every thread. Call it from all of them.
template <int kThreads>
__device__ inline float block_max(float x) {
  __shared__ float parts[kThreads / 32];
  x = warp_max(x);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
  __syncthreads();
#pragma unroll
  for (int warp = 0; warp < kThreads / 32; ++warp) x = fmaxf(x, parts[warp]);
  return x;
}

/// The running sums of one thread over its logits.
struct ThreadSums {
  float largest = -INFINITY, exponentials = 0;  // exponentials relative to `largest`
  float total = 0;
  float before = -INFINITY;  // the largest before the target

  /// Adds logits i, i + 1, ...; totals and maxima before the target only with `statistics`.
  template <int N>
  __device__ void add(const float (&x)[N], int i, int target, bool statistics) {
    float above = largest, sum = 0;
#pragma unroll
    for (int j = 0; j < N; ++j) above = fmaxf(above, x[j]);
    const float shift = above == -INFINITY ? 0 : above;  // nothing finite yet
#pragma unroll
    for (int j = 0; j < N; ++j) sum += fast_exp(x[j] - shift);
    exponentials = exponentials * fast_exp(largest - shift) + sum;
    largest = above;
    if (!statistics) return;
#pragma unroll
    for (int j = 0; j < N; ++j) total += x[j];
    if (i >= target) return;
#pragma unroll
    for (int j = 0; j < N; ++j)
      if (i + j < target) before = fmaxf(before, x[j]);
  }
};

/// Clears the padding between this row of logits and the next.
template <typename T>
__device__ inline void clear_padding(const CrossEntropy& k, T* logits) {
  for (int64_t i = k.vocabulary + threadIdx.x; i < k.stride; i += blockDim.x) logits[i] = from_float<T>(0);
}

/// One block per row. The maximum before the target decides whether the target is the first arg max.
template <typename T, int N, int kThreads>
__global__ void __launch_bounds__(kThreads, 2048 / kThreads) block_kernel(CrossEntropy k, Smoothing soft) {
  constexpr int kStep = kThreads * N;
  const int64_t row = blockIdx.x;
  const int target = k.targets[row], vocabulary = static_cast<int>(k.vocabulary);
  const int begin = static_cast<int>(threadIdx.x) * N;
  const bool statistics = k.loss != nullptr || k.correct != nullptr;
  T* logits = static_cast<T*>(k.logits) + row * k.stride;
  if (target == 0) {
    const float zeros[N] = {};
    if (threadIdx.x == 0) write_statistics(k, row, 0, 0, 0, false);
    if (k.gradient_scale == nullptr) return;
    for (int i = begin; i < vocabulary; i += kStep) store(logits + i, zeros);
    clear_padding<T>(k, logits);
    return;
  }
  ThreadSums own;
#pragma unroll 2
  for (int i = begin; i < vocabulary; i += kStep) {
    float x[N];
    load(static_cast<const T*>(logits) + i, x);
    own.add(x, i, target, statistics);
  }
  RowSums sums;
  sums.largest = block_max<kThreads>(own.largest);
  sums.exponentials = block_sum<kThreads>(
      own.largest == -INFINITY ? own.exponentials : own.exponentials * fast_exp(own.largest - sums.largest));
  sums.total = statistics ? block_sum<kThreads>(own.total) : 0;
  sums.chosen = to_float(logits[target]);
  const bool earlier =
      __syncthreads_or(own.before == sums.largest);  // also: no thread writes before all have read
  sums.correct = !earlier && sums.chosen == sums.largest;
  const RowGradient gradient = finish_row(k, soft, row, sums, threadIdx.x == 0);
  if (k.gradient_scale == nullptr) return;
  const int steps = (vocabulary - begin + kStep - 1) / kStep;
#pragma unroll 2
  for (int i = begin + (steps - 1) * kStep; i >= 0; i -= kStep) {
    float x[N];
    load(static_cast<const T*>(logits) + i, x);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = gradient.of(fast_exp(x[j] - sums.largest), i + j == target);
    store(logits + i, x);
  }
  clear_padding<T>(k, logits);
}

constexpr int kTotals = 5;
constexpr int kTotalThreads = 256;
constexpr int64_t kTotalBlocks = 256;

__global__ void __launch_bounds__(kTotalThreads) totals_kernel(LossTotals k, double* parts) {
  double sums[kTotals] = {};
  const int64_t end = k.rows * (blockIdx.x + 1) / gridDim.x;
  for (int64_t r = k.rows * blockIdx.x / gridDim.x + threadIdx.x; r < end; r += kTotalThreads) {
    sums[0] += static_cast<const float*>(k.loss)[r];
    sums[1] += static_cast<const float*>(k.nll)[r];
    sums[2] += static_cast<const float*>(k.z)[r];
    sums[3] += k.correct[r];
    sums[4] += k.targets[r] != 0;
  }
#pragma unroll
  for (int i = 0; i < kTotals; ++i) {
    const double sum = block_sum<kTotalThreads>(sums[i]);
    if (threadIdx.x == 0) parts[blockIdx.x * kTotals + i] = sum;
  }
}

/// Warp i adds up total i.
__global__ void finish_totals_kernel(const double* parts, int64_t count, double* totals, bool accumulate) {
  const int i = static_cast<int>(threadIdx.x) / 32;
  double sum = 0;
  for (int64_t part = threadIdx.x % 32; part < count; part += 32) sum += parts[part * kTotals + i];
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) totals[i] = sum + (accumulate ? totals[i] : 0);
}

template <typename T, int kElements>
void launch_warps(const Launch& launch, const CrossEntropy& k, const Smoothing& soft) {
  const unsigned blocks = static_cast<unsigned>(ceil_div(k.rows, kWarpThreads / 32));
  warp_kernel<T, kElements><<<blocks, kWarpThreads, 0, stream_of(launch)>>>(k, soft);
}

template <typename T, int kThreads>
void launch_blocks(const Launch& launch, const CrossEntropy& k, const Smoothing& soft) {
  with_width<T>(wide_rows<T>(std::gcd(k.vocabulary, k.stride), {k.logits}), [&]<int N>() {
    block_kernel<T, N, kThreads><<<static_cast<unsigned>(k.rows), kThreads, 0, stream_of(launch)>>>(k, soft);
  });
}

template <typename T>
void launch_rows(const Launch& launch, const CrossEntropy& k) {
  const Smoothing soft = smoothing(k.label_smoothing, k.vocabulary);
  if (k.vocabulary <= 320) {
    launch_warps<T, 10>(launch, k, soft);
  } else if (k.vocabulary <= 512) {
    launch_warps<T, 16>(launch, k, soft);
  } else if (k.vocabulary <= 1024) {
    launch_warps<T, 32>(launch, k, soft);
  } else if (k.vocabulary <= 8192) {
    launch_blocks<T, 128>(launch, k, soft);
  } else {
    launch_blocks<T, 512>(launch, k, soft);
  }
  check_launch("cross_entropy");
}

}  // namespace

void cross_entropy(const Launch& launch, const CrossEntropy& k) {
  require(k.stride >= k.vocabulary, "rows of logits that do not overlap");
  if (k.rows == 0) return;
  with_type(k.type, [&]<typename T>() { launch_rows<T>(launch, k); });
}

void loss_totals(const Launch& launch, const LossTotals& k) {
  require(k.type == DType::f32, "losses in f32");
  double* parts = static_cast<double*>(launch.workspace);
  const int64_t blocks = std::min(kTotalBlocks, ceil_div(k.rows, kTotalThreads));
  if (blocks > 0)
    totals_kernel<<<static_cast<unsigned>(blocks), kTotalThreads, 0, stream_of(launch)>>>(k, parts);
  finish_totals_kernel<<<1, 32 * kTotals, 0, stream_of(launch)>>>(parts, blocks, k.totals, k.accumulate);
  check_launch("loss_totals");
}

}  // namespace perceiver::kernels::cuda
