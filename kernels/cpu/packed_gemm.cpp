// Algorithm (Goto and van de Geijn 2008): B is packed, a block of kDepth rows by kColumns columns at a time,
// into panels as wide as a register tile; a panel stays in the L1 cache while the rows of a block of A, which
// stays in the L2 cache, run over it. A block of A is copied too: its rows, whose distance in memory may be
// one at which they displace each other from the cache, or panels as high as a register tile if it is
// transposed.
//
// An element is the sum over blocks of kDepth products, in order, of sums that one register takes in order
// (microkernel.h). Blocks of rows and columns only decide what is computed together.
//
// Tiles: 6 x 16 with AVX2. Memory of a thread: 1 MiB of B, 104 KiB of A.
#include "kernels/cpu/packed_gemm.h"

#include <algorithm>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "kernels/cpu/microkernel.h"
#include "kernels/cpu/scratch.h"

namespace perceiver::kernels::cpu {
namespace {

constexpr int64_t kPanel = kTileVectors * kVectorBytes / static_cast<int64_t>(sizeof(float));
constexpr int64_t kDepth = 256, kRows = 16 * kTileRows, kColumns = 1024 / kPanel * kPanel;
constexpr int64_t kRowStride = kDepth + 16;  // of the copied rows of A

struct PackedATag;
struct PackedBTag;
struct EdgeTag;

/// The part of a product that is computed at a time: rows [row, row + rows) and so on.
struct Block {
  int64_t row, rows, column, columns, depth_begin, depth;
};

/// Most copies are of kWhole elements, a constant: a call of memmove takes longer than they do.
template <int64_t kWhole>
void copy_some(const float* from, int64_t count, float* to) {
  if (count == kWhole) {
    std::memcpy(to, from, kWhole * sizeof(float));
  } else {
    std::copy_n(from, count, to);
  }
}

/// to [depth, kPanel] = the transpose of from [kPanel, depth], rows `stride` apart.
void transpose_panel(const float* from, int64_t stride, int64_t depth, float* to) {
  int64_t i = 0;
#if defined(__AVX__)
  // Squares of 8: pairs of rows interleave, then pairs of pairs, then the halves change places.
  for (; i + 8 <= depth; i += 8) {
    for (int64_t c = 0; c + 8 <= kPanel; c += 8) {
      __m256 row[8], pair[8];
      for (int r = 0; r < 8; ++r) row[r] = _mm256_loadu_ps(from + (c + r) * stride + i);
      for (int r = 0; r < 8; r += 2) {
        pair[r] = _mm256_unpacklo_ps(row[r], row[r + 1]);
        pair[r + 1] = _mm256_unpackhi_ps(row[r], row[r + 1]);
      }
      for (int r = 0; r < 8; r += 4) {
        row[r] = _mm256_shuffle_ps(pair[r], pair[r + 2], _MM_SHUFFLE(1, 0, 1, 0));
        row[r + 1] = _mm256_shuffle_ps(pair[r], pair[r + 2], _MM_SHUFFLE(3, 2, 3, 2));
        row[r + 2] = _mm256_shuffle_ps(pair[r + 1], pair[r + 3], _MM_SHUFFLE(1, 0, 1, 0));
        row[r + 3] = _mm256_shuffle_ps(pair[r + 1], pair[r + 3], _MM_SHUFFLE(3, 2, 3, 2));
      }
      for (int r = 0; r < 4; ++r) {
        _mm256_storeu_ps(to + (i + r) * kPanel + c, _mm256_permute2f128_ps(row[r], row[r + 4], 0x20));
        _mm256_storeu_ps(to + (i + r + 4) * kPanel + c, _mm256_permute2f128_ps(row[r], row[r + 4], 0x31));
      }
    }
  }
#endif
  for (; i < depth; ++i)
    for (int64_t c = 0; c < kPanel; ++c) to[i * kPanel + c] = from[c * stride + i];
}

/// Panels [depth, kPanel] one after the other, the last filled up with zeros.
void pack_b(const Gemm& g, const Block& block, float* packed) {
  const float* const b = static_cast<const float*>(g.b);
  for (int64_t j = 0; j < block.columns; j += kPanel, packed += block.depth * kPanel) {
    const int64_t width = std::min(kPanel, block.columns - j), column = block.column + j;
    if (width < kPanel) std::fill_n(packed, block.depth * kPanel, 0.0f);
    if (g.transpose_b && width == kPanel) {
      transpose_panel(b + column * g.ldb + block.depth_begin, g.ldb, block.depth, packed);
    } else if (g.transpose_b) {
      for (int64_t c = 0; c < width; ++c)
        for (int64_t i = 0; i < block.depth; ++i)
          packed[i * kPanel + c] = b[(column + c) * g.ldb + block.depth_begin + i];
    } else {
      for (int64_t i = 0; i < block.depth; ++i)
        copy_some<kPanel>(b + (block.depth_begin + i) * g.ldb + column, width, packed + i * kPanel);
    }
  }
}

/// Rows [rows, kRowStride], or panels [depth, kTileRows] of a transposed A.
void pack_a(const Gemm& g, const Block& block, float* packed) {
  const float* const a = static_cast<const float*>(g.a);
  if (!g.transpose_a) {
    for (int64_t r = 0; r < block.rows; ++r)
      std::copy_n(a + (block.row + r) * g.lda + block.depth_begin, block.depth, packed + r * kRowStride);
    return;
  }
  for (int64_t i = 0; i < block.depth; ++i) {
    const float* const from = a + (block.depth_begin + i) * g.lda + block.row;
    float* to = packed + i * kTileRows;
    for (int64_t r = 0; r < block.rows; r += kTileRows, to += block.depth * kTileRows)
      copy_some<kTileRows>(from + r, std::min<int64_t>(kTileRows, block.rows - r), to);
  }
}

/// All rows of the block of A times a panel of B.
void multiply_rows(const Gemm& g, const Block& block, const float* packed_a, const float* panel, float* c,
                   int64_t ldc, bool accumulate) {
  if (!g.transpose_a)
    return multiply_panel<float, kTileVectors>(block.rows, block.depth, {packed_a, kRowStride, 1}, panel,
                                               kPanel, c, ldc, accumulate);
  for (int64_t r = 0; r < block.rows; r += kTileRows)
    multiply_panel<float, kTileVectors>(std::min<int64_t>(kTileRows, block.rows - r), block.depth,
                                        {packed_a + r * block.depth, 1, kTileRows}, panel, kPanel,
                                        c + r * ldc, ldc, accumulate);
}

/// Columns that fill no panel: computed beside C.
void multiply_edge(const Gemm& g, const Block& block, const float* packed_a, const float* panel, float* c,
                   int64_t width, bool accumulate) {
  float* const edge = scratch<EdgeTag, float>(static_cast<size_t>(kRows * kPanel));
  multiply_rows(g, block, packed_a, panel, edge, kPanel, false);
  for (int64_t r = 0; r < block.rows; ++r)
    for (int64_t j = 0; j < width; ++j)
      c[r * g.ldc + j] = accumulate ? c[r * g.ldc + j] + edge[r * kPanel + j] : edge[r * kPanel + j];
}

void multiply_block(const Gemm& g, const Block& block, const float* packed_b) {
  float* const packed_a = scratch<PackedATag, float>(static_cast<size_t>(kRows * kRowStride));
  pack_a(g, block, packed_a);
  const bool accumulate = g.accumulate || block.depth_begin > 0;
  float* const c = static_cast<float*>(g.c) + block.row * g.ldc + block.column;
  for (int64_t j = 0; j < block.columns; j += kPanel) {
    const float* const panel = packed_b + j * block.depth;
    const int64_t width = std::min(kPanel, block.columns - j);
    if (width == kPanel) {
      multiply_rows(g, block, packed_a, panel, c + j, g.ldc, accumulate);
    } else {
      multiply_edge(g, block, packed_a, panel, c + j, width, accumulate);
    }
  }
}

}  // namespace

void packed_gemm(const Gemm& g) {
  float* const packed_b = scratch<PackedBTag, float>(static_cast<size_t>(kDepth * kColumns));
  Block block{};
  for (block.column = 0; block.column < g.n; block.column += kColumns) {
    block.columns = std::min(kColumns, g.n - block.column);
    for (block.depth_begin = 0; block.depth_begin < g.k; block.depth_begin += kDepth) {
      block.depth = std::min(kDepth, g.k - block.depth_begin);
      pack_b(g, block, packed_b);
      for (block.row = 0; block.row < g.m; block.row += kRows) {
        block.rows = std::min(kRows, g.m - block.row);
        multiply_block(g, block, packed_b);
      }
    }
  }
}

}  // namespace perceiver::kernels::cpu
