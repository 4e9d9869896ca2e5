// What a run knows about its data, kept in its checkpoints to notice that they changed.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "data/dataset.h"

namespace perceiver {

/// All zero for data generated on the fly, and for the checkpoints of programs that kept no record.
struct DataRecord {
  struct Part {
    int64_t documents = 0;
    int64_t tokens = 0;  ///< of all documents, including SOS and EOS
    bool operator==(const Part&) const = default;
  };
  uint64_t fingerprint = 0;  ///< Dataset::fingerprint; 0: unknown
  std::array<Part, split_count> splits;

  const Part& of(Split split) const { return splits[static_cast<size_t>(split)]; }
  bool empty() const { return *this == DataRecord(); }
  bool operator==(const DataRecord&) const = default;
};

/// Looks at the length of every document.
DataRecord record_of(const Dataset& data);

/// Whether both are the same data, as far as is known: a fingerprint that is missing on one side is not
/// compared.
bool same_data(const DataRecord& before, const DataRecord& now);

/// How they differ, e.g. "train 12 documents, 3400 tokens instead of 10 documents, 3000 tokens", or "the same
/// number of documents and tokens, but other content".
std::string describe_difference(const DataRecord& before, const DataRecord& now);

}  // namespace perceiver
