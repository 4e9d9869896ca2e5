#include "perceiver/model.h"

#include "api/model_state.h"
#include "base/check.h"
#include "eval/evaluator.h"
#include "model/precision.h"

namespace perceiver {
namespace {

/// One document held in memory, in every split.
class OneDocument final : public Dataset {
 public:
  OneDocument(const Tokenizer& tokenizer, std::string_view text)
      : vocabulary_(tokenizer.vocabulary()),
        tokenizer_(tokenizer.serialized()),
        bytes_(static_cast<int64_t>(text.size())) {
    tokens_ = tokenizer.encode(text);
    tokens_.insert(tokens_.begin(), sos_token);
    tokens_.push_back(eos_token);
  }

  int64_t vocabulary() const override { return vocabulary_; }
  std::string tokenizer() const override { return tokenizer_; }
  std::string unit() const override { return "byte"; }
  int64_t documents(Split) const override { return 1; }
  std::string document_name(Split, int64_t) const override { return "the text"; }
  int64_t document_length(Split, int64_t) const override { return static_cast<int64_t>(tokens_.size()); }
  int64_t scored_units(Split, int64_t) const override { return bytes_; }
  void read(Split, int64_t, int64_t first, int64_t count, int32_t* out) const override {
    std::copy_n(tokens_.begin() + first, count, out);
  }

 private:
  int64_t vocabulary_;
  std::string tokenizer_;
  int64_t bytes_;
  std::vector<int32_t> tokens_;
};

bool is_text(const ModelMetadata& metadata) {
  return metadata.modality == "text" || metadata.modality == "copy";
}

}  // namespace

std::unique_ptr<Tokenizer> tokenizer_of(const ModelMetadata& metadata) {
  return is_text(metadata) ? make_tokenizer(metadata.tokenizer) : nullptr;
}

void require_text(const ModelMetadata& metadata) {
  if (!is_text(metadata))
    throw_user("this is a model of modality {}, not of text; give token ids", metadata.modality);
}

Model::Model(std::shared_ptr<const State> state) : state_(std::move(state)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

Model Model::load(const std::string& path, const LoadOptions& options) {
  auto state = std::make_shared<State>();
  auto context = DeviceContext::open(options.device, options.threads);
  const DType type = apply_precision(options.precision, *context);
  state->loaded = load_model(find_model_file(path), std::move(context), type, options.verify);
  if (options.bf16_weights) state->loaded.model->round_weights_to_bf16();
  state->tokenizer = tokenizer_of(state->loaded.metadata);
  return Model(std::move(state));
}

const ModelConfig& Model::config() const {
  return state_->loaded.model->config();
}
int64_t Model::parameter_count() const {
  return state_->loaded.model->parameters().count();
}
std::string Model::tokenizer() const {
  return state_->tokenizer ? state_->tokenizer->name() : state_->loaded.metadata.modality;
}

Score Model::score(std::string_view text) const {
  require_text(state_->loaded.metadata);
  const OneDocument document(*state_->tokenizer, text);
  const EvaluationResult result = evaluate(*state_->loaded.model, document, Split::test, {});
  return {result.nats, result.tokens, result.units};
}

std::string Model::generate(std::string_view prompt, const GenerateOptions& options,
                            const TextCallback& on_text) const {
  std::string whole;
  start(prompt, options).run([&](const GeneratedToken& token) {
    whole += token.text;
    return token.text.empty() || !on_text || on_text(token.text);
  });
  return whole;
}

}  // namespace perceiver
