# `cpack` makes Debian packages: perceiver (the program), perceiver-models, libperceiver0.1 (the shared library; its name follows the
# soname, so that two of them can be installed) and libperceiver-dev. docs/packaging.md shows how to build for them.
set(CPACK_GENERATOR DEB)
set(CPACK_PROJECT_CONFIG_FILE ${PROJECT_SOURCE_DIR}/cmake/check_package.cmake)
set(CPACK_PERCEIVER_NATIVE ${PERCEIVER_NATIVE})
set(CPACK_PACKAGE_NAME perceiver)
set(CPACK_PACKAGE_VENDOR "")
if(NOT CPACK_PACKAGE_CONTACT)
  set(CPACK_PACKAGE_CONTACT "Perceiver developers <perceiver@localhost>")
endif()
set(CPACK_STRIP_FILES ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS
  OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
if(CMAKE_CROSSCOMPILING AND CMAKE_SYSTEM_PROCESSOR STREQUAL "aarch64")
  set(CPACK_DEBIAN_PACKAGE_ARCHITECTURE arm64)
endif()
# dpkg-shlibdeps does not know NVIDIA's libraries; CUDA's runtime is linked statically.
if(PERCEIVER_HAS_CUDA)
  set(CUBLAS "libcublas-${CUDAToolkit_VERSION_MAJOR}-${CUDAToolkit_VERSION_MINOR}")
endif()

set(ABOUT "Perceiver AR reads a long context through one causal cross-attention into a few
 latents. Trains, evaluates and samples models of text, images, music and audio.")

if(TARGET perceiver_program)
  list(APPEND CPACK_COMPONENTS_ALL program)
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME perceiver)
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_SECTION science)
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_DEPENDS ${CUBLAS})
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_RECOMMENDS perceiver-models)
  set(CPACK_DEBIAN_PROGRAM_PACKAGE_SUGGESTS "openmpi-bin, fluidsynth")
  set(CPACK_DEBIAN_PROGRAM_DESCRIPTION "${PROJECT_DESCRIPTION}\n ${ABOUT}")
endif()

list(APPEND CPACK_COMPONENTS_ALL models)
set(CPACK_DEBIAN_MODELS_PACKAGE_NAME perceiver-models)
set(CPACK_DEBIAN_MODELS_PACKAGE_SECTION science)
set(CPACK_DEBIAN_MODELS_PACKAGE_ARCHITECTURE all)
set(CPACK_DEBIAN_MODELS_DESCRIPTION "${PROJECT_DESCRIPTION} (models)\n ${ABOUT}
 .
 Small models of text, pictures and music for the program and the library, with a card each.")

set(LIBRARY_PACKAGE libperceiver${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
if(BUILD_SHARED_LIBS)
  list(APPEND CPACK_COMPONENTS_ALL library)
  set(CPACK_DEBIAN_LIBRARY_PACKAGE_NAME ${LIBRARY_PACKAGE})
  set(CPACK_DEBIAN_LIBRARY_PACKAGE_SECTION libs)
  set(CPACK_DEBIAN_LIBRARY_PACKAGE_DEPENDS ${CUBLAS})
  set(CPACK_DEBIAN_LIBRARY_PACKAGE_GENERATE_SHLIBS ON)
  set(CPACK_DEBIAN_LIBRARY_DESCRIPTION "${PROJECT_DESCRIPTION} (shared library)\n ${ABOUT}")
  set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS
    "${LIBRARY_PACKAGE} (= ${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE})")
endif()

list(APPEND CPACK_COMPONENTS_ALL development)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libperceiver-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
# For programs that link the static library.
set(SUGGESTED libyaml-cpp-dev libfmt-dev libdnnl-dev ocl-icd-opencl-dev libpng-dev libjpeg-dev libsndfile1-dev libmpg123-dev libsamplerate0-dev libsentencepiece-dev libminizip-dev zlib1g-dev)
if(MPI_C_FOUND)
  list(APPEND SUGGESTED libopenmpi-dev)
endif()
list(JOIN SUGGESTED ", " CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SUGGESTS)
set(CPACK_DEBIAN_DEVELOPMENT_DESCRIPTION "${PROJECT_DESCRIPTION} (development files)\n ${ABOUT}
 .
 Headers, static library, CMake package and pkg-config file.")

# Only packages hold these: --install leaves out what EXCLUDE_FROM_ALL marks.
foreach(component ${CPACK_COMPONENTS_ALL})
  string(TOUPPER ${component} upper)
  install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${CPACK_DEBIAN_${upper}_PACKAGE_NAME} RENAME copyright
    COMPONENT ${component} EXCLUDE_FROM_ALL)
endforeach()
include(CPack)
