// What this library was built from.
#pragma once

namespace perceiver {

/// The commit of the sources, with "-dirty" if they had changes; "unknown" if they came without git.
const char* build_commit();
/// E.g. "GCC 12.2.0".
const char* build_compiler();

}  // namespace perceiver
