// The producer warp of the fused decode step: walks through the same phases as the consumers and copies the
// block's weights and cache rows into the ring, as far ahead as the ring is deep. It starts before the block
// is set up and waits for the block's tables and plans only after the first phase; from then on it waits for
// free stages alone, never for another block: everything it reads was written before the kernel began, except
// the cache row that this step writes, for which the consumers substitute the new one.
//
// With 9 to 64 slots it also copies the inputs of products, which other blocks made: in stages of their own,
// after the weights of a pass. For these it waits at the barrier over the grid, in the consumers' place.
#pragma once

#include "kernels/cuda/decode/aside.cuh"
#include "kernels/cuda/decode/grid_barrier.cuh"
#include "kernels/cuda/decode/input_tiles.cuh"
#include "kernels/cuda/decode/narrow_weights.cuh"
#include "kernels/cuda/decode/phase.cuh"
#include "kernels/cuda/decode/work_split.cuh"
#include "kernels/cuda/support/cache_policy.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

/// kSets: of inputs of products, which it copies as well; 0 for few slots. kHeadSlots: slots whose
/// self-attention may be by head; where there are none, a branch for them would make copies of a long context
/// 5% slower.
template <DType kWeights, int kSets, int kHeadSlots>
class DecodeProducer : public RoleRegisters {
  static constexpr int kBytes = kWeightBytes<kWeights>;
  // With more than kPaceSlack stages free, copies are not delayed; otherwise those of kPaceDepth stages are
  // in flight, as many bytes with either type of weights.
  static constexpr int kPaceSlack = 6, kPaceDepth = 2 / kBytes;

 public:
  __device__ DecodeProducer(const DecodeArguments& a, DecodeShared& shared, uint32_t ring)
      : a_(a),
        shared_(shared),
        ring_(ring),
        lane_(static_cast<int>(threadIdx.x) % 32),
        slack_(min(kPaceSlack, a.stages - kMinStages)),
        evict_first_(evict_first()) {}

  __device__ void arrive(bool) {}
  __device__ void swap_latents() {}
  __device__ void end() {}

  __device__ __forceinline__ void product(const Product& p, const AttentionPlan&) {
    if constexpr (kSets > 0) {
      copy_passes(p);
    } else {
      copy_tiles(p);
    }
    if (!tables_ready_) SetupBarriers::wait_for_plans();
    tables_ready_ = true;
  }

  __device__ __forceinline__ void attention(const Product& p, const AttentionPlan& plan) {
    const char* cache = static_cast<const char*>(p.cache);
    const AttentionShape& shape = plan.shape;
    const int *tiles_before = plan.tiles_before, *rows = plan.rows;
    int slot = 0;
    for (int i = plan.begin; i < plan.end; ++i) {
      while (i >= tiles_before[slot + 1] * shape.groups) ++slot;
      const int tiles = tiles_before[slot + 1] - tiles_before[slot];
      const int within = i - tiles_before[slot] * shape.groups;
      const int group = within / tiles, first = within % tiles * shape.tile_rows;
      const int count = min(shape.tile_rows, rows[slot] - first);
      const char* from = cache + (static_cast<int64_t>(slot) * shape.ring_rows + first) * shape.row_bytes;
      const uint32_t full = acquire();
      if (kHeadSlots > 0 && shape.by_head) {
        copy_head(group, p.layer, kHeadSlots > 1 ? slot * shape.ring_rows + first : first, full);
      } else if (shape.groups == 1) {
        copy_rows(from, count * shape.row_bytes, full);
      } else {
        copy_heads(shape, from, group, count, full);
      }
      end_stage(full);
    }
  }

 private:
  /// The weights, tile by tile.
  __device__ __forceinline__ void copy_tiles(const Product& p) {
    const Share tiles((p.rows + kTileRows - 1) / kTileRows);
    const char* weight = static_cast<const char*>(p.linear.weight);
    if (tiles.begin < tiles.end) prefetch(p, tiles);
    for (int tile = tiles.begin; tile < tiles.end; ++tile) {
      const int rows = min(kTileRows, p.rows - tile * kTileRows);
      const char* row = weight + static_cast<int64_t>(tile * kTileRows + lane_) * p.columns * kBytes;
      for (int column = 0; column < p.columns; column += kTileColumns) {
        const int bytes = min(kTileColumns, p.columns - column) * kBytes;
        const uint32_t full = acquire();
        if (lane_ == 0) mbarrier_expect_tx(full, rows * bytes);
        __syncwarp();
        if (lane_ < rows)
          bulk_load(stage() + lane_ * kWeightPitch<kWeights>, row + column * kBytes, full, bytes,
                    evict_first_);
        end_stage(full);
      }
    }
  }

