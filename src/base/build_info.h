// What this library was built with; its version and commit are in perceiver/version.h.
#pragma once

namespace perceiver {

/// E.g. "GCC 12.2.0".
const char* build_compiler();

}  // namespace perceiver
