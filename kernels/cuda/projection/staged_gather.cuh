// Keys and values from projected tables that fit shared memory (staged_gather.cu).
#pragma once

#include "kernels/projection.h"

namespace perceiver::kernels::cuda {

inline constexpr int kStagedColumns = 8;  // of a thread

/// Whether the staged kernel is there for these tables and enough rows to repay copying them. `wide`: vectors
/// of kStagedColumns columns are aligned, and all of a vector is rotated or nothing.
bool gathers_staged(const Launch& launch, const ProjectedRows& k, bool wide);
void gather_staged(const Launch& launch, const ProjectedRows& k);

}  // namespace perceiver::kernels::cuda
