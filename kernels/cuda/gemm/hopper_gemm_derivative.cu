// Matrix products of bf16 on Hopper whose results are multiplied by the derivative of an activation, with the
// sums of their columns (the bias gradient): hopper_product.cuh multiplies.
//
// The finishers work ahead. A warp takes units of 64 x 64 of the result, every third one. Once TMA has written
// a unit to memory, it loads what the derivative of the next tile's unit follows from into the same place;
// the warp replaces that by the derivative, in bf16, while it waits for its next unit. The threads that
// multiply read it in wgmma's layout, multiply the rounded sums by it and write these in place (SlabFactors).
// The sums of the columns are a product of the tensor cores, ones times the unit. So a finisher moves 16 bytes
// for 8 elements to registers and back (its accesses to shared memory queue behind the operands of wgmma),
// and nobody waits for memory. Derivatives of the squared ReLU and the ReLU are exact in bf16; others are
// rounded, once more than in a pass.
#include "kernels/cuda/gemm/hopper_gemm.h"
#include "kernels/cuda/gemm/slab_units.cuh"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/support/activation.cuh"

namespace perceiver::kernels::cuda {
namespace {

using namespace hopper;

constexpr int kPassRows = 4;  // of a warp's access: 8 lanes have a row of a unit
constexpr int kPasses = kSlabRows / kPassRows, kPassesAtOnce = 4;

struct DerivativeArguments : ProductArguments {
  CUtensorMap kept, out;
  Activation activation;
  float* column_sums;
};

class DerivativeBlock : public ProductBlock<Bf16Operands<false>, kSlabTiles> {
 public:
  __device__ DerivativeBlock(const DerivativeArguments& arguments, unsigned char* memory)
      : ProductBlock(arguments, memory), args_(arguments) {}

  __device__ void finish() const {
    with_activation(args_.activation, [&]<Activation kActivation>() { finish_units<kActivation>(); });
  }

 private:
  /// A unit that is being loaded: `phase` of slab_loaded.
  struct Loading {
    int slab = 0, tile = 0;
    uint32_t phase = 0;
    bool any = false;
  };

  template <Activation kActivation>
  __device__ void finish_units() const {
    Loading loading;
    for (Units units = Units::before_first(args_, finisher_warp()); !units.done(); units.advance()) {
      if (units.has_tile()) {
        const uint32_t full = slab_full(units.slab(), units.slab_tile());
        if (!__all_sync(0xFFFFFFFFu, mbarrier_test_wait(full, units.phase())))
          differentiate<kActivation>(loading);
        mbarrier_wait(full, units.phase());
        write_out(units);
      }
      const Loading next = load(units);
      differentiate<kActivation>(loading);
      loading = next;
    }
    bulk_wait_read();
  }

  /// Starts to load the next tile's unit, if there is one, when this one's has been written.
  __device__ Loading load(const Units& units) const {
    if (!units.has_next()) return {};
    const int slab = units.slab(), tile = units.slab_tile();
    __syncwarp();  // All lanes have read the unit.
    if (lane() == 0) {
      const Tile at = units.next();
      bulk_wait_read();
      mbarrier_expect_tx(slab_loaded(slab, tile), kSlabTileBytes);
      tma_load(shared_address(slab_tile(slab, tile)), &args_.kept, slab_loaded(slab, tile), at.column, at.row,
               0);
      mbarrier_arrive(slab_loaded(slab, tile));
    }
    return {slab, tile, units.phase() ^ 1, true};
  }

