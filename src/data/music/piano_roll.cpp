#include "data/music/piano_roll.h"

#include <algorithm>
#include <array>

namespace perceiver {
namespace {

constexpr int64_t pixels_per_second = 50, widest = 16'384, second = 1'000'000;
constexpr int64_t semitone = 4;  ///< pixels
constexpr int64_t octave = 12;

using Colour = std::array<uint8_t, 3>;
constexpr Colour second_line = {225, 225, 225}, octave_line = {205, 215, 235}, onset_colour = {200, 40, 40},
                 given_line = {0, 150, 60};

class Roll {
 public:
  Roll(std::span<const Note> notes, int64_t duration) {
    for (const Note& note : notes) {
      duration = std::max(duration, note.offset);
      lowest_ = std::min<int64_t>(lowest_, note.pitch);
      highest_ = std::max<int64_t>(highest_, note.pitch);
    }
    duration_ = std::max(duration, second);
    width_ = std::min(widest, duration_ * pixels_per_second / second + 1);
    image_ = Image(width_, (highest_ - lowest_ + 1) * semitone, 3);
    std::fill(image_.pixels.begin(), image_.pixels.end(), uint8_t{255});
  }

  void draw_lines() {
    for (int64_t pitch = lowest_; pitch <= highest_; ++pitch)
      if (pitch % octave == 0) fill(0, width_, bottom(pitch), 1, octave_line);
    if (duration_ / second > width_ / 8) return;  // the lines would merge
    for (int64_t time = 0; time <= duration_; time += second) draw_time(time, second_line);
  }

  void draw_time(int64_t time, const Colour& colour) { fill(column(time), 1, 0, image_.height, colour); }

  void draw(const Note& note, bool given) {
    const int64_t left = column(note.onset), right = std::max(column(note.offset), left + 2);
    const auto shade = static_cast<uint8_t>(190 - 190 * note.velocity / 127);
    const int64_t top = bottom(note.pitch) - semitone + 1;
    const auto tinted = static_cast<uint8_t>(shade / 2 + 60);
    const auto light = static_cast<uint8_t>(shade / 2 + 110);
    fill(left, right - left, top, semitone - 1,
         given ? Colour{shade, light, shade} : Colour{shade, shade, tinted});
    fill(left, 1, top, semitone - 1, given ? given_line : onset_colour);
  }

  Image take() { return std::move(image_); }

 private:
  int64_t column(int64_t time) const {
    return static_cast<int64_t>(static_cast<double>(time) * static_cast<double>(width_ - 1) /
                                static_cast<double>(duration_));
  }
  int64_t bottom(int64_t pitch) const { return (highest_ - pitch + 1) * semitone - 1; }

  /// Clips to the image.
  void fill(int64_t left, int64_t width, int64_t top, int64_t height, const Colour& colour) {
    for (int64_t y = std::max<int64_t>(top, 0); y < std::min(top + height, image_.height); ++y)
      for (int64_t x = std::max<int64_t>(left, 0); x < std::min(left + width, width_); ++x)
        std::copy(colour.begin(), colour.end(), image_.at(x, y));
  }

  int64_t duration_ = 0, width_ = 0;
  int64_t lowest_ = 60 - octave, highest_ = 60 + octave;
  Image image_;
};

}  // namespace

Image piano_roll(std::span<const Note> notes, int64_t duration, int64_t given) {
  Roll roll(notes, duration);
  roll.draw_lines();
  for (const Note& note : notes) roll.draw(note, note.onset < given);
  if (given > 0) roll.draw_time(given, given_line);
  return roll.take();
}

}  // namespace perceiver
