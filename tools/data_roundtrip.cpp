// perceiver data roundtrip: converts a file to tokens and back.
#include <cstdio>
#include <filesystem>

#include "base/check.h"
#include "base/text.h"
#include "data/text/text_check.h"
#include "io/atomic_file.h"
#include "io/file_view.h"
#include "tools/data.h"

namespace perceiver::program {
namespace {

struct RoundtripCommand {
  std::string file, modality, out;
  bool strict = false;
};

/// For a file whose name says nothing: text if it is text, or if it is to be taken as such.
const ModalityKind& kind_of_content(const std::string& file, std::string_view content, bool as_text) {
  const TextCheck check = check_text(content);
  if (as_text || check.fault.empty()) return find_modality("text");
  throw_user("{}: its name has no ending that tells the modality, and it {}; choose with --modality",
             printable(file), check.fault);
}

/// The modality for a file of that name and content.
const ModalityKind& kind_of(const std::string& file, std::string_view content, bool as_text) {
  std::vector<std::string_view> names;
  for (const ModalityKind* kind : modality_kinds())
    if (!kind->endings.empty() && kind->takes(file)) names.push_back(kind->name);
  if (names.empty()) return kind_of_content(file, content, as_text);
  if (names.size() > 1)
    throw_user("{}: may be of modality {}; choose with --modality", printable(file),
               fmt::join(names, " or "));
  return find_modality(names[0]);
}

int run(const RoundtripCommand& options, const std::map<std::string, std::string>& modality_options) {
  const FileView content(options.file);
  const std::string_view text(reinterpret_cast<const char*>(content.bytes().data()), content.bytes().size());
  const bool as_text = modality_options.contains("encoding");
  const ModalityKind& kind =
      options.modality.empty() ? kind_of(options.file, text, as_text) : find_modality(options.modality);
  const auto modality = kind.open(ModalityOptions(kind, modality_options));
  if (static_cast<int64_t>(content.bytes().size()) > kind.max_file_bytes)
    throw_user("{}: has {} bytes; the limit is {}", printable(options.file), content.bytes().size(),
               kind.max_file_bytes);
  std::vector<std::string> repairs;
  const SourceFile file{options.file, content.bytes(), options.strict, &repairs};
  const std::vector<TokenSequence> documents = modality->encode(file);
  for (const std::string& repair : repairs) std::printf("repaired: %s\n", printable(repair).c_str());
  std::printf("%s", modality->compare({options.file, content.bytes()}).c_str());
  if (options.out.empty()) return 0;
  if (documents.empty()) throw_user("{}: holds no tokens", printable(options.file));
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
  command->add_option("--modality", options->modality,
                      "Modality (default: by the file's extension; without a known one, text if it is text)");
  command->add_option("--out", options->out, "Write the decoded file here");
  command->add_flag("--strict", options->strict, "Refuse a file that can only be read after a repair");
  take_modality_options(*command, globals);
  command->callback([options, command, &action] {
    action = [options, command] { return run(*options, modality_options(*command)); };
  });
  command->footer(R"(Examples:
  perceiver data roundtrip tune.mid
  perceiver data roundtrip photo.jpg --size 32 --out small.png)");
}

}  // namespace perceiver::program
