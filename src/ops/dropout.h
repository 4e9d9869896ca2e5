// The masks of dropout.
#pragma once

#include "kernels/norm.h"
#include "perceiver/experimental/ops.h"

namespace perceiver::ops {

/// The mask of the tape's next dropout operation. Consumes one operation number even if nothing is dropped.
kernels::DropoutMask next_mask(Tape& tape, DropoutSite site);

}  // namespace perceiver::ops
