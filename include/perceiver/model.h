// A trained model: load a checkpoint, score data, generate it.
//
//   auto model = perceiver::Model::load("runs/book");
//   double bits = model.score("Once upon a time").bits_per_byte();
//   model.generate("Once upon", {.tokens = 200},
//                  [](std::string_view text) { std::cout << text; return true; });
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <numbers>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "perceiver/config.h"
#include "perceiver/error.h"
#include "perceiver/export.h"
#include "perceiver/generator.h"
#include "perceiver/tokenizer.h"

namespace perceiver {

struct LoadOptions {
  /// "cpu", "cuda", "cuda:1" (the second GPU), or "auto": a GPU if there is one. Models of one process may be
  /// on different devices.
  std::string device = "auto";
  int threads = 0;  ///< CPU threads, shared by all threads that use the model; 0 = all
  Precision precision =
      Precision::automatic;  ///< of the computation; automatic: bf16 on a GPU, f32 on the CPU
  /// CPU: rounds the weights to bf16, which halves the bytes read per token. Computation stays in f32.
  bool bf16_weights = false;
  /// The same for all types of weights, int8 and fp8 on a GPU too, which then holds no others: half of
  /// bfloat16's bytes. Excludes `bf16_weights`.
  Weights weights = Weights::automatic;
  /// Compare the file with its checksum before using it; reads the file once more.
  bool verify = true;
};

/// What a model is.
struct ModelInfo {
  std::string path;        ///< of the model file; empty for a model that was created
  std::string device;      ///< e.g. "cpu", "NVIDIA H100 80GB HBM3"
  std::string precision;   ///< of the computation: "f32", "bf16", "f64"
  int64_t parameters = 0;  ///< count
  int64_t step = 0;        ///< training steps that it has seen
  std::string run_config;  ///< the configuration of the run that trained it, as JSON; may be empty
  /// How its samples are best drawn, as JSON: {"temperature": 0.9, "top-p": 0.95, "tokens": 800}, names and
  /// values of options of `perceiver sample`; may be empty.
  std::string sampling;
};

/// The likelihood of a document: every token is predicted once, with as much context as the model takes.
struct Score {
  double nats = 0;     ///< total negative log-likelihood, including the end of the document
  int64_t tokens = 0;  ///< predicted, including the end
  int64_t bytes = 0;   ///< of a text; of other data its units (TokenizerInfo::unit)
  /// Of each predicted token in turn, nats ≤ 0; the last is that of EOS if the data have it.
  std::vector<float> log_probabilities;

  double bits_per_byte() const {
    return bytes == 0 ? 0 : nats / (std::numbers::ln2 * static_cast<double>(bytes));
  }
};

struct ScoreOptions {
  /// Targets per window, 1 to the latents; 0 = the latents. 1 gives every token all the context it can have.
  int64_t stride = 0;
  int64_t latents = 0;  ///< 0 = model.latents
  int64_t batch = 8;    ///< windows at once
};

/// The normalised latents after the last layer, of the last window of a document.
struct Embedding {
  int64_t latents = 0, channels = 0;
  std::vector<float> values;  ///< [latents, channels], in the order of the tokens they stand at

  /// That of the last token, which has seen the whole window.
  std::span<const float> last() const { return std::span(values).last(static_cast<size_t>(channels)); }
};

/// Receives new text, always whole UTF-8 characters; returning false stops the generation.
using TextCallback = std::function<bool(std::string_view)>;

/// Members throw perceiver::Error on failure. Const members may be called concurrently from several threads.
class PERCEIVER_API Model {
 public:
  /// `path` is a run folder (its best checkpoint, else its newest), a checkpoint folder or a model file; if
  /// there is no such file or folder, the name of a model (`perceiver models` lists them).
  static Model load(const std::string& path, const LoadOptions& options = {});
  /// A new model with random weights of `seed` for data of that tokenizer; `config.vocabulary` may be 0 (that
  /// of the tokenizer). Throws `user` for a configuration that contradicts itself or the tokenizer.
  static Model create(const ModelConfig& config, const Tokenizer& tokenizer, uint64_t seed = 0,
                      const LoadOptions& options = {});
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

  /// Writes a model file, which appears whole or not at all.
  void save(const std::string& path) const;

  const ModelConfig& config() const;
  const ModelInfo& info() const;
  /// Encodes and decodes what the model was trained on; its info() says what that is.
  const Tokenizer& tokenizer() const;
  int64_t parameter_count() const;

  /// The likelihood of a text, an image, notes, a sound … as one document.
  Score score(const Content& content, const ScoreOptions& options = {}) const;
  /// The likelihoods of many documents, `options.batch` windows of all of them at once.
  std::vector<Score> score(std::span<const TokenSequence> documents, const ScoreOptions& options = {}) const;
  /// The final latents of a document; of the last context_length tokens if it is longer.
  Embedding embed(const Content& content) const;

  /// Text models: continues `prompt` and returns the new text, which `on_text` (if given) also receives piece
  /// by piece.
  std::string generate(std::string_view prompt, const GenerateOptions& options = {},
                       const TextCallback& on_text = {}) const;

  /// Starts a sequence that the caller advances. It shares the weights and keeps them alive.
  Generator start(std::string_view prompt, const GenerateOptions& options = {}) const;
  Generator start(const TokenPrompt& prompt, const GenerateOptions& options = {}) const;
  /// Continues from the result of Generator::save; needs this model in the same precision.
  Generator restore(std::string_view saved) const;

 private:
  friend class Generator;
  friend class BatchGenerator;
  friend class TrainingRun;
  struct State;
  explicit Model(std::shared_ptr<const State> state);
  std::shared_ptr<const State> state_;
};

}  // namespace perceiver
