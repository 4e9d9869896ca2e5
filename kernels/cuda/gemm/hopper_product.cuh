// The part of Hopper's matrix products (wgmma) that does not depend on what follows them.
//
// Persistent blocks take tiles of 128 x 256 of the result, in pairs: the two blocks of a cluster have
// neighbouring tiles of rows, and each loads half of the operand B for both (multicast). A block has three
// warpgroups. Two multiply 64 rows by 256 columns each (wgmma m64n256), add the bias, round to bf16 and leave
// the result, a slab, in shared memory. Of the other one, a thread loads A and B by TMA into kStages stages
// of 128 bytes in depth, and three warps, the finishers, do what follows: they read the rounded rows and
// write to global memory while the others are at the next tile. What the tensor cores wait for between tiles
// is the rounding alone.
//
// Tiles of 8 pairs of rows by all columns follow one another, so that a wave reads few rows of A and B from
// L2. Shared memory: 3 stages of 48 KiB of A and B, 64 KiB of rounded results, 2 KiB of bias. Registers of a
// multiplying thread: 128 sums, of 192.
#pragma once

#include "kernels/cuda/hopper/cluster.cuh"
#include "kernels/cuda/hopper/roles.cuh"
#include "kernels/cuda/hopper/uniform_products.cuh"
#include "kernels/cuda/support/bf16_pairs.cuh"
#include "kernels/cuda/support/dependent_launch.cuh"

namespace perceiver::kernels::cuda::hopper {

inline constexpr int kCluster = 2;
inline constexpr int kFinisherWarps = 3, kFinishers = kFinisherWarps * 32;
inline constexpr int kMultiplierRegisters = 192, kOtherRegisters = 120;
static_assert(2 * kMultiplierRegisters + kOtherRegisters <= 3 * 168);

inline constexpr int kRows = 128, kColumns = 256, kStages = 3;
inline constexpr int kPairGroup = 8;  // pairs of tiles of rows
inline constexpr int kSlabRows = 64;  // of a multiplying warpgroup
inline constexpr uint32_t kABytes = kRows * kRowBytes, kBBytes = kColumns * kRowBytes,
                          kStageBytes = kABytes + kBBytes;
inline constexpr int kSlabTiles = kColumns / kTileColumns;
inline constexpr uint32_t kSlabTileBytes = kSlabRows * kRowBytes, kSlabBytes = kSlabTiles * kSlabTileBytes;
inline constexpr uint32_t kBiasBytes = kColumns * sizeof(float);  // of a slab
// mbarriers: full and empty of each stage, then of each part of a slab, and what was loaded into it.
inline constexpr uint32_t kBarrierBytes = 256;
inline constexpr uint32_t kSlabs = kStages * kStageBytes, kBias = kSlabs + 2 * kSlabBytes,
                          kBarriers = kBias + 2 * kBiasBytes, kSharedBytes = kBarriers + kBarrierBytes;

/// The operands of a product [m, n] of depth k. B is multicast in boxes of half a tile of its columns.
struct ProductArguments {
  CUtensorMap a, b;
  int m, n, k;
  const __nv_bfloat16* bias;
  const float *a_inverse, *b_inverse;  // 8-bit operands: multiply the product
};

/// First row and column of a tile of the result.
struct Tile {
  int row, column;
};

/// A block's tiles.
class Tiles {
 public:
  __device__ explicit Tiles(const ProductArguments& a)
      : pairs_((a.m + kCluster * kRows - 1) / (kCluster * kRows)),
        columns_((a.n + kColumns - 1) / kColumns),
        index_(static_cast<int>(blockIdx.x) / kCluster) {}

  __device__ bool done() const { return index_ >= pairs_ * columns_; }
  __device__ void advance() { index_ += static_cast<int>(gridDim.x) / kCluster; }
  __device__ Tile tile() const {
    const int group = index_ / (kPairGroup * columns_), within = index_ % (kPairGroup * columns_);
    const int rows = min(kPairGroup, pairs_ - group * kPairGroup);
    const int pair = group * kPairGroup + within % rows;
    return {(pair * kCluster + static_cast<int>(cluster_rank())) * kRows, within / rows * kColumns};
  }

