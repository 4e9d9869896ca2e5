// perceiver data roundtrip: converts a file to tokens and back.
#include <cstdio>
#include <filesystem>

#include "base/check.h"
#include "io/atomic_file.h"
#include "io/file_view.h"
#include "tools/data.h"

namespace perceiver::program {
namespace {

struct RoundtripCommand {
  std::string file, modality, out;
};

/// The modality for a file of that name; text if no other takes it.
const ModalityKind& kind_of(const std::string& file) {
  std::vector<std::string_view> names;
  for (const ModalityKind* kind : modality_kinds())
    if (!kind->endings.empty() && kind->takes(file)) names.push_back(kind->name);
  if (names.empty()) return find_modality("text");
  if (names.size() > 1)
    throw_user("{}: may be of modality {}; choose with --modality", file, fmt::join(names, " or "));
  return find_modality(names[0]);
}

int run(const RoundtripCommand& options, const std::map<std::string, std::string>& modality_options) {
  const ModalityKind& kind =
      options.modality.empty() ? kind_of(options.file) : find_modality(options.modality);
  const auto modality = kind.open(ModalityOptions(kind, modality_options));
  const FileView content(options.file);
  if (static_cast<int64_t>(content.bytes().size()) > kind.max_file_bytes)
    throw_user("{}: has {} bytes; the limit is {}", options.file, content.bytes().size(),
               kind.max_file_bytes);
  const SourceFile file{options.file, content.bytes()};
  std::printf("%s", modality->compare(file).c_str());
  if (options.out.empty()) return 0;
  const std::vector<TokenSequence> documents = modality->encode(file);
  if (documents.empty()) throw_user("{}: holds no tokens", options.file);
  write_file_atomically(
      options.out,
      modality->decode(documents.front(), std::filesystem::path(options.out).extension().string()));
  std::printf("%s\n", options.out.c_str());
  return 0;
}

}  // namespace

void add_data_roundtrip(CLI::App& data, Globals& globals, Action& action) {
  auto options = std::make_shared<RoundtripCommand>();
  CLI::App* command = data.add_subcommand("roundtrip", "Encode a file as tokens, decode it and compare");
  command->add_option("file", options->file, "File to convert")->required();
  command->add_option("--modality", options->modality, "Modality (default: by the file's extension)");
  command->add_option("--out", options->out, "Write the decoded file here");
  take_modality_options(*command, globals);
  command->callback([options, command, &action] {
    action = [options, command] { return run(*options, modality_options(*command)); };
  });
  command->footer(R"(Examples:
  perceiver data roundtrip tune.mid
  perceiver data roundtrip photo.jpg --size 32 --out small.png)");
}

}  // namespace perceiver::program
