#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "data/image/image_reader.h"
#include "data/image/image_tokens.h"
#include "data/image/png_writer.h"
#include "data/modality.h"
#include "io/atomic_file.h"
#include "perceiver/error.h"
#include "perceiver/experimental/random.h"
#include "tests/support/exif_bytes.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

using Options = std::map<std::string, std::string>;

std::span<const std::byte> bytes(const std::string& file) {
  return std::as_bytes(std::span(file));
}

Image counting_image(int64_t width, int64_t height, int64_t channels) {
  Image image(width, height, channels);
  std::iota(image.pixels.begin(), image.pixels.end(), uint8_t{1});
  return image;
}

std::vector<int32_t> ids_of(const Modality& modality, const Image& image) {
  const std::string file = write_png(image);
  return modality.encode({"test.png", bytes(file)}).at(0).ids;
}

Image decoded(const Modality& modality, const TokenSequence& sequence) {
  const std::string file = modality.decode(sequence, ".png");
  return read_image(bytes(file), "decoded", Background::white);
}

std::string refusal(const Options& options) {
  try {
    open_modality("image", options);
  } catch (const Error& error) {
    return error.what();
  }
  return "opened";
}

TEST(ImageModality, AMirroredPictureHasLeftAndRightSwapped) {
  const Image image = counting_image(5, 3, 3);
  Image swapped(5, 3, 3);
  for (int64_t y = 0; y < 3; ++y)
    for (int64_t x = 0; x < 5; ++x) std::copy_n(image.at(4 - x, y), 3, swapped.at(x, y));
  for (const char* order : {"raster", "r_g_b", "random"})
    for (const char* ids : {"shared", "channel"}) {
      const Options options{{"size", "5x3"}, {"order", order}, {"ids", ids}, {"mirror", "true"}};
      const auto modality = open_modality("image", options);
      const std::vector<int32_t> original = ids_of(*modality, image);
      std::vector<int32_t> mirrored;
      for (const int32_t place : modality->mirror()) mirrored.push_back(original[static_cast<size_t>(place)]);
      EXPECT_EQ(mirrored, ids_of(*modality, swapped)) << order << " " << ids;
    }
}

TEST(ImageModality, MirroringIsForTrainingAlone) {
  const auto plain = open_modality("image", {}), mirrored = open_modality("image", {{"mirror", "true"}});
  EXPECT_TRUE(plain->mirror().empty());
  EXPECT_EQ(plain->tokenizer(), mirrored->tokenizer());
  EXPECT_FALSE(restore_modality("image", plain->tokenizer(), {{"mirror", "true"}})->mirror().empty());
}

TEST(ImageModality, DocumentsAreWholePicturesWithoutAnEnd) {
  const auto modality = open_modality("image", {{"size", "4x2"}});
  const SequenceFormat& format = modality->format();
  EXPECT_EQ(format.vocabulary, 259);
  EXPECT_EQ(format.unit, "dimension");
  EXPECT_EQ(format.positions, PositionKind::shared);
  EXPECT_THAT(format.position_sizes, ElementsAre(6, 4, 5));
  EXPECT_EQ(format.fixed_length, 24);
  EXPECT_EQ(format.shared_positions.size(), 25u * 3);
  EXPECT_FALSE(format.ends);
  const Image image = counting_image(4, 2, 3);
  TokenSequence sequence;
  sequence.ids = ids_of(*modality, image);
  EXPECT_EQ(sequence.ids.at(0), 4);
  EXPECT_EQ(decoded(*modality, sequence), image);
}

