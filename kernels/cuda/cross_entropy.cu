// Softmax cross-entropy with label smoothing and z-loss, and the sums over rows.
//
// Up to 1024 ids a warp holds one row in registers (16 or 32 elements a lane): one read and, for gradients,
// one write. Larger vocabularies take a block of 512 threads per row: the first pass keeps each thread's
// running maximum and sum of exponentials (Milakov and Gimelshein 2018), the second writes the gradient; it
// finds the row in the second-level cache, so that device memory again sees one read and one write.
//
// The sums over rows: at most 256 blocks write five f64 each, one block adds them up in their order.
#include <cmath>

#include <algorithm>
#include <numeric>

#include "kernels/cuda/vector.cuh"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kWarpThreads = 256;
constexpr int kBlockThreads = 512;

/// Soft targets: `on` for the target, `off` for each other id; `normalizer` makes a perfect prediction's loss
/// 0.
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

/// What a row's loss and gradient need of its logits.
struct RowSums {
  float largest, exponentials, total, chosen;
  bool correct;
};

/// The gradient of logit x with p = exp(x - largest): weight * p - off, and `on` less for the target.
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

/// Writes the row's statistics where `writes`; returns what its gradient needs.
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

/// One warp a row of at most 32 * kElements logits; element e of a lane is logit 32 * e + lane.
template <typename T, int kElements>
__global__ void __launch_bounds__(kWarpThreads, kElements == 16 ? 3 : 2)
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
  logits += lane;
  const int rest = vocabulary - lane, target_rest = target - lane;  // element e exists where 32 * e < rest
  float x[kElements];
  float largest = -INFINITY, total = 0;
#pragma unroll
  for (int e = 0; e < kElements; ++e) x[e] = 32 * e < rest ? to_float(logits[32 * e]) : -INFINITY;
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    largest = fmaxf(largest, x[e]);
    if (32 * e < rest) total += x[e];
  }
  RowSums sums;
  sums.largest = warp_max(largest);
  sums.total = warp_sum(total);
  float chosen = 0, exponentials = 0;
  bool earlier = false;  // an equal logit before the target, which the first arg max would be
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    if (32 * e == target_rest) chosen = x[e];
    earlier |= 32 * e < target_rest && x[e] == sums.largest;
    x[e] = __expf(x[e] - sums.largest);
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
  for (int i = vocabulary; i + lane < k.stride; i += 32) logits[i] = from_float<T>(0);
}

/// A maximum and the sum of exponentials relative to it.
struct Running {
  float largest, exponentials;

  __device__ void merge(float other_largest, float other_exponentials) {
    const float both = fmaxf(largest, other_largest);
    if (both == -INFINITY) return;
    exponentials = exponentials * __expf(largest - both) + other_exponentials * __expf(other_largest - both);
    largest = both;
  }
};

/// The block's maximum and sum, merged in a fixed order, in every thread.
__device__ inline Running merge_block(Running own) {
  constexpr int kWarps = kBlockThreads / 32;
  __shared__ Running parts[kWarps];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const float largest = __shfl_xor_sync(0xffffffffu, own.largest, offset);
    const float exponentials = __shfl_xor_sync(0xffffffffu, own.exponentials, offset);
    own.merge(largest, exponentials);
  }
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = own;
  __syncthreads();
  Running all = parts[0];
#pragma unroll
  for (int warp = 1; warp < kWarps; ++warp) all.merge(parts[warp].largest, parts[warp].exponentials);
  return all;
}

/// What lies between this row of logits and the next.
template <typename T>
__device__ inline void clear_rest(const CrossEntropy& k, T* logits) {
  const int64_t i = k.vocabulary + threadIdx.x;
  if (i < k.stride) logits[i] = from_float<T>(0);
}

/// One block a row. The maximum before the target decides whether the target is the first arg max.
template <typename T, int N>
__global__ void __launch_bounds__(kBlockThreads) block_kernel(CrossEntropy k, Smoothing soft) {
  constexpr int kStep = kBlockThreads * N;
  const int64_t row = blockIdx.x;
  const int target = k.targets[row], begin = static_cast<int>(threadIdx.x) * N;
  const int vocabulary = static_cast<int>(k.vocabulary);
  T* logits = static_cast<T*>(k.logits) + row * k.stride;
  if (target == 0) {
    const float zeros[N] = {};
    if (threadIdx.x == 0) write_statistics(k, row, 0, 0, 0, false);
    if (k.gradient_scale == nullptr) return;
    for (int i = begin; i < vocabulary; i += kStep) store(logits + i, zeros);
    clear_rest<T>(k, logits);
    return;
  }
  Running own{-INFINITY, 0};
  float total = 0, before = -INFINITY;
#pragma unroll 4
  for (int i = begin; i < vocabulary; i += kStep) {
    float x[N], largest = own.largest, sum = 0;
    load(static_cast<const T*>(logits) + i, x);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      largest = fmaxf(largest, x[j]);
      if (i + j < target) before = fmaxf(before, x[j]);
      total += x[j];
    }
    const float shift = largest == -INFINITY ? 0 : largest;  // nothing finite yet
#pragma unroll
    for (int j = 0; j < N; ++j) sum += __expf(x[j] - shift);
    own.exponentials = own.exponentials * __expf(own.largest - shift) + sum;
    own.largest = largest;
  }
  const Running all = merge_block(own);
  RowSums sums;
  sums.largest = all.largest;
  sums.exponentials = all.exponentials;
  sums.total = block_sum<kBlockThreads>(total);
  sums.chosen = to_float(logits[target]);
  const bool earlier = __syncthreads_or(before == all.largest);  // and nobody writes before all have read
  sums.correct = !earlier && sums.chosen == all.largest;
  const RowGradient gradient = finish_row(k, soft, row, sums, threadIdx.x == 0);
  if (k.gradient_scale == nullptr) return;
#pragma unroll 4
  for (int i = begin; i < vocabulary; i += kStep) {
    float x[N];
    load(static_cast<const T*>(logits) + i, x);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = gradient.of(__expf(x[j] - all.largest), i + j == target);
    store(logits + i, x);
  }
  clear_rest<T>(k, logits);
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

template <typename T>
void launch_rows(const Launch& launch, const CrossEntropy& k) {
  const Smoothing soft = smoothing(k.label_smoothing, k.vocabulary);
  const unsigned warps = static_cast<unsigned>(ceil_div(k.rows, kWarpThreads / 32));
  if (k.vocabulary <= 512) {
    warp_kernel<T, 16><<<warps, kWarpThreads, 0, stream_of(launch)>>>(k, soft);
  } else if (k.vocabulary <= 1024) {
    warp_kernel<T, 32><<<warps, kWarpThreads, 0, stream_of(launch)>>>(k, soft);
  } else {
    with_width<T>(wide_rows<T>(std::gcd(k.vocabulary, k.stride), {k.logits}), [&]<int N>() {
      block_kernel<T, N><<<static_cast<unsigned>(k.rows), kBlockThreads, 0, stream_of(launch)>>>(k, soft);
    });
  }
  check_launch("cross_entropy");
}

}  // namespace

void cross_entropy(const Launch& launch, const CrossEntropy& k) {
  require(k.stride >= k.vocabulary && k.stride < k.vocabulary + kBlockThreads, "rows of logits close together");
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
