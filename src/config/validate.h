// Checks that the values of a configuration are consistent with each other.
#pragma once

#include <string_view>

#include "perceiver/config.h"

namespace perceiver {

/// Fills in values that follow from others: latent_channels 0 becomes input_channels; a transformer with the
/// default number of latents gets context_length of them. Other values of 0 keep their documented meaning.
void resolve(ModelConfig& model);
void resolve(Config& config);

/// Throws a `user` error "source: what contradicts what" for the first contradiction. Expects a resolved
/// configuration whose individual values are in range.
void validate(const ModelConfig& model, std::string_view source = "configuration");
void validate(const Config& config, std::string_view source = "configuration");

}  // namespace perceiver