TEST(ImageModality, GreyAndOwnIdsAndOrders) {
  for (const char* colour : {"rgb", "grey"})
    for (const char* order : {"raster", "r_g_b", "random"})
      for (const char* ids : {"shared", "channel"}) {
        const auto modality = open_modality(
            "image",
            {{"size", "5"}, {"colour", colour}, {"order", order}, {"ids", ids}, {"order_seed", "4"}});
        const Image image = counting_image(5, 5, std::string(colour) == "rgb" ? 3 : 1);
        TokenSequence sequence;
        sequence.ids = ids_of(*modality, image);
        EXPECT_EQ(decoded(*modality, sequence), image);
        const auto again = restore_modality("image", modality->tokenizer());
        EXPECT_EQ(again->format().shared_positions, modality->format().shared_positions);
        EXPECT_EQ(again->format().vocabulary, modality->format().vocabulary);
        EXPECT_EQ(again->format().mask, modality->format().mask);
        EXPECT_EQ(again->tokenizer(), modality->tokenizer());
        EXPECT_EQ(ids_of(*again, image), sequence.ids);
      }
}

TEST(ImageModality, AUsersOrderGoesWithTheTokenizer) {
  const TempFolder folder;
  const std::string path = folder.write("order.txt", "3 1 0 2");
  const auto modality =
      open_modality("image", {{"size", "2"}, {"colour", "grey"}, {"order", "user"}, {"order_file", path}});
  EXPECT_THAT(ids_of(*modality, counting_image(2, 2, 1)), ElementsAre(7, 5, 4, 6));
  std::filesystem::remove(path);
  const auto again = restore_modality("image", modality->tokenizer());
  EXPECT_THAT(ids_of(*again, counting_image(2, 2, 1)), ElementsAre(7, 5, 4, 6));
  EXPECT_EQ(again->tokenizer(), modality->tokenizer());
}

TEST(ImageModality, RefusesWrongOptions) {
  EXPECT_THAT(refusal({{"size", "0"}}), HasSubstr("data.options.size"));
  EXPECT_THAT(refusal({{"size", "513"}}), HasSubstr("data.options.size"));
  EXPECT_THAT(refusal({{"size", "64x"}}), HasSubstr("'64x' is neither"));
  EXPECT_THAT(refusal({{"order", "user"}}), HasSubstr("order_file"));
  EXPECT_THAT(refusal({{"order_file", "x"}}), HasSubstr("order_file"));
  EXPECT_THAT(refusal({{"tile", "5"}}), HasSubstr("data.options.tile"));
  EXPECT_THAT(refusal({{"colour", "red"}}), HasSubstr("rgb, grey"));
  EXPECT_THROW(restore_modality("image", "image\n{\"size\": \"2\", \"order\": \"user\"}"), Error);
  EXPECT_THROW(restore_modality("image", "image\n{\"size\": \"-2\"}"), Error);
}

TEST(ImageModality, FilesAreCroppedAndShrunk) {
  const auto modality = open_modality("image", {{"size", "1"}, {"colour", "grey"}});
  Image image(4, 2, 1);
  image.pixels = {0, 10, 20, 0, 0, 30, 40, 0};
  EXPECT_THAT(ids_of(*modality, image), ElementsAre(3 + 25));
}

TEST(ImageModality, TilesAreDocumentsOfTheirOwn) {
  const auto modality = open_modality("image", {{"size", "1"}, {"colour", "grey"}, {"tile", "16"}});
  Image image(40, 33, 1);  // two by two tiles and a rest
  for (int64_t y = 0; y < 32; ++y)
    for (int64_t x = 0; x < 32; ++x) *image.at(x, y) = static_cast<uint8_t>(10 * (x / 16) + 100 * (y / 16));
  const std::string file = write_png(image);
  const std::vector<TokenSequence> tiles = modality->encode({"test.png", bytes(file)});
  ASSERT_EQ(tiles.size(), 4u);
  for (size_t i = 0; i < 4; ++i)
    EXPECT_THAT(tiles[i].ids, ElementsAre(3 + 10 * static_cast<int>(i % 2) + 100 * static_cast<int>(i / 2)));
  const std::string small = write_png(Image(15, 99, 1));
  EXPECT_THROW(modality->encode({"test.png", bytes(small)}), Error);
}

