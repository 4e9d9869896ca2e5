// Adafactor (Shazeer and Stern 2018, algorithms 4 and 5).
//
// The parameters' shapes are known only on the device, so a first launch plans the work: every parameter is
// cut into items of about 65536 elements (runs of whole rows of a matrix, at most 1024; runs of elements
// where the second moment is not factored), and each item gets its place in the workspace. The next launches
// run over the items of all parameters with a persistent grid:
//  1. moments: row sums update the row moments at once; column sums leave one part per item;
//  2. columns: the parts are added in order and update the column moments; the mean of the row moments;
//  3. measure: the squares of the update, in f64, one sum per item;
//  4. apply: the sums of a parameter's items, in order, give its clipping, and the parameters are updated.
// A block's 8 warps walk down the rows, each lane over 4 columns at a time. Gradients are read three times,
// parameters read and written once; the parts are around a percent of that.
#include "kernels/cuda/support/common.cuh"
#include "kernels/optimizer.h"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kLaneColumns = 4;           // per lane, 32 apart
constexpr int kSpan = 32 * kLaneColumns;  // columns of a warp
constexpr int kBlocksPerSm = 4;
constexpr int64_t kItemElements = 65536;
constexpr int64_t kMinItemRows = 64;
constexpr int64_t kMaxItemRows = 1024;
constexpr float kEpsilon = 1e-30f;       // added to squared gradients
constexpr double kDecayExponent = -0.8;  // second moments decay by 1 - update^this
constexpr double kClipThreshold = 1;     // of the update's root mean square

__device__ inline int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// One parameter's share of the work; one past the last parameter, the totals.
struct Plan {
  int64_t first_item, items;
  int64_t item_length;        // rows; elements where the moment is not factored
  int64_t first_column_item;  // of step 2: the columns in runs of 32, and one for the mean of the row moments
  int64_t parts;              // where its column sums [items, columns] are
};

struct Work {
  Adafactor k;
  Plan* plans;       // [parameter_count + 1]
  float* row_means;  // [parameter_count], of the row moments
  double* sums;      // [items], of squared updates; then the column sums
  int64_t room;      // from `sums` on, in f32

  __device__ const Plan& totals() const { return plans[k.parameter_count]; }
  __device__ float* column_sums(const Plan& plan) const {
    return reinterpret_cast<float*>(sums + totals().first_item) + plan.parts;
  }
};

__device__ inline void plan_parameter(const AdafactorParameter& p, int64_t min_rows, Plan& plan) {
  plan.item_length = kItemElements;
  if (p.factored) plan.item_length = min(kMaxItemRows, max(min_rows, kItemElements / p.columns));
  plan.items = divide_up(p.factored ? p.rows : p.rows * p.columns, plan.item_length);
}

/// Gives the plan the numbers in `next`, which then moves past the parameter's items.
__device__ inline void number_items(const AdafactorParameter& p, Plan& plan, Plan& next) {
  plan.first_item = next.first_item;
  plan.first_column_item = next.first_column_item;
  plan.parts = next.parts;
  next.first_item += plan.items;
  if (!p.factored) return;
  next.first_column_item += divide_up(p.columns, 32) + 1;
  next.parts += plan.items * p.columns;
}

/// Plans all parameters, each thread a run of them; returns whether their results fit. Call it from the whole
/// block.
__device__ inline bool plan_all(const Work& w, int64_t min_rows) {
  __shared__ Plan sums[kThreads];
  const int64_t count = w.k.parameter_count;
  const int64_t begin = count * threadIdx.x / kThreads, end = count * (threadIdx.x + 1) / kThreads;
  Plan next{};
  for (int64_t i = begin; i < end; ++i) {
    plan_parameter(w.k.table[i], min_rows, w.plans[i]);
    number_items(w.k.table[i], w.plans[i], next);
  }
  sums[threadIdx.x] = next;
  __syncthreads();
  Plan total{}, before{};
  for (unsigned thread = 0; thread < kThreads; ++thread) {
    if (thread == threadIdx.x) before = total;
    total.first_item += sums[thread].first_item;
    total.first_column_item += sums[thread].first_column_item;
    total.parts += sums[thread].parts;
  }
  for (int64_t i = begin; i < end; ++i) number_items(w.k.table[i], w.plans[i], before);
  if (threadIdx.x == 0) w.plans[count] = total;
  __syncthreads();
  return 2 * total.first_item + total.parts <= w.room;
}

