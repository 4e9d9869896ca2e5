// Text on stderr whose last line may be rewritten in place.
#pragma once

#include <mutex>
#include <ostream>
#include <string>
#include <string_view>

namespace perceiver::program {

/// Lines and, below them, at most one line that is rewritten. Any thread may call it.
class Console {
 public:
  Console(std::ostream& out, bool terminal) : out_(out), terminal_(terminal) {}
  ~Console() { settle(); }
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

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
    write(kRewrite + std::string(text), Open::progress);
  }

  /// On a terminal, a line that is replaced by anything that follows; elsewhere nothing.
  void status(std::string_view text) {
    if (!terminal_) return;
    const std::lock_guard lock(mutex_);
    write(kRewrite + std::string(text), Open::status);
  }

  /// Ends the line that is being rewritten: progress stays, a status is erased.
  void settle() {
    const std::lock_guard lock(mutex_);
    if (open_ != Open::nothing) write(ending(), Open::nothing);
  }

 private:
  enum class Open { nothing, progress, status };
  static constexpr const char* kRewrite = "\r\x1b[K";  // back to column 0, and erase the line

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
  Open open_ = Open::nothing;  ///< what the cursor stands behind
  std::mutex mutex_;
};

}  // namespace perceiver::program
