// Attention over tokens and a table of keys and values: the work of one block, some heads of one query over a
// part of one slot's context. table_attention.cu describes the algorithm; the fused decode step uses it too.
#pragma once

#include <cfloat>
#include <cstdint>

#include "kernels/cuda/attention/mma.cuh"
#include "kernels/cuda/support/vector.cuh"

namespace perceiver::kernels::cuda {

inline constexpr int kTableHeads = 4;  // most heads of a block
inline constexpr int kTeam = 8;        // lanes that read a token's row together, and keys that they share
inline constexpr int kChunk = 4;       // channels that a lane reads at once
inline constexpr int kMergeChannels = 32 * kChunk;  // of a pass over the values

/// Some heads of a slot's context. T is the table's type.
template <typename T>
struct TableContext {
  const T* keys;   // of the first of these heads, not rotated, of token 0
  int64_t stride;  // elements from token to token: keys of all heads, then values
  const int32_t *tokens, *positions;
  const float *cosine, *sine;  // [positions, bands]
  int vocabulary, head_dim, bands;
  int heads, rotary_heads;  // of these
  bool wide_rows;           // a chunk of keys or values is one aligned access
  bool wide_angles;         // so are the angles of two bands
  // A row that the arrays do not hold yet, and what will stand there.
  int fresh_row = -1, fresh_token = 0, fresh_position = 0;
};

/// Where things lie in shared memory, in bytes from its start, which is aligned to 16.
struct TableLayout {
  int quads;         // of 4 floats that a mixed row has: two bands each
  int query_pitch;   // floats of a head's query
  int still;         // f32 [heads, V]: products of the channels that are not rotated
  int counts;        // u32 [heads, V]: weights by token, of a tile
  int sums;          // f32 [heads, V]: of all tiles
  int queries;       // f32 [heads, query_pitch]
  int tile_largest;  // i32 [warps, kTableHeads]
  int largest;       // f32 [kTableHeads]
  int merge;         // f32 [warps, kMergeChannels]
  int64_t bytes;     // f32 [heads, V, 4 * quads] come first: products of the rotated channels

  __host__ __device__ TableLayout(int64_t vocabulary, int64_t head_dim, int64_t bands, int heads, int warps) {
    quads = static_cast<int>((bands + 1) / 2);
    query_pitch = static_cast<int>((head_dim + kChunk - 1) / kChunk * kChunk);
    int64_t at = 0;
    const auto take = [&at](int64_t size) {
      const int64_t begin = at;
      at += (size + 15) / 16 * 16;
      return static_cast<int>(begin);  // read only where all fits
    };
    take(heads * vocabulary * quads * 16);
    still = take(heads * vocabulary * 4);
    counts = take(heads * vocabulary * 4);
    sums = take(heads * vocabulary * 4);
    queries = take(int64_t{4} * heads * query_pitch);
    tile_largest = take(int64_t{4} * warps * kTableHeads);
    largest = take(int64_t{4} * kTableHeads);
    merge = take(int64_t{4} * warps * kMergeChannels);
    bytes = at;
  }
};

/// All kThreads threads of the block call all of this, for up to kHeads heads; a tile has kRows positions for
/// each. Barrier::wait() is a barrier among them.
template <typename T, int kThreads, typename Barrier, int kHeads = kTableHeads, int kRows = 1>
class TableAttention {
  static constexpr int kWarps = kThreads / 32, kTeams = kThreads / kTeam, kTile = kThreads * kRows;
  // A weight of 1 as an integer: a tile's add up to less than 2^32.
  static constexpr float kOne = static_cast<float>((int64_t{1} << 32) / kTile - 1);
  static_assert(kTeam == 8 && kHeads <= kTableHeads && kWarps >= kHeads);

 public:
  __device__ __forceinline__ TableAttention(const TableContext<T>& context, const TableLayout& layout,
                                            unsigned char* memory)
      : c_(context),
        quads_(context.rotary_heads > 0 ? layout.quads : 0),
        row_(layout.quads),
        query_pitch_(layout.query_pitch),
        turned_(reinterpret_cast<float4*>(memory)),
        still_(reinterpret_cast<float*>(memory + layout.still)),
        counts_(reinterpret_cast<uint32_t*>(memory + layout.counts)),
        sums_(reinterpret_cast<float*>(memory + layout.sums)),
        queries_(reinterpret_cast<float*>(memory + layout.queries)),
        tile_largest_(reinterpret_cast<int4*>(memory + layout.tile_largest)),
        largest_(reinterpret_cast<float*>(memory + layout.largest)),
        merge_(reinterpret_cast<float*>(memory + layout.merge)),
        thread_(static_cast<int>(threadIdx.x)),
        warp_(thread_ / 32),
        lane_(thread_ % 32),
        in_team_(lane_ % kTeam) {}

