#include "data/arrays/number_list.h"

#include <charconv>

#include "base/check.h"
#include "base/text.h"

namespace perceiver {

std::vector<int64_t> number_list(const ModalityOptions& options, std::string_view name, size_t most,
                                 int64_t min, int64_t max) {
  const std::string& text = options.text(name);
  std::vector<int64_t> numbers;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    if (!numbers.empty() && *at == ',') ++at;
    int64_t value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    const bool ended = next == end || *next == ',';
    if (error != std::errc() || !ended || next + 1 == end || value < min || value > max ||
        numbers.size() == most)
      throw_user("data.options.{}: {} is no list of at most {} whole numbers from {} to {}, such as 8,8",
                 name, quote(text), most, min, max);
    numbers.push_back(value);
    at = next;
  }
  return numbers;
}

}  // namespace perceiver
