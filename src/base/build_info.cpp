#include "base/build_info.h"

#include "perceiver/version.h"

namespace perceiver {

const char* version() {
  return PERCEIVER_VERSION;
}

#if defined(__clang__)
const char* build_compiler() {
  return "Clang " __clang_version__;
}
#elif defined(__GNUC__)
const char* build_compiler() {
  return "GCC " __VERSION__;
}
#else
const char* build_compiler() {
  return "unknown";
}
#endif

}  // namespace perceiver