  /// query(head, channel), which may wait, is called for channels below head_dim: rotated, times softmax
  /// scale times log2(e).
  template <typename Query>
  __device__ __forceinline__ void mix(Query&& query) {
    for (int i = thread_; i < c_.heads * c_.vocabulary; i += kThreads) counts_[i] = 0, sums_[i] = 0;
    for (int i = thread_; i < c_.heads * query_pitch_; i += kThreads) {
      const int head = i / query_pitch_, channel = i % query_pitch_;
      queries_[i] = channel < c_.head_dim ? query(head, channel) : 0.0f;
    }
    Barrier::wait();
    if (c_.wide_rows) {
      mix_rows<true>();
    } else {
      mix_rows<false>();
    }
    Barrier::wait();
  }

  /// Takes in rows [begin, end) of the context, at least one.
  __device__ __forceinline__ void attend(int begin, int end) {
    Key keys[kRows], next[kRows];
    float4 angles[kRows][kTeam];
    float all_largest[kHeads];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) all_largest[h] = -FLT_MAX;
    read_keys(begin, end, keys);
    read_keys(begin + kTile, end, next);
#pragma unroll
    for (int r = 0; r < kRows; ++r) load_angles(keys[r], 0, angles[r]);
    for (int first = begin; first < end; first += kTile) {
      float scores[kRows][kHeads] = {}, largest[kHeads];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        score(keys[r], angles[r], scores[r]);
        load_angles(next[r], 0, angles[r]);  // in flight for the length of a tile
      }
      publish_largest(keys, scores);
      Barrier::wait();
      receive_largest(largest);
      add_weights(keys, scores, largest);
#pragma unroll
      for (int r = 0; r < kRows; ++r) keys[r] = next[r];
      read_keys(first + 2 * kTile, end, next);
      Barrier::wait();
      take_in(largest, all_largest);
    }
    if (thread_ == 0) {
#pragma unroll
      for (int h = 0; h < kHeads; ++h) largest_[h] = all_largest[h];
    }
  }

  /// Calls store(head, channel, {x, y}) for each second channel, y to be ignored behind the last, and
  /// store_weights(head, largest score in base 2, sum of weights) for each head, each in one thread.
  template <typename Store, typename StoreWeights>
  __device__ __forceinline__ void finish(Store&& store, StoreWeights&& store_weights) {
    Barrier::wait();
    if (warp_ < c_.heads) {
      float sum = 0;
      for (int t = lane_; t < c_.vocabulary; t += 32) sum += sums_[warp_ * c_.vocabulary + t];
      sum = warp_sum(sum);
      if (lane_ == 0) store_weights(warp_, largest_[warp_], sum);
    }
    const int per_head = query_pitch_ / kChunk, chunks = c_.heads * per_head;
    for (int first = 0; first < chunks; first += 32) {
      const int chunk = first + lane_;
      float values[kChunk] = {};
      if (chunk < chunks) sum_values(chunk / per_head, chunk % per_head * kChunk, values);
      store_chunk(values);
      Barrier::wait();
      const int mine = first + thread_ / 2, channel = mine % per_head * kChunk + thread_ % 2 * 2;
      if (thread_ < 64 && mine < chunks && channel < c_.head_dim)
        store(mine / per_head, channel, merged_pair());
      Barrier::wait();
    }
  }

 private:
  /// A row of the context; token 0 at position 0 where it is not `valid`.
  struct Key {
    int token = 0, position = 0;
    bool valid = false;
  };

  // ------------------------------------------------------------ mixed tables

  /// Rows of all tokens and heads, the heads of a token by neighbouring teams, several rows at a time.
  template <bool kWide>
  __device__ __forceinline__ void mix_rows() {
    constexpr int kMixed = 2048 / kThreads;  // of a team: 256 rows of the block in flight
    const int rows = c_.heads * c_.vocabulary;
    for (int first = 0; first < rows; first += kTeams * kMixed) {
      int head[kMixed], token[kMixed];
      float still[kMixed] = {};
      bool valid[kMixed];
#pragma unroll
      for (int r = 0; r < kMixed; ++r) {
        const int row = first + r * kTeams + thread_ / kTeam;
        valid[r] = row < rows;
        head[r] = valid[r] ? row % c_.heads : 0, token[r] = valid[r] ? row / c_.heads : 0;
      }
      for (int channel = in_team_ * kChunk; channel < query_pitch_; channel += kTeam * kChunk) {
        float key[kMixed][kChunk];
#pragma unroll
        for (int r = 0; r < kMixed; ++r) read<kWide>(c_.keys, token[r], head[r], channel, key[r]);
#pragma unroll
        for (int r = 0; r < kMixed; ++r)
          if (valid[r]) still[r] += mix_chunk(token[r], head[r], channel, key[r]);
      }
#pragma unroll
      for (int r = 0; r < kMixed; ++r) {
#pragma unroll
        for (int offset = kTeam / 2; offset > 0; offset /= 2)
          still[r] += __shfl_xor_sync(0xffffffffu, still[r], offset);
        if (valid[r] && in_team_ == 0) still_[head[r] * c_.vocabulary + token[r]] = still[r];
      }
    }
  }

  /// Writes the products of the rotated channels; returns that of the others.
  __device__ __forceinline__ float mix_chunk(int token, int head, int channel, const float (&key)[kChunk]) {
    const float4 q = *reinterpret_cast<const float4*>(queries_ + head * query_pitch_ + channel);
    float4 mixed{q.x * key[0] + q.y * key[1], q.y * key[0] - q.x * key[1],  //
                 q.z * key[2] + q.w * key[3], q.w * key[2] - q.z * key[3]};
    const int quad = channel / kChunk, bands = head < c_.rotary_heads ? c_.bands : 0;
    float still = 0;
    if (2 * quad >= bands) still += mixed.x, mixed.x = mixed.y = 0;
    if (2 * quad + 1 >= bands) still += mixed.z, mixed.z = mixed.w = 0;
    if (quad < row_) turned_[(head * c_.vocabulary + token) * row_ + quad] = mixed;
    return still;
  }

  /// Channels of a head of a token's keys or values; 0 behind the last.
  template <bool kWide>
  __device__ __forceinline__ void read(const T* rows, int token, int head, int channel,
                                       float (&x)[kChunk]) const {
    const T* from = rows + token * c_.stride + head * c_.head_dim + channel;
    if constexpr (kWide) {
      load(from, x);
    } else {
#pragma unroll
      for (int i = 0; i < kChunk; ++i) x[i] = channel + i < c_.head_dim ? to_float(from[i]) : 0.0f;
    }
  }

  // ------------------------------------------------------------------ scores

  /// This thread's of the tile that begins with row `first`.
  __device__ __forceinline__ void read_keys(int first, int end, Key (&keys)[kRows]) const {
#pragma unroll
    for (int r = 0; r < kRows; ++r) keys[r] = read_key(first + r * kThreads + thread_, end);
  }
  __device__ __forceinline__ Key read_key(int row, int end) const {
    if (row >= end) return {};
    if (row == c_.fresh_row) return {c_.fresh_token, c_.fresh_position, true};
    return {c_.tokens[row], c_.positions[row], true};
  }

  /// Of the team's keys: cosine and sine of |position| for the two bands of this lane's quad; 0 behind the
  /// last. Nothing here waits for them.
  __device__ __forceinline__ void load_angles(const Key& key, int first_quad, float4 (&angles)[kTeam]) const {
    const int band = 2 * (first_quad + in_team_);
    int positions[kTeam];
#pragma unroll
    for (int j = 0; j < kTeam; ++j) positions[j] = of_team(key.position, j);
    if (band >= 2 * quads_) {
#pragma unroll
      for (int j = 0; j < kTeam; ++j) angles[j] = {0, 0, 0, 0};
    } else if (c_.wide_angles) {
      load_bands<true>(positions, band, angles);
    } else {
      load_bands<false>(positions, band, angles);
    }
  }
  template <bool kWide>
  __device__ __forceinline__ void load_bands(const int (&positions)[kTeam], int band,
                                             float4 (&angles)[kTeam]) const {
    const auto *cosines = reinterpret_cast<const char*>(c_.cosine + band),
               *sines = reinterpret_cast<const char*>(c_.sine + band);
    const uint32_t row_bytes = static_cast<uint32_t>(c_.bands) * sizeof(float);
#pragma unroll
    for (int j = 0; j < kTeam; ++j) {
      // Of 32 by 32 bits, with the addition one instruction.
      const uint64_t at = uint64_t{static_cast<uint32_t>(abs(positions[j]))} * row_bytes;
      const float2 cosine = two_bands<kWide>(cosines + at, band), sine = two_bands<kWide>(sines + at, band);
      angles[j] = {cosine.x, sine.x, cosine.y, sine.y};
    }
  }
  template <bool kWide>
  __device__ __forceinline__ float2 two_bands(const char* at, int band) const {
    if constexpr (kWide) return *reinterpret_cast<const float2*>(at);
    const float* from = reinterpret_cast<const float*>(at);
    return {from[0], band + 1 < c_.bands ? from[1] : 0.0f};
  }
  /// Sines of positions below 0, which are rare.
  __device__ __forceinline__ void turn_back(int position, float4 (&angles)[kTeam]) const {
    if (!__any_sync(0xffffffffu, position < 0)) return;
#pragma unroll
    for (int j = 0; j < kTeam; ++j) {
      if (of_team(position, j) >= 0) continue;
      angles[j].y = -angles[j].y, angles[j].w = -angles[j].w;
    }
  }
  __device__ __forceinline__ int of_team(int x, int j) const {
    return __shfl_sync(0xffffffffu, x, (lane_ & ~(kTeam - 1)) + j);
  }

  /// Of this lane's key. A team reads the mixed rows of its keys together; each lane sums its quads of all.
  __device__ __forceinline__ void score(const Key& key, float4 (&angles)[kTeam],
                                        float (&scores)[kHeads]) const {
    constexpr int kAtOnce = kHeads > 2 ? kTeam / 2 : kTeam;  // mixed rows in flight, as registers allow
    float sums[kHeads][kTeam] = {};
    int rows[kTeam];
    const int own_row = row_ * key.token;
#pragma unroll
    for (int j = 0; j < kTeam; ++j) rows[j] = of_team(own_row, j);
    for (int first = 0; first < quads_; first += kTeam) {
      if (first > 0) load_angles(key, first, angles);
      turn_back(key.position, angles);
      const int quad = first + in_team_ < quads_ ? first + in_team_ : 0;  // any, times angles that are 0
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (h >= c_.heads) continue;
        const float4* table = turned_ + h * c_.vocabulary * row_ + quad;
#pragma unroll
        for (int begin = 0; begin < kTeam; begin += kAtOnce) {
          float4 mixed[kAtOnce];
#pragma unroll
          for (int i = 0; i < kAtOnce; ++i) mixed[i] = table[rows[begin + i]];
#pragma unroll
          for (int i = 0; i < kAtOnce; ++i) add_product(mixed[i], angles[begin + i], sums[h][begin + i]);
        }
      }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h)
      if (h < c_.heads) scores[h] = team_sum(sums[h]) + still_[h * c_.vocabulary + key.token];
  }

  __device__ __forceinline__ static void add_product(const float4& x, const float4& y, float& sum) {
    sum = fmaf(x.x, y.x, fmaf(x.y, y.y, sum));
    sum = fmaf(x.z, y.z, fmaf(x.w, y.w, sum));
  }

  /// The sum over the team of x[i], in its i-th lane: by halves, of which each lane keeps its own.
  __device__ __forceinline__ float team_sum(const float (&x)[kTeam]) const {
    float four[4], two[2];
#pragma unroll
    for (int i = 0; i < 4; ++i) four[i] = exchange(lane_ & 4, 4, x[i], x[i + 4]);
#pragma unroll
    for (int i = 0; i < 2; ++i) two[i] = exchange(lane_ & 2, 2, four[i], four[i + 2]);
    return exchange(lane_ & 1, 1, two[0], two[1]);
  }
  __device__ __forceinline__ static float exchange(bool upper, int offset, float low, float high) {
    const float received = __shfl_xor_sync(0xffffffffu, upper ? low : high, offset);
    return (upper ? high : low) + received;
  }

  // ----------------------------------------------------------------- weights

  /// Integers in the order of the numbers; NaN above all, so that it is not lost.
  __device__ __forceinline__ static int ordered(float x) {
    const int bits = __float_as_int(x);
    return bits ^ (bits >> 31 & 0x7FFFFFFF);
  }
  __device__ __forceinline__ static float number(int order) {
    return __int_as_float(order ^ (order >> 31 & 0x7FFFFFFF));
  }

  __device__ __forceinline__ void publish_largest(const Key (&keys)[kRows],
                                                  const float (&scores)[kRows][kHeads]) {
    int largest[kTableHeads] = {};
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= c_.heads) continue;
      int own = ordered(-FLT_MAX);
