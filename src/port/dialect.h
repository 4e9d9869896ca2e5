// What differs between implementations of Perceiver AR: a dialect translates a configuration, token ids and
// the names and layouts of tensors. Each is one file of this folder.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/perceiver_ar.h"
#include "perceiver/config.h"
#include "port/model_tensors.h"
#include "port/tensor_map.h"
#include "port/vocabulary_map.h"

namespace perceiver {

/// What a user says about a model whose file does not; 0 = nothing.
struct GivenSizes {
  int64_t heads = 0;
  int64_t head_channels = 0;
  int64_t context_length = 0;
  int64_t latents = 0;
  int64_t prefix_length = 0;
  int64_t rotary_layers = -2;  ///< -2 = nothing
};

/// A configuration of theirs in terms of this library.
struct PortedModel {
  ModelConfig config;
  VocabularyMap vocabulary;
  std::vector<std::string> lost;  ///< what has no counterpart here, in words
};

/// A tensor of theirs that is no parameter: they store it, and it follows from the configuration.
struct DerivedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<double> values;
};

/// A tensor that they may store a second time, under another name.
struct RepeatedTensor {
  std::string name;
  std::string original;
};

struct Dialect {
  std::string_view name;     ///< as options name it
  std::string_view project;  ///< whose code it is
  std::string_view marker;   ///< a tensor that every file has
  /// The configuration completed by what the shapes of tensors show and by `given`; what was found that way
  /// is added to `inferred`, in words. `configuration` may be null. Throws `user` for what contradicts the
  /// tensors, and for what remains unknown, naming the options and the values that would fit.
  nlohmann::json (*complete)(nlohmann::json configuration, const ModelTensors& tensors,
                             const GivenSizes& given, std::vector<std::string>& inferred);
  /// Throws `user` for what this library cannot express.
  PortedModel (*model)(const nlohmann::json& configuration, const std::string& source);
  /// Where each parameter of `model`, in its order, comes from. `configuration` is complete.
  std::vector<TensorMap> (*tensors)(const PerceiverAR& model, const VocabularyMap& vocabulary,
                                    const nlohmann::json& configuration);
  /// `model` is that of their configuration.
  std::vector<DerivedTensor> (*derived)(const ModelConfig& model);
  /// The configuration there of a model of this library; what it cannot say is left out.
  nlohmann::json (*configuration)(const ModelConfig& model, const VocabularyMap& vocabulary);
  /// `model` is that of their configuration. Null: nothing is repeated.
  std::vector<RepeatedTensor> (*repeated)(const ModelConfig& model) = nullptr;
};

extern const Dialect krasserm_dialect, lucidrains_dialect, official_dialect, transfo_xl_dialect;

std::span<const Dialect* const> dialects();
/// Throws `user` for an unknown name.
const Dialect& find_dialect(std::string_view name);

}  // namespace perceiver
