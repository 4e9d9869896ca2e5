// A checkpoint: a folder with everything a run needs to continue bit for bit.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "model/model_file.h"
#include "train/checkpoint_state.h"
#include "train/learner.h"

namespace perceiver {

inline constexpr const char* model_file_name = "model.safetensors";          ///< the weights
inline constexpr const char* average_file_name = "ema.safetensors";          ///< their moving average, if any
inline constexpr const char* optimizer_file_name = "optimizer.safetensors";  ///< Optimizer::state
inline constexpr const char* memory_file_name = "memory.safetensors";  ///< Learner::collect_memory, if any
inline constexpr const char* state_file_name = "state.json";           ///< CheckpointState, checksums

/// How the data became tokens; stored in the model file's metadata.
struct DataDescription {
  std::string tokenizer;  ///< as make_tokenizer reads it
  std::string modality;
};

/// What the model file of a run in that state says.
ModelMetadata metadata_of(const CheckpointState& state, const PerceiverAR& model,
                          const DataDescription& data);

/// Writes a checkpoint folder under a temporary name, syncs it and renames it, replacing a checkpoint of that
/// name. On any failure nothing has changed. Collective: rank 0 (`leads`) writes, the others send their
/// parts; the files do not depend on the number of ranks. `working` (optional) is called now and then by the
/// rank that writes.
void write_checkpoint(const std::filesystem::path& folder, const CheckpointState& state,
                      const PerceiverAR& model, const Learner& learner, const DataDescription& data,
                      bool leads = true, const std::function<void()>& working = {});

/// Reads only state.json. Throws as state_from_json does, and CheckpointDamage if the file is missing.
CheckpointState read_checkpoint_state(const std::filesystem::path& folder);

/// Reads the state and checks every file's size and checksum. Throws CheckpointDamage with what is wrong,
/// another Error if that cannot be determined.
CheckpointState verify_checkpoint(const std::filesystem::path& folder);

/// Fills a model, before its learner is made, and then the learner from a checkpoint that passed
/// verify_checkpoint and was made with the same model and optimizer, on any number of ranks.
void load_checkpoint_weights(const std::filesystem::path& folder, PerceiverAR& model);
void load_checkpoint_state(const std::filesystem::path& folder, Learner& learner);

}  // namespace perceiver
