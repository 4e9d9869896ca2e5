#include "tools/next_steps.h"

#include <gmock/gmock.h>

namespace perceiver::program {
namespace {

using testing::ElementsAre;

TEST(NextSteps, QuotesOnlyWhatAShellWouldChange) {
  EXPECT_EQ(shell_quote("runs/a-b_c.1"), "runs/a-b_c.1");
  EXPECT_EQ(shell_quote("my run"), "'my run'");
  EXPECT_EQ(shell_quote("it's"), "'it'\\''s'");
  EXPECT_EQ(shell_quote("$HOME"), "'$HOME'");
  EXPECT_EQ(shell_quote("~/a"), "'~/a'");
  EXPECT_EQ(shell_quote(""), "''");
}

TEST(NextSteps, SuitTheModality) {
  EXPECT_THAT(commands_for_model("perceiver", "my run", "text", true),
              ElementsAre("perceiver sample --checkpoint 'my run' --prompt 'Once upon a time' --tokens 500",
                          "perceiver eval --checkpoint 'my run' --split validation"));
  EXPECT_THAT(commands_for_model("build/perceiver", "runs/x", "image", false),
              ElementsAre("build/perceiver sample --checkpoint runs/x --count 16 --out samples.png"));
  EXPECT_THAT(commands_for_model("perceiver", "runs/x", "copy", true),
              ElementsAre("perceiver eval --checkpoint runs/x --split validation"));
}

TEST(NextSteps, ARunIsResumedAsItWasStarted) {
  EXPECT_EQ(resume_command({"perceiver", "train", "a.yaml", "--set", "data.train=my book.txt"}),
            "perceiver train a.yaml --set 'data.train=my book.txt' --resume");
  EXPECT_EQ(resume_command({"perceiver", "train", "a.yaml", "--resume"}), "perceiver train a.yaml --resume");
}

}  // namespace
}  // namespace perceiver::program
