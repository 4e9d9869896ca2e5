# Writes OUTPUT, a C++ file with the files of FOLDER as bytes, which PART/web_files.h declares.
#   cmake -DFOLDER=web -DPART=serve -DOUTPUT=web_files.cpp -P embed_web.cmake
set(TYPE_html "text/html; charset=utf-8")
set(TYPE_css "text/css; charset=utf-8")
set(TYPE_js "text/javascript; charset=utf-8")
set(TYPE_svg "image/svg+xml")

file(GLOB files RELATIVE ${FOLDER} ${FOLDER}/*.html ${FOLDER}/*.css ${FOLDER}/*.js ${FOLDER}/*.svg)
list(SORT files)
set(arrays "")
set(entries "")
set(index 0)
foreach(name IN LISTS files)
  string(REGEX REPLACE "^.*[.]" "" ending ${name})
  file(READ ${FOLDER}/${name} bytes HEX)
  string(LENGTH "${bytes}" digits)
  math(EXPR size "${digits} / 2")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
  string(REGEX REPLACE "(................................................................................)" "\\1\n" bytes "${bytes}")
  string(APPEND arrays "constexpr unsigned char kFile${index}[] = {\n${bytes}0};\n")
  string(APPEND entries "    {\"/${name}\", \"${TYPE_${ending}}\", {reinterpret_cast<const char*>(kFile${index}), ${size}}},\n")
  math(EXPR index "${index} + 1")
endforeach()
file(WRITE ${OUTPUT} "#include \"${PART}/web_files.h\"

namespace perceiver::${PART} {
namespace {

${arrays}
}  // namespace

std::span<const WebFile> web_files() {
  static const WebFile files[] = {
${entries}  };
  return files;
}

}  // namespace perceiver::${PART}
")
