// The authors' files: their configuration is not trusted, and fixed tables may hold other values.
#include <gmock/gmock.h>

#include "port/import.h"
#include "tests/support/temp_folder.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::HasSubstr;

TEST(ImportOfficial, ConfigurationIsReadWithinTheLimit) {
  const TempFolder folder;
  SafetensorsWriter writer;
  const float zero = 0;
  writer.add("param/perceiver_ar/~/embed/embeddings", "F32", {1, 1}, std::as_bytes(std::span(&zero, 1)));
  writer.set_metadata("config", "{\"vocab_size\": " + std::string(200'000, '['));
  writer.write_atomically(folder.path("theirs.safetensors"));
  EXPECT_THAT(message_of([&] {
                import_model(folder.path("theirs.safetensors"), {}, DeviceContext::cpu(1), DType::f32);
              }),
              HasSubstr("nested more than"));
}

}  // namespace
}  // namespace perceiver
