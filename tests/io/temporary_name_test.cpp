#include "io/temporary_name.h"

#include <gtest/gtest.h>

#include "io/atomic_file.h"
#include "io/atomic_folder.h"
#include "io/checksum.h"
#include "perceiver/error.h"
#include "perceiver/experimental/random.h"
#include "tests/support/files_test.h"

namespace perceiver {
namespace {

TEST(TemporaryName, ReadsBackWhatItMade) {
  for (const int attempt : {0, 7}) {
    const auto name =
        parse_temporary_name(temporary_path("x/best.v2", TemporaryKind::unfinished, attempt).filename());
    ASSERT_TRUE(name);
    EXPECT_EQ(name->final_name, "best.v2");
    EXPECT_EQ(name->kind, TemporaryKind::unfinished);
  }
  for (const char* other :
       {"best", ".tmp-1", "best.tmp-", "best.tmp-1a", "best.tmp-1-", "best.tmp--1", "best-tmp-1"})
    EXPECT_FALSE(parse_temporary_name(other)) << other;
}

}  // namespace
}  // namespace perceiver
