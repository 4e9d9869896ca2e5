// The first weights of a fine-tuning run: those of a checkpoint (train.initialize).
#pragma once

#include <string>
#include <vector>

#include "data/dataset.h"
#include "model/perceiver_ar.h"
#include "perceiver/config.h"

namespace perceiver {

/// Overwrites the model's weights, which must have their initial values, with those of train.initialize (the
/// moving average where the checkpoint has one, as sampling uses), and publishes them. Returns what was taken
/// over and what was not, one line each; does nothing and returns nothing without train.initialize.
///
/// Every tensor of equal name and shape is taken. Of tables that differ in length the common rows are taken:
/// the last ones of a learned query, whose last row is that of the last token, and the first ones of all
/// others. Throws `user` if the checkpoint's model or token ids differ from those configured in what
/// fine-tuning cannot change, naming each difference; train.initialize_partial allows more of them
/// (compare_models).
std::vector<std::string> load_initial_weights(const TrainConfig& config, const Dataset& data,
                                              PerceiverAR& model);

}  // namespace perceiver
