// Matrix products of bf16 on Hopper (compute capability 9.0a), and what follows them in their epilogue.
//
// Persistent blocks take tiles of 128 x 256 of the result, in pairs: the two blocks of a cluster have
// neighbouring tiles of rows, and each loads half of the operand B for both (multicast). A block has three
// warpgroups. Two multiply 64 rows by 256 columns each (wgmma m64n256k16), add the bias, round to bf16 and
// leave the result, a slab, in shared memory. Of the other one, a thread loads A and B by TMA into kStages
// stages of 64 in depth, and three warps do the rest: they read the rounded rows, apply what follows, sum
// columns and write to global memory, 16 bytes a thread and row, while the others are at the next tile. What
// the tensor cores wait for between tiles is the rounding alone.
//
// Tiles of 8 pairs of rows by all columns follow one another, so that a wave reads few rows of A and B from
// L2. Shared memory: 3 stages of 48 KiB of A and B, 64 KiB of rounded results, 12 KiB of what the epilogue
// reads, 2 KiB of bias, 3 KiB of column sums. Registers of a multiplying thread: 128 sums, of 192.
#include "kernels/cuda/gemm/hopper_gemm.h"

#include <algorithm>

#include "kernels/cuda/hopper/cluster.cuh"
#include "kernels/cuda/hopper/device.h"
#include "kernels/cuda/hopper/roles.cuh"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/hopper/uniform_products.cuh"
#include "kernels/cuda/support/activation.cuh"
#include "kernels/cuda/support/vector.cuh"

namespace perceiver::kernels::cuda {
namespace {

using namespace hopper;

constexpr int kCluster = 2;
constexpr int kFinisherWarps = 3, kFinishers = kFinisherWarps * 32;
constexpr int kMultiplierRegisters = 192, kOtherRegisters = 120;
static_assert(2 * kMultiplierRegisters + kOtherRegisters <= 3 * 168);

constexpr int kRows = 128, kColumns = 256, kDepth = 64, kStages = 3;
constexpr int kPairGroup = 8;  // pairs of tiles of rows
constexpr int kSlabRows = 64;  // of a multiplying warpgroup
constexpr uint32_t kABytes = kRows * kRowBytes, kBBytes = kColumns * kRowBytes,
                   kStageBytes = kABytes + kBBytes;
constexpr int kSlabTiles = kColumns / kTileColumns;
constexpr uint32_t kSlabTileBytes = kSlabRows * kRowBytes, kSlabBytes = kSlabTiles * kSlabTileBytes;
constexpr int kWidth = 8;                                  // elements of an access of the epilogue
constexpr int kAhead = 8;                                  // rows of a finishing warp that are on their way
constexpr uint32_t kBiasBytes = kColumns * sizeof(float);  // of a slab
constexpr uint32_t kSlabs = kStages * kStageBytes, kBias = kSlabs + 2 * kSlabBytes,
                   kSums = kBias + 2 * kBiasBytes, kKept = kSums + kFinisherWarps * kColumns * sizeof(float),
                   kBarriers = kKept + kFinisherWarps * kAhead * kColumns * 2;
// mbarriers: full and empty of each stage, then of each slab.
constexpr uint32_t kGemmSharedBytes = kBarriers + 8 * (2 * kStages + 4);

struct GemmArguments {
  CUtensorMap a, b;
  int m, n, k;
  const __nv_bfloat16* bias;
  Activation activation;
  __nv_bfloat16* out;
  int64_t ldc;
  __nv_bfloat16* pre;
  const __nv_bfloat16* kept;
  float* column_sums;
};

/// First row and column of a tile of the result.
struct Tile {
  int row, column;
};

/// A block's tiles.
class Tiles {
 public:
  __device__ explicit Tiles(const GemmArguments& a)
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

/// What follows a product: its activation, with or without the sums themselves, or the derivative of one.
enum class Finish { activation, both, derivative };

/// Calls body.template operator()<kActivation>().
template <typename Body>
__device__ void with_activation(Activation activation, Body&& body) {
  switch (activation) {
    case Activation::identity:
      return body.template operator()<Activation::identity>();
    case Activation::squared_relu:
      return body.template operator()<Activation::squared_relu>();
    case Activation::relu:
      return body.template operator()<Activation::relu>();
    case Activation::silu:
      return body.template operator()<Activation::silu>();
    case Activation::gelu:
      return body.template operator()<Activation::gelu>();
    case Activation::gelu_exact:
      return body.template operator()<Activation::gelu_exact>();
  }
}

template <bool kTransposeB>
class GemmBlock {
 public:
  __device__ GemmBlock(const GemmArguments& arguments, unsigned char* memory)
      : args_(arguments),
        memory_(memory),
        shared_(shared_address(memory)),
        depth_tiles_((arguments.k + kDepth - 1) / kDepth) {}

