// Sampling tokens, and advancing the slots: one block per slot. See Sample in kernels/sampling.h.
//
// Weights are recomputed from the logits in every pass over them instead of being stored. What top-k and
// top-p keep is a prefix of the tokens in falling order of their adjusted logits, so it is described by a
// threshold and by how many of the tokens exactly at it belong to it: found digit by digit (radix selection),
// by counts or by integer weights, whose sums do not depend on their order.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/support/dependent_launch.cuh"
#include "kernels/sampling.h"
#include "perceiver/experimental/philox.h"

namespace perceiver::kernels::cuda {
namespace {

using Word = unsigned long long;

constexpr int kMaxThreads = 1024, kMaxWarps = kMaxThreads / 32, kBins = 256;
constexpr int32_t kPad = 0, kEos = 1, kSos = 2;

/// An integer key in the order of the doubles.
__device__ inline Word ordered(double x) {
  const auto bits = static_cast<Word>(__double_as_longlong(x));
  return (bits >> 63) != 0 ? ~bits : bits | (Word{1} << 63);
}
__device__ inline double unordered(Word key) {
  return __longlong_as_double(static_cast<long long>((key >> 63) != 0 ? key & ~(Word{1} << 63) : ~key));
}

/// Reduces over the lanes of a warp with `join`.
template <typename Join>
__device__ inline double warp_reduce(double x, Join&& join) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x = join(x, __shfl_xor_sync(0xffffffffu, x, offset));
  return x;
}

/// Reduces each of kCount values over the block with `join`, in an order that depends on the number of
/// threads alone; `none` is the neutral element.
template <int kCount, typename Join>
__device__ inline void block_reduce(double (&x)[kCount], double none, Join&& join) {
  __shared__ double parts[kCount][kMaxWarps];
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (double& each : x) each = warp_reduce(each, join);
  __syncthreads();
  if (lane == 0)
    for (int i = 0; i < kCount; ++i) parts[i][warp] = x[i];
  __syncthreads();
  for (int i = 0; i < kCount; ++i) x[i] = warp_reduce(lane < blockDim.x / 32 ? parts[i][lane] : none, join);
}

/// Sum of x over the lanes up to and including this one.
__device__ inline Word inclusive_scan(Word x) {
  const unsigned lane = threadIdx.x % 32;
#pragma unroll
  for (unsigned offset = 1; offset < 32; offset *= 2) {
    const Word lower = __shfl_up_sync(0xffffffffu, x, offset);
    if (lane >= offset) x += lower;
  }
  return x;
}

/// Sum of x over the lower threads of the block; `total` gets the sum over all.
__device__ inline Word exclusive_scan(Word x, Word& total) {
  __shared__ Word parts[kMaxWarps];
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const Word inclusive = inclusive_scan(x);
  __syncthreads();
  if (lane == 31) parts[warp] = inclusive;
  __syncthreads();
  const Word part = lane < blockDim.x / 32 ? parts[lane] : 0, sums = inclusive_scan(part);
  total = __shfl_sync(0xffffffffu, sums, 31);
  return __shfl_sync(0xffffffffu, sums - part, static_cast<int>(warp)) + inclusive - x;
}

/// A slot's tokens, with repetition penalty and bias applied.
template <typename T>
struct Tokens {
  const T* logits;
  const uint8_t* seen;
  const float* bias;
  double penalty, temperature, largest;
  Word least;
  bool allow_eos;

