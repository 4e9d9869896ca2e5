// The files of the folder web/, as they were when the program was built (cmake/embed_files.cmake).
#pragma once

#include <string_view>

namespace perceiver {

/// The content of a file, by its path in web/. Throws `failure` if there is none.
std::string_view web_file(std::string_view path);

}  // namespace perceiver