  __device__ void run() {
    if (threadIdx.x == 0) {
      for (int stage = 0; stage < kStages; ++stage) {
        mbarrier_init(full(stage), 1);
        mbarrier_init(empty(stage), kCluster * kConsumerArrivals);
      }
      for (int slab = 0; slab < 2; ++slab) {
        mbarrier_init(slab_full(slab), 4 * kWarpArrivals);
        mbarrier_init(slab_empty(slab), kFinisherWarps * kWarpArrivals);
      }
      fence_mbarrier_init();
    }
    cluster_sync();
    if (threadIdx.x < kWarpgroup) {
      warpgroup_reg_dealloc<kOtherRegisters>();
      if (threadIdx.x >= 32) {
        finish();
      } else if (threadIdx.x == 0) {
        load_stages();
      }
    } else {
      warpgroup_reg_alloc<kMultiplierRegisters>();
      multiply();
    }
    cluster_sync();  // The other block may still load into this one's stages and release its own.
  }

 private:
  __device__ uint32_t a_stage(int stage) const { return shared_ + stage * kStageBytes; }
  __device__ uint32_t b_stage(int stage) const { return a_stage(stage) + kABytes; }
  __device__ uint32_t full(int stage) const { return shared_ + kBarriers + 8 * stage; }
  __device__ uint32_t empty(int stage) const { return full(kStages + stage); }
  __device__ uint32_t slab_full(int slab) const { return full(2 * kStages + slab); }
  __device__ uint32_t slab_empty(int slab) const { return full(2 * kStages + 2 + slab); }
  __device__ float* bias(int slab) const {
    return reinterpret_cast<float*>(memory_ + kBias + slab * kBiasBytes);
  }

  // --- One thread loads.

