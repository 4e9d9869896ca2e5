// Matrix products of bf16 on Hopper (compute capability 9.0a), and what follows them in their epilogue; with
// a rotation those of 8-bit operands, too: hopper_product.cuh multiplies; the finishers, a lane 8 columns of
// every third row of a slab, apply the activation and write 16 bytes a thread and row. The threads that
// multiply also rotate (tile_rotation.cuh), for which they need 22 more registers.
#include "kernels/cuda/gemm/hopper_gemm.h"

#include <algorithm>

#include "kernels/cuda/gemm/hopper_product.cuh"
#include "kernels/cuda/gemm/tile_rotation.cuh"
#include "kernels/cuda/hopper/device.h"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/support/activation.cuh"
#include "kernels/cuda/support/vector.cuh"

namespace perceiver::kernels::cuda {
namespace {

using namespace hopper;

constexpr int kWidth = 8;  // elements of an access

struct GemmArguments : ProductArguments {
  Activation activation;
  __nv_bfloat16* out;
  int64_t ldc;
  __nv_bfloat16* pre;
  TileRotationArguments rotation;
};

template <typename Operands>
class GemmBlock : public ProductBlock<Operands, 1> {
 public:
  __device__ GemmBlock(const GemmArguments& arguments, unsigned char* memory)
      : ProductBlock<Operands, 1>(arguments, memory), args_(arguments) {}

  /// Writes the sums as they are.
  __device__ void finish_plainly() const { finish_tiles<Activation::identity, false>(); }

  /// Branches once on what is to be done, so that the loop over rows has no branches.
  __device__ void finish() const {
    with_activation(args_.activation, [&]<Activation kActivation>() {
      if (args_.pre != nullptr) return finish_tiles<kActivation, true>();
      finish_tiles<kActivation, false>();
    });
  }

 private:
  /// kBoth: the sums are written, too.
  template <Activation kActivation, bool kBoth>
  __device__ void finish_tiles() const {
    Tiles tiles(args_);
    for (int slab = 0; slab < 2; ++slab) hand_over(tiles, slab);
    for (uint32_t phase = 0; !tiles.done(); phase ^= 1) {
      const Tile at = tiles.tile();
      tiles.advance();
      for (int slab = 0; slab < 2; ++slab) {
        finish_slab<kActivation, kBoth>({at.row + slab * kSlabRows, at.column}, slab, phase);
        hand_over(tiles, slab);
      }
    }
  }

  /// Gives a slab to its multiplying warpgroup, with the bias of the next tile.
  __device__ void hand_over(const Tiles& next, int slab) const {
    if (args_.bias != nullptr && !next.done()) {
      const int column = next.tile().column;
      for (int i = this->finisher(); i < kColumns; i += kFinishers)
        this->bias(slab)[i] = column + i < args_.n ? to_float(args_.bias[column + i]) : 0.0f;
    }
    mbarrier_arrive_warp(this->slab_empty(slab, 0));
  }

  template <Activation kActivation, bool kBoth>
  __device__ void finish_slab(const Tile& at, int slab, uint32_t phase) const {
    const int column = at.column + lane() * kWidth, rows = min(kSlabRows, args_.m - at.row);
    mbarrier_wait(this->slab_full(slab, 0), phase);
    if (rows == kSlabRows && at.column + kColumns <= args_.n)
      return finish_whole_slab<kActivation, kBoth>(at, slab);
    if (column >= args_.n) return;
    for (int row = this->finisher_warp(); row < rows; row += kFinisherWarps) {
      const int64_t place = (at.row + row) * args_.ldc + column;
      float x[kWidth];
      cuda::load(slab_chunk(slab, row), x);
      if constexpr (kBoth) write(args_.pre + place, column, x);
      activate<kActivation>(x);
      write(args_.out + place, column, x);
    }
  }

  /// The same without tests of rows and columns.
  template <Activation kActivation, bool kBoth>
  __device__ void finish_whole_slab(const Tile& at, int slab) const {
    const int64_t place = (at.row + this->finisher_warp()) * args_.ldc + at.column + lane() * kWidth;
    const int64_t step = kFinisherWarps * args_.ldc;
    __nv_bfloat16* to = args_.out + place;
    __nv_bfloat16* pre = args_.pre + place;
#pragma unroll 8
    for (int row = this->finisher_warp(); row < kSlabRows; row += kFinisherWarps, to += step, pre += step) {
      float x[kWidth];
      cuda::load(slab_chunk(slab, row), x);
      if constexpr (kBoth) cuda::store(pre, x);
      activate<kActivation>(x);
      cuda::store(to, x);
    }
  }

  template <Activation kActivation>
  __device__ static void activate(float (&x)[kWidth]) {
#pragma unroll
    for (float& each : x) each = activated(kActivation, each);
  }

  __device__ const __nv_bfloat16* slab_chunk(int slab, int row) const {
    return reinterpret_cast<const __nv_bfloat16*>(this->slab_tile(slab, lane() / 8) +
                                                  swizzled_offset(static_cast<uint32_t>(row), lane() % 8));
  }
  /// 8 columns of a row, or as many as there are.
  __device__ void write(__nv_bfloat16* to, int column, const float (&x)[kWidth]) const {
    if (column + kWidth <= args_.n) return cuda::store(to, x);
#pragma unroll
    for (int j = 0; j < kWidth; ++j)
      if (column + j < args_.n) to[j] = __float2bfloat16_rn(x[j]);
  }

