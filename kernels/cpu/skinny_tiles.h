// How a skinny GEMM is cut into tiles, whose sums stay in registers.
//
// A vector of weights that is loaded, and widened if it is narrow, serves all rows of a tile, so a tile has
// as many rows as there are, up to four. Its sums, one for each row and column, then limit its columns.
#pragma once

#include <cstdint>

namespace perceiver::kernels::cpu {

#if defined(__AVX512F__)
inline constexpr int kVectorRegisters = 32;
#else
inline constexpr int kVectorRegisters = 16;
#endif
inline constexpr int kSkinnyRows = 4, kTwoRowColumns = 4, kSingleRowColumns = 8;

/// All rows of Columns columns.
template <int Columns, typename Body>
void skinny_rows(int64_t rows, int64_t column, const Body& body) {
  if constexpr (Columns == kSingleRowColumns) {
    body.template operator()<1, Columns>(0, column);
  } else {
    int64_t r = 0;
    for (; r + kSkinnyRows <= rows; r += kSkinnyRows)
      body.template operator()<kSkinnyRows, Columns>(r, column);
    if (rows - r == 3) body.template operator()<3, Columns>(r, column);
    if (rows - r == 2) body.template operator()<2, Columns>(r, column);
    if (rows - r == 1) body.template operator()<1, Columns>(r, column);
  }
}

/// Tiles of Columns columns, and narrower ones for the rest.
template <int Columns, typename Body>
void skinny_columns(int64_t rows, int64_t begin, int64_t end, const Body& body) {
  for (; begin + Columns <= end; begin += Columns) skinny_rows<Columns>(rows, begin, body);
  if constexpr (Columns > 1) skinny_columns<Columns / 2>(rows, begin, end, body);
}

/// Calls body.operator()<R, C>(row, column) for each of the tiles, of R rows and C columns, that cover `rows`
/// rows of columns [begin, end): C = Columns from three rows on, more for fewer rows, less for the last
/// columns. The rows of a tile's columns follow each other, so that its weights are read from memory once.
template <int Columns, typename Body>
void for_skinny_tiles(int64_t rows, int64_t begin, int64_t end, const Body& body) {
  if (rows == 1) return skinny_columns<kSingleRowColumns>(rows, begin, end, body);
  if (rows == 2) return skinny_columns<kTwoRowColumns>(rows, begin, end, body);
  skinny_columns<Columns>(rows, begin, end, body);
}

}  // namespace perceiver::kernels::cpu
