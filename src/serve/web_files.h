// The pages, which are part of the program.
#pragma once

#include <span>
#include <string_view>

namespace perceiver::serve {

struct WebFile {
  std::string_view path;  ///< as in the address: "/app.js"
  std::string_view type;  ///< media type
  std::string_view bytes;
};

/// Those of the folder web/, by cmake/embed_web.cmake.
std::span<const WebFile> web_files();

}  // namespace perceiver::serve
