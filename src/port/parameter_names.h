// Names of this library's parameters taken apart, and the maps that PyTorch implementations share.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "port/tensor_map.h"
#include "port/vocabulary_map.h"

namespace perceiver {

/// "self.3.attention.q.weight" is block "self", number 3, rest "attention.q.weight".
struct BlockName {
  std::string kind;
  size_t index = 0;
  std::string rest;
};
BlockName split_block(const std::string& ours);

/// A part of a block, and what it is called there.
struct NamePart {
  std::string_view ours, theirs;
};
/// The name of a block's parameter there; ".scale" and ".offset" become ".weight" and ".bias".
std::string renamed(const std::string& rest, const std::vector<NamePart>& parts);
/// ".weight" or ".bias", of a linear layer or a norm.
std::string torch_leaf(const std::string& ours);

/// The last layer's bias; `theirs` may be empty: they have none.
TensorMap output_bias_map(const std::string& ours, const std::string& theirs,
                          const VocabularyMap& vocabulary);
/// A position table: positions count from 1 here and from 0 there.
TensorMap position_map(const std::string& ours, const std::string& theirs, int64_t rows, int64_t their_rows);

}  // namespace perceiver
