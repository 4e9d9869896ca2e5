// Codes of 8 bits that a block makes row by row, on their way to a transposed copy.
#pragma once

#include "kernels/cuda/fp8/codes.cuh"

namespace perceiver::kernels::cuda {

/// Codes of kRows rows of up to kColumns columns in shared memory, row-major with a word more a row. A thread
/// takes 4 columns of 16 rows, a word a row, and writes 16 bytes of each column; its neighbour writes the
/// next 16 rows. The word more lets these two read from other banks.
template <int kRows, int kColumns>
class RowTile {
  static constexpr int kWordColumns = 4;
  static constexpr int kPitch = kColumns / kWordColumns + 1;  // words
  static constexpr int kChunkRows = 16;                       // of an access to the transposed copy

 public:
  static constexpr int kWords = kRows * kPitch;

  __device__ explicit RowTile(uint32_t* words) : words_(words) {}

  /// Codes of 8 columns from `column` on, a multiple of 8.
  __device__ void put(int row, int column, const uint2& codes) const {
    uint32_t* const to = words_ + row * kPitch + column / kWordColumns;
    to[0] = codes.x;
    to[1] = codes.y;
  }

  /// To `transposed` [columns, rows], whose columns are multiples of 4, the tile's rows from `first` on, in
  /// multiples of 16. By all kThreads of the block, between barriers.
  template <int kThreads>
  __device__ void write_transposed(uint8_t* transposed, int64_t first, int64_t rows, int columns) const {
    constexpr int kChunks = kRows / kChunkRows;
    const int items = columns / kWordColumns * kChunks;
    for (int i = static_cast<int>(threadIdx.x); i < items; i += kThreads) {
      const int chunk_row = i % kChunks * kChunkRows, word = i / kChunks;
      const int64_t row = first + chunk_row;
      if (row >= rows) continue;
      uint32_t of_rows[kChunkRows];
#pragma unroll
      for (int r = 0; r < kChunkRows; ++r) of_rows[r] = words_[(chunk_row + r) * kPitch + word];
      uint8_t* to = transposed + word * kWordColumns * rows + row;
#pragma unroll
      for (int c = 0; c < kWordColumns; ++c, to += rows)
        *reinterpret_cast<uint4*>(to) = {column_word(of_rows, c), column_word(of_rows + 4, c),
                                         column_word(of_rows + 8, c), column_word(of_rows + 12, c)};
    }
  }

 private:
  uint32_t* words_;
};

}  // namespace perceiver::kernels::cuda