  /// For each pass and tile of columns the weights, then the inputs.
  __device__ __forceinline__ void copy_passes(const Product& p) {
    const ProductShare share(p.rows, p.columns);
    const bf16* inputs = a_.hidden;
    if (p.input != ProductInput::hidden) inputs = a_.rows[rows_buffer_], rows_buffer_ ^= 1;
    if (share.empty()) return;
    prefetch(p, share.tiles);
    const int most = pass_tiles(a_.stages, kSets);
    bool waits = true;
#pragma unroll 1
    for (int first = share.tiles.begin; first < share.tiles.end; first += most) {
      const int end = min(share.tiles.end, first + most);
#pragma unroll 1
      for (int column = share.first_column; column < share.end_column; column += kTileColumns) {
#pragma unroll 1
        for (int tile = first; tile < end; ++tile) copy_weights(p, tile, column);
        if (waits) wait_for_inputs();
        waits = false;
        copy_inputs(p, inputs, column, min(share.end_column, column + kTileColumns));
      }
    }
  }

  /// At the barrier over the grid at which the consumers have arrived.
  __device__ __forceinline__ void wait_for_inputs() {
    mbarrier_wait(shared_address(&shared_.inputs_made), inputs_parity_);
    inputs_parity_ ^= 1;
    if (lane_ == 0) GridBarrier::poll(a_.arrivals, shared_.arrivals_target);
    __syncwarp();
    // Orders what other blocks wrote, as ordinary stores, before its copies.
    asm volatile("fence.proxy.async.global;" ::: "memory");
  }

  __device__ __forceinline__ void copy_weights(const Product& p, int tile, int column) {
    const int rows = min(kTileRows, p.rows - tile * kTileRows);
    const int bytes = min(kTileColumns, p.columns - column) * kBytes;
    const char* from = static_cast<const char*>(p.linear.weight) +
                       (static_cast<int64_t>(tile * kTileRows + lane_) * p.columns + column) * kBytes;
    const uint32_t full = acquire();
    if (lane_ == 0) mbarrier_expect_tx(full, rows * bytes);
    __syncwarp();
    if (lane_ < rows) bulk_load(stage() + lane_ * kWeightPitch<kWeights>, from, full, bytes, evict_first_);
    end_stage(full);
  }

  /// Columns from `begin` to `end` of all slots; as fast as they come, since all blocks wait for them.
  __device__ __forceinline__ void copy_inputs(const Product& p, const bf16* inputs, int begin, int end) {
    const int sets = (a_.slots + kSetSlots - 1) / kSetSlots;
#pragma unroll 1
    for (int column = begin; column < end; column += kStageColumns<kSets>) {
      const int bytes = min(kStageColumns<kSets>, end - column) / kInputColumns * kInputTileBytes;
      const uint32_t full = acquire_at_once();
      if (lane_ == 0) mbarrier_expect_tx(full, sets * bytes);
      __syncwarp();
      if (lane_ < sets)
        bulk_load(stage() + lane_ * kStageSetBytes<kSets>,
                  inputs + input_place(lane_ * kSetSlots, column, p.columns), full, bytes);
      end_stage(full);
    }
  }

  /// Brings the small arrays that the consumers read themselves into the L2 cache.
  __device__ void prefetch(const Product& p, const Share& tiles) const {
    const char* bias = static_cast<const char*>(p.linear.bias);
    const char* norm = static_cast<const char*>(lane_ < 16 ? p.norm.scale : p.norm.offset);
    const int line = lane_ % 16 * 128;
    if (norm != nullptr && line < p.columns * 2) prefetch_l2(norm + line);
    if (bias != nullptr && lane_ == 0) prefetch_l2(bias + tiles.begin * kTileRows * 2);
    if (is_narrow(kWeights) && lane_ < 2) {
      const int first = tiles.begin * kTileRows, last = min(p.rows, tiles.end * kTileRows) - 1;
      prefetch_l2(narrow_scales(p.linear, p.rows, p.columns) + (lane_ == 0 ? first : last));
    }
  }
  __device__ uint32_t stage() const {
    return ring_ + cursor_.stage * kStageBytes;
  }

