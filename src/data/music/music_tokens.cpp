#include "data/music/music_tokens.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <tuple>

#include "base/check.h"

namespace perceiver {
namespace {

constexpr int32_t first_velocity_bin = 15;

bool is_note(int32_t id) {
  return id >= music_note_on && id < music_shift;
}

void put_pause(int64_t steps, std::vector<int32_t>& ids) {
  for (; steps > 0; steps -= music_longest_shift)
    ids.push_back(music_shift - 1 + static_cast<int32_t>(std::min<int64_t>(steps, music_longest_shift)));
}

/// A note's time in steps.
struct Placed {
  int64_t first;
  int64_t last;
  int32_t pitch;
  int32_t bin;
};

std::vector<Placed> place(std::span<const Note> notes) {
  std::vector<Placed> placed;
  placed.reserve(notes.size());
  for (const Note& note : notes) {
    PERCEIVER_ASSERT(note.pitch >= 0 && note.pitch < 128 && note.velocity >= 1 && note.velocity < 128);
    PERCEIVER_ASSERT(note.onset >= 0 && note.offset >= note.onset);
    placed.push_back(
        {music_step_at(note.onset), music_step_at(note.offset), note.pitch, velocity_bin(note.velocity)});
  }
  // Stable: several notes of one pitch at one step stay in order of time.
  std::stable_sort(placed.begin(), placed.end(), [](const Placed& a, const Placed& b) {
    return std::tie(a.first, a.pitch) < std::tie(b.first, b.pitch);
  });
  return placed;
}

/// The notes of nonzero length, by their end.
std::vector<Placed> by_end(const std::vector<Placed>& notes) {
  std::vector<Placed> ends;
  std::copy_if(notes.begin(), notes.end(), std::back_inserter(ends),
               [](const Placed& note) { return note.last > note.first; });
  std::sort(ends.begin(), ends.end(), [](const Placed& a, const Placed& b) {
    return std::tie(a.last, a.pitch) < std::tie(b.last, b.pitch);
  });
  return ends;
}

/// The state of decoding: which notes sound, the velocity and the time.
class Player {
 public:
  void play(int32_t id) {
    steps_ += music_steps(id);
    if (id >= music_note_on && id < music_note_off) strike(id - music_note_on);
    if (id >= music_note_off && id < music_shift) release(id - music_note_off);
    if (id >= music_velocity && id < music_vocabulary) velocity_ = bin_velocity(id - music_velocity);
  }

  DecodedMusic finish() {
    for (int32_t pitch = 0; pitch < 128; ++pitch)
      if (end(pitch)) ++music_.unended;
    music_.duration = steps_ * music_step;
    // Stable: for one pitch, ends in order of time are also starts in order of time.
    std::stable_sort(music_.notes.begin(), music_.notes.end(), [](const Note& a, const Note& b) {
      return std::tie(a.onset, a.pitch) < std::tie(b.onset, b.pitch);
    });
    return std::move(music_);
  }

 private:
  struct Sounding {
    bool on = false;
    Note note;
  };

  void strike(int32_t pitch) {
    if (end(pitch)) ++music_.restruck;
    sounding_[pitch] = {true, {steps_ * music_step, 0, pitch, velocity_}};
  }

  void release(int32_t pitch) {
    if (!end(pitch)) ++music_.stray_ends;
  }

  /// False if the pitch does not sound.
  bool end(int32_t pitch) {
    Sounding& key = sounding_[pitch];
    if (!key.on) return false;
    key.on = false;
    key.note.offset = steps_ * music_step;
    music_.notes.push_back(key.note);
    return true;
  }

  DecodedMusic music_;
  std::array<Sounding, 128> sounding_;
  int64_t steps_ = 0;
  int32_t velocity_ = bin_velocity(first_velocity_bin);
};

}  // namespace

std::vector<int32_t> encode_music(std::span<const Note> notes) {
  const std::vector<Placed> begins = place(notes), ends = by_end(begins);
  std::vector<int32_t> ids;
  int64_t now = 0;
  int32_t bin = -1;
  size_t next_begin = 0, next_end = 0;
  const auto wait_until = [&](int64_t step) {
    put_pause(step - now, ids);
    now = step;
  };
  while (next_begin < begins.size() || next_end < ends.size()) {
    const bool ending = next_end < ends.size() &&
                        (next_begin == begins.size() || ends[next_end].last <= begins[next_begin].first);
    if (ending) {
      wait_until(ends[next_end].last);
      ids.push_back(music_note_off + ends[next_end++].pitch);
      continue;
    }
    const Placed& note = begins[next_begin++];
    wait_until(note.first);
    if (note.bin != bin) ids.push_back(music_velocity + (bin = note.bin));
    ids.push_back(music_note_on + note.pitch);
    if (note.last == note.first) ids.push_back(music_note_off + note.pitch);
  }
  return ids;
}

DecodedMusic decode_music(std::span<const int32_t> ids) {
  Player player;
  for (const int32_t id : ids) player.play(id);
  return player.finish();
}

std::vector<int32_t> first_music(std::span<const int32_t> ids, int64_t microseconds) {
  int64_t left = music_step_at(microseconds);
  std::vector<int32_t> first;
  for (const int32_t id : ids) {
    const int64_t steps = music_steps(id);
    if (steps > 0 && steps >= left) {
      put_pause(left, first);
      return first;
    }
    left -= steps;
    first.push_back(id);
  }
  return first;
}

std::vector<int32_t> transpose_music(std::span<const int32_t> ids, int64_t semitones) {
  int64_t lowest = 127, highest = 0;
  for (const int32_t id : ids) {
    if (!is_note(id)) continue;
    const int64_t pitch = (id - music_note_on) % 128;
    lowest = std::min(lowest, pitch), highest = std::max(highest, pitch);
  }
  std::vector<int32_t> moved(ids.begin(), ids.end());
  if (lowest > highest) return moved;
  const auto by = static_cast<int32_t>(std::clamp(semitones, -lowest, 127 - highest));
  for (int32_t& id : moved)
    if (is_note(id)) id += by;
  return moved;
}

std::vector<int32_t> stretch_music(std::span<const int32_t> ids, double factor) {
  PERCEIVER_ASSERT(factor >= 0.25 && factor <= 4);
  std::vector<int32_t> stretched;
  stretched.reserve(ids.size());
  int64_t from = 0, to = 0;
  for (const int32_t id : ids) {
    const int64_t steps = music_steps(id);
    if (steps > 0) {
      from += steps;
      continue;  // the whole pause is written before the next event
    }
    const int64_t time = std::llround(static_cast<double>(from) * factor);
    put_pause(time - to, stretched);
    to = time;
    stretched.push_back(id);
  }
  put_pause(std::llround(static_cast<double>(from) * factor) - to, stretched);
  return stretched;
}

}  // namespace perceiver
