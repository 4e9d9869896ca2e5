#include "perceiver/model.h"

#include "api/document_list.h"
#include "api/model_state.h"
#include "base/check.h"
#include "config/validate.h"
#include "model/precision.h"

namespace perceiver {
namespace {

std::shared_ptr<DeviceContext> open_device(const LoadOptions& options) {
  if (options.threads < 0) throw_user("{} threads requested; must be 0 (all) or more", options.threads);
  return DeviceContext::open(options.device, options.threads);
}

Weights weights_of(const LoadOptions& options) {
  if (options.bf16_weights && options.weights != Weights::automatic)
    throw_user("LoadOptions: both bf16_weights and weights are set; set weights alone");
  return options.bf16_weights ? Weights::bfloat16 : options.weights;
}

std::string precision_name(const PerceiverAR& model) {
  return model.type() == DType::bf16 ? "bf16" : model.type() == DType::f64 ? "f64" : "f32";
}

}  // namespace

std::shared_ptr<const Model::State> Model::State::of(LoadedModel model, const std::string& path) {
  Tokenizer tokenizer = Tokenizer::restore(model.metadata.modality, model.metadata.tokenizer);
  auto state = std::make_shared<State>(std::move(model), std::move(tokenizer));
  const LoadedModel& loaded = state->loaded;
  state->info = {.path = path,
                 .device = loaded.model->context().name(),
                 .precision = precision_name(*loaded.model),
                 .parameters = loaded.model->parameters().count(),
                 .step = loaded.metadata.step,
                 .run_config = loaded.metadata.run,
                 .sampling = loaded.metadata.sampling};
  return state;
}

Model::Model(std::shared_ptr<const State> state) : state_(std::move(state)) {}
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;
Model::~Model() = default;

Model Model::load(const std::string& path, const LoadOptions& options) {
  auto context = open_device(options);
  const DType type = apply_precision(options.precision, *context);
  const std::string file = find_model_file(path).string();
  LoadedModel loaded = load_model(file, std::move(context), type, options.verify, weights_of(options));
  return Model(State::of(std::move(loaded), file));
}

Model Model::create(const ModelConfig& config, const Tokenizer& tokenizer, uint64_t seed,
                    const LoadOptions& options) {
  LoadedModel loaded;
  ModelMetadata& metadata = loaded.metadata;
  metadata.model = config;
  if (metadata.model.vocabulary == 0) metadata.model.vocabulary = tokenizer.info().vocabulary;
  resolve(metadata.model);
  validate(metadata.model, "the model's configuration");
  check_fits(DocumentList(*tokenizer.state_->modality, {}), metadata.model);
  metadata.modality = tokenizer.info().modality;
  metadata.tokenizer = tokenizer.serialized();
  auto context = open_device(options);
  const DType type = apply_precision(options.precision, *context);
  loaded.model = std::make_unique<PerceiverAR>(metadata.model, std::move(context), type);
  loaded.model->parameters().initialize(seed);
  loaded.model->set_weights(weights_of(options));
  return Model(State::of(std::move(loaded), {}));
}

void Model::save(const std::string& path) const {
  save_model(path, *state_->loaded.model, state_->loaded.metadata);
}

const ModelConfig& Model::config() const {
  return state_->loaded.model->config();
}
const ModelInfo& Model::info() const {
  return state_->info;
}
const Tokenizer& Model::tokenizer() const {
  return state_->tokenizer;
}
int64_t Model::parameter_count() const {
  return state_->info.parameters;
}

std::string Model::generate(std::string_view prompt, const GenerateOptions& options,
                            const TextCallback& on_text) const {
  if (state_->text() == nullptr)
    throw_user("this is a model of {}; use start() and decode the sequence", tokenizer().info().modality);
  std::string whole;
  start(prompt, options).run([&](const GeneratedToken& token) {
    whole += token.text;
    return token.text.empty() || !on_text || on_text(token.text);
  });
  return whole;
}

}  // namespace perceiver