/// One block. Makes the items longer if the parts do not fit; 64 MiB suffice for some 10^10 elements.
__global__ void __launch_bounds__(kThreads) plan_kernel(Work w) {
  if (!w.k.scalars->finite) return;
  for (int64_t min_rows = kMinItemRows;; min_rows *= 2) {
    if (plan_all(w, min_rows)) return;
    if (min_rows >= kMaxItemRows) __trap();
  }
}

/// The parameter to which an item belongs; `first` is the member with a parameter's first item.
__device__ inline int64_t find(const Work& w, int64_t number, int64_t Plan::*first) {
  int64_t low = 0, high = w.k.parameter_count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (w.plans[middle].*first <= number ? low : high) = middle;
  }
  return low;
}

/// The scalars of the formulas; the decay of the moments is computed in double, once per block.
struct Scalars {
  float scale, decay, rest;
};

__device__ inline Scalars block_scalars(const StepScalars& scalars) {
  __shared__ Scalars shared;
  if (threadIdx.x == 0) {
    const double rest = pow(scalars.update, kDecayExponent);
    shared = {static_cast<float>(scalars.gradient_scale), static_cast<float>(1 - rest),
              static_cast<float>(rest)};
  }
  __syncthreads();
  return shared;
}

/// One item, as its block uses it.
struct Item {
  AdafactorParameter p;
  Plan plan;
  int64_t parameter, number;  // number: within the parameter
  int64_t begin, end;         // rows, or elements
  const float* gradients;
  float* values;
  float* row_moment;
  float* column_moment;

  __device__ Item(const Work& w, int64_t item) {
    parameter = find(w, item, &Plan::first_item);
    p = w.k.table[parameter];
    plan = w.plans[parameter];
    number = item - plan.first_item;
    begin = number * plan.item_length;
    end = min(p.factored ? p.rows : p.rows * p.columns, begin + plan.item_length);
    gradients = static_cast<const float*>(w.k.gradients) + p.begin;
    values = static_cast<float*>(w.k.parameters) + p.begin;
    row_moment = static_cast<float*>(w.k.moments) + p.row_moment;
    column_moment = static_cast<float*>(w.k.moments) + p.column_moment;
  }
};

__device__ inline int lane_id() {
  return static_cast<int>(threadIdx.x) % 32;
}
__device__ inline int warp_id() {
  return static_cast<int>(threadIdx.x) / 32;
}

/// Step 1 where the moment is not factored.
__device__ inline void update_whole_moment(const Item& item, const Scalars& s) {
  for (int64_t i = item.begin + threadIdx.x; i < item.end; i += kThreads) {
    const float g = s.scale * item.gradients[i];
    item.row_moment[i] = s.decay * item.row_moment[i] + s.rest * (g * g + kEpsilon);
  }
}

/// The squares in one span of columns: adds those of each row to row_sums, and writes the part of the
/// columns.
__device__ inline void sum_span(const Item& item, const Scalars& s, int64_t first_column, float* row_sums,
                                float* part) {
  __shared__ float shared[kWarps][kSpan];
  const int64_t columns = item.p.columns;
  float sums[kLaneColumns] = {};
#pragma unroll 2
  for (int64_t row = item.begin + warp_id(); row < item.end; row += kWarps) {
    float row_sum = 0;
#pragma unroll
    for (int j = 0; j < kLaneColumns; ++j) {
      const int64_t column = first_column + 32 * j + lane_id();
      if (column >= columns) continue;
      const float g = s.scale * item.gradients[row * columns + column], square = g * g + kEpsilon;
      sums[j] += square;
      row_sum += square;
    }
    row_sum = warp_sum(row_sum);
    if (lane_id() == 0) row_sums[row - item.begin] += row_sum;  // in every span the row is this warp's
  }
#pragma unroll
  for (int j = 0; j < kLaneColumns; ++j) shared[warp_id()][32 * j + lane_id()] = sums[j];
  __syncthreads();
  const int64_t column = first_column + threadIdx.x;
  if (threadIdx.x < kSpan && column < columns) {
    float sum = 0;
    for (int warp = 0; warp < kWarps; ++warp) sum += shared[warp][threadIdx.x];
    part[column] = sum;
  }
  __syncthreads();
}

