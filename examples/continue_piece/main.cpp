// Continues a piece of piano music; the notes are printed as they are made.
//   continue_piece CHECKPOINT PIECE.mid OUT.mid [SECONDS] [TOKENS]
// The model gets the first SECONDS of the piece (default 10) and makes at most TOKENS events (default 500).
#include <perceiver/perceiver.h>

#include <iomanip>
#include <iostream>
#include <set>

namespace {

std::string name_of(const perceiver::Note& note) {
  static const char* const kNames[] = {"C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"};
  return kNames[note.pitch % 12] + std::to_string(note.pitch / 12 - 1);
}

/// Prints each note once, when it begins.
class Printer {
 public:
  /// `notes`: of the whole piece so far, by onset.
  void show(const perceiver::Notes& notes, bool print) {
    for (size_t i = notes.size() - std::min<size_t>(notes.size(), 20); i < notes.size(); ++i) {
      const perceiver::Note& note = notes[i];
      if (!shown_.insert({note.onset, note.pitch}).second || !print) continue;
      std::cout << std::fixed << std::setprecision(2) << std::setw(8) << static_cast<double>(note.onset) / 1e6
                << " s  " << name_of(note) << "  velocity " << note.velocity << std::endl;
    }
  }
  size_t notes() const { return shown_.size(); }

 private:
  std::set<std::pair<int64_t, int32_t>> shown_;
};

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 4 || argc > 6) {
    std::cerr << "usage: continue_piece CHECKPOINT PIECE.mid OUT.mid [SECONDS] [TOKENS]\n";
    return 2;
  }
  const auto model = perceiver::Model::load(argv[1]);
  const perceiver::Tokenizer& tokenizer = model.tokenizer();
  if (tokenizer.info().modality != "music")
    throw perceiver::Error(perceiver::ErrorKind::user, std::string(argv[1]) + " is not a model of music");
  const auto notes_of = [&](const perceiver::Generator& piece) {
    return std::get<perceiver::Notes>(tokenizer.decode(piece.sequence()));
  };

  const auto prompt = tokenizer.prompt_file(argv[2], {.seconds = argc > 4 ? std::stod(argv[4]) : 10.0});
  perceiver::GenerateOptions options;
  options.tokens = argc > 5 ? std::stoi(argv[5]) : 500;
  options.top_p = 0.98;
  auto piece = model.start(prompt, options);
  Printer printer;
  printer.show(notes_of(piece), false);
  while (piece.next()) printer.show(notes_of(piece), true);
  for (const std::string& path : tokenizer.write({piece.sequence()}, argv[3])) std::cout << path << "\n";
} catch (const perceiver::Error& error) {
  std::cerr << error.what() << "\n";
  return error.kind() == perceiver::ErrorKind::user ? 2 : 1;
}
