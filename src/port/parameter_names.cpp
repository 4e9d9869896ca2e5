#include "port/parameter_names.h"

#include "base/check.h"

namespace perceiver {

BlockName split_block(const std::string& ours) {
  const size_t first = ours.find('.'), second = ours.find('.', first + 1);
  if (second == std::string::npos) throw_failure("internal error: {} is not in a block", ours);
  return {ours.substr(0, first), std::stoul(ours.substr(first + 1)), ours.substr(second + 1)};
}

std::string renamed(const std::string& rest, const std::vector<NamePart>& parts) {
  for (const NamePart& part : parts)
    if (rest.starts_with(part.ours)) return std::string(part.theirs) + torch_leaf(rest).substr(1);
  throw_failure("internal error: no other name for {}", rest);
}

std::string torch_leaf(const std::string& ours) {
  return ours.ends_with(".bias") || ours.ends_with(".offset") ? ".bias" : ".weight";
}

TensorMap output_bias_map(const std::string& ours, const std::string& theirs,
                          const VocabularyMap& vocabulary) {
  TensorMap map{ours, theirs, false, vocabulary.rows(kNeverRow), vocabulary.size};
  if (!theirs.empty()) return map;
  for (int64_t& row : map.rows)
    if (row >= 0) row = kZeroRow;
  return map;
}

TensorMap position_map(const std::string& ours, const std::string& theirs, int64_t rows, int64_t their_rows) {
  TensorMap map{ours, theirs, false, {}, their_rows};
  for (int64_t row = 0; row < rows; ++row)
    map.rows.push_back(row >= 1 && row <= their_rows ? row - 1 : kZeroRow);
  return map;
}

}  // namespace perceiver
