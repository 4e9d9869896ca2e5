#include "data/sample_files.h"

#include <algorithm>
#include <filesystem>
#include <limits>

#include "base/check.h"
#include "data/text/tokenizer.h"
#include "io/atomic_file.h"
#include "io/file_view.h"
#include "perceiver/special_tokens.h"

namespace perceiver {
namespace {

std::string lower_case(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

constexpr float forbidden = -std::numeric_limits<float>::infinity();

/// One row of biases per data token of the mask's period, starting at token `first`; without a mask, one row
/// if the model has ids that the data does not use.
std::vector<std::vector<float>> bias_rows(const SamplingMask& mask, int64_t first, int64_t tokens,
                                          int64_t data_ids, int64_t model_ids) {
  std::vector<std::vector<float>> rows;
  if (mask.empty() && data_ids == model_ids) return rows;
  const int64_t period =
      mask.empty() ? 1 : std::min<int64_t>(tokens, static_cast<int64_t>(mask.cycle.size()));
  const std::vector<IdRange> all{{0, static_cast<int32_t>(data_ids)}};
  for (int64_t i = 0; i < period; ++i) {
    std::vector<float> row(static_cast<size_t>(model_ids), forbidden);
    for (const IdRange& range : mask.empty() ? all : mask.at(first + i))
      std::fill(row.begin() + range.first, row.begin() + range.last, 0.0f);
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace

std::unique_ptr<Modality> modality_of_model(const std::string& modality, const std::string& tokenizer) {
  if (modality == "copy") throw_user("a model of the copy task writes no files; sample it as text");
  return restore_modality(modality, tokenizer);
}

int64_t token_ids(const std::string& modality, const std::string& tokenizer) {
  if (modality == "copy") return make_tokenizer(tokenizer)->vocabulary();
  return restore_modality(modality, tokenizer)->format().vocabulary;
}

SamplePlan plan_sample(const Modality& modality, const Prompt& prompt, int64_t tokens, int64_t model_ids) {
  const SequenceFormat& format = modality.format();
  if (model_ids < format.vocabulary)
    throw_user("the model has {} token ids but its tokenizer has {}; the model file is damaged", model_ids,
               format.vocabulary);
  SamplePlan plan;
  plan.prompt = {sos_token};
  plan.prompt.insert(plan.prompt.end(), prompt.beginning.ids.begin(), prompt.beginning.ids.end());
  const auto known = static_cast<int64_t>(prompt.beginning.ids.size());
  const int64_t length = prompt.length > 0 ? prompt.length : format.fixed_length;
  if (length > 0 && known >= length)
    throw_user("the prompt has all {} tokens of a sequence; nothing is left to generate", length);
  if (length == 0 && tokens == 0) throw_user("the data does not determine the length; give --tokens");
  plan.tokens = length == 0 ? tokens : tokens == 0 ? length - known : std::min(tokens, length - known);
  plan.may_end = format.ends;
  if (!prompt.positions.empty()) {
    plan.positions = prompt.positions;
  } else if (format.positions == PositionKind::shared) {
    plan.positions = format.shared_positions;
  } else if (format.positions == PositionKind::stored) {
    throw_user("this kind of data has its own positions; give a file with positions as the prompt");
  }
  const SamplingMask& mask = prompt.mask.empty() ? format.mask : prompt.mask;
  plan.biases = bias_rows(mask, known, plan.tokens, format.vocabulary, model_ids);
  return plan;
}

Prompt read_prompt(const Modality& modality, const std::string& path, const PromptPart& options) {
  const FileView content(path);
  return modality.prompt({path, content.bytes()}, options);
}

std::string numbered_file(const std::string& path, size_t number) {
  const std::filesystem::path whole(path);
  std::filesystem::path name = whole.parent_path() / whole.stem();
  name += fmt::format("-{}", number);
  name += whole.extension();
  return name.string();
}

void check_output(const Modality& modality, const std::string& path) {
  const std::string ending = lower_case(std::filesystem::path(path).extension().string());
  const std::vector<std::string_view> known = modality.outputs();
  if (std::find(known.begin(), known.end(), ending) == known.end())
    throw_user("{}: this model's samples are written as {}", path, fmt::join(known, ", "));
}

TokenSequence generated_sequence(const Modality& modality, std::vector<int32_t> ids,
                                 const std::vector<int32_t>& positions) {
  TokenSequence sample;
  sample.ids = std::move(ids);
  const auto axes = static_cast<size_t>(modality.format().axes);
  const size_t count = std::min(positions.size() / axes, sample.ids.size() + 1);
  if (count > 0 && positions != modality.format().shared_positions)  // the first is for SOS
    sample.positions.assign(positions.begin() + static_cast<int64_t>(axes),
                            positions.begin() + static_cast<int64_t>(count * axes));
  return sample;
}

std::vector<std::string> write_samples(const Modality& modality, std::span<const TokenSequence> samples,
                                       const std::string& path) {
  check_output(modality, path);
  const std::string ending = lower_case(std::filesystem::path(path).extension().string());
  if (samples.size() > 1) {
    const std::string together = modality.decode_together(samples, ending);
    if (!together.empty()) {
      write_file_atomically(path, together);
      return {path};
    }
  }
  std::vector<std::string> written;
  for (size_t i = 0; i < samples.size(); ++i) {
    written.push_back(samples.size() == 1 ? path : numbered_file(path, i + 1));
    write_file_atomically(written.back(), modality.decode(samples[i], ending));
  }
  return written;
}

}  // namespace perceiver