  __device__ double adjusted(int64_t v) const {
    if (v == kPad || v == kSos || (v == kEos && !allow_eos)) return -INFINITY;
    double x = static_cast<double>(to_float(logits[v]));
    if (seen[v] != 0 && penalty != 1) x = x > 0 ? x / penalty : x * penalty;
    return bias == nullptr ? x : x + static_cast<double>(bias[v]);
  }
  __device__ Word weight_of(double adjusted) const {
    const auto weight = static_cast<Word>(exp((adjusted - largest) / temperature) * 0x1p40);
    return weight < least ? 0 : weight;
  }
};

/// The kept tokens: those with a key larger than `key`, and the first `ties` with that key.
struct Kept {
  Word key = 0, ties = ~Word{0};
  /// No token has the key 0.
  __device__ bool all() const { return key == 0; }
};

/// The shortest prefix, in falling order of keys, whose count or weight reaches `wanted`, at least 1.
template <bool kByWeight, typename T>
__device__ Kept select(const Tokens<T>& tokens, int64_t vocabulary, Word wanted) {
  __shared__ Word bins[kBins];
  __shared__ Word prefix, above;
  if (threadIdx.x == 0) prefix = 0, above = 0;
  for (int shift = 56; shift >= 0; shift -= 8) {
    for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += static_cast<int>(blockDim.x))
      bins[bin] = 0;
    __syncthreads();
    for (int64_t v = threadIdx.x; v < vocabulary; v += blockDim.x) {
      const double adjusted = tokens.adjusted(v);
      const Word key = ordered(adjusted);
      if (shift < 56 && (key >> (shift + 8)) != prefix) continue;
      const Word amount = kByWeight ? tokens.weight_of(adjusted) : Word{1};
      if (amount != 0) atomicAdd(&bins[(key >> shift) & (kBins - 1)], amount);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int bin = kBins - 1;
      while (bin > 0 && above + bins[bin] < wanted) above += bins[bin--];
      prefix = (prefix << 8) | static_cast<Word>(bin);
    }
    __syncthreads();
  }
  const Word each = kByWeight ? tokens.weight_of(unordered(prefix)) : Word{1};
  const Kept kept{prefix, each == 0 ? Word{0} : (wanted - min(above, wanted) + each - 1) / each};
  __syncthreads();
  return kept;
}

/// Sum of the weights of the kept tokens.
template <typename T>
__device__ Word total_weight(const Tokens<T>& tokens, int64_t vocabulary, const Kept& kept) {
  Word sum = 0, ties = 0;
  for (int64_t v = threadIdx.x; v < vocabulary; v += blockDim.x) {
    const double adjusted = tokens.adjusted(v);
    const Word key = ordered(adjusted);
    if (key > kept.key) sum += tokens.weight_of(adjusted);
    ties += key == kept.key;
  }
  Word total = 0, all_ties = 0;
  exclusive_scan(sum, total);
  exclusive_scan(ties, all_ties);
  return total + min(all_ties, kept.ties) * tokens.weight_of(unordered(kept.key));
}

/// The token at which the running sum of weights, in the order of ids, exceeds the random share of the total.
template <typename T>
__device__ int32_t draw(const Tokens<T>& tokens, int64_t vocabulary, const Kept& kept, uint64_t random) {
  __shared__ int32_t token;
  const int64_t each = (vocabulary + blockDim.x - 1) / blockDim.x, begin = threadIdx.x * each,
                end = min(vocabulary, begin + each);
  Word ties_before = 0;
  if (!kept.all()) {
    Word ties = 0, ignored = 0;
    for (int64_t v = begin; v < end; ++v) ties += ordered(tokens.adjusted(v)) == kept.key;
    ties_before = exclusive_scan(ties, ignored);
  }
  const auto weight = [&](int64_t v, Word& rank) -> Word {
    const double adjusted = tokens.adjusted(v);
    const Word key = ordered(adjusted);
    const bool keep = key > kept.key || (key == kept.key && rank++ < kept.ties);
    return keep ? tokens.weight_of(adjusted) : 0;
  };
  Word sum = 0, rank = ties_before, total = 0;
  for (int64_t v = begin; v < end; ++v) sum += weight(v, rank);
  const Word before = exclusive_scan(sum, total), share = __umul64hi(random, total);
  if (threadIdx.x == 0) token = kPad;
  __syncthreads();
  if (before <= share && share < before + sum) {
    Word running = before;
    rank = ties_before;
    int64_t v = begin;
    for (; v < end - 1; ++v) {
      running += weight(v, rank);
      if (running > share) break;
    }
    token = static_cast<int32_t>(v);
  }
  __syncthreads();
  return token;
}

/// The most likely token, the first of equals.
template <typename T>
__device__ int32_t arg_max(const Tokens<T>& tokens, int64_t vocabulary) {
  __shared__ int first;
  if (threadIdx.x == 0) first = INT32_MAX;
  __syncthreads();
  for (int64_t v = threadIdx.x; v < vocabulary; v += blockDim.x)
    if (tokens.adjusted(v) == tokens.largest) atomicMin(&first, static_cast<int>(v));
  __syncthreads();
  return first;
}

__device__ inline uint64_t random_word(const SamplingParameters& settings, int32_t step) {
  const PhiloxBlock block =
      philox({0, static_cast<uint32_t>(step), static_cast<uint32_t>(RandomPurpose::sampling) << 24,
              settings.sequence},
             static_cast<uint32_t>(settings.seed), static_cast<uint32_t>(settings.seed >> 32));
  return (uint64_t{block[0]} << 32) | block[1];
}

