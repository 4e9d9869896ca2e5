#include "io/json_document.h"

#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "config/schema.h"
#include "perceiver/error.h"

namespace perceiver {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string document_error(const std::string& text) {
  try {
    parse_json_document(text, "x.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::user);
    return error.what();
  }
  return "no error";
}

TEST(JsonDocument, DeepNestingIsRefused) {
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(parse_json_document(nested(json_max_depth), "x.json").is_array());
  for (const std::string& text : {nested(json_max_depth + 2), nested(200'000), std::string(200'000, '[')})
    EXPECT_THAT(document_error(text), HasSubstr("x.json: nested more than 32 levels deep"));
  EXPECT_THAT(document_error("{\"a\": 1"), StartsWith("x.json: not valid JSON"));
  EXPECT_EQ(document_error("{\"a\x7f").find('\x7f'), std::string::npos);
  EXPECT_THAT(document_error(""), StartsWith("x.json: not valid JSON"));
}

}  // namespace
}  // namespace perceiver
