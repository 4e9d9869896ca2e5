# Writes a C++ file that holds the files of a folder: cmake -DFOLDER=web -DOUTPUT=web_files.cpp -P embed_files.cmake
file(GLOB_RECURSE paths RELATIVE ${FOLDER} ${FOLDER}/*)
list(SORT paths)
set(entries "")
foreach(path ${paths})
  file(READ ${FOLDER}/${path} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(MAKE_C_IDENTIFIER ${path} name)
  string(APPEND arrays "const unsigned char ${name}[] = {${bytes}0};\n")
  string(APPEND entries "    {\"${path}\", {reinterpret_cast<const char*>(${name}), sizeof ${name} - 1}},\n")
endforeach()
file(WRITE ${OUTPUT} "// Made by cmake/embed_files.cmake from the folder web/.
#include \"report/web_files.h\"

#include \"base/check.h\"

namespace perceiver {
namespace {

${arrays}
struct WebFile {
  std::string_view path, content;
};
const WebFile files[] = {
${entries}};

}  // namespace

std::string_view web_file(std::string_view path) {
  for (const WebFile& file : files)
    if (file.path == path) return file.content;
  throw_failure(\"internal error: no file {} in this program\", path);
}

}  // namespace perceiver
")
