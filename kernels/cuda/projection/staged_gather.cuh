// Keys and values from projected tables that fit shared memory (staged_gather.cu).
#pragma once

#include "kernels/projection.h"

namespace perceiver::kernels::cuda {

/// Whether the staged kernel is there for these tables and enough rows to repay copying them. `wide`: vectors
/// of four columns are aligned and hold whole rotated pairs.
bool gathers_staged(const Launch& launch, const ProjectedRows& k, bool wide);
void gather_staged(const Launch& launch, const ProjectedRows& k);

}  // namespace perceiver::kernels::cuda
