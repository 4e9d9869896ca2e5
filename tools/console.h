// Text on stderr whose last line may be rewritten in place.
#pragma once

#include <functional>
#include <mutex>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tools/terminal_line.h"

namespace perceiver::program {

/// Lines and, below them, at most one line that is rewritten, which is cut to the terminal's width: only a
/// line that does not wrap can be erased. Any thread may call it.
class Console {
 public:
  /// `columns` tells how many there are, whenever a line is rewritten; 0, or none given: no limit.
  Console(std::ostream& out, bool terminal, std::function<size_t()> columns = {})
      : out_(out), terminal_(terminal), columns_(std::move(columns)) {}
  ~Console() { settle(); }
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  /// A line whose fields are left out, those of the highest rank first, until it fits. As progress below.
  void progress(const std::vector<LineField>& fields) { progress(fit_fields(fields, room())); }

  bool is_terminal() const { return terminal_; }

  /// A line of its own.
  void line(std::string_view text) {
    const std::lock_guard lock(mutex_);
    write(ending() + std::string(text) + '\n', Open::nothing);
  }

  /// On a terminal, a line that the next progress replaces and anything else leaves standing; elsewhere a
  /// line of its own.
  void progress(std::string_view text) {
    if (!terminal_) return line(text);
    const std::lock_guard lock(mutex_);
    write(kRewrite + cut_to_columns(text, room()), Open::progress);
  }

  /// On a terminal, a line that is replaced by anything that follows; elsewhere nothing.
  void status(std::string_view text) {
    if (!terminal_) return;
    const std::lock_guard lock(mutex_);
    write(kRewrite + cut_to_columns(text, room()), Open::status);
  }

  /// Ends the line that is being rewritten: progress stays, a status is erased.
  void settle() {
    const std::lock_guard lock(mutex_);
    if (open_ != Open::nothing) write(ending(), Open::nothing);
  }

 private:
  enum class Open { nothing, progress, status };
  static constexpr const char* kRewrite = "\r\x1b[K";  // back to column 0, and erase the line

  /// One column less than there are: some terminals wrap as soon as the last one is filled.
  size_t room() const {
    const size_t columns = terminal_ && columns_ ? columns_() : 0;
    return columns > 0 ? columns - 1 : kNoLimit;
  }

  std::string ending() const {
    if (open_ == Open::progress) return "\n";
    return open_ == Open::status ? kRewrite : "";
  }

  void write(const std::string& text, Open open) {
    out_ << text << std::flush;
    open_ = open;
  }

  std::ostream& out_;
  const bool terminal_;
  const std::function<size_t()> columns_;
  Open open_ = Open::nothing;  ///< what the cursor stands behind
  std::mutex mutex_;
};

}  // namespace perceiver::program
