#include "train/training_samples.h"

#include "base/check.h"
#include "data/sample_files.h"
#include "generate/generate.h"
#include "io/atomic_file.h"
#include "perceiver/special_tokens.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kDefaultTokens = 256;
constexpr double kTopP = 0.95;

}  // namespace

TrainingSamples::TrainingSamples(const TrainConfig& config, const Dataset& data, const PerceiverAR& model,
                                 fs::path folder)
    : model_(model), folder_(std::move(folder)) {
  ModelMetadata metadata;
  metadata.modality = data.modality();
  metadata.tokenizer = data.tokenizer();
  options_ = suited_options({}, metadata);
  if (metadata.modality != "copy") modality_ = modality_of_model(metadata.modality, metadata.tokenizer);
  const bool is_text = metadata.modality == "text" || metadata.modality == "copy";
  if (is_text) tokenizer_ = make_tokenizer(data.tokenizer());
  if (!is_text) ending_ = modality_->outputs().front();
  if (!is_text && !config.sample_prompt.empty())
    throw_user("train.sample_prompt is text, but the data is of kind {}; leave it out", metadata.modality);
  try {
    plan(config);
    check_request(model_, resolve_options(model_, options_), request_);
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("train.sample_every: {}", error.what()));
  }
}

void TrainingSamples::plan(const TrainConfig& config) {
  Prompt prompt;
  if (tokenizer_) prompt.beginning.ids = tokenizer_->encode(config.sample_prompt);
  const bool known_length = modality_ && modality_->format().fixed_length > 0;
  const int64_t tokens = config.sample_tokens > 0 || known_length ? config.sample_tokens : kDefaultTokens;
  SamplePlan plan;
  if (modality_) {
    plan = plan_sample(*modality_, prompt, tokens, model_.config().vocabulary);
  } else {
    plan.prompt = prompt.beginning.ids;
    plan.prompt.insert(plan.prompt.begin(), sos_token);
    plan.tokens = tokens;
  }
  request_.prompt = plan.prompt;
  request_.positions = plan.positions;
  request_.biases = plan.biases;
  request_.tokens = plan.tokens;
  request_.ignore_eos = !plan.may_end;
  request_.echo = config.sample_prompt;
  request_.sampling.top_p = kTopP;
  request_.sampling.seed = config.seed;
}

fs::path TrainingSamples::path(int64_t step) const {
  return folder_ / fmt::format("step-{:09}{}", step, ending_);
}

bool TrainingSamples::exists(int64_t step) const {
  std::error_code ignored;
  return fs::exists(path(step), ignored);
}

std::optional<SampleEntry> TrainingSamples::make(int64_t step, const std::function<bool()>& cancelled) const {
  GenerationRequest request = request_;
  request.sequence = static_cast<uint32_t>(step);
  Engine engine(model_, options_);
  const auto poll = [&](int64_t, const ChosenToken&, const std::string&) { return !cancelled(); };
  const Completion completion = generate(engine, {request}, poll, tokenizer_.get()).front();
  if (completion.finish_reason == FinishReason::callback) return std::nullopt;

  SampleEntry entry{step, path(step), completion.text};
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) throw_output_failure("create the folder", folder_, error.value());
  if (tokenizer_) {
    write_file_atomically(entry.path, completion.text + "\n");
  } else {
    std::vector<int32_t> ids(request.prompt.begin() + 1, request.prompt.end());
    ids.insert(ids.end(), completion.tokens.begin(), completion.tokens.end());
    const TokenSequence sample = generated_sequence(*modality_, std::move(ids), request.positions);
    write_samples(*modality_, {&sample, 1}, entry.path.string());
  }
  return entry;
}

}  // namespace perceiver