TEST(ImageModality, TooManyTilesAreRefused) {
  const auto modality = open_modality("image", {{"size", "512"}, {"tile", "16"}});
  const std::string file = write_png(Image(320, 320, 1));  // 400 tiles of 786432 tokens
  EXPECT_THROW(modality->encode({"test.png", bytes(file)}), Error);
}

TEST(ImageModality, TheFirstRowsAreAPromptInAnyOrder) {
  const Image image = counting_image(4, 4, 3);
  const std::string file = write_png(image);
  for (const char* order : {"raster", "r_g_b", "random"}) {
    const auto modality = open_modality("image", {{"size", "4"}, {"order", order}, {"ids", "channel"}});
    PromptPart options;
    options.rows = 2;
    const Prompt prompt = modality->prompt({"test.png", bytes(file)}, options);
    EXPECT_EQ(prompt.length, 48);
    EXPECT_EQ(prompt.beginning.ids.size(), 24u);
    EXPECT_EQ(prompt.positions.empty(), std::string(order) == "raster");
    EXPECT_EQ(prompt.mask.empty(), std::string(order) == "raster");
    TokenSequence sequence = prompt.beginning;
    sequence.positions = prompt.positions;
    const Image part = decoded(*modality, sequence);
    for (int64_t y = 0; y < 4; ++y)
      for (int64_t x = 0; x < 4; ++x)
        for (int64_t c = 0; c < 3; ++c) EXPECT_EQ(part.at(x, y)[c], y < 2 ? image.at(x, y)[c] : 128);
  }
}

TEST(ImageModality, AMaskTellsWhatIsKnown) {
  const TempFolder folder;
  const Image image = counting_image(4, 4, 3);
  const std::string file = write_png(image);
  Image mask(4, 4, 1);
  for (const int64_t x : {0, 3}) std::fill_n(mask.at(x, 1), 1, uint8_t{255});
  PromptPart options;
  options.known = folder.write("known.png", write_png(mask));
  const auto modality = open_modality("image", {{"size", "4"}});
  const Prompt prompt = modality->prompt({"test.png", bytes(file)}, options);
  EXPECT_EQ(prompt.beginning.ids.size(), 6u);
  ASSERT_EQ(prompt.positions.size(), 49u * 3);
  TokenSequence sequence = prompt.beginning;
  sequence.positions.assign(prompt.positions.begin() + 3, prompt.positions.begin() + 3 + 18);
  const Image part = decoded(*modality, sequence);
  for (int64_t y = 0; y < 4; ++y)
    for (int64_t x = 0; x < 4; ++x)
      EXPECT_EQ(part.at(x, y)[1], y == 1 && (x == 0 || x == 3) ? image.at(x, y)[1] : 128);
}

TEST(ImageModality, APromptOfSomeTokensAndImpossibleOnes) {
  const auto modality = open_modality("image", {{"size", "4"}});
  const std::string file = write_png(counting_image(4, 4, 3));
  PromptPart options;
  options.tokens = 5;
  EXPECT_EQ(modality->prompt({"test.png", bytes(file)}, options).beginning.ids.size(), 5u);
  options.rows = 5;
  EXPECT_THROW(modality->prompt({"test.png", bytes(file)}, options), Error);
  options = {};
  options.seconds = 1;
  EXPECT_THROW(modality->prompt({"test.png", bytes(file)}, options), Error);
}