  __device__ void load_stages() const {
    PipelineState<kStages> ring;
    for (Tiles tiles(args_); !tiles.done(); tiles.advance()) {
      const Tile at = tiles.tile();
      for (int d = 0; d < depth_tiles_; ++d, ring.advance()) {
        mbarrier_wait(empty(ring.stage), ring.phase ^ 1);
        mbarrier_expect_tx(full(ring.stage), kStageBytes);
        tma_load(a_stage(ring.stage), &args_.a, full(ring.stage), d * kDepth, at.row, 0);
        load_half_of_b(ring.stage, at.column, d * kDepth);
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
    if constexpr (kTransposeB) {
      tma_load_multicast(target, &args_.b, full(stage), depth, column, kBoth);
    } else {
#pragma unroll
      for (int t = 0; t < kHalf / kTileColumns; ++t)
        tma_load_multicast(target + t * kDepth * kRowBytes, &args_.b, full(stage), column + t * kTileColumns,
                           depth, kBoth);
    }
  }

  // --- Two warpgroups multiply.

  __device__ void multiply() const {
    const int slab = static_cast<int>(threadIdx.x) / kWarpgroup - 1;
    PipelineState<kStages> ring;
    uint32_t phase = 0;
    for (Tiles tiles(args_); !tiles.done(); tiles.advance(), phase ^= 1) {
      float c[128];
      multiply_tile(c, slab, ring);
      mbarrier_wait(slab_empty(slab), phase);
      round_tile(c, slab);
      mbarrier_arrive_warp(slab_full(slab));
    }
  }

  __device__ void multiply_tile(float (&c)[128], int slab, PipelineState<kStages>& ring) const {
    multiply_stage<true>(c, slab, ring);
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
    constexpr uint32_t kBStep = kTransposeB ? k_step_offset(1) : 16 * kRowBytes;
    if constexpr (!kFirst) wgmma_fence_operand(c);
    wgmma_fence();
    wgmma<!kFirst, !kTransposeB>(c, a, b);
#pragma unroll
    for (int step = 1; step < kDepth / 16; ++step)
      wgmma<true, !kTransposeB>(c, advanced(a, k_step_offset(step)), advanced(b, step * kBStep));
    wgmma_commit();
  }

  __device__ static uint64_t b_descriptor(uint32_t b) {
    return kTransposeB ? k_major_descriptor(b) : mn_major_descriptor(b, kDepth * kRowBytes);
  }

  /// Tells both blocks' loading threads: half of a stage's B comes from the other block.
  __device__ void release(int stage) const {
    __syncwarp();
    if (threadIdx.x % 32 >= kWarpArrivals) return;
#pragma unroll
    for (uint32_t rank = 0; rank < kCluster; ++rank) mbarrier_arrive_in(empty(stage), rank);
  }

  /// Adds the bias and writes the slab, 16 columns of the warp's 16 rows at a time.
  __device__ void round_tile(const float (&c)[128], int slab) const {
    const uint32_t row = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 16, right = threadIdx.x % 32 / 16;
    const uint32_t target = shared_ + kSlabs + slab * kSlabBytes;
    const bool biased = args_.bias != nullptr;
#pragma unroll
    for (int step = 0; step < kColumns / 16; ++step) {
      float2 b[2] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (biased)
          b[half] = *reinterpret_cast<const float2*>(bias(slab) + step * 16 + half * 8 + lane() % 4 * 2);
      const float* x = c + step * 8;
      const uint32_t place = step / 4 * kSlabTileBytes + swizzled_offset(row, step % 4 * 2 + right);
      store_matrices(target + place,
                     {pack(x[0] + b[0].x, x[1] + b[0].y), pack(x[2] + b[0].x, x[3] + b[0].y),
                      pack(x[4] + b[1].x, x[5] + b[1].y), pack(x[6] + b[1].x, x[7] + b[1].y)});
    }
  }

  // --- Three warps finish: a lane 8 columns of every third row.

  /// Branches once on what is to be done, so that the loop over rows has no branches.
  __device__ void finish() const {
    with_activation(args_.activation, [&]<Activation kActivation>() {
      if constexpr (!kTransposeB) {
        if (args_.kept != nullptr) return finish_tiles<Finish::derivative, kActivation>();
        finish_tiles<Finish::activation, Activation::identity>();
      } else {
        if (args_.pre != nullptr) return finish_tiles<Finish::both, kActivation>();
        finish_tiles<Finish::activation, kActivation>();
      }
    });
  }

  template <Finish kFinish, Activation kActivation>
  __device__ void finish_tiles() const {
    Tiles tiles(args_);
    for (int slab = 0; slab < 2; ++slab) hand_over(tiles, slab);
    for (uint32_t phase = 0; !tiles.done(); phase ^= 1) {
      const Tile at = tiles.tile();
      tiles.advance();
      float sum[kWidth] = {};
      for (int slab = 0; slab < 2; ++slab) {
        finish_slab<kFinish, kActivation>({at.row + slab * kSlabRows, at.column}, slab, phase, sum);
        hand_over(tiles, slab);
      }
      if (kFinish == Finish::derivative && args_.column_sums != nullptr) write_sums(at, sum);
    }
  }

  /// Gives a slab to its multiplying warpgroup, with the bias of the next tile.
  __device__ void hand_over(const Tiles& next, int slab) const {
    if (args_.bias != nullptr && !next.done()) {
      const int column = next.tile().column;
      for (int i = finisher(); i < kColumns; i += kFinishers)
        bias(slab)[i] = column + i < args_.n ? to_float(args_.bias[column + i]) : 0.0f;
    }
    mbarrier_arrive_warp(slab_empty(slab));
  }

  __device__ int finisher() const {
    return static_cast<int>(threadIdx.x) - 32;
  }
  __device__ int finisher_warp() const {
    return finisher() / 32;
  }

  template <Finish kFinish, Activation kActivation>
  __device__ void finish_slab(const Tile& at, int slab, uint32_t phase, float (&sum)[kWidth]) const {
    const int column = at.column + lane() * kWidth, rows = min(kSlabRows, args_.m - at.row);
    if (rows == kSlabRows && at.column + kColumns <= args_.n)
      return finish_whole_slab<kFinish, kActivation>(at, slab, phase, sum);
    mbarrier_wait(slab_full(slab), phase);
    if (column >= args_.n) return;
    for (int row = finisher_warp(); row < rows; row += kFinisherWarps) {
      const int64_t place = (at.row + row) * args_.ldc + column;
      float x[kWidth], y[kWidth];
      cuda::load(slab_chunk(slab, row), x);
      if constexpr (kFinish == Finish::derivative) read(args_.kept + place, column, y);
      if constexpr (kFinish == Finish::both) write(args_.pre + place, column, x);
      finish_row<kFinish, kActivation>(x, y, sum);
      write(args_.out + place, column, x);
    }
  }

  /// The same without tests of rows and columns, and with the copies of kAhead rows of what it reads beside
  /// the sums under way: a row is some 85 instructions of a warp, of which there is one for each scheduler.
  template <Finish kFinish, Activation kActivation>
  __device__ void finish_whole_slab(const Tile& at, int slab, uint32_t phase, float (&sum)[kWidth]) const {
    constexpr bool kReads = kFinish == Finish::derivative;
    const int64_t place = (at.row + finisher_warp()) * args_.ldc + at.column + lane() * kWidth;
    const int64_t step = kFinisherWarps * args_.ldc;
    const __nv_bfloat16* from = args_.kept + place;
    __nv_bfloat16* to = args_.out + place;
    __nv_bfloat16* pre = args_.pre + place;
    // A lane reads what it has copied itself.
    unsigned char* ring = memory_ + kKept + (finisher_warp() * kAhead * 32 + lane()) * kWidth * 2;
    const auto read_ahead = [&](int row, int slot) {
      if (row < kSlabRows) copy_async(shared_address(ring + slot * kColumns * 2), from, true);
      copy_commit();
      from += step;
    };
    if constexpr (kReads)
      for (int i = 0; i < kAhead; ++i) read_ahead(0, i);
    mbarrier_wait(slab_full(slab), phase);
    for (int first = finisher_warp(); first < kSlabRows; first += kFinisherWarps * kAhead) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int row = first + kFinisherWarps * i;
        if (row >= kSlabRows) break;
        float x[kWidth], y[kWidth];
        cuda::load(slab_chunk(slab, row), x);
        if constexpr (kReads) {
          copy_wait<kAhead - 1>();
          cuda::load(reinterpret_cast<const __nv_bfloat16*>(ring + i * kColumns * 2), y);
          read_ahead(row + kFinisherWarps * kAhead, i);
        }
        if constexpr (kFinish == Finish::both) cuda::store(pre, x);
        finish_row<kFinish, kActivation>(x, y, sum);
        cuda::store(to, x);
        to += step;
        pre += step;
      }
    }
    if constexpr (kReads) copy_wait<0>();
  }

