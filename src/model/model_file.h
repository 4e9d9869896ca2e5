// Model files: safetensors with all parameters by name, and everything sampling needs in the metadata, so
// that a model file alone is enough to sample.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "io/safetensors.h"
#include "model/perceiver_ar.h"
#include "perceiver/config.h"

namespace perceiver {

/// What a model file holds besides its parameters.
struct ModelMetadata {
  ModelConfig model;
  std::string tokenizer = "bytes";  ///< as make_tokenizer() reads it
  std::string modality = "text";
  int64_t step = 0;      ///< training steps completed
  std::string run;       ///< the run's whole configuration as JSON, or empty
  std::string sampling;  ///< how samples are best drawn, as JSON (tools/sample_defaults.h), or empty
};

/// Sets the metadata and adds every parameter in `flat` (with the layout of the model's flat buffer: its
/// values, or their moving average) to the writer. `flat` must live until the file is written.
void add_model(SafetensorsWriter& writer, const PerceiverAR& model, const ModelMetadata& metadata,
               const Tensor& flat);

/// Writes a model file atomically; with the weights of linear layers as I8 or F8_E4M3 and a scale for each of
/// their rows (F32, NAME_scale) if the model has them.
void save_model(const std::filesystem::path& path, const PerceiverAR& model, const ModelMetadata& metadata);

/// Throws `user` for a file that is not a model file of this library.
ModelMetadata read_metadata(const SafetensorsFile& file);

/// Reads all parameters of `model` from a model file; throws `user` for missing or superfluous tensors.
/// Weights of eight bits are multiplied by their scales.
void read_parameters(const SafetensorsFile& file, PerceiverAR& model);

struct LoadedModel {
  std::unique_ptr<PerceiverAR> model;
  ModelMetadata metadata;
};
/// Throws `user` for a file that is not a model file or, unless `verify` is false, is damaged: its checksum
/// is compared before anything is used; and for `weights` that the model cannot have
/// (PerceiverAR::set_weights). `automatic` keeps weights of eight bits where the model can have them.
LoadedModel load_model(const std::filesystem::path& path, std::shared_ptr<DeviceContext> context, DType type,
                       bool verify = true, Weights weights = Weights::automatic);

/// The model file that `path` refers to: the file itself, the one in a checkpoint folder, or that of a run
/// folder's best checkpoint (or newest, if there is no best); if there is no such path, the model of that
/// name (model/named_models.h). Throws `user` with what was looked for.
std::filesystem::path find_model_file(const std::filesystem::path& path);

}  // namespace perceiver
