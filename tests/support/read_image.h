// Reading pictures in tests, and the message of one that is refused.
#pragma once

#include <gtest/gtest.h>

#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "data/image/fit.h"
#include "data/image/image_reader.h"
#include "perceiver/error.h"

namespace perceiver::testing {

inline Image read_test_image(const std::string& file, Background background = Background::white,
                             const ImageLimits& limits = {}) {
  return read_image(std::as_bytes(std::span(file)), "test.png", background, limits);
}

inline std::string image_refusal(const std::string& file, const ImageLimits& limits = {}) {
  try {
    read_test_image(file, Background::white, limits);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::user);
    return error.what();
  }
  return "read without an error";
}

/// What was repaired in a file; its message if it is refused.
inline std::vector<std::string> image_repairs(const std::string& file, bool exif = true) {
  std::vector<std::string> repairs;
  StoredImage image;
  try {
    scan_image({.path = "test.png", .bytes = std::as_bytes(std::span(file)), .repairs = &repairs},
               {.exif = exif}, image);
  } catch (const Error& error) {
    return {error.what()};
  }
  return repairs;
}

/// The message of a file that is read strictly.
inline std::string strict_image_refusal(const std::string& file) {
  StoredImage image;
  try {
    scan_image({.path = "test.png", .bytes = std::as_bytes(std::span(file)), .strict = true}, {}, image);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::user);
    return error.what();
  }
  return "read without an error";
}

inline std::vector<uint8_t> counting_samples(size_t count) {
  std::vector<uint8_t> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<uint8_t>(37 * i + 11);
  return values;
}

}  // namespace perceiver::testing
