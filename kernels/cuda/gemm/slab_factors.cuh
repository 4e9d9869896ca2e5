// Finishers that work ahead: of each unit of a slab (slab_units.cuh), they load what the next tile's factors
// follow from and leave the factors in the unit's place, where the threads that multiply find them in wgmma's
// layout, multiply the rounded sums by them and write the products (SlabFactors).
//
// A warp lets TMA load when it is done with the unit, and replaces what came by the factors before it turns
// to its next unit, or while it waits for that one. So nobody waits for memory.
#pragma once

#include "kernels/cuda/gemm/slab_units.cuh"

namespace perceiver::kernels::cuda::hopper {

inline constexpr int kUnitWidth = 8;     // elements of a lane's access
inline constexpr int kUnitPassRows = 4;  // of a warp's access: 8 lanes have a row of a unit
inline constexpr int kUnitPasses = kSlabRows / kUnitPassRows, kPassesAtOnce = 4;

template <typename Operands>
class FactorBlock : public ProductBlock<Operands, kSlabTiles> {
 public:
  using ProductBlock<Operands, kSlabTiles>::ProductBlock;

 protected:
  /// For each unit: finish(unit) when it is full. `source`: a matrix of the result's size, in boxes of a
  /// unit; factors(pair) makes two bf16 factors of two elements of it, or of zeros outside of it.
  template <typename Factors, typename Finish>
  __device__ void finish_with_factors(const CUtensorMap& source, Factors&& factors, Finish&& finish) const {
    Loading loading;
    for (Units units = Units::before_first(this->product_, this->finisher_warp()); !units.done();
         units.advance()) {
      if (units.has_tile()) {
        const uint32_t full = this->slab_full(units.slab(), units.slab_tile());
        if (!__all_sync(0xFFFFFFFFu, mbarrier_test_wait(full, units.phase()))) make(factors, loading);
        mbarrier_wait(full, units.phase());
        finish(units.unit());
      }
      const Loading next = load(source, units);
      make(factors, loading);
      loading = next;
    }
    bulk_wait_read();
  }

  /// Of this lane in a pass of a unit.
  __device__ static uint32_t place_in_unit(int pass) {
    return swizzled_offset(static_cast<uint32_t>(pass * kUnitPassRows + lane() / 8),
                           static_cast<uint32_t>(lane()) % 8);
  }

 private:
  /// A unit that is being loaded: `phase` of slab_loaded.
  struct Loading {
    int slab = 0, tile = 0;
    uint32_t phase = 0;
    bool any = false;
  };

  /// Starts to load for the next tile's unit, if there is one, when what TMA writes of this one has been
  /// read.
  __device__ Loading load(const CUtensorMap& source, const Units& units) const {
    if (!units.has_next()) return {};
    const int slab = units.slab(), tile = units.slab_tile();
    const uint32_t loaded = this->slab_loaded(slab, tile);
    fence_proxy_async();
    __syncwarp();  // All lanes are done with the unit.
    if (lane() == 0) {
      const Tile at = units.next().at;
      bulk_wait_read();
      mbarrier_expect_tx(loaded, kSlabTileBytes);
      tma_load(shared_address(this->slab_tile(slab, tile)), &source, loaded, at.column, at.row, 0);
      mbarrier_arrive(loaded);
    }
    return {slab, tile, units.phase() ^ 1, true};
  }

  /// Puts factors in the place of what was loaded, if anything was.
  template <typename Factors>
  __device__ void make(Factors&& factors, Loading& loading) const {
    if (!loading.any) return;
    loading.any = false;
    unsigned char* unit = this->slab_tile(loading.slab, loading.tile);
    mbarrier_wait(this->slab_loaded(loading.slab, loading.tile), loading.phase);
    for (int pass = 0; pass < kUnitPasses; pass += kPassesAtOnce) {
      const auto place = [&](int i) { return reinterpret_cast<uint4*>(unit + place_in_unit(pass + i)); };
      uint4 x[kPassesAtOnce];
#pragma unroll
      for (int i = 0; i < kPassesAtOnce; ++i) x[i] = *place(i);
#pragma unroll
      for (int i = 0; i < kPassesAtOnce; ++i)
        *place(i) = {factors(x[i].x), factors(x[i].y), factors(x[i].z), factors(x[i].w)};
    }
    mbarrier_arrive_warp(this->slab_empty(loading.slab, loading.tile));
  }
};

}  // namespace perceiver::kernels::cuda::hopper
