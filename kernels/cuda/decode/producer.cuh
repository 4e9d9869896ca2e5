// The producer warp of the fused decode step: walks through the same phases as the consumers and brings the
// block's weights and cache rows into the ring, as far ahead as the ring is deep. It starts before the block
// is set up, for whose tables and plans it waits after the first phase, and then waits for free stages alone,
// never for another block: what it reads was written before the kernel began, but for the cache row that this
// step writes, of which the consumers take a copy of their own.
#pragma once

#include "kernels/cuda/decode/parts.cuh"
#include "kernels/cuda/support/cache_policy.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

class DecodeProducer {
  // With more than kPaceSlack stages free there is no time to lose.
  static constexpr int kPaceSlack = 6, kPaceDepth = 1;

 public:
  __device__ DecodeProducer(const DecodeArguments& a, DecodeShared& shared, uint32_t ring)
      : a_(a),
        shared_(shared),
        ring_(ring),
        lane_(static_cast<int>(threadIdx.x) % 32),
        slack_(min(kPaceSlack, a.stages - kLeastStages)),
        once_(evict_first()) {}

  __device__ void arrive() {}
  __device__ void swap_latents() {}
  __device__ void end() {}

  __device__ __forceinline__ void product(const Product& p, const AttentionPlan&) {
    const Share tiles((p.rows + kTileRows - 1) / kTileRows);
    const bf16* weight = static_cast<const bf16*>(p.linear.weight);
    if (tiles.begin < tiles.end) prefetch(p, tiles);
    for (int tile = tiles.begin; tile < tiles.end; ++tile) {
      const int rows = min(kTileRows, p.rows - tile * kTileRows);
      const bf16* row = weight + static_cast<int64_t>(tile * kTileRows + lane_) * p.columns;
      for (int column = 0; column < p.columns; column += kTileColumns) {
        const int bytes = min(kTileColumns, p.columns - column) * 2;
        const uint32_t full = acquire();
        if (lane_ == 0) mbarrier_expect_tx(full, rows * bytes);
        __syncwarp();
        if (lane_ < rows) bulk_load(stage() + lane_ * kRowPitch, row + column, full, bytes, once_);
        end_stage(full);
      }
    }
    if (!joined_) SetUp::wait_for_plans();
    joined_ = true;
  }

  __device__ __forceinline__ void attention(const Product& p, const AttentionPlan& plan) {
    const bf16* cache = p.cache;
    const AttentionShape& shape = plan.shape;
    const int *tiles_before = plan.tiles_before, *rows = plan.rows;
    int slot = 0;
    for (int i = plan.begin; i < plan.end; ++i) {
      while (i >= tiles_before[slot + 1] * shape.groups) ++slot;
      const int tiles = tiles_before[slot + 1] - tiles_before[slot];
      const int within = i - tiles_before[slot] * shape.groups;
      const int group = within / tiles, first = within % tiles * shape.tile_rows;
      const int count = min(shape.tile_rows, rows[slot] - first);
      const bf16* from = cache + (static_cast<int64_t>(slot) * shape.ring_rows + first) * (2 * shape.width);
      const uint32_t full = acquire();
      if (shape.by_head) {
        copy_head(group, p.layer, first, full);
      } else if (shape.groups == 1) {
        copy_rows(from, count * shape.width * 4, full);
      } else {
        copy_heads(shape, from, group, count, full);
      }
      end_stage(full);
    }
  }

 private:
  /// The small arrays that consumers read for themselves, into the second-level cache.
  __device__ void prefetch(const Product& p, const Share& tiles) const {
    const char* bias = static_cast<const char*>(p.linear.bias);
    const char* norm = static_cast<const char*>(lane_ < 16 ? p.norm.scale : p.norm.offset);
    const int line = lane_ % 16 * 128;
    if (norm != nullptr && line < p.columns * 2) prefetch_line(norm + line);
    if (bias != nullptr && lane_ == 0) prefetch_line(bias + tiles.begin * kTileRows * 2);
  }
  __device__ uint32_t stage() const { return ring_ + cursor_.stage * kStageBytes; }

  /// Waits until the consumers are done with the next stage; returns the barrier that counts its arrivals.
  __device__ uint32_t acquire() const {
    mbarrier_wait(shared_address(&shared_.empty[cursor_.stage]), cursor_.parity ^ 1);
    pace();
    fence_proxy_async();
    return shared_address(&shared_.full[cursor_.stage]);
  }

  /// With most of the ring full, waits until but kPaceDepth - 1 stages are on their way: copies all at once,
  /// as soon as the consumers have emptied stages, hold up the words by which blocks wait for one another.
  __device__ void pace() const {
    if (issued_ < kPaceDepth) return;
    const RingCursor ahead = moved(slack_), before = moved(a_.stages - kPaceDepth);
    if (mbarrier_test_wait(shared_address(&shared_.empty[ahead.stage]), ahead.parity ^ 1)) return;
    mbarrier_wait(shared_address(&shared_.full[before.stage]), before.parity ^ 1);
  }
  __device__ RingCursor moved(int by) const {
    RingCursor other{cursor_.stage + by, cursor_.parity};
    if (other.stage >= a_.stages) other.stage -= a_.stages, other.parity ^= 1;
    return other;
  }

  /// The warp has started its copies into the stage.
  __device__ void end_stage(uint32_t full) {
    mbarrier_arrive_warp(full);
    cursor_.advance(a_.stages);
    ++issued_;
  }

  /// Whole rows, which lie behind one another.
  __device__ void copy_rows(const bf16* from, int bytes, uint32_t full) const {
    if (lane_ != 0) return;
    mbarrier_expect_tx(full, bytes);
    bulk_load(stage(), from, full, bytes, once_);
  }

  /// A tile of one head; rows behind the last are others of the cache or zeros.
  __device__ void copy_head(int head, int layer, int first, uint32_t full) const {
    if (lane_ != 0) return;
    mbarrier_expect_tx(full, kCacheTileBytes);
    const int column = head * kHeadWidth;
    hopper::tma_load(stage(), &a_.self_tiles, full, column, first, layer, once_);
    hopper::tma_load(stage() + kHeadValues, &a_.self_tiles, full, a_.self_shape.width + column, first, layer,
                     once_);
  }

  /// Keys and values of one group of heads: from each row two pieces.
  __device__ void copy_heads(const AttentionShape& shape, const bf16* from, int group, int rows,
                             uint32_t full) const {
    const int columns = shape.group * shape.head_dim;  // of a piece, a power of two
    const int shift = __ffs(columns / 8) - 1;          // accesses of a piece, as a power of two
    const int accesses = rows << (shift + 1);
    from += group * columns;
#pragma unroll 8
    for (int i = lane_; i < accesses; i += 32) {
      const int row = i >> (shift + 1), piece = i >> shift & 1, access = i & ((1 << shift) - 1);
      copy_async_by(once_, stage() + i * 16,
                    from + static_cast<int64_t>(row) * (2 * shape.width) + piece * shape.width + access * 8);
    }
    copies_arrive(full);
  }

  const DecodeArguments& a_;
  DecodeShared& shared_;
  uint32_t ring_;
  int lane_;
  int slack_;  // kPaceSlack; less in a short ring
  // What streams by is the first to leave the second-level cache, so that code, norms, angles and the vectors
  // that blocks exchange stay there.
  uint64_t once_;
  RingCursor cursor_;
  int issued_ = 0;
  bool joined_ = false;  // the other threads, after the first phase
};

#endif
}  // namespace perceiver::kernels::cuda