#pragma unroll
      for (int r = 0; r < kRows; ++r)
        if (keys[r].valid) own = max(own, ordered(scores[r][h]));
      largest[h] = __reduce_max_sync(0xffffffffu, own);
    }
    if (lane_ == 0) tile_largest_[warp_] = {largest[0], largest[1], largest[2], largest[3]};
  }

  __device__ __forceinline__ void receive_largest(float (&largest)[kHeads]) const {
    int4 all = tile_largest_[0];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) {
      const int4 part = tile_largest_[w];
      all = {max(all.x, part.x), max(all.y, part.y), max(all.z, part.z), max(all.w, part.w)};
    }
    const int of_head[kTableHeads] = {all.x, all.y, all.z, all.w};
#pragma unroll
    for (int h = 0; h < kHeads; ++h) largest[h] = number(of_head[h]);
  }

  __device__ __forceinline__ void add_weights(const Key (&keys)[kRows], const float (&scores)[kRows][kHeads],
                                              const float (&largest)[kHeads]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!keys[r].valid) continue;
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (h >= c_.heads) continue;
        const uint32_t weight = __float2uint_rn(exp2_fast(scores[r][h] - largest[h]) * kOne);
        if (weight > 0) atomicAdd(counts_ + h * c_.vocabulary + keys[r].token, weight);
      }
    }
  }

  /// Adds the tile's weights to those of earlier tiles.
  __device__ __forceinline__ void take_in(const float (&largest)[kHeads], float (&all_largest)[kHeads]) {
    float shrink[kHeads], unit[kHeads];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float now = all_largest[h] > largest[h] ? all_largest[h] : largest[h];
      shrink[h] = exp2_fast(all_largest[h] - now), unit[h] = exp2_fast(largest[h] - now) / kOne;
      all_largest[h] = now;
    }
    for (int t = thread_; t < c_.vocabulary; t += kThreads) {
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (h >= c_.heads) continue;
        const int i = h * c_.vocabulary + t;
        sums_[i] = fmaf(sums_[i], shrink[h], static_cast<float>(counts_[i]) * unit[h]);
        counts_[i] = 0;
      }
    }
  }

  // ------------------------------------------------------------------ values

  /// Over every kWarps-th token.
  __device__ __forceinline__ void sum_values(int head, int channel, float (&sum)[kChunk]) const {
    if (c_.wide_rows) {
      sum_value_rows<true>(head, channel, sum);
    } else {
      sum_value_rows<false>(head, channel, sum);
    }
  }
  template <bool kWide>
  __device__ __forceinline__ void sum_value_rows(int head, int channel, float (&sum)[kChunk]) const {
    const T* values = c_.keys + c_.stride / 2;
#pragma unroll 8
    for (int t = warp_; t < c_.vocabulary; t += kWarps) {
      float value[kChunk];
      read<kWide>(values, t, head, channel, value);
      const float weight = sums_[head * c_.vocabulary + t];
#pragma unroll
      for (int i = 0; i < kChunk; ++i) sum[i] = fmaf(weight, value[i], sum[i]);
    }
  }

  __device__ __forceinline__ void store_chunk(const float (&x)[kChunk]) {
    *reinterpret_cast<float4*>(merge_ + warp_ * kMergeChannels + lane_ * kChunk) = {x[0], x[1], x[2], x[3]};
  }
  /// Of all warps: two channels of a pass, by each of the first 64 threads.
  __device__ __forceinline__ float2 merged_pair() const {
    float2 sum{0, 0};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      const float2 part = *reinterpret_cast<const float2*>(merge_ + w * kMergeChannels + thread_ * 2);
      sum.x += part.x, sum.y += part.y;
    }
    return sum;
  }

  const TableContext<T> c_;
  int quads_, row_, query_pitch_;  // rotated quads; quads of a mixed row
  float4* turned_;
  float* still_;
  uint32_t* counts_;
  float* sums_;
  float* queries_;
  int4* tile_largest_;
  float* largest_;  // of the part
  float* merge_;
  int thread_, warp_, lane_, in_team_;
};

}  // namespace perceiver::kernels::cuda
