// The parts of the report's page, which are part of the program.
#pragma once

#include <span>

#include "base/web_file.h"

namespace perceiver::report {

/// Those of the folder web/report/, by cmake/embed_web.cmake.
std::span<const WebFile> web_files();

}  // namespace perceiver::report