TEST(ImageModality, SeveralPicturesMakeAGrid) {
  const auto modality = open_modality("image", {{"size", "4"}});
  TokenSequence sequence;
  sequence.ids = ids_of(*modality, counting_image(4, 4, 3));
  const std::string file = modality->decode_together(std::vector<TokenSequence>(3, sequence), ".png");
  const Image grid = read_image(bytes(file), "grid", Background::white);
  EXPECT_EQ(grid.width, 2 * 64 + 2);  // each pixel became 16 x 16
  EXPECT_EQ(grid.height, 2 * 64 + 2);
  EXPECT_THAT(std::vector<uint8_t>(grid.at(15, 15), grid.at(17, 15)), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THROW(modality->decode(sequence, ".jpg"), Error);
}

TEST(ImageModality, TellsWhatItMakesOfAFile) {
  const auto modality = open_modality("image", {{"size", "4"}});
  const std::string file = write_png(counting_image(9, 6, 1));
  const std::string report = modality->compare({"test.png", bytes(file)});
  EXPECT_THAT(report, HasSubstr("9 x 6, grey"));
  EXPECT_THAT(report, HasSubstr("6 x 6, grey"));
  EXPECT_THAT(report, HasSubstr("4 x 4, RGB"));
  EXPECT_THAT(report, HasSubstr("the same bytes"));
}

/// Turning, cropping and resizing row by row is the same as one after the other with the whole picture.
TEST(ImageModality, PicturesAreTurnedBeforeTheyAreCropped) {
  RandomStream random(5, RandomPurpose::batch);
  for (const auto& [width, height] : {std::pair{23, 10}, {8, 31}, {3, 2}, {16, 16}}) {
    Image stored(width, height, 3);
    for (uint8_t& value : stored.pixels) value = static_cast<uint8_t>(random.next());
    const std::string plain = write_png(stored);
    for (uint32_t value = 1; value <= 8; ++value) {
      const std::string file =
          testing::with_png_chunk(plain, testing::png_chunk("eXIf", testing::exif_bytes(value)));
      const std::string turned = write_png(upright(stored, static_cast<Orientation>(value)));
      for (const char* size : {"7x4", "4x7", "5"}) {
        const auto modality = open_modality("image", {{"size", size}});
        EXPECT_EQ(modality->encode({"a.png", bytes(file)}).at(0).ids,
                  modality->encode({"a.png", bytes(turned)}).at(0).ids);
        const auto stored_only = open_modality("image", {{"size", size}, {"orientation", "ignore"}});
        EXPECT_EQ(stored_only->encode({"a.png", bytes(file)}).at(0).ids,
                  stored_only->encode({"a.png", bytes(plain)}).at(0).ids);
      }
    }
  }
}

TEST(ImageModality, TilesAreCutFromTheTurnedPicture) {
  const Image stored = counting_image(40, 20, 3);
  const auto modality = open_modality("image", {{"size", "3"}, {"tile", "16"}});
  const auto ids = [&](const std::string& file) {
    std::vector<std::vector<int32_t>> all;
    for (const TokenSequence& tile : modality->encode({"a.png", bytes(file)})) all.push_back(tile.ids);
    return all;
  };
  for (uint32_t value = 1; value <= 8; ++value) {
    const std::string file =
        testing::with_png_chunk(write_png(stored), testing::png_chunk("eXIf", testing::exif_bytes(value)));
    EXPECT_EQ(ids(file), ids(write_png(upright(stored, static_cast<Orientation>(value))))) << value;
  }
}

/// Tokens mean the same however pictures were turned: data and models from before the option go with newer
/// ones.
TEST(ImageModality, TheTokenizerNamesTheOrientationOnlyIfItIsIgnored) {
  EXPECT_THAT(open_modality("image", {})->tokenizer(), Not(HasSubstr("orientation")));
  const std::string tokenizer = open_modality("image", {{"orientation", "ignore"}})->tokenizer();
  EXPECT_THAT(tokenizer, HasSubstr("\"orientation\":\"ignore\""));
  EXPECT_EQ(restore_modality("image", tokenizer)->tokenizer(), tokenizer);
  EXPECT_THAT(message_of([&] {
                restore_modality("image", tokenizer, {{"orientation", "exif"}});
              }),
              HasSubstr("orientation is 'exif', but the data was built with 'ignore'"));
  EXPECT_THAT(
      message_of([&] {
        restore_modality("image", open_modality("image", {})->tokenizer(), {{"orientation", "ignore"}});
      }),
      HasSubstr("orientation is 'ignore', but the data was built with 'exif'"));
  EXPECT_THAT(refusal({{"orientation", "left"}}),
              HasSubstr("orientation: 'left' is not one of exif, ignore"));
}

}  // namespace
}  // namespace perceiver
