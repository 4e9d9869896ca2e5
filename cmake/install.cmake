# What `cmake --install` copies: the program with completion and manual page, the libraries with headers, CMake package
# and pkg-config file.
include(CMakePackageConfigHelpers)

# Completion and the manual page, which the program writes from its own parser.
if(TARGET perceiver_program)
  set(SHARE ${PROJECT_BINARY_DIR}/share)
  set(BASH_COMPLETION ${SHARE}/bash-completion/completions/perceiver)
  set(ZSH_COMPLETION ${SHARE}/zsh/site-functions/_perceiver)
  set(FISH_COMPLETION ${SHARE}/fish/vendor_completions.d/perceiver.fish)
  set(MAN_PAGE ${SHARE}/man/man1/perceiver.1)
  set(SHARED_FILES ${BASH_COMPLETION} ${ZSH_COMPLETION} ${FISH_COMPLETION} ${MAN_PAGE})
  foreach(file ${SHARED_FILES})
    cmake_path(GET file PARENT_PATH folder)
    file(MAKE_DIRECTORY ${folder})
  endforeach()
  add_custom_command(OUTPUT ${SHARED_FILES}
    COMMAND perceiver_program completion bash > ${BASH_COMPLETION}
    COMMAND perceiver_program completion zsh > ${ZSH_COMPLETION}
    COMMAND perceiver_program completion fish > ${FISH_COMPLETION}
    COMMAND perceiver_program help --man > ${MAN_PAGE}
    DEPENDS perceiver_program VERBATIM)
  add_custom_target(perceiver_share ALL DEPENDS ${SHARED_FILES})
  install(DIRECTORY ${SHARE}/ DESTINATION ${CMAKE_INSTALL_DATADIR} COMPONENT program)
  install(TARGETS perceiver_program COMPONENT program)
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
