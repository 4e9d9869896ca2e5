// perceiver sample: where the prompts come from.
#include <unistd.h>

#include <array>

#include "data/text/prompt_file.h"
#include "distributed/together.h"
#include "io/atomic_file.h"
#include "tools/sample.h"

namespace perceiver::program {
namespace {

constexpr uint64_t kLongestPrompt = uint64_t{64} << 20;

std::string read_stdin() {
  const FileDescriptor file(::dup(STDIN_FILENO));
  if (!file.valid()) throw_user("stdin is closed; there is no prompt to read");
  std::string content;
  std::array<char, 1 << 16> buffer{};
  while (content.size() <= kLongestPrompt) {
    const size_t size = read_some(file, std::as_writable_bytes(std::span(buffer)), "stdin");
    if (size == 0) return content;
    content.append(buffer.data(), size);
  }
  throw_user("stdin: more than {} bytes; give a shorter prompt", kLongestPrompt);
}

std::string content_of(const std::string& file, World* world) {
  if (file != "-") return read_file(file, kLongestPrompt);
  if (world == nullptr) return read_stdin();
  std::string content;
  together(world, "the prompts", [&] {
    if (world->leads()) content = read_stdin();
  });
  return world->from_leader(content, "the prompts");
}

std::string name_of_source(const std::string& file) {
  return file == "-" ? "stdin" : file;
}

}  // namespace

std::vector<std::string> read_prompts(const SampleCommand& options, World* world) {
  if (const std::string& file = options.prompt_file; !file.empty())
    return {prompt_text(content_of(file, world), name_of_source(file))};
  const std::string& file = options.prompts_file;
  if (file.empty()) return {options.prompt};
  return prompt_lines(content_of(file, world), file.ends_with(".jsonl"), name_of_source(file));
}

}  // namespace perceiver::program
