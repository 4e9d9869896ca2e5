// What blocks of the bf16 kernels of relative attention share: those that own queries (forward, d_q) and
// those that own keys or distances and go over queries (d_k and d_v, positions).
#pragma once

#include "kernels/cuda/attention/relative_tiles.cuh"

namespace perceiver::kernels::cuda {

/// A block's queries, with keys, values and distances of the tile at hand and the next, and the band of
/// scores by position. Tiles start at the first key that a query of the block sees.
template <typename S>
struct QueryRows {
  static constexpr int D = S::D, G = S::G, kThreads = S::kThreads, kKeys = S::kKeys, kColumns = S::kStep / 8;
  static constexpr int kPitch = TileRows<D>::kPitch, kRowBytes = TileRows<D>::kBytes;

  __device__ QueryRows(const RelativeAttention& arguments, bool is_wide, Bf16* shared_memory)
      : k(arguments),
        wide(is_wide),
        head(arguments, blockIdx.z, blockIdx.y),
        memory(shared_memory),
        shared(shared_address(shared_memory)),
        // Late queries see more keys, so they go first.
        begin(static_cast<int>(gridDim.x - 1 - blockIdx.x) * S::kQueries),
        count(min(S::kQueries, static_cast<int>(arguments.queries) - begin)),
        query(begin + warp_id() * 16 * G),
        key_begin(head.key_begin(begin)),
        key_end(head.key_end(begin + count)) {}

  /// Starts copying the first tile, if there is one.
  __device__ void copy_first() {
    if (key_begin >= key_end) return;
    copy_keys(key_begin, 0);
    copy_distances<kKeys + S::kQueries>();
    copy_commit();
  }
  __device__ void copy_next(int key, int stage) {
    if (key >= key_end) return;
    copy_keys(key, stage);
    copy_distances<kKeys>();
    copy_commit();
  }

  /// Whether the warp's queries see none of the keys from `key` on.
  __device__ bool done_at(int key) const { return key > head.memory() + query + 16 * G - 1; }

  /// Whether the warp's queries see all of a step's keys.
  __device__ bool all_see(int key) const {
    return key + S::kStep <= key_end && head.all_see(query, 16 * G, key, S::kStep);
  }

  /// Address of 16 rows of the ring: the distances of the first 16 columns of this step's band for the warp's
  /// last group; `chunk` * 16 columns on. For the group before they are those of the 16 columns before.
  __device__ uint32_t ring_chunk(int chunk) const {
    const int own = S::kGroups - G - warp_id() * G;
    return shared + (S::kRingRow + read.plus(own + chunk) * 16) * kRowBytes;
  }

  /// The band's first 16 columns; call it when the first tile has arrived. `operand(k, x)` sets x[g] to
  /// columns 16 k to 16 k + 15 of q + v, as operand A.
  template <typename Operand>
  __device__ void start_band(const Operand& operand) {
    multiply_band<1>(0, 0, operand);
  }

  /// Puts the scores by position of the next step in s, fragments 0 to kColumns - 1, and the last 16 columns
  /// of its band after them.
  template <typename Operand>
  __device__ void next_scores(const Operand& operand) {
    multiply_band<S::kStep / 16>(1, 2, operand);
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int n = 0; n < kColumns; ++n) shift.take(s[g][n], s[g][n + 1], s[g][n + 2], s[g][n]);
  }

  /// Ends a step: what is left of its band begins the next one.
  __device__ void advance() {
    read.advance(S::kStep / 16);
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[g][n][e] = s[g][kColumns + n][e];
  }

  const RelativeAttention& k;
  const bool wide;
  const RelativeHead<Bf16> head;
  Bf16* const memory;
  const uint32_t shared;
  const int begin, count, query;  // the block's first query, their number; the warp's first query
  const int key_begin, key_end;
  RingIndex<S::kRing / 16> read;
  const ColumnShift shift;
  float s[G][kColumns + 2][4];

