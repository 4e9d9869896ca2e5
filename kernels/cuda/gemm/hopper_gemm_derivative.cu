// Matrix products of bf16 on Hopper whose results are multiplied by the derivative of an activation, with the
// sums of their columns (the bias gradient): hopper_product.cuh multiplies.
//
// The finishers work ahead and leave derivatives, in bf16, to the threads that multiply (slab_factors.cuh).
// Of each finished unit they sum the columns and write the rows. Derivatives of the squared ReLU and
// the ReLU are exact in bf16; others are rounded, once more than in a pass.
#include "kernels/cuda/gemm/hopper_gemm.h"
#include "kernels/cuda/gemm/slab_factors.cuh"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/support/activation.cuh"
#include "kernels/cuda/support/vector.cuh"

namespace perceiver::kernels::cuda {
namespace {

using namespace hopper;

struct DerivativeArguments : ProductArguments {
  CUtensorMap kept, out;
  Activation activation;
  float* column_sums;
};

class DerivativeBlock : public FactorBlock<Bf16Operands<false>> {
 public:
  __device__ DerivativeBlock(const DerivativeArguments& arguments, unsigned char* memory)
      : FactorBlock(arguments, memory), args_(arguments) {}

  __device__ void finish() const {
    with_activation(args_.activation, [&]<Activation kActivation>() {
      finish_with_factors(
          args_.kept, [](uint32_t kept) { return derivatives<kActivation>(kept); },
          [&](const Unit& unit) { write_out(unit); });
    });
  }

 private:
  /// Of two elements of what is kept. The square of a bf16 number, rounded to bf16, has a root that rounds
  /// back to that number: rounding the square moves its root by half of what would be too much.
  template <Activation kActivation>
  __device__ static uint32_t derivatives(uint32_t kept) {
    const float2 x = unpack(kept);
    if constexpr (kActivation == Activation::squared_relu) {
      const uint32_t roots = pack(fast_sqrt(x.x), fast_sqrt(x.y));
      return add_pairs(roots, roots);
    } else {
      return pack(derivative(kActivation, x.x), derivative(kActivation, x.y));
    }
  }

  /// Writes a unit, and the sums of its columns.
  __device__ void write_out(const Unit& unit) const {
    if (unit.at.row >= args_.m || unit.at.column >= args_.n) return;
    const unsigned char* rows = slab_tile(unit.slab, unit.tile);
    if (lane() == 0) {
      tma_store(&args_.out, shared_address(rows), unit.at.column, unit.at.row, 0);
      bulk_commit();
    }
    if (args_.column_sums == nullptr) return;
    float sums[kUnitWidth] = {};
#pragma unroll
    for (int pass = 0; pass < kUnitPasses; pass += kPassesAtOnce) {
      uint4 x[kPassesAtOnce];
#pragma unroll
      for (int i = 0; i < kPassesAtOnce; ++i)
        x[i] = *reinterpret_cast<const uint4*>(rows + place_in_unit(pass + i));
#pragma unroll
      for (const uint4& each : x) add(each, sums);
    }
    write_sums(unit.at, sums);
  }

  __device__ static void add(const uint4& x, float (&sums)[kUnitWidth]) {
    const uint32_t pairs[] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int j = 0; j < kUnitWidth / 2; ++j) {
      const float2 two = unpack(pairs[j]);
      sums[2 * j] += two.x;
      sums[2 * j + 1] += two.y;
    }
  }

  __device__ void write_sums(const Tile& at, float (&sums)[kUnitWidth]) const {
    add_rows_of_lanes(sums);
    const int column = at.column + lane() * kUnitWidth;
    if (lane() < kTileColumns / kUnitWidth && column < args_.n)
      store(args_.column_sums + static_cast<int64_t>(at.row / kSlabRows) * args_.n + column, sums);
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

void hopper_gemm_derivative(const Launch& launch, const HopperGemmDerivative& d) {
  const HopperGemm& g = d.product;
  require(!g.transpose_b && g.bias == nullptr && g.pre == nullptr && g.activation == Activation::identity,
          "a derivative of a plain product with B as it lies only");
  DerivativeArguments a{};
  a.a = tensor_map(g.a, 1, g.m, g.k, g.lda, kRows);
  a.b = tensor_map(g.b, 1, g.k, g.n, g.ldb, Bf16Operands<false>::kDepth);
  a.m = static_cast<int>(g.m);
  a.n = static_cast<int>(g.n);
  a.k = static_cast<int>(g.k);
  a.kept = tensor_map(d.kept, 1, g.m, g.n, g.ldc, kSlabRows);
  a.out = tensor_map(g.out, 1, g.m, g.n, g.ldc, kSlabRows);
  a.activation = d.activation;
  a.column_sums = d.column_sums;
  launch_product<hopper_gemm_derivative_kernel>(launch, "hopper_gemm_derivative", a);
}

}  // namespace perceiver::kernels::cuda