/// Step 1 for a factored moment.
__device__ inline void update_row_moments(const Work& w, const Item& item, const Scalars& s) {
  __shared__ float row_sums[kMaxItemRows];
  for (int i = static_cast<int>(threadIdx.x); i < kMaxItemRows; i += kThreads) row_sums[i] = 0;
  __syncthreads();
  float* part = w.column_sums(item.plan) + item.number * item.p.columns;
  for (int64_t column = 0; column < item.p.columns; column += kSpan)
    sum_span(item, s, column, row_sums, part);
  for (int64_t row = item.begin + threadIdx.x; row < item.end; row += kThreads) {
    const float mean = row_sums[row - item.begin] / static_cast<float>(item.p.columns);
    item.row_moment[row] = s.decay * item.row_moment[row] + s.rest * mean;
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) moments_kernel(Work w) {
  if (!w.k.scalars->finite) return;
  const Scalars s = block_scalars(*w.k.scalars);
  for (int64_t i = blockIdx.x; i < w.totals().first_item; i += gridDim.x) {
    const Item item(w, i);
    if (item.p.factored) {
      update_row_moments(w, item, s);
    } else {
      update_whole_moment(item, s);
    }
  }
}

__device__ inline void mean_rows(const Work& w, int64_t parameter, const AdafactorParameter& p) {
  const float* moment = static_cast<const float*>(w.k.moments) + p.row_moment;
  double sum = 0;
  for (int64_t row = threadIdx.x; row < p.rows; row += kThreads) sum += moment[row];
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) w.row_means[parameter] = static_cast<float>(sum / static_cast<double>(p.rows));
}

