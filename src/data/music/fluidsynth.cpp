#include "data/music/fluidsynth.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/check.h"
#include "io/atomic_file.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t longest_wav = uint64_t{4} << 30;

/// A private temporary folder, removed with its content.
class WorkFolder {
 public:
  WorkFolder() {
    std::string pattern = (fs::temp_directory_path() / "perceiver_XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr)
      throw_failure("cannot make a folder in {}: {}", fs::temp_directory_path().string(),
                    std::strerror(errno));
    path_ = pattern;
  }
  ~WorkFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;

  std::string file(const char* name) const { return (path_ / name).string(); }

 private:
  fs::path path_;
};

std::string find_sound_font() {
  if (const char* named = std::getenv("SOUNDFONT"); named != nullptr && *named != '\0') {
    if (!fs::exists(named)) throw_user("SOUNDFONT names {}, which does not exist", named);
    return named;
  }
  for (const char* path : {"/usr/share/sounds/sf2/FluidR3_GM.sf2", "/usr/share/sounds/sf2/default-GM.sf2",
                           "/usr/share/sounds/sf2/TimGM6mb.sf2", "/usr/share/sounds/sf3/default-GM.sf3",
                           "/usr/share/soundfonts/default.sf2"})
    if (fs::exists(path)) return path;
  throw_user("WAV needs a sound font: install the package fluid-soundfont-gm, or set SOUNDFONT to one");
}

/// Runs a program from PATH without input or output; returns its exit status.
int run_silently(const std::vector<std::string>& words) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  pid_t child = 0;
  const int error = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error == ENOENT)
    throw_user("WAV needs the program {0}: install the package {0}, or write .mid instead", words[0]);
  if (error != 0) throw_failure("cannot run {}: {}", words[0], std::strerror(error));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0)
    if (errno != EINTR) throw_failure("cannot wait for {}: {}", words[0], std::strerror(errno));
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

std::string render_wav(std::string_view midi) {
  const std::string font = find_sound_font();
  const WorkFolder folder;
  const std::string in = folder.file("in.mid"), out = folder.file("out.wav");
  write_file_atomically(in, midi);
  const int status = run_silently({"fluidsynth", "-ni", "-g", "0.8", "-r", "44100", "-F", out, font, in});
  if (status != 0 || !fs::exists(out)) throw_failure("fluidsynth failed (status {})", status);
  return read_file(out, longest_wav);
}

}  // namespace perceiver
