// The whole experimental API: tensors, autograd, operations, parameters, training (docs/experimental.md).
// Unstable: may change with any version.
#pragma once

#include "perceiver/experimental/device_context.h"
#include "perceiver/experimental/dtype.h"
#include "perceiver/experimental/host_values.h"
#include "perceiver/experimental/launch.h"
#include "perceiver/experimental/layers.h"
#include "perceiver/experimental/ops.h"
#include "perceiver/experimental/parameters.h"
#include "perceiver/experimental/random.h"
#include "perceiver/experimental/schedule.h"
#include "perceiver/experimental/tape.h"
#include "perceiver/experimental/tensor.h"
#include "perceiver/experimental/tensor_file.h"
#include "perceiver/experimental/training_steps.h"
#include "perceiver/experimental/variable.h"