/// Adds up the parts of 32 columns and updates their moments.
__device__ inline void update_column_moments(const Work& w, const AdafactorParameter& p, const Plan& plan,
                                             int64_t column, const Scalars& s) {
  __shared__ float shared[kWarps][32];
  float sum = 0;
  if (column < p.columns) {
#pragma unroll 4
    for (int64_t part = warp_id(); part < plan.items; part += kWarps)
      sum += w.column_sums(plan)[part * p.columns + column];
  }
  shared[warp_id()][lane_id()] = sum;
  __syncthreads();
  if (warp_id() == 0 && column < p.columns) {
    float* moment = static_cast<float*>(w.k.moments) + p.column_moment + column;
    for (int warp = 1; warp < kWarps; ++warp) sum += shared[warp][lane_id()];
    *moment = s.decay * *moment + s.rest * (sum / static_cast<float>(p.rows));
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kThreads) columns_kernel(Work w) {
  if (!w.k.scalars->finite) return;
  const Scalars s = block_scalars(*w.k.scalars);
  for (int64_t i = blockIdx.x; i < w.totals().first_column_item; i += gridDim.x) {
    // Parameters without such items share their first number with the next one, and find() skips them.
    const int64_t parameter = find(w, i, &Plan::first_column_item);
    const AdafactorParameter p = w.k.table[parameter];
    const Plan plan = w.plans[parameter];
    const int64_t column = (i - plan.first_column_item) * 32;
    if (column >= p.columns) {
      mean_rows(w, parameter, p);
    } else {
      update_column_moments(w, p, plan, column + lane_id(), s);
    }
  }
}

/// Calls use(element, gradient / root of its second moment) for an item's elements.
template <typename Use>
__device__ inline void for_each_update(const Work& w, const Item& item, const Scalars& s, Use&& use) {
  if (!item.p.factored) {
    for (int64_t i = item.begin + threadIdx.x; i < item.end; i += kThreads)
      use(i, s.scale * item.gradients[i] / sqrtf(item.row_moment[i]));
    return;
  }
  const float row_mean = w.row_means[item.parameter];
  for (int64_t first = lane_id(); first < item.p.columns; first += kSpan) {
    float roots[kLaneColumns];
#pragma unroll
    for (int j = 0; j < kLaneColumns; ++j)
      roots[j] = first + 32 * j < item.p.columns ? sqrtf(item.column_moment[first + 32 * j]) : 1;
#pragma unroll 2
    for (int64_t row = item.begin + warp_id(); row < item.end; row += kWarps) {
      const float row_factor = s.scale * sqrtf(row_mean / item.row_moment[row]);
#pragma unroll
      for (int j = 0; j < kLaneColumns; ++j) {
        const int64_t element = row * item.p.columns + first + 32 * j;
        if (first + 32 * j < item.p.columns) use(element, row_factor * item.gradients[element] / roots[j]);
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads) measure_kernel(Work w) {
  if (!w.k.scalars->finite) return;
  const Scalars s = block_scalars(*w.k.scalars);
  for (int64_t i = blockIdx.x; i < w.totals().first_item; i += gridDim.x) {
    const Item item(w, i);
    double sum = 0;
    for_each_update(w, item, s, [&](int64_t, float update) { sum += static_cast<double>(update) * update; });
    sum = block_sum<kThreads>(sum);
    if (threadIdx.x == 0) w.sums[i] = sum;
  }
}

/// The divisor of the whole parameter's update.
__device__ inline double clip_factor(const Work& w, const Item& item) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < item.plan.items; i += kThreads) sum += w.sums[item.plan.first_item + i];
  const double mean_square = block_sum<kThreads>(sum) / static_cast<double>(item.p.rows * item.p.columns);
  return fmax(1.0, sqrt(mean_square) / kClipThreshold);
}

__global__ void __launch_bounds__(kThreads) apply_kernel(Work w) {
  if (!w.k.scalars->finite) return;
  const Scalars s = block_scalars(*w.k.scalars);
  const double learning_rate = w.k.scalars->learning_rate;
  for (int64_t i = blockIdx.x; i < w.totals().first_item; i += gridDim.x) {
    const Item item(w, i);
    const float rate = static_cast<float>(learning_rate / clip_factor(w, item));
    const float keep = static_cast<float>(1 - learning_rate * item.p.weight_decay);
    for_each_update(w, item, s, [&](int64_t element, float update) {
      item.values[element] = keep * item.values[element] - rate * update;
    });
  }
}

/// Lays out the plans, means and sums in the workspace.
Work work_of(const Launch& launch, const Adafactor& k) {
  const auto aligned_bytes = [](int64_t bytes) { return ceil_div(bytes, 256) * 256; };
  const int64_t plan_bytes = aligned_bytes((k.parameter_count + 1) * static_cast<int64_t>(sizeof(Plan)));
  const int64_t mean_bytes = aligned_bytes(k.parameter_count * static_cast<int64_t>(sizeof(float)));
  char* base = static_cast<char*>(launch.workspace);
  const int64_t room = launch.workspace_bytes - plan_bytes - mean_bytes;
  require(room > 0, "a larger workspace for adafactor");
  return {k, reinterpret_cast<Plan*>(base), reinterpret_cast<float*>(base + plan_bytes),
          reinterpret_cast<double*>(base + plan_bytes + mean_bytes),
          room / static_cast<int64_t>(sizeof(float))};
}

}  // namespace

void adafactor(const Launch& launch, const Adafactor& k) {
  require(k.type == DType::f32, "parameters in f32");
  if (k.parameter_count == 0) return;
  const Work work = work_of(launch, k);
  const unsigned blocks = static_cast<unsigned>(kBlocksPerSm * launch.sm_count);
  plan_kernel<<<1, kThreads, 0, stream_of(launch)>>>(work);
  moments_kernel<<<blocks, kThreads, 0, stream_of(launch)>>>(work);
  columns_kernel<<<blocks, kThreads, 0, stream_of(launch)>>>(work);
  measure_kernel<<<blocks, kThreads, 0, stream_of(launch)>>>(work);
  apply_kernel<<<blocks, kThreads, 0, stream_of(launch)>>>(work);
  check_launch("adafactor");
}

}  // namespace perceiver::kernels::cuda
