// What perceiver sample prints and writes, as continuations finish.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "tools/sample.h"

namespace perceiver::program {

/// Takes completions in the order in which they finish. Texts are printed in the order of the prompts, each
/// as soon as it and all before it are there; JSON lines as they finish; JSON at the end.
class SampleResults {
 public:
  /// `total` completions will come, `best_of` of them for each result. All must outlive this.
  SampleResults(const SampleCommand& options, const std::vector<std::string>& prompts);

  /// The text of a single result that grows; printed at once.
  void grow(const std::string& text);
  void finished(int64_t request, const Completion& completion);
  /// All have finished.
  void end();

 private:
  struct Result {
    int64_t waiting;                 ///< continuations that have not finished
    std::optional<Completion> best;  ///< the likeliest so far
  };

  bool live() const;
  void complete(size_t index);
  void print_in_order();
  void print_text(size_t index);
  std::string file_of(size_t index) const;
  nlohmann::ordered_json as_json(size_t index) const;

  const SampleCommand& options_;
  const std::vector<std::string>& prompts_;
  std::vector<Result> results_;
  size_t next_ = 0;     ///< the first result that has not been printed
  size_t printed_ = 0;  ///< bytes of a growing text
};

}  // namespace perceiver::program
