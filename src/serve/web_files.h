// The pages, which are part of the program.
#pragma once

#include <span>

#include "base/web_file.h"

namespace perceiver::serve {

/// Those of the folder web/, by cmake/embed_web.cmake.
std::span<const WebFile> web_files();

}  // namespace perceiver::serve
