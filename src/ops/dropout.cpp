#include <cmath>

#include "base/check.h"
#include "kernels/norm.h"
#include "ops/dropout.h"
#include "perceiver/experimental/ops.h"

namespace perceiver::ops {

kernels::DropoutMask next_mask(Tape& tape, DropoutSite site) {
  RandomKey& key = tape.random();
  kernels::DropoutMask mask;
  mask.seed = key.seed;
  mask.step = key.device_step;
  mask.op = key.op++;
  mask.first_element = key.first_example * site.per_example;
  if (!tape.training() || site.rate <= 0) return mask;
  if (!(site.rate < 1)) throw_user("dropout: rate {} is not below 1", site.rate);
  if (key.device_step == nullptr)
    throw_user("dropout: the tape's RandomKey has no device_step; take the key from TrainingSteps::random");
  mask.threshold = static_cast<uint32_t>(std::llround(std::ldexp(site.rate, 32)));
  mask.scale = 1 / (1 - site.rate);
  return mask;
}

}  // namespace perceiver::ops
