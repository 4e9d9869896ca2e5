// Imports weights of the authors' code (google-research/perceiver-ar) from safetensors files whose tensors
// are named param/<haiku module>/<name> and whose metadata `config` is the authors' configuration as JSON
// (docs/model.md, "Golden files").
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "model/perceiver_ar.h"
#include "perceiver/config.h"

namespace perceiver {

/// The authors' configuration in this library's terms, without dropout. Throws `user` for what they cannot
/// express.
ModelConfig official_config(const std::string& json, const std::string& source);

/// One of this model's parameters and its name in the authors' files. Their linear weights are [in, out].
struct OfficialName {
  std::string ours;
  std::string theirs;  ///< without "param/"
  bool transposed = false;
};

/// The names of all parameters of `model`, in its order.
std::vector<OfficialName> official_names(const PerceiverAR& model);

/// Reads configuration and weights.
std::unique_ptr<PerceiverAR> import_official(const SafetensorsFile& file,
                                             std::shared_ptr<DeviceContext> context, DType type);

/// A tensor of the file as float64, transposed if asked ([in, out] → [out, in]).
std::vector<double> official_tensor(const SafetensorsFile& file, const std::string& name, bool transposed);

}  // namespace perceiver