 private:
  int pairs_, columns_, index_;
};

/// Rows of bf16.
template <bool kTransposeB>
struct Bf16Operands {
  static constexpr int kDepth = kTileColumns;  // of a stage
  static constexpr bool kKMajorB = kTransposeB, kScaled = false;

  template <bool kAdd>
  __device__ static void multiply(float (&c)[128], uint64_t a, uint64_t b) {
    wgmma<kAdd, !kTransposeB>(c, a, b);
  }
};

/// Rows of 8-bit codes; B is transposed. kE5m2: those of A.
template <bool kE5m2>
struct Fp8Operands {
  static constexpr int kDepth = kRowBytes;
  static constexpr bool kKMajorB = true, kScaled = true;

  template <bool kAdd>
  __device__ static void multiply(float (&c)[128], uint64_t a, uint64_t b) {
    wgmma_fp8<kAdd, kE5m2>(c, a, b);
  }
};

/// kScaled: of 8-bit operands, whose sums are multiplied by `factor`.
template <bool kScaled>
__device__ inline float scaled_sum(float sum, float factor, float addend) {
  return kScaled ? fmaf(sum, factor, addend) : sum + addend;
}

/// What the multiplying threads do to their sums before these are rounded: nothing. (TileRotation does.)
struct Unchanged {
  static constexpr bool kChanges = false, kFactors = false;
};

/// The rounded sums are multiplied by bf16 numbers that the finishers leave in their places in the slab.
struct SlabFactors {
  static constexpr bool kChanges = false, kFactors = true;
};

/// Slabs change hands in kSlabParts parts, by columns: the finishers are at the last parts of a tile while
/// the first ones of the next are written.
template <typename Operands, int kSlabParts>
class ProductBlock {
  static_assert(8 * (2 * kStages + 6 * kSlabParts) <= kBarrierBytes);

 public:
  __device__ ProductBlock(const ProductArguments& product, unsigned char* memory)
      : product_(product),
        memory_(memory),
        shared_(shared_address(memory)),
        depth_tiles_((product.k + Operands::kDepth - 1) / Operands::kDepth) {}