  /// Puts derivatives in the place of what was loaded, if anything was.
  template <Activation kActivation>
  __device__ void differentiate(Loading& loading) const {
    if (!loading.any) return;
    loading.any = false;
    unsigned char* tile = slab_tile(loading.slab, loading.tile);
    mbarrier_wait(slab_loaded(loading.slab, loading.tile), loading.phase);
    for (int pass = 0; pass < kPasses; pass += kPassesAtOnce) {
      const auto row = static_cast<uint32_t>(pass * kPassRows + lane() / 8);
      const auto place = [&](int i) {
        const uint32_t chunk = swizzled_offset(row + i * kPassRows, static_cast<uint32_t>(lane()) % 8);
        return reinterpret_cast<uint4*>(tile + chunk);
      };
      uint4 x[kPassesAtOnce];
#pragma unroll
      for (int i = 0; i < kPassesAtOnce; ++i) x[i] = *place(i);
#pragma unroll
      for (int i = 0; i < kPassesAtOnce; ++i)
        *place(i) = {derivatives<kActivation>(x[i].x), derivatives<kActivation>(x[i].y),
                     derivatives<kActivation>(x[i].z), derivatives<kActivation>(x[i].w)};
    }
    mbarrier_arrive_warp(slab_empty(loading.slab, loading.tile));
  }
  template <Activation kActivation>
  __device__ static uint32_t derivatives(uint32_t kept) {
    const float2 x = unpack(kept);
    if constexpr (kActivation == Activation::squared_relu) {
      const uint32_t roots = pack(fast_sqrt(x.x), fast_sqrt(x.y));
      return add_pairs(roots, roots);
    } else {
      return pack(derivative<__nv_bfloat16>(kActivation, x.x), derivative<__nv_bfloat16>(kActivation, x.y));
    }
  }

  __device__ void write_out(const Units& units) const {
    const Tile at = units.at();
    if (at.row >= args_.m || at.column >= args_.n) return;
    const uint32_t tile = shared_address(slab_tile(units.slab(), units.slab_tile()));
    if (lane() == 0) {
      tma_store(&args_.out, tile, at.column, at.row, 0);
      bulk_commit();
    }
    if (args_.column_sums != nullptr) sum_columns(tile, at);
  }

  /// Each row of the sums is that of the unit's columns: a lane has two of every 8.
  __device__ void sum_columns(uint32_t tile, const Tile& at) const {
    constexpr uint32_t kOnes = 0x3F803F80;
    constexpr uint32_t kOnesOfA[] = {kOnes, kOnes, kOnes, kOnes};
    const LaneAddress<kTileColumns, Cover::rows> address(tile);
    float2 two{};  // those that a lane writes, of 8 columns that three others have as well
#pragma unroll
    for (int step = 0; step < kTileColumns / 16; ++step) {
      float sums[2][4] = {};
#pragma unroll
      for (int row = 0; row < kSlabRows; row += 16) {
        uint32_t b[4];
        load_matrices_transposed(b, address.at(row, step));
        multiply_add(sums[0], kOnesOfA, b[0], b[1]);
        multiply_add(sums[1], kOnesOfA, b[2], b[3]);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (lane() / 4 == 2 * step + half) two = {sums[half][0], sums[half][1]};
    }
    const int column = at.column + 2 * lane();
    if (column < args_.n)
      *reinterpret_cast<float2*>(args_.column_sums +
                                 static_cast<int64_t>(at.row / kSlabRows) * args_.n + column) = two;
  }

  const DerivativeArguments& args_;
};

__global__ void __cluster_dims__(kCluster) __launch_bounds__(kThreads, 1)
    hopper_gemm_derivative_kernel(const __grid_constant__ DerivativeArguments arguments) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  DerivativeBlock block(arguments, memory);
  block.run<1>([&] { block.finish(); }, SlabFactors{});
#endif
}

}  // namespace

void hopper_gemm_derivative(const Launch& launch, const HopperGemmDerivative& g) {
  DerivativeArguments a{};
  a.a = tensor_map(g.a, 1, g.m, g.k, g.lda, kRows);
  a.b = tensor_map(g.b, 1, g.k, g.n, g.ldb, Bf16Operands<false>::kDepth);
  a.m = static_cast<int>(g.m);
  a.n = static_cast<int>(g.n);
  a.k = static_cast<int>(g.k);
  a.kept = tensor_map(g.kept, 1, g.m, g.n, g.ldc, kSlabRows);
  a.out = tensor_map(g.out, 1, g.m, g.n, g.ldc, kSlabRows);
  a.activation = g.activation;
  a.column_sums = g.column_sums;
  launch_product<hopper_gemm_derivative_kernel>(launch, "hopper_gemm_derivative", a, 0);
}

}  // namespace perceiver::kernels::cuda
