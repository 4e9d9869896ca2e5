#include "tools/sample_results.h"

#include <cstdio>
#include <filesystem>

#include "data/sample_files.h"
#include "io/atomic_file.h"
#include "tools/output.h"

namespace perceiver::program {

SampleResults::SampleResults(const SampleCommand& options, const std::vector<std::string>& prompts)
    : options_(options),
      prompts_(prompts),
      results_(prompts.size() * static_cast<size_t>(options.batch.count), Result{options.best_of, {}}) {}

bool SampleResults::live() const {
  return results_.size() == 1 && options_.best_of == 1 && !options_.json && !options_.json_lines &&
         options_.files.out.empty();
}

void SampleResults::grow(const std::string& text) {
  if (!live()) return;
  print_now(text);
  printed_ += text.size();
}

void SampleResults::finished(int64_t request, const Completion& completion) {
  const auto index = static_cast<size_t>(request / options_.best_of);
  Result& result = results_[index];
  if (!result.best || completion.log_probability > result.best->log_probability) result.best = completion;
  if (--result.waiting == 0) complete(index);
}

void SampleResults::complete(size_t index) {
  if (options_.json_lines)
    return print_now(as_json(index).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  if (!options_.json) print_in_order();
}

void SampleResults::print_in_order() {
  while (next_ < results_.size() && results_[next_].waiting == 0) print_text(next_++);
}

void SampleResults::print_text(size_t index) {
  const std::string& text = results_[index].best->text;
  if (!options_.files.out.empty()) {
    const std::string file = file_of(index);
    write_file_atomically(file, text);
    return print_now(file + "\n");
  }
  const std::string head = results_.size() > 1 ? fmt::format("--- {}\n", index + 1) : "";
  print_now(head + text.substr(printed_) + "\n");
}

std::string SampleResults::file_of(size_t index) const {
  return results_.size() == 1 ? options_.files.out : numbered_file(options_.files.out, index + 1);
}

nlohmann::ordered_json SampleResults::as_json(size_t index) const {
  const auto count = static_cast<size_t>(options_.batch.count);
  const Completion& completion = *results_[index].best;
  nlohmann::ordered_json out;
  if (options_.json_lines) {
    out["prompt_index"] = index / count;
    out["continuation"] = index % count;
  }
  out["prompt"] = prompts_[index / count];
  out["text"] = completion.text;
  out["tokens"] = completion.tokens.size();
  out["log_probability"] = completion.log_probability;
  out["ending"] = name_of(completion.finish_reason.value());
  out["seed"] = options_.request.sampling.seed;
  return out;
}

void SampleResults::end() {
  if (!options_.json) return;
  nlohmann::ordered_json out = nlohmann::ordered_json::array();
  for (size_t i = 0; i < results_.size(); ++i) out.push_back(as_json(i));
  print_now(out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace perceiver::program