  const GemmArguments& args_;
};

template <bool kTransposeB>
__global__ void __cluster_dims__(kCluster) __launch_bounds__(kThreads, 1)
    hopper_gemm_kernel(const __grid_constant__ GemmArguments arguments) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  GemmBlock<Bf16Operands<kTransposeB>> block(arguments, memory);
  block.template run<kFinisherWarps>([&] {
    if constexpr (kTransposeB) {
      block.finish();
    } else {
      block.finish_plainly();
    }
  });
#endif
}

template <typename Operands>
__global__ void __cluster_dims__(kCluster) __launch_bounds__(kThreads, 1)
    hopper_gemm_rotary_kernel(const __grid_constant__ GemmArguments arguments) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  GemmBlock<Operands> block(arguments, memory);
  block.template run<kFinisherWarps>([&] { block.finish_plainly(); },
                                     TileRotation(arguments.rotation, arguments.m));
#endif
}

/// Of a row-major matrix, for boxes of 64 columns.
CUtensorMap matrix_map(const void* data, int64_t rows, int64_t columns, int64_t stride, int64_t box_rows) {
  return tensor_map(data, 1, rows, columns, stride, box_rows);
}

void map_operands(const HopperGemm& g, ProductArguments& a) {
  constexpr int64_t kHalf = kColumns / kCluster;
  a.a_inverse = g.a_inverse;
  a.b_inverse = g.b_inverse;
  if (g.a_inverse != nullptr) {
    a.a = byte_tensor_map(g.a, g.m, g.k, kRows);
    a.b = byte_tensor_map(g.b, g.n, g.k, kHalf);
    return;
  }
  a.a = matrix_map(g.a, g.m, g.k, g.lda, kRows);
  a.b = g.transpose_b ? matrix_map(g.b, g.n, g.k, g.ldb, kHalf)
                      : matrix_map(g.b, g.k, g.n, g.ldb, Bf16Operands<false>::kDepth);
}

}  // namespace

bool hopper_gemm_possible(const HopperGemm& g) {
  const auto rows = [](int64_t stride) { return stride % kWidth == 0; };
  const HopperRotation& r = g.rotation;
  const bool heads_fit = r.head_dim == 32 || r.head_dim == 64 || r.head_dim == 128;
  if (r.positions != nullptr && !(heads_fit && r.part_columns % r.head_dim == 0)) return false;
  if (g.a_inverse != nullptr && (r.positions == nullptr || g.m % 16 != 0 || g.n % 16 != 0 || g.k % 16 != 0))
    return false;
  return hopper::built() && hopper::on_hopper() && g.m > 0 && g.n > 0 && g.k > 0 && g.m <= INT32_MAX &&
         aligned({g.a, g.b, g.out, g.pre}) && rows(g.lda) && rows(g.ldb) && rows(g.ldc);
}

bool hopper_gemm_possible(const HopperGemmDerivative& g) {
  return g.kept != nullptr && aligned({g.kept}) && hopper_gemm_possible(g.product);
}

bool hopper_gemm_fills(const Launch& launch, int64_t m, int64_t n) {
  return 2 * pairs_of_tiles(m, n) >= launch.sm_count / kCluster;
}

bool hopper_gemm_fills_waves(const Launch& launch, int64_t m, int64_t n) {
  const int64_t clusters = launch.sm_count / kCluster, pairs = pairs_of_tiles(m, n);
  return pairs >= 4 * clusters && 10 * pairs >= 9 * ceil_div(pairs, clusters) * clusters;
}

void hopper_gemm(const Launch& launch, const HopperGemm& g) {
  require(g.transpose_b || (g.pre == nullptr && g.activation == Activation::identity),
          "an activation with B transposed only");
  require(g.rotation.positions == nullptr ||
              (g.transpose_b && g.pre == nullptr && g.activation == Activation::identity),
          "a rotation with B transposed only, and without an activation");
  require(g.a_inverse == nullptr || g.rotation.positions != nullptr, "8-bit operands with a rotation only");
  GemmArguments a{};
  map_operands(g, a);
  a.m = static_cast<int>(g.m);
  a.n = static_cast<int>(g.n);
  a.k = static_cast<int>(g.k);
  a.bias = static_cast<const __nv_bfloat16*>(g.bias);
  a.activation = g.activation;
  a.out = static_cast<__nv_bfloat16*>(g.out);
  a.ldc = g.ldc;
  a.pre = static_cast<__nv_bfloat16*>(g.pre);
  constexpr const char* kName = "hopper_gemm";
  if (g.rotation.positions != nullptr) {
    const HopperRotation& r = g.rotation;
    a.rotation = {.columns = static_cast<int>(r.columns),
                  .part_columns = static_cast<int>(r.part_columns),
                  .rotated = static_cast<int>(r.heads * r.head_dim),
                  .head_dim = static_cast<int>(r.head_dim),
                  .bands = static_cast<int>(r.bands),
                  .positions = r.positions,
                  .cosine = r.cosine,
                  .sine = r.sine};
    if (g.a_inverse != nullptr)
      return launch_product<hopper_gemm_rotary_kernel<Fp8Operands<false>>>(launch, kName, a);
    return launch_product<hopper_gemm_rotary_kernel<Bf16Operands<true>>>(launch, kName, a);
  }
  if (g.transpose_b) return launch_product<hopper_gemm_kernel<true>>(launch, kName, a);
  launch_product<hopper_gemm_kernel<false>>(launch, kName, a);
}

}  // namespace perceiver::kernels::cuda
