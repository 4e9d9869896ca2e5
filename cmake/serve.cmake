# The server of `perceiver serve`, apart from the library, which needs no HTTP; and its pages as part of the program.
file(GLOB WEB_FILES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/web/*)
set(WEB_SOURCE ${PROJECT_BINARY_DIR}/web_files.cpp)
add_custom_command(OUTPUT ${WEB_SOURCE} VERBATIM
  COMMAND ${CMAKE_COMMAND} -DFOLDER=${PROJECT_SOURCE_DIR}/web -DPART=serve -DOUTPUT=${WEB_SOURCE} -P ${PROJECT_SOURCE_DIR}/cmake/embed_web.cmake
  DEPENDS ${WEB_FILES} ${PROJECT_SOURCE_DIR}/cmake/embed_web.cmake)
file(GLOB SERVE_SOURCES CONFIGURE_DEPENDS src/serve/*.cpp)
add_library(perceiver_serve STATIC EXCLUDE_FROM_ALL ${SERVE_SOURCES} ${WEB_SOURCE})
target_link_libraries(perceiver_serve PUBLIC perceiver_internal PkgConfig::HTTPLIB)
target_compile_options(perceiver_serve PRIVATE $<$<CONFIG:Release>:-O2>)
set_source_files_properties(${WEB_SOURCE} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
if(PERCEIVER_UNITY)
  set_target_properties(perceiver_serve PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 40)
  target_precompile_headers(perceiver_serve PRIVATE <algorithm> <functional> <map> <memory> <string> <vector> <fmt/format.h> <nlohmann/json.hpp>)
endif()
