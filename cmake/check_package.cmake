# Read by cpack: refuses to pack what may crash on another machine.
if(CPACK_PERCEIVER_NATIVE)
  message(FATAL_ERROR "This build is for this machine's processor (-march=native): configure with -DPERCEIVER_NATIVE=OFF for packages")
endif()
