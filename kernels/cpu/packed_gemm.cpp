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

/// Panels [depth, kPanel] one after the other, the last filled up with zeros.
void pack_b(const Gemm& g, const Block& block, float* packed) {
  const float* const b = static_cast<const float*>(g.b);
  for (int64_t j = 0; j < block.columns; j += kPanel, packed += block.depth * kPanel) {
    const int64_t width = std::min(kPanel, block.columns - j), column = block.column + j;
    if (width < kPanel) std::fill_n(packed, block.depth * kPanel, 0.0f);
    if (g.transpose_b) {
      // Some elements of each row at a time: their lines stay in the cache until all are taken.
      constexpr int64_t kSome = 16;
      for (int64_t begin = 0; begin < block.depth; begin += kSome) {
        const int64_t end = std::min(block.depth, begin + kSome);
        for (int64_t c = 0; c < width; ++c) {
          const float* const from = b + (column + c) * g.ldb + block.depth_begin;
          for (int64_t i = begin; i < end; ++i) packed[i * kPanel + c] = from[i];
        }
      }
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
  for (int64_t r = 0; r < block.rows; r += kTileRows) {
    const Strided<float> rows = g.transpose_a ? Strided<float>{packed_a + r * block.depth, 1, kTileRows}
                                              : Strided<float>{packed_a + r * kRowStride, kRowStride, 1};
    multiply_panel<float, kTileVectors>(std::min<int64_t>(kTileRows, block.rows - r), block.depth, rows,
                                        panel, kPanel, c + r * ldc, ldc, accumulate);
  }
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