  /// Waits until the consumers are done with the next stage; returns its `full` mbarrier.
  __device__ uint32_t acquire() const {
    mbarrier_wait(shared_address(&shared_.empty[cursor_.stage]), cursor_.parity ^ 1);
    pace();
    fence_proxy_async();
    return shared_address(&shared_.full[cursor_.stage]);
  }
  __device__ uint32_t acquire_at_once() const {
    mbarrier_wait(shared_address(&shared_.empty[cursor_.stage]), cursor_.parity ^ 1);
    fence_proxy_async();
    return shared_address(&shared_.full[cursor_.stage]);
  }

  /// With most of the ring full, waits until at most kPaceDepth - 1 stages are in flight: a burst of copies,
  /// as soon as the consumers have emptied stages, would delay the words for which other blocks wait.
  __device__ void pace() const {
    if (issued_ < kPaceDepth) return;
    const RingCursor ahead = cursor_.moved(slack_, a_.stages),
                     before = cursor_.moved(a_.stages - kPaceDepth, a_.stages);
    if (mbarrier_test_wait(shared_address(&shared_.empty[ahead.stage]), ahead.parity ^ 1)) return;
    mbarrier_wait(shared_address(&shared_.full[before.stage]), before.parity ^ 1);
  }

  /// Call it when the warp has started its copies into the stage.
  __device__ void end_stage(uint32_t full) {
    mbarrier_arrive_warp(full);
    cursor_.advance(a_.stages);
    ++issued_;
  }

  /// Whole rows, which are contiguous.
  __device__ void copy_rows(const char* from, int bytes, uint32_t full) const {
    if (lane_ != 0) return;
    mbarrier_expect_tx(full, bytes);
    bulk_load(stage(), from, full, bytes, evict_first_);
  }

  /// A tile of one head; rows past the last are other rows of the cache or zeros.
  __device__ void copy_head(int head, int layer, int first, uint32_t full) const {
    if (lane_ != 0) return;
    const int key_bytes = head_key_bytes(a_.cache_bytes), column = head * kHeadWidth;
    mbarrier_expect_tx(full, 2 * key_bytes);
    hopper::tma_load(stage(), &a_.self_tiles, full, column, first, layer, evict_first_);
    hopper::tma_load(stage() + key_bytes, &a_.self_tiles, full, a_.self_shape.width + column, first, layer,
                     evict_first_);
  }

  /// Of a piece of a row that is copied in bulk: of these, one by each lane fills a stage. More copies of
  /// fewer bytes take longer than accesses of 16 bytes.
  static constexpr int kBulkBytes = kCacheTileBytes / 32;

  /// Keys and values of one group of heads: two pieces of each row.
  __device__ void copy_heads(const AttentionShape& shape, const char* from, int group, int rows,
                             uint32_t full) const {
    const int bytes = shape.group * shape.head_dim * a_.cache_bytes;  // of a piece, a power of two
    if (bytes >= kBulkBytes) return copy_pieces(shape, from + group * bytes, bytes, rows, full);
    const int shift = __ffs(bytes / 16) - 1;  // accesses of a piece, likewise
    const int accesses = rows << (shift + 1);
    from += group * bytes;
#pragma unroll 8
    for (int i = lane_; i < accesses; i += 32) {
      const int row = i >> (shift + 1), piece = i >> shift & 1, access = i & ((1 << shift) - 1);
      copy_async_by(
          evict_first_, stage() + i * 16,
          from + static_cast<int64_t>(row) * shape.row_bytes + piece * (shape.row_bytes / 2) + access * 16);
    }
    copies_arrive(full);
  }

  /// The same by a bulk copy for each piece.
  __device__ void copy_pieces(const AttentionShape& shape, const char* from, int bytes, int rows,
                              uint32_t full) const {
    if (lane_ == 0) mbarrier_expect_tx(full, 2 * rows * bytes);
    __syncwarp();
#pragma unroll 1
    for (int i = lane_; i < 2 * rows; i += 32)
      bulk_load(stage() + i * bytes,
                from + static_cast<int64_t>(i >> 1) * shape.row_bytes + (i & 1) * (shape.row_bytes / 2), full,
                bytes, evict_first_);
  }

  const DecodeArguments& a_;
  DecodeShared& shared_;
  uint32_t ring_;
  int lane_;
  int slack_;  // kPaceSlack; less in a short ring
  // Streamed data are evicted first from L2, so that code, norms, angles and the vectors that blocks exchange
  // stay there.
  uint64_t evict_first_;
  RingCursor cursor_;
  int issued_ = 0;
  bool tables_ready_ = false;  // awaited after the first phase
  int rows_buffer_ = 0;
  uint32_t inputs_parity_ = 0;
};

#endif
}  // namespace perceiver::kernels::cuda
