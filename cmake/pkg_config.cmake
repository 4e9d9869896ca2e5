# perceiver.pc, which finds its prefix from where it lies. Without a shared library every program that links this one
# needs its libraries, with one only `pkg-config --static` does.
set(PC_FOLDER ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH PC_TO_PREFIX /${PC_FOLDER} /)
string(REGEX REPLACE "/$" "" PC_TO_PREFIX "${PC_TO_PREFIX}")

# Not Requires: what these libraries need for linking statically (an MP3 encoder, of sndfile) is often not installed, and they are shared.
set(PC_LIBRARIES -lyaml-cpp -lfmt -lpng -lz -ljpeg -lsndfile -lmpg123 -lsamplerate -lsentencepiece -lsentencepiece_train -lminizip -ldnnl ${OpenMP_CXX_FLAGS} -pthread ${MPI_C_LIBRARIES})
if(PERCEIVER_HAS_CUDA)
  list(APPEND PC_LIBRARIES -L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -lcublasLt -lrt -ldl)
endif()
list(JOIN PC_LIBRARIES " " PC_LIBRARIES)
set(PC_LIBS "Libs: -L\${libdir} -lperceiver")
if(BUILD_SHARED_LIBS)
  string(APPEND PC_LIBS "\nLibs.private: ${PC_LIBRARIES}")
else()
  string(APPEND PC_LIBS " ${PC_LIBRARIES}")
endif()

configure_file(cmake/perceiver.pc.in perceiver.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/perceiver.pc DESTINATION ${PC_FOLDER} COMPONENT development)
