// A trained model: load a checkpoint, score text, generate text.
//
//   auto model = perceiver::Model::load("runs/book");
//   double bits = model.score("Once upon a time").bits_per_byte();
//   model.generate("Once upon", {.tokens = 200},
//                  [](std::string_view text) { std::cout << text; return true; });
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "perceiver/config.h"
#include "perceiver/error.h"
#include "perceiver/generator.h"

namespace perceiver {

struct LoadOptions {
  std::string device = "auto";  ///< "cpu", "cuda", or "auto": a GPU if there is one
  int threads = 0;              ///< CPU threads, shared by all threads that use the model; 0 = all
  Precision precision =
      Precision::automatic;  ///< of the computation; automatic: bf16 on a GPU, f32 on the CPU
  /// CPU: rounds the weights to bf16, which halves the bytes read per token. Computation stays in f32.
  bool bf16_weights = false;
  /// Compare the file with its checksum before using it; reads the file once more.
  bool verify = true;
};

/// Likelihood of a text as one document: every token is predicted once, with as much context as the model
/// takes.
struct Score {
  double nats = 0;     ///< total negative log-likelihood, including the end of the document
  int64_t tokens = 0;  ///< predicted, including the end
  int64_t bytes = 0;   ///< of the text
  double bits_per_byte() const {
    // ln 2 as a literal: std::numbers needs C++20, which users of this header may not compile as.
    return bytes == 0 ? 0 : nats / (0.6931471805599453 * static_cast<double>(bytes));
  }
};

/// Receives new text, always whole UTF-8 characters; returning false stops the generation.
using TextCallback = std::function<bool(std::string_view)>;

/// Members throw perceiver::Error on failure. Const members may be called concurrently from several threads.
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

  /// The likelihood of `text`.
  Score score(std::string_view text) const;
  /// Continues `prompt` and returns the new text, which `on_text` (if given) also receives piece by piece.
  std::string generate(std::string_view prompt, const GenerateOptions& options = {},
                       const TextCallback& on_text = {}) const;

  /// Starts a sequence that the caller advances. It shares the weights and keeps them alive.
  Generator start(std::string_view prompt, const GenerateOptions& options = {}) const;
  Generator start(TokenPrompt prompt, const GenerateOptions& options = {}) const;
  /// Continues from the result of Generator::save; needs this model in the same precision.
  Generator restore(std::string_view saved) const;

 private:
  friend class Generator;
  friend class TrainingRun;
  struct State;
  explicit Model(std::shared_ptr<const State> state);
  std::shared_ptr<const State> state_;
};

}  // namespace perceiver
