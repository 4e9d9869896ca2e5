// The positions of sequences that all have the same.
#pragma once

#include "data/modality.h"

namespace perceiver {

/// Positions [count, A] of tokens [first, first + count) of a sequence, token 0 being SOS, from the format's
/// shared ones. EOS has none of its own, since nothing follows it: it gets that of SOS.
void copy_shared_positions(const SequenceFormat& format, int64_t first, int64_t count, int32_t* out);

}  // namespace perceiver
