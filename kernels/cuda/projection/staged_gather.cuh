// Keys and values from projected tables that fit shared memory (staged_gather.cu).
#pragma once

#include "kernels/projection.h"

namespace perceiver::kernels::cuda {

inline constexpr int kStagedColumns = 8;  // of a thread

/// Enqueues the staged kernel, if the tables fit it and the rows are enough to repay copying them; otherwise
/// does nothing and returns false. `wide`: vectors of kStagedColumns columns are aligned, and each is rotated
/// as a whole or not at all.
bool gather_staged(const Launch& launch, const ProjectedRows& k, bool wide);

}  // namespace perceiver::kernels::cuda
