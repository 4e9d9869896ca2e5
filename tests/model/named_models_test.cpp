#include "model/named_models.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "model/model_file.h"
#include "perceiver/error.h"
#include "tests/support/temp_folder.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

/// Two folders in PERCEIVER_MODELS, "first" and "second", with empty files.
class NamedModels : public ::testing::Test {
 protected:
  NamedModels() {
    for (const char* name : {"first", "second"}) fs::create_directory(folder_.path(name));
    setenv("PERCEIVER_MODELS", (":" + folder_.path("first") + ":" + folder_.path("second")).c_str(), 1);
  }
  ~NamedModels() override { unsetenv("PERCEIVER_MODELS"); }

  std::string add(const std::string& path) const {
    std::ofstream(folder_.path(path)) << "x";
    return fs::canonical(folder_.path(path)).string();
  }
  std::string path(const std::string& name) const { return folder_.path(name); }

 private:
  TempFolder folder_;
};

TEST_F(NamedModels, AreFoundInTheFoldersOfTheVariableInTheirOrder) {
  const std::string both = add("first/both-of-them.safetensors");
  add("second/both-of-them.safetensors");
  const std::string one = add("second/one-of-them.safetensors");
  add("second/card.md");
  EXPECT_EQ(find_named_model("both-of-them").value().file, both);
  EXPECT_EQ(find_model_file("both-of-them"), both);
  EXPECT_FALSE(find_named_model("card").has_value());
  int found = 0;
  for (const NamedModel& model : named_models())
    if (model.file == both || model.file == one) ++found;
  EXPECT_EQ(found, 2);
}

TEST_F(NamedModels, PathsComeFirstAndAreNoNames) {
  const std::string named = add("first/mine.safetensors");
  const std::string file = add("mine");
  EXPECT_EQ(find_model_file(file), file);
  EXPECT_EQ(path_or_named("mine"), named);
  for (const char* path : {"./mine", "mine.safetensors", "first/mine", "first/mine.safetensors", ""})
    EXPECT_FALSE(find_named_model(path).has_value()) << path;
}

TEST_F(NamedModels, AnUnknownNameIsToldWithThoseThereAre) {
  add("first/mine.safetensors");
  try {
    (void)find_model_file("yours");
    FAIL();
  } catch (const Error& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.kind(), ErrorKind::user);
    EXPECT_EQ(message.find("yours: no such checkpoint; the models that have a name: "), 0U) << message;
    EXPECT_NE(message.find("mine"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace perceiver