  template <Finish kFinish, Activation kActivation>
  __device__ static void finish_row(float (&x)[kWidth], const float (&y)[kWidth], float (&sum)[kWidth]) {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      if constexpr (kFinish == Finish::derivative) {
        x[j] *= derivative(kActivation, y[j]);
        sum[j] += x[j];
      } else {
        x[j] = activated(kActivation, x[j]);
      }
    }
  }

  __device__ const __nv_bfloat16* slab_chunk(int slab, int row) const {
    return reinterpret_cast<const __nv_bfloat16*>(memory_ + kSlabs + slab * kSlabBytes +
                                                  lane() / 8 * kSlabTileBytes +
                                                  swizzled_offset(static_cast<uint32_t>(row), lane() % 8));
  }
  /// 8 columns of a row, or as many as there are.
  __device__ void read(const __nv_bfloat16* from, int column, float (&x)[kWidth]) const {
#pragma unroll
    for (int j = 0; j < kWidth; ++j) x[j] = column + j < args_.n ? to_float(from[j]) : 0.0f;
  }
  __device__ void write(__nv_bfloat16* to, int column, const float (&x)[kWidth]) const {
    if (column + kWidth <= args_.n) return cuda::store(to, x);
#pragma unroll
    for (int j = 0; j < kWidth; ++j)
      if (column + j < args_.n) to[j] = __float2bfloat16_rn(x[j]);
  }

