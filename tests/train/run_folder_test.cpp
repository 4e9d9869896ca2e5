// Run folders that are moved or removed while a run is in them.
#include "train/run_folder.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/file.h>

#include <functional>
#include <thread>

#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(RunFolder, FollowsAMove) {
  const TempFolder folder;
  RunFolder run(folder.path("a"));
  run.check_place();
  EXPECT_FALSE(run.moved());
  fs::rename(folder.path("a"), folder.path("b"));
  run.check_place();
  EXPECT_TRUE(run.moved());
  EXPECT_EQ(run.moved_from(), folder.path("a"));
  EXPECT_EQ(run.metrics(), folder.path("b/metrics.jsonl"));
  EXPECT_EQ(run.checkpoints().path(1).parent_path(), folder.path("b/checkpoints"));
}

TEST(RunFolder, AnotherFolderOfItsNameIsNotIt) {
  const TempFolder folder;
  RunFolder run(folder.path("a"));
  fs::remove_all(folder.path("a"));
  fs::create_directory(folder.path("a"));
  EXPECT_THAT(error_of(ErrorKind::failure, [&] { run.check_place(); }), HasSubstr("was removed"));
}

TEST(RunFolder, WhoLooksAtItForAMomentDoesNotStopIt) {
  const TempFolder folder;
  FileDescriptor looking(::open(folder.path().c_str(), O_RDONLY | O_DIRECTORY));
  ASSERT_EQ(::flock(looking.get(), LOCK_SH | LOCK_NB), 0);
  std::thread away([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    looking = FileDescriptor();
  });
  const RunFolder run(folder.path());
  away.join();
  EXPECT_THAT(error_of(ErrorKind::user, [&] { RunFolder second(folder.path()); }), HasSubstr("another run"));
}

/// Does something to the folder at step 3.
struct Mover : Recorder {
  explicit Mover(std::function<void()> move) : act(std::move(move)) {}
  void on_log(const LogEntry& entry) override {
    Recorder::on_log(entry);
    if (entry.step == 3) act();
  }
  std::function<void()> act;
};

TEST(RunFolder, ARunThatIsMovedSavesInItsNewPlaceAndEnds) {
  const TempFolder folder;
  const std::string old = folder.path("old"), moved = folder.path("moved");
  Mover mover([&] { fs::rename(old, moved); });
  const std::string message =
      error_of(ErrorKind::failure, [&] { train(tiny_config(6), old, false, &mover); });
  EXPECT_THAT(message, HasSubstr(old + ": the run folder was moved to " + moved));
  EXPECT_THAT(message, HasSubstr("at step 3"));
  EXPECT_FALSE(fs::exists(old));
  EXPECT_EQ(verify_checkpoint(checkpoint_path(moved, 3)).step, 3);

  train(tiny_config(6), folder.path("whole"));
  train(tiny_config(6), moved, true);
  EXPECT_EQ(checkpoint_bytes(moved, 6), checkpoint_bytes(folder.path("whole"), 6));
  EXPECT_EQ(timeless_metrics(moved), timeless_metrics(folder.path("whole")));
}

TEST(RunFolder, ARunWhoseFolderIsRemovedEnds) {
  const TempFolder folder;
  const std::string run = folder.path("run");
  Mover mover([&] { fs::remove_all(run); });
  EXPECT_THAT(error_of(ErrorKind::failure, [&] { train(tiny_config(1000), run, false, &mover); }),
              HasSubstr(run + ": the run folder was removed during training"));
  EXPECT_EQ(mover.logs.size(), 3u);
  EXPECT_FALSE(fs::exists(run));
}

TEST(RunFolder, ARemovedOneIsNotMadeAgainByACheckpoint) {
  const TempFolder folder;
  const std::string run = folder.path("run");
  Config config = tiny_config(1000);
  config.train.log_every = 1000;
  config.checkpoint.every = 2;
  struct Remover : Recorder {
    void on_checkpoint(int64_t, const fs::path& path) override {
      fs::remove_all(path.parent_path().parent_path());
    }
  } remover;
  EXPECT_THAT(error_of(ErrorKind::failure, [&] { train(config, run, false, &remover); }),
              HasSubstr("was removed"));
  EXPECT_FALSE(fs::exists(run));
}

}  // namespace
}  // namespace perceiver
