// perceiver data tokenizer: trains a SentencePiece model on a folder of text.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdio>

#include "base/check.h"
#include "data/file_notes.h"
#include "data/splits.h"
#include "data/text/sentencepiece_tokenizer.h"
#include "data/text/text_check.h"
#include "data/text/text_lines.h"
#include "io/atomic_file.h"
#include "tools/data.h"

namespace perceiver::program {
namespace {

struct TokenizerCommand {
  std::string input, output, type = "unigram";
  int64_t max_mib = 16;
  SentencePieceTraining training;
};

/// Leaves out validation and test text if it is in folders of its own, and what is not text.
std::vector<ListedFile> training_files(const std::string& input) {
  const ModalityKind& kind = find_modality("text");
  SplitListing listing =
      list_corpus(input, "--input", kind, text_file_check(kind, ModalityOptions(kind, {})));
  for (const std::string& note : listing.notes) spdlog::warn("{}", note);
  const std::string skipped = note_remarks(listing.skipped, "skipped");
  if (listing.of(Split::train).empty())
    throw_user("--input: no text in {}{}{}", input, skipped.empty() ? "" : "; ", skipped);
  if (!skipped.empty()) spdlog::warn("{}", skipped);
  return std::move(listing.of(Split::train));
}

int run(TokenizerCommand& options) {
  std::vector<ListedFile> files = training_files(options.input);
  TextLines lines(std::move(files), options.max_mib << 20);
  options.training.unigram = options.type == "unigram";
  const std::string model =
      train_sentencepiece([&](std::string& line) { return lines.next(line); }, options.training);
  write_file_atomically(options.output, model);
  const auto tokenizer = SentencePieceTokenizer::from_model(model, options.output);
  std::printf("%s: %lld pieces; model.vocabulary: %lld\n", options.output.c_str(),
              static_cast<long long>(options.training.pieces),
              static_cast<long long>(tokenizer->vocabulary()));
  return 0;
}

}  // namespace

void add_data_tokenizer(CLI::App& data, Globals&, Action& action) {
  auto options = std::make_shared<TokenizerCommand>();
  CLI::App* command = data.add_subcommand("tokenizer", "Train a SentencePiece model on text");
  command->add_option("--input", options->input, "File or folder of text; if it has train/, only that")
      ->required();
  command->add_option("--output", options->output, "Model file to write")->required();
  command->add_option("--pieces", options->training.pieces, "Number of pieces, including 256 single bytes")
      ->check(CLI::Range(int64_t{300}, int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("--type", options->type, "unigram or bpe")
      ->check(CLI::IsMember({"unigram", "bpe"}))
      ->capture_default_str();
  command
      ->add_option("--coverage", options->training.character_coverage,
                   "Fraction of characters that get pieces; the rarest are encoded as bytes")
      ->check(CLI::Range(0.9, 1.0))
      ->capture_default_str();
  command
      ->add_option("--max-mib", options->max_mib, "Largest amount of text to train on, sampled evenly, MiB")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 16))
      ->capture_default_str();
  command->add_option("--workers", options->training.threads, "Threads")
      ->check(CLI::Range(1, 128))
      ->capture_default_str();
  command->callback([options, &action] { action = [options] { return run(*options); }; });
  command->footer(R"(Examples:
  perceiver data tokenizer --input books/ --output books.model --pieces 4096)");
}

}  // namespace perceiver::program
