// A trained model: load a checkpoint, score text, generate text.
//
//   auto model = perceiver::Model::load("runs/book");
//   double bits = model.score("Once upon a time").bits_per_byte();
//   model.generate("Once upon", {.tokens = 200}, [](std::string_view text) { std::cout << text; return true;
//   });
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "perceiver/config.h"
#include "perceiver/error.h"

namespace perceiver {

struct LoadOptions {
  std::string device = "auto";                 ///< "cpu", "cuda", or "auto": a GPU where there is one
  int threads = 0;                             ///< CPU threads; 0 = all
  Precision precision = Precision::automatic;  ///< of the computation; automatic: bf16 on a GPU, else f32
};

/// Likelihood of a text as one document: every token predicted once, with all the context the model can take.
struct Score {
  double nats = 0;     ///< in total, the end of the document included
  int64_t tokens = 0;  ///< predicted, the end included
  int64_t bytes = 0;
  double bits_per_byte() const {
    return bytes == 0 ? 0 : nats / (0.6931471805599453 * static_cast<double>(bytes));
  }
};

struct GenerateOptions {
  int64_t tokens = 100;    ///< new tokens at most
  double temperature = 1;  ///< 0 = always the likeliest
  int64_t top_k = 0;       ///< 0 = off
  double top_p = 1;
  double min_p = 0;
  uint64_t seed = 0;        ///< same seed, same text
  bool ignore_eos = false;  ///< never end early
};

/// Takes new text, always whole UTF-8 characters; false stops the generation.
using TextCallback = std::function<bool(std::string_view)>;

/// Every member throws perceiver::Error for what it cannot do. One thread at a time.
class Model {
 public:
  /// `path` is a run folder (its best checkpoint, else its newest), a checkpoint folder or a model file.
  static Model load(const std::string& path, const LoadOptions& options = {});
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  const ModelConfig& config() const;
  int64_t parameter_count() const;
  /// The tokenizer's name, e.g. "bytes".
  std::string tokenizer() const;

  Score score(std::string_view text) const;
  /// Continues `prompt`; returns the new text, which `on_text` (may be empty) has been handed piece by piece.
  std::string generate(std::string_view prompt, const GenerateOptions& options = {},
                       const TextCallback& on_text = {}) const;

 private:
  struct State;
  explicit Model(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace perceiver
