# What `cmake --install` copies: the program with completion and manual page, the models with names, the libraries with
# headers, CMake package and pkg-config file.
include(CMakePackageConfigHelpers)

# Debian's zsh leaves site-functions to /usr/local.
set(ZSH_FUNCTIONS site-functions)
if(CMAKE_INSTALL_PREFIX STREQUAL "/usr" AND EXISTS /etc/debian_version)
  set(ZSH_FUNCTIONS vendor-completions)
endif()

if(TARGET perceiver_program)
  install(TARGETS perceiver_program COMPONENT program)
endif()

# Models with names, found from where the program or the library lies: beside it, or in the prefix.
install(DIRECTORY models/ DESTINATION ${CMAKE_INSTALL_DATADIR}/perceiver/models COMPONENT models)
file(CREATE_LINK ${PROJECT_SOURCE_DIR}/models ${PROJECT_BINARY_DIR}/models SYMBOLIC)

# Completion and the manual page, which the program writes from its own parser.
if(CMAKE_CROSSCOMPILING AND NOT CMAKE_CROSSCOMPILING_EMULATOR)
  message(STATUS "No completion, no manual page: the program does not run on this machine")
elseif(TARGET perceiver_program)
  set(SHARE ${PROJECT_BINARY_DIR}/share)
  set(BASH_COMPLETION ${SHARE}/bash-completion/completions/perceiver)
  set(ZSH_COMPLETION ${SHARE}/zsh/${ZSH_FUNCTIONS}/_perceiver)
  set(FISH_COMPLETION ${SHARE}/fish/vendor_completions.d/perceiver.fish)
  set(MAN_PAGE ${SHARE}/man/man1/perceiver.1)
  set(SHARED_FILES ${BASH_COMPLETION} ${ZSH_COMPLETION} ${FISH_COMPLETION} ${MAN_PAGE}.gz)
  foreach(file ${SHARED_FILES})
    cmake_path(GET file PARENT_PATH folder)
    file(MAKE_DIRECTORY ${folder})
    cmake_path(RELATIVE_PATH folder BASE_DIRECTORY ${SHARE})
    install(FILES ${file} DESTINATION ${CMAKE_INSTALL_DATADIR}/${folder} COMPONENT program)
  endforeach()
  add_custom_command(OUTPUT ${SHARED_FILES}
    COMMAND perceiver_program completion bash > ${BASH_COMPLETION}
    COMMAND perceiver_program completion zsh > ${ZSH_COMPLETION}
    COMMAND perceiver_program completion fish > ${FISH_COMPLETION}
    COMMAND perceiver_program help --man > ${MAN_PAGE}
    COMMAND gzip -9nf ${MAN_PAGE}
    DEPENDS perceiver_program VERBATIM)
  add_custom_target(perceiver_share ALL DEPENDS ${SHARED_FILES})
endif()

install(DIRECTORY include/perceiver ${PROJECT_BINARY_DIR}/include/perceiver DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  COMPONENT development PATTERN *.in EXCLUDE)
set(PACKAGE_FOLDER ${CMAKE_INSTALL_LIBDIR}/cmake/Perceiver)
install(TARGETS perceiver EXPORT PerceiverStatic COMPONENT development)
install(EXPORT PerceiverStatic NAMESPACE perceiver:: FILE PerceiverStatic.cmake DESTINATION ${PACKAGE_FOLDER}
  COMPONENT development)
if(BUILD_SHARED_LIBS)
  install(TARGETS perceiver_shared EXPORT PerceiverShared LIBRARY COMPONENT library NAMELINK_COMPONENT development)
  install(EXPORT PerceiverShared NAMESPACE perceiver:: FILE PerceiverShared.cmake DESTINATION ${PACKAGE_FOLDER}
    COMPONENT development)
endif()
configure_package_config_file(cmake/PerceiverConfig.cmake.in PerceiverConfig.cmake INSTALL_DESTINATION ${PACKAGE_FOLDER})
write_basic_package_version_file(PerceiverConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/PerceiverConfig.cmake ${PROJECT_BINARY_DIR}/PerceiverConfigVersion.cmake
  DESTINATION ${PACKAGE_FOLDER} COMPONENT development)