  /// `finish` is what each warp of the finishers does. kReaders: how many of them read a part of a slab.
  template <int kReaders, typename Finish, typename Change = Unchanged>
  __device__ void run(Finish&& finish, Change change = {}) {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < kStages; ++stage) {
        mbarrier_init(full(stage), 1);
        mbarrier_init(empty(stage), kCluster * kConsumerArrivals);
      }
      for (int slab = 0; slab < 2; ++slab)
        for (int part = 0; part < kSlabParts; ++part) {
          mbarrier_init(slab_full(slab, part), 4 * kWarpArrivals);
          mbarrier_init(slab_empty(slab, part), kReaders * kWarpArrivals);
          mbarrier_init(slab_loaded(slab, part), 1);
        }
      fence_mbarrier_init();
    }
    cluster_sync();
    start_after_earlier_kernels();
    if (threadIdx.x < kWarpgroup) {
      warpgroup_reg_dealloc<kOtherRegisters>();
      if (threadIdx.x >= 32) {
        finish();
      } else if (threadIdx.x == 0) {
        load_stages();
      }
    } else {
      warpgroup_reg_alloc<kMultiplierRegisters>();
      multiply(change);
    }
    cluster_sync();  // The other block may still load into this one's stages and release its own.
  }

 protected:
  __device__ uint32_t slab_full(int slab, int part) const {
    return full(2 * kStages + slab * kSlabParts + part);
  }
  __device__ uint32_t slab_empty(int slab, int part) const { return slab_full(2 + slab, part); }
  /// For finishers that load something into a part.
  __device__ uint32_t slab_loaded(int slab, int part) const { return slab_full(4 + slab, part); }
  /// What is added to the columns of a slab; the finishers write it before they free the part.
  __device__ float* bias(int slab) const {
    return reinterpret_cast<float*>(memory_ + kBias + slab * kBiasBytes);
  }
  __device__ unsigned char* slab_tile(int slab, int tile) const {
    return memory_ + kSlabs + slab * kSlabBytes + tile * kSlabTileBytes;
  }
  __device__ static int finisher() { return static_cast<int>(threadIdx.x) - 32; }
  __device__ static int finisher_warp() { return finisher() / 32; }

 private:
  __device__ uint32_t a_stage(int stage) const { return shared_ + stage * kStageBytes; }
  __device__ uint32_t b_stage(int stage) const { return a_stage(stage) + kABytes; }
  __device__ uint32_t full(int stage) const { return shared_ + kBarriers + 8 * stage; }
  __device__ uint32_t empty(int stage) const { return full(kStages + stage); }

  // --- One thread loads.

  __device__ void load_stages() const {
    PipelineState<kStages> ring;
    for (Tiles tiles(product_); !tiles.done(); tiles.advance()) {
      const Tile at = tiles.tile();
      for (int d = 0; d < depth_tiles_; ++d, ring.advance()) {
        const int depth = d * Operands::kDepth;
        mbarrier_wait(empty(ring.stage), ring.phase ^ 1);
        mbarrier_expect_tx(full(ring.stage), kStageBytes);
        tma_load(a_stage(ring.stage), &product_.a, full(ring.stage), depth, at.row, 0);
        load_half_of_b(ring.stage, at.column, depth);
        mbarrier_arrive(full(ring.stage));
      }
    }
  }

  /// This block's half of the columns, for both blocks.
  __device__ void load_half_of_b(int stage, int column, int depth) const {
    constexpr uint16_t kBoth = 3;
    constexpr int kHalf = kColumns / kCluster;
    const int rank = static_cast<int>(cluster_rank());
    const uint32_t target = b_stage(stage) + rank * (kBBytes / kCluster);
    column += rank * kHalf;
    if constexpr (Operands::kKMajorB) {
      tma_load_multicast(target, &product_.b, full(stage), depth, column, kBoth);
    } else {
#pragma unroll
      for (int t = 0; t < kHalf / kTileColumns; ++t)
        tma_load_multicast(target + t * Operands::kDepth * kRowBytes, &product_.b, full(stage),
                           column + t * kTileColumns, depth, kBoth);
    }
  }

  // --- Two warpgroups multiply.

  template <typename Change>
  __device__ void multiply(Change& change) const {
    const int slab = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
    const float factor = Operands::kScaled ? *product_.a_inverse * *product_.b_inverse : 1;
    PipelineState<kStages> ring;
    uint32_t phase = 0;
    if constexpr (Change::kChanges) change.begin(Tiles(product_), slab);
    for (Tiles tiles(product_); !tiles.done(); tiles.advance(), phase ^= 1) {
      float c[128];
      multiply_tile(c, slab, ring, [&] {
        if constexpr (Change::kChanges) change.prepare(tiles, slab);
      });
      if constexpr (Change::kChanges) {
        mbarrier_wait(slab_empty(slab, 0), phase);  // of which the bias is a part
        const float* const added = product_.bias != nullptr ? bias(slab) : nullptr;
        if (change.template change<Operands::kScaled>(c, factor, added)) {
          round_tile<false, false>(c, factor, slab, phase);
          continue;
        }
      }
      round_tile<true, Change::kFactors>(c, factor, slab, phase);
    }
  }

  /// `meanwhile` runs once, beside the first products.
  template <typename Meanwhile>
  __device__ void multiply_tile(float (&c)[128], int slab, PipelineState<kStages>& ring,
                                Meanwhile&& meanwhile) const {
    multiply_stage<true>(c, slab, ring);
    meanwhile();
    int before = ring.stage;
    ring.advance();
    for (int d = 1; d < depth_tiles_; ++d, ring.advance()) {
      multiply_stage<false>(c, slab, ring);
      wgmma_wait<1>();
      release(before);
      before = ring.stage;
    }
    wgmma_wait<0>();
    wgmma_fence_operand(c);
    release(before);
  }

  /// Starts the products of a stage.
  template <bool kFirst>
  __device__ void multiply_stage(float (&c)[128], int slab, const PipelineState<kStages>& ring) const {
    mbarrier_wait(full(ring.stage), ring.phase);
    const uint64_t a = k_major_descriptor(uniform(a_stage(ring.stage) + slab * kSlabRows * kRowBytes));
    const uint64_t b = b_descriptor(uniform(b_stage(ring.stage)));
    constexpr uint32_t kBStep = Operands::kKMajorB ? k_step_offset(1) : 16 * kRowBytes;
    if constexpr (!kFirst) wgmma_fence_operand(c);
    wgmma_fence();
    Operands::template multiply<!kFirst>(c, a, b);
#pragma unroll
    for (int step = 1; step < 4; ++step)
      Operands::template multiply<true>(c, advanced(a, k_step_offset(step)), advanced(b, step * kBStep));
    wgmma_commit();
  }

  __device__ static uint64_t b_descriptor(uint32_t b) {
    return Operands::kKMajorB ? k_major_descriptor(b) : mn_major_descriptor(b, Operands::kDepth * kRowBytes);
  }

  /// Tells both blocks' loading threads: half of a stage's B comes from the other block.
  __device__ void release(int stage) const {
    __syncwarp();
    if (threadIdx.x % 32 >= kWarpArrivals) return;
#pragma unroll
    for (uint32_t rank = 0; rank < kCluster; ++rank) mbarrier_arrive_in(empty(stage), rank);
  }

  /// Adds the bias, if it is not in the sums, and writes the slab, 16 columns of the warp's 16 rows at a
  /// time.
  template <bool kAdds, bool kFactors>
  __device__ void round_tile(const float (&c)[128], float factor, int slab, uint32_t phase) const {
    constexpr int kSteps = kColumns / 16, kPartSteps = kSteps / kSlabParts;
    const uint32_t row = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 16, right = threadIdx.x % 32 / 16;
    const uint32_t target = shared_ + kSlabs + slab * kSlabBytes;
    const auto place = [&](int step) {
      return target + step / 4 * kSlabTileBytes + swizzled_offset(row, step % 4 * 2 + right);
    };
    const bool biased = kAdds && product_.bias != nullptr;
    const auto add = [factor](float x, float b) {
      return kAdds ? scaled_sum<Operands::kScaled>(x, factor, b) : x;
    };
    uint32_t factors[kFactors ? kPartSteps : 1][4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (step % kPartSteps == 0) {
        mbarrier_wait(slab_empty(slab, step / kPartSteps), phase);
        if constexpr (kFactors)
#pragma unroll
          for (int i = 0; i < kPartSteps; ++i) load_matrices(factors[i], place(step + i));
      }
      float2 b[2] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (biased)
          b[half] = *reinterpret_cast<const float2*>(bias(slab) + step * 16 + half * 8 + lane() % 4 * 2);
      const float* x = c + step * 8;
      uint32_t rounded[] = {
          pack(add(x[0], b[0].x), add(x[1], b[0].y)), pack(add(x[2], b[0].x), add(x[3], b[0].y)),
          pack(add(x[4], b[1].x), add(x[5], b[1].y)), pack(add(x[6], b[1].x), add(x[7], b[1].y))};
      if constexpr (kFactors)
#pragma unroll
        for (int i = 0; i < 4; ++i) rounded[i] = multiply_pairs(rounded[i], factors[step % kPartSteps][i]);
      store_matrices(place(step), rounded);
      if ((step + 1) % kPartSteps == 0) {
        if constexpr (kFactors) fence_proxy_async();  // The finishers let TMA write the slab to memory.
        mbarrier_arrive_warp(slab_full(slab, step / kPartSteps));
      }
    }
  }

 protected:
  const ProductArguments& product_;

 private:
  unsigned char* memory_;
  const uint32_t shared_;
  const int depth_tiles_;
};

/// Tiles of the clusters.
inline int64_t pairs_of_tiles(int64_t m, int64_t n) {
  return ceil_div(m, kCluster * kRows) * ceil_div(n, kColumns);
}

/// Launches kKernel, one of ProductBlocks.
template <auto kKernel, typename Arguments>
void launch_product(const Launch& launch, const char* name, const Arguments& arguments) {
  check(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes), name);
  const int64_t clusters =
      std::min<int64_t>(pairs_of_tiles(arguments.m, arguments.n), launch.sm_count / kCluster);
  launch_dependent<kKernel>(launch, name, static_cast<unsigned>(clusters * kCluster), kThreads, kSharedBytes,
                            arguments);
}

}  // namespace perceiver::kernels::cuda::hopper
