#include "distributed/together.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "distributed/shared_error.h"
#include "tests/support/thread_world.h"

namespace perceiver {
namespace {

/// What `together` throws on this rank: "user …", "failure …", "cancelled", or nothing.
std::string ending(World* world, const std::function<void()>& work) {
  try {
    together(world, "a test", work);
  } catch (const Error& error) {
    return (error.kind() == ErrorKind::user ? "user " : "failure ") + std::string(error.what());
  } catch (const Cancelled&) {
    return "cancelled";
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

TEST(Together, ReturnsWhereAllReturn) {
  EXPECT_EQ(ending(nullptr, [] {}), "");
  run_ranks(3, [](World& world) { EXPECT_EQ(ending(&world, [] {}), ""); });
}

TEST(Together, AnErrorOfOneRankReachesAll) {
  run_ranks(3, [](World& world) {
    const std::string message = ending(&world, [&] {
      if (world.rank() == 2) throw_user("no such file");
    });
    EXPECT_EQ(message, "user rank 2: no such file");
  });
  EXPECT_EQ(ending(nullptr, [] { throw_failure("alone"); }), "failure alone");
}

TEST(Together, TheFirstOfSeveralErrorsIsTold) {
  run_ranks(4, [](World& world) {
    const std::string message = ending(&world, [&] {
      if (world.rank() == 3) throw_user("three");
      if (world.rank() == 1) throw std::runtime_error("one");
      if (world.rank() == 0) throw Cancelled();
    });
    const char* expected[] = {"cancelled", "one", "failure rank 1: one", "failure rank 1: one"};
    EXPECT_EQ(message, expected[world.rank()]);
  });
}

TEST(Together, ErrorsThatAllHaveAreToldWithoutANumber) {
  run_ranks(3, [](World& world) {
    EXPECT_EQ(ending(&world, [] { throw_user("no such file"); }), "user no such file");
    EXPECT_EQ(ending(&world,
                     [&] {
                       if (world.rank() == 1) throw SharedError(ErrorKind::failure, "rank 7: lost");
                     }),
              "failure rank 7: lost");
    EXPECT_THROW(together(&world, "a test", [] { throw_user("x"); }), SharedError);
    EXPECT_EQ(ending(&world,
                     [&] {
                       if (world.rank() == 1) throw std::bad_alloc();
                     }),
              "failure rank 1: out of memory");
  });
}

TEST(Together, CancellingOnOneRankCancelsAll) {
  run_ranks(3, [](World& world) {
    EXPECT_EQ(ending(&world,
                     [&] {
                       if (world.rank() == 1) throw Cancelled();
                     }),
              "cancelled");
  });
}

}  // namespace
}  // namespace perceiver