 private:
  __device__ void copy_keys(int key, int stage) {
    const int64_t offset = head.key_offset(key);
    const auto copy = [&](const void* matrix, int to) {
      const Bf16* from = static_cast<const Bf16*>(matrix) + offset;
      copy_rows<D, kThreads, kKeys>(memory + (to + stage * kKeys) * kPitch, head.width(), wide,
                                    {from, k.kv_stride, key, key_end});
    };
    copy(k.k, S::kKeyRow);
    copy(k.v, S::kValueRow);
  }

  /// Row z of all that go through the ring is the distance of the last query from key_begin + z.
  template <int kRows>
  __device__ void copy_distances() {
    const int farthest = head.memory() + begin + S::kQueries - 1 - key_begin - copied;
    copy_positions<D, kThreads, kRows>(memory + S::kRingRow * kPitch, head, wide, farthest, -1,
                                       [&](int r) { return write.plus(r); });
    write.advance(kRows % S::kRing);
    copied += kRows;
  }

  /// kChunks * 16 columns of the band, from fragment `to` on; they start with the ring's chunk `from`.
  template <int kChunks, typename Operand>
  __device__ void multiply_band(int from, int to, const Operand& operand) {
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int n = 0; n < 2 * kChunks; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[g][to + n][e] = 0;
    uint32_t rows[kChunks + G - 1];
#pragma unroll
    for (int chunk = 0; chunk < kChunks + G - 1; ++chunk)
      rows[chunk] = ring_chunk(from + chunk) + by_columns<D>();
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      uint32_t x[G][4];
      operand(step, x);
#pragma unroll
      for (int chunk = 0; chunk < kChunks + G - 1; ++chunk) {
        uint32_t y[4];
        load_matrices(y, rows[chunk] + step * 32);
#pragma unroll
        for (int g = 0; g < G; ++g) {
          const int part = chunk - (G - 1 - g);  // constant once unrolled
          if (part < 0 || part >= kChunks) continue;
          multiply_add(s[g][to + 2 * part], x[g], y[0], y[1]);
          multiply_add(s[g][to + 2 * part + 1], x[g], y[2], y[3]);
        }
      }
    }
#pragma unroll
    for (int g = 0; g < G; ++g)
#pragma unroll
      for (int n = 0; n < 2 * kChunks; ++n) shift.order(s[g][to + n]);
  }

  int copied = 0;
  RingIndex<S::kRing> write;
};

/// The queries over which a block of keys or distances goes: q + u, q + v, dO, log-sum-exp and delta of those
/// at hand and the next ones.
template <typename S>
struct QueryTiles {
  static constexpr int D = S::D, kThreads = S::kThreads, kQueries = S::kQueries;
  static constexpr int kPitch = TileRows<D>::kPitch;

  const RelativeBackward& a;
  Bf16* const memory;
  float2* const statistics;

  __device__ void copy(const RelativeHead<Bf16>& head, int begin, int stage) const {
    const RelativeAttention& k = head.k;
    const int64_t row = (head.example * k.heads + head.head) * a.scratch.padded_queries + begin;
    const auto copy_prepared = [&](const Bf16* matrix, int to) {
      copy_rows<D, kThreads, kQueries>(memory + (to + stage * kQueries) * kPitch, D, true,
                                       {matrix + row * D, D, 0, kQueries});
    };
    copy_prepared(a.scratch.content, S::kContentRow);
    copy_prepared(a.scratch.position, S::kPositionRow);
    copy_rows<D, kThreads, kQueries>(
        memory + (S::kGradientRow + stage * kQueries) * kPitch, head.width(), a.wide,
        {head.queries(a.a.d_out, k.out_stride, begin), k.out_stride, begin, static_cast<int>(k.queries)});
    const int pair = static_cast<int>(threadIdx.x) * 2;
    if (pair < kQueries)
      copy_async(shared_address(statistics + stage * kQueries + pair), a.scratch.statistics + row + pair,
                 true);
  }

  /// (lse, delta) of the queries of columns 2q and 2q + 1 of fragment n.
  __device__ float4 of(int stage, int n) const {
    return *reinterpret_cast<const float4*>(statistics + stage * kQueries + column_of(n, 0));
  }
};

}  // namespace perceiver::kernels::cuda