/// By one thread.
__device__ inline void advance(const AdvanceSlots& k, int64_t s) {
  const auto copies = static_cast<int32_t>(k.copies), latents = static_cast<int32_t>(k.latent_capacity),
             context = static_cast<int32_t>(k.context_capacity);
  k.step[s] += 1;
  const int32_t position = k.position[s] + 1;
  k.position[s] = position;
  for (int32_t c = 0; c < copies; ++c) k.query_position[s * copies + c] = position + k.query_offset;
  k.latent_count[s] = min(k.latent_count[s] + copies, latents);
  k.latent_row[s] = (k.latent_row[s] + copies) % latents;
  if (context == 0) return;
  k.context_count[s] = min(k.context_count[s] + 1, context);
  k.context_row[s] = (k.context_row[s] + 1) % context;
}

template <typename T>
__global__ void __launch_bounds__(kMaxThreads) sample_kernel(Sample k) {
  wait_for_earlier_kernels();
  const int64_t slot = blockIdx.x, vocabulary = k.vocabulary;
  if (k.active[slot] == 0) return;
  const SamplingParameters settings = k.parameters[slot];
  const int32_t step = k.step[slot];
  Tokens<T> tokens{static_cast<const T*>(k.logits) + slot * vocabulary,
                   k.seen + slot * vocabulary,
                   nullptr,
                   settings.repetition_penalty,
                   settings.temperature,
                   0,
                   static_cast<Word>(ldexp(settings.min_p, 40)),
                   settings.allow_eos != 0};
  if (settings.bias_row >= 0)
    tokens.bias = k.bias + (settings.bias_row + step % settings.bias_period) * vocabulary;

  double most[2] = {-INFINITY, -INFINITY};
  for (int64_t v = threadIdx.x; v < vocabulary; v += blockDim.x) {
    most[0] = fmax(most[0], static_cast<double>(to_float(tokens.logits[v])));
    most[1] = fmax(most[1], tokens.adjusted(v));
  }
  block_reduce(most, -INFINITY, [](double a, double b) { return fmax(a, b); });
  // By now all threads have read what changes here.
  if (threadIdx.x == blockDim.x - 1 && k.next.slots > 0) advance(k.next, slot);
  const double top = most[0];
  tokens.largest = most[1];
  double sums[1] = {0};
  for (int64_t v = threadIdx.x; v < vocabulary; v += blockDim.x)
    sums[0] += exp(static_cast<double>(to_float(tokens.logits[v])) - top);
  block_reduce(sums, 0, [](double a, double b) { return a + b; });
  const double sum = sums[0];
  int32_t token = kPad;
  if (isfinite(sum) && isfinite(tokens.largest)) {
    if (settings.temperature > 0) {
      Kept kept;
      if (settings.top_k > 0 && settings.top_k < vocabulary)
        kept = select<false>(tokens, vocabulary, static_cast<Word>(settings.top_k));
      if (settings.top_p < 1) {
        const Word total = total_weight(tokens, vocabulary, kept);
        const auto wanted = static_cast<Word>(ceil(settings.top_p * static_cast<double>(total)));
        const Kept nucleus = select<true>(tokens, vocabulary, wanted);
        kept.ties = nucleus.key == kept.key ? min(kept.ties, nucleus.ties) : nucleus.ties;
        kept.key = nucleus.key;
      }
      token = draw(tokens, vocabulary, kept, random_word(settings, step));
    } else {
      token = arg_max(tokens, vocabulary);
    }
  }
  if (threadIdx.x != 0) return;
  k.token[slot] = token;
  k.log_probability[slot] = token == kPad
                                ? static_cast<double>(NAN)
                                : static_cast<double>(to_float(tokens.logits[token])) - top - log(sum);
  if (token != kPad) k.seen[slot * vocabulary + token] = 1;
  if (k.posted != nullptr) k.posted[slot] = token;
}

}  // namespace

void sample(const Launch& launch, const Sample& k) {
  with_type(k.type, [&]<typename T>() {
    // A small vocabulary gets a small block: its warps synchronise often.
    const auto threads = static_cast<int>(std::min<int64_t>(kMaxThreads, ceil_div(k.vocabulary, 32) * 32));
    launch_dependent<sample_kernel<T>>(launch, "sample", static_cast<unsigned>(k.slots), threads, 0, k);
  });
  check_launch("sample");
}

}  // namespace perceiver::kernels::cuda