  /// Adds the warps' sums of the tile.
  __device__ void write_sums(const Tile& at, const float (&sum)[kWidth]) const {
    float* parts = reinterpret_cast<float*>(memory_ + kSums);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) parts[finisher_warp() * kColumns + i * 32 + lane()] = sum[i];
    finisher_sync();
    float* target = args_.column_sums + static_cast<int64_t>(at.row / kRows) * args_.n;
    for (int place = finisher(); place < kColumns; place += kFinishers) {
      const int column = at.column + place % 32 * kWidth + place / 32;
      float total = 0;
#pragma unroll
      for (int warp = 0; warp < kFinisherWarps; ++warp) total += parts[warp * kColumns + place];
      if (column < args_.n && at.row < args_.m) target[column] = total;
    }
    finisher_sync();
  }

  __device__ void finisher_sync() const {
    asm volatile("bar.sync 1, %0;" ::"n"(kFinishers) : "memory");
  }

  const GemmArguments& args_;
  unsigned char* memory_;
  const uint32_t shared_;
  const int depth_tiles_;
};

template <bool kTransposeB>
__global__ void __cluster_dims__(kCluster) __launch_bounds__(kThreads, 1)
    hopper_gemm_kernel(const __grid_constant__ GemmArguments arguments) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  GemmBlock<kTransposeB>(arguments, memory).run();
#endif
}

/// Tiles of the clusters.
int64_t pairs_of_tiles(int64_t m, int64_t n) {
  return ceil_div(m, kCluster * kRows) * ceil_div(n, kColumns);
}

template <bool kTransposeB>
void launch_gemm(const Launch& launch, const GemmArguments& arguments) {
  constexpr auto kKernel = hopper_gemm_kernel<kTransposeB>;
  constexpr const char* kName = "hopper_gemm";
  check(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kGemmSharedBytes), kName);
  const int64_t clusters =
      std::min<int64_t>(pairs_of_tiles(arguments.m, arguments.n), launch.sm_count / kCluster);
  kKernel<<<static_cast<unsigned>(clusters * kCluster), kThreads, kGemmSharedBytes, stream_of(launch)>>>(
      arguments);
  check_launch(kName);
}

/// Of a row-major matrix, for boxes of 64 columns.
CUtensorMap matrix_map(const void* data, int64_t rows, int64_t columns, int64_t stride, int64_t box_rows) {
  return tensor_map(data, 1, rows, columns, stride, box_rows);
}

}  // namespace

bool hopper_gemm_possible(const HopperGemm& g) {
  const auto rows = [](int64_t stride) { return stride % kWidth == 0; };
  return hopper::built() && hopper::on_hopper() && g.m > 0 && g.n > 0 && g.k > 0 && g.m <= INT32_MAX &&
         aligned({g.a, g.b, g.out, g.pre, g.kept}) && rows(g.lda) && rows(g.ldb) && rows(g.ldc);
}

bool hopper_gemm_fills(const Launch& launch, int64_t m, int64_t n) {
  return 2 * pairs_of_tiles(m, n) >= launch.sm_count / kCluster;
}

void hopper_gemm(const Launch& launch, const HopperGemm& g) {
  require(!g.transpose_b || g.kept == nullptr, "the derivative with B as it lies only");
  require(g.transpose_b || g.kept != nullptr || g.activation == Activation::identity,
          "an activation with B transposed only");
  GemmArguments a{};
  a.a = matrix_map(g.a, g.m, g.k, g.lda, kRows);
  a.b = g.transpose_b ? matrix_map(g.b, g.n, g.k, g.ldb, kColumns / kCluster)
                      : matrix_map(g.b, g.k, g.n, g.ldb, kDepth);
  a.m = static_cast<int>(g.m);
  a.n = static_cast<int>(g.n);
  a.k = static_cast<int>(g.k);
  a.bias = static_cast<const __nv_bfloat16*>(g.bias);
  a.activation = g.activation;
  a.out = static_cast<__nv_bfloat16*>(g.out);
  a.ldc = g.ldc;
  a.pre = static_cast<__nv_bfloat16*>(g.pre);
  a.kept = static_cast<const __nv_bfloat16*>(g.kept);
  a.column_sums = g.column_sums;
  if (g.transpose_b) return launch_gemm<true>(launch, a);
  launch_gemm<false>(launch, a);
}

}  // namespace perceiver::kernels::cuda
