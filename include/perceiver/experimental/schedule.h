// The learning rate as a function of the step.
// Unstable: may change with any version (docs/experimental.md).
#pragma once

#include "perceiver/config.h"
#include "perceiver/export.h"

namespace perceiver {

/// Learning rate of step `step`, counted from 0. During the first w = warmup_steps steps it rises linearly
/// from warmup_initial (at step 0) to the base rate (at step w). After that, with d = decay_steps
/// (train.steps if that is 0):
///   constant  base
///   cosine    half a period from base at step w to final_learning_rate at step d, then constant
///   linear    a straight line between the same points, then constant
///   steps     base times all factors whose boundary is at most `step`
///   t5        base * sqrt(w / step), the authors' base * sqrt(w / ((step - w) + w)), where their w is at
///             least 1; w = 0 counts as 1 here: steps 0 and 1 have the base rate
/// With schedule.until, cosine and linear are functions of `used` instead, the share of that time that is
/// over (0 to 1), and fall during the warm-up too, where the rate rises to what they are at. Of the
/// configuration it reads optimizer.learning_rate (the base rate), schedule and train.steps.
PERCEIVER_API double learning_rate(const Config& config, int64_t step, double used = 0);

}  // namespace perceiver
