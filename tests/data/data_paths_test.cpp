#include "data/data_paths.h"

#include <gmock/gmock.h>

#include <filesystem>

namespace perceiver {
namespace {

using testing::ElementsAre;
using testing::Pair;
using testing::UnorderedElementsAre;

TEST(DataPaths, RelativePathsBecomeAbsolute) {
  const std::string here = std::filesystem::current_path().string() + "/";
  DataConfig config;
  config.train = {"books", "/abs/book.txt"};
  config.validation = {"../held"};
  config.options = {{"tokenizer", "pieces.model"}, {"encoding", "utf-8"}};
  absolute_paths(config);
  EXPECT_THAT(config.train, ElementsAre(here + "books", "/abs/book.txt"));
  EXPECT_THAT(config.validation,
              ElementsAre(std::filesystem::path(here + "../held").lexically_normal().string()));
  EXPECT_THAT(config.options,
              UnorderedElementsAre(Pair("tokenizer", here + "pieces.model"), Pair("encoding", "utf-8")));
  const DataConfig before = config;
  absolute_paths(config);
  EXPECT_EQ(config.train, before.train);
  EXPECT_EQ(config.options, before.options);
}

TEST(DataPaths, OptionsThatNameNoFileStay) {
  DataConfig config;
  config.options = {{"tokenizer", "bytes"}};
  absolute_paths(config);
  EXPECT_EQ(config.options.at("tokenizer"), "bytes");
  config.type = "image";
  config.options = {{"order_file", "order.txt"}, {"size", "32"}};
  absolute_paths(config);
  EXPECT_EQ(config.options.at("order_file"), std::filesystem::current_path().string() + "/order.txt");
  EXPECT_EQ(config.options.at("size"), "32");
  config.type = "copy";
  EXPECT_NO_THROW(absolute_paths(config));
}

}  // namespace
}  // namespace perceiver
