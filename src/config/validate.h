// What the values of a configuration demand of each other.
#pragma once

#include <string_view>

#include "perceiver/config.h"

namespace perceiver {

/// Fills in what follows from other values: latent_channels 0 becomes input_channels; a transformer whose
/// latents were left at their default gets context_length of them. Other values of 0 keep their documented
/// meaning.
void resolve(ModelConfig& model);
void resolve(Config& config);

/// Throws a `user` error "source: what contradicts what" for the first contradiction found; expects
/// a resolved configuration whose single values are in their ranges.
void validate(const ModelConfig& model, std::string_view source = "configuration");
void validate(const Config& config, std::string_view source = "configuration");

}  // namespace perceiver
