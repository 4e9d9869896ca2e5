// Models of other implementations as models of this library.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "model/model_file.h"
#include "port/dialect.h"

namespace perceiver {

struct ImportOptions {
  std::string from;                     ///< a dialect's name; empty: recognised by the tensors
  std::filesystem::path configuration;  ///< a JSON file with the configuration there; empty: the source's own
  std::filesystem::path tokenizer;      ///< a SentencePiece model; empty: one in the folder, if it fits
  GivenSizes given;
};

struct ImportedModel {
  std::unique_ptr<PerceiverAR> model;
  ModelMetadata metadata;
  const Dialect* dialect = nullptr;
  VocabularyMap vocabulary;
  std::vector<TensorMap> tensors;  ///< where each parameter came from

  std::string source;                 ///< what was opened, in words
  std::string configuration_from;     ///< likewise; empty: from the tensors alone
  std::vector<std::string> inferred;  ///< what the configuration did not say and the tensors do, in words
  std::vector<std::string> lost;      ///< what was not carried over, in words
};

/// Throws `user` for files that are not a model of a known project, that lack what `options` do not give, or
/// that this library cannot express.
ImportedModel import_model(const std::filesystem::path& path, const ImportOptions& options,
                           std::shared_ptr<DeviceContext> context, DType type);

}  // namespace perceiver
