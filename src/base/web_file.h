// A file of a page that is part of the program (cmake/embed_web.cmake).
#pragma once

#include <string_view>

namespace perceiver {

struct WebFile {
  std::string_view path;  ///< as in an address: "/app.js"
  std::string_view type;  ///< media type
  std::string_view bytes;
};

}  // namespace perceiver
