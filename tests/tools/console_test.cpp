#include "tools/console.h"

#include <gtest/gtest.h>

#include <functional>
#include <sstream>

namespace perceiver::program {
namespace {

constexpr const char* kErase = "\r\x1b[K";

std::string shown(bool terminal, const std::function<void(Console&)>& use) {
  std::ostringstream out;
  {
    Console console(out, terminal);
    use(console);
  }
  return out.str();
}

TEST(Console, RewritesProgressOnlyOnATerminal) {
  const auto use = [](Console& console) {
    console.progress("1");
    console.progress("2");
    console.line("message");
    console.line("another");
    console.progress("3");
  };
  const std::string erase = kErase;
  EXPECT_EQ(shown(false, use), "1\n2\nmessage\nanother\n3\n");
  EXPECT_EQ(shown(true, use), erase + "1" + erase + "2\nmessage\nanother\n" + erase + "3\n");
}

TEST(Console, ErasesAStatusBeforeAMessageAndAtTheEnd) {
  const auto use = [](Console& console) {
    console.status("1");
    console.line("message");
    console.status("2");
    console.progress("3");
    console.settle();
    console.settle();
    console.status("4");
  };
  const std::string erase = kErase;
  EXPECT_EQ(shown(false, use), "message\n3\n");
  EXPECT_EQ(shown(true, use),
            erase + "1" + erase + "message\n" + erase + "2" + erase + "3\n" + erase + "4" + erase);
}

}  // namespace
}  // namespace perceiver::program
