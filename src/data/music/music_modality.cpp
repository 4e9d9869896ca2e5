// MIDI files as the 388 events of piano performances.
#include <algorithm>

#include "base/check.h"
#include "data/image/png_writer.h"
#include "data/modality.h"
#include "data/music/fluidsynth.h"
#include "data/music/midi_writer.h"
#include "data/music/music_tokens.h"
#include "data/music/piano_roll.h"
#include "data/music/roundtrip.h"

namespace perceiver {

const ModalityKind& music_modality();

namespace {

std::span<const uint8_t> octets(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
}

Performance read_performance(const SourceFile& file) {
  const MidiFile midi = parse_midi(octets(file.bytes), file.path);
  for (const std::string& repair : midi.repairs) file.repaired(repair);
  return perform(midi, file.path);
}

void require_notes(const Performance& performance, const std::string& path) {
  if (!performance.notes.empty()) return;
  const int64_t percussion = performance.changes.percussion;
  if (percussion == 0) throw_user("{}: has no notes", path);
  throw_user("{}: has only percussion ({} notes), which is not read", path, percussion);
}

SequenceFormat music_format() {
  SequenceFormat format;
  format.vocabulary = music_vocabulary;
  format.unit = "event";
  // A model may have more ids than there are events (the authors' has 393).
  format.mask.sets = {{{eos_token, eos_token + 1}, {special_tokens, music_vocabulary}}};
  format.mask.cycle = {0};
  return format;
}

class MusicModality final : public Modality {
 public:
  explicit MusicModality(const ModalityOptions& options)
      : format_(music_format()),
        tokenizer_(pack_tokenizer("music", options.values(ModalityOption::Use::tokens))),
        transpose_(options.integer("transpose", 0, 12)),
        stretch_(options.real("stretch", 0, 0.5)) {}

  std::string_view name() const override { return "music"; }
  const SequenceFormat& format() const override { return format_; }
  std::string tokenizer() const override { return tokenizer_; }

  std::vector<TokenSequence> encode(const SourceFile& file) const override {
    const Performance performance = read_performance(file);
    require_notes(performance, file.path);
    return {sequence_of(performance.notes)};
  }
  Content decode_value(const TokenSequence& sequence) const override {
    return decode_music(sequence.ids).notes;
  }
  /// A note takes six to eight bytes of a file and three to four events; pedals take bytes but no events.
  int64_t estimate_tokens(int64_t file_bytes) const override { return file_bytes / 3; }

  bool augments() const override { return transpose_ > 0 || stretch_ > 0; }
  void augment(std::vector<int32_t>& ids, RandomStream& random) const override {
    const auto semitones = static_cast<int64_t>(random.below(static_cast<uint64_t>(2 * transpose_ + 1)));
    const double factor = 1 + stretch_ * (2 * random.uniform() - 1);
    if (transpose_ > 0) ids = transpose_music(ids, semitones - transpose_);
    if (stretch_ > 0) ids = stretch_music(ids, factor);
  }

  Prompt prompt(const SourceFile& file, const PromptPart& options) const override {
    if (!(options.seconds > 0)) return Modality::prompt(file, options);
    if (options.rows > 0 || options.tokens > 0 || !options.known.empty())
      throw_user("{}: give either seconds or rows, tokens or a mask", file.path);
    if (options.seconds * 1e6 > static_cast<double>(longest_performance))
      throw_user("a prompt of {} seconds; the limit is a day", options.seconds);
    Prompt prompt;
    const auto microseconds = static_cast<int64_t>(options.seconds * 1e6);
    prompt.beginning.ids = first_music(encode(file)[0].ids, microseconds);
    prompt.beginning.units = static_cast<int64_t>(prompt.beginning.ids.size());
    return prompt;
  }

  std::vector<std::string_view> outputs() const override { return {".mid", ".png", ".wav"}; }
  std::string decode(const TokenSequence& sequence, std::string_view ending) const override {
    const DecodedMusic music = decode_music(sequence.ids);
    if (ending == ".mid") return write_midi(music.notes);
    if (ending == ".wav") return render_wav(write_midi(music.notes));
    if (ending == ".png") return write_png(piano_roll(music.notes, music.duration, given_duration(sequence)));
    throw_user("music is written as .mid, as .wav, or as .png (a piano roll), not as {}", ending);
  }

  std::string compare(const SourceFile& file) const override {
    return describe(music_round_trip(read_performance(file), file.path));
  }

 private:
  bool encode_content(const Content& content, TokenSequence& out) const override {
    const auto* notes = std::get_if<Notes>(&content);
    if (notes != nullptr) out = sequence_of(playable(*notes));
    return notes != nullptr;
  }

  /// Microseconds of the prompt at the start of the sequence.
  static int64_t given_duration(const TokenSequence& sequence) {
    const auto given = std::clamp<int64_t>(sequence.given, 0, std::ssize(sequence.ids));
    return decode_music(std::span(sequence.ids).first(static_cast<size_t>(given))).duration;
  }

  static TokenSequence sequence_of(std::span<const Note> notes) {
    TokenSequence sequence;
    sequence.ids = encode_music(notes);
    sequence.units = static_cast<int64_t>(sequence.ids.size());
    return sequence;
  }

  SequenceFormat format_;
  std::string tokenizer_;
  int64_t transpose_;  ///< semitones, up or down
  double stretch_;     ///< fraction of the time, longer or shorter
};

std::unique_ptr<Modality> open_music(const ModalityOptions& options) {
  return std::make_unique<MusicModality>(options);
}

std::unique_ptr<Modality> restore_music(std::string_view tokenizer, const ModalityOptions& options) {
  unpack_tokenizer("music", tokenizer);  // no values, but it must be of this kind
  return open_music(options);
}

}  // namespace

const ModalityKind& music_modality() {
  using Use = ModalityOption::Use;
  static const ModalityKind kind{
      .name = "music",
      .doc =
          "MIDI files (.mid, .midi, .smf, .kar, .rmi), all instruments except percussion as one piano; 388 "
          "events: "
          "note-ons, "
          "note-offs, time shifts of 10 ms to 1 s, velocities in 32 bins; the sustain pedal is folded into "
          "note "
          "lengths",
      .endings = {".mid", ".midi", ".smf", ".kar", ".rmi"},
      .companions = {},
      .max_file_bytes = static_cast<int64_t>(midi_most_bytes),
      .options =
          {
              {"transpose", "0",
               "Transposes each training crop by a random number of semitones, at most this many up or down; "
               "0 to "
               "12, 0 = off.",
               Use::training},
              {"stretch", "0",
               "Stretches the time of each training crop by a random factor from 1 - stretch to 1 + stretch; "
               "0 to "
               "0.5, 0 = off.",
               Use::training},
          },
      .open = open_music,
      .restore = restore_music,
  };
  return kind;
}

}  // namespace perceiver
