// What a run knows about its data, and how it notices that they changed.
#pragma once

#include <string>

#include "data/dataset.h"
#include "perceiver/train_report.h"

namespace perceiver {

/// Looks at the length of every document.
DataRecord record_of(const Dataset& data);

/// Whether both are the same data, as far as is known: a fingerprint that is missing on one side is not
/// compared.
bool same_data(const DataRecord& before, const DataRecord& now);

/// How they differ, e.g. "train 12 documents, 3400 tokens instead of 10 documents, 3000 tokens", or "the same
/// number of documents and tokens, but other content".
std::string describe_difference(const DataRecord& before, const DataRecord& now);

}  // namespace perceiver
