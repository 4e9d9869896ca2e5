#include "base/cpu_variant.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cstdlib>

namespace perceiver {
namespace {

TEST(CpuVariant, TheOneInUseIsTheLastOrTheOneThatIsNamed) {
  ASSERT_FALSE(cpu_variants().empty());
  EXPECT_TRUE(std::is_sorted(cpu_variants().begin(), cpu_variants().end()));
  const char* const named = std::getenv("PERCEIVER_CPU");
  EXPECT_STREQ(name_of(cpu_variant()), named == nullptr ? name_of(cpu_variants().back()) : named);
}

#ifdef PERCEIVER_CPU_DISPATCH
TEST(CpuVariant, ABuildForEveryMachineStartsAtTheBaseline) {
  EXPECT_EQ(cpu_variants().front(), CpuVariant::baseline);
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  EXPECT_EQ(cpu_variants().size() > 1, avx2);
}
#else
TEST(CpuVariant, ABuildForOneInstructionSetHasOne) {
  EXPECT_EQ(cpu_variants().size(), 1u);
}
#endif

}  // namespace
}  // namespace perceiver
