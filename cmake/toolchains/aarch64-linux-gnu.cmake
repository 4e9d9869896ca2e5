# Builds for 64-bit ARM on Debian: crossbuild-essential-arm64 and the :arm64 packages of the libraries
# (docs/packaging.md). With qemu-user-static, the program writes its completion and manual page, and the tests run.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
# Debian keeps the libraries of each architecture apart, the headers and programs of all together.
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_IGNORE_PATH /usr/lib/x86_64-linux-gnu /usr/lib/x86_64-linux-gnu/cmake /lib/x86_64-linux-gnu)
set(PKG_CONFIG_EXECUTABLE aarch64-linux-gnu-pkg-config)
find_program(QEMU_AARCH64 NAMES qemu-aarch64-static qemu-aarch64)
if(QEMU_AARCH64)
  set(CMAKE_CROSSCOMPILING_EMULATOR ${QEMU_AARCH64})
endif()
# Unless asked for: this machine is another, and what CUDA and MPI it has is not for the target.
set(PERCEIVER_NATIVE OFF CACHE BOOL "Compile for this machine's instruction set (-march=native)")
set(PERCEIVER_CUDA OFF CACHE STRING "CUDA backend: ON, OFF, or AUTO (if nvcc is found)")
set(PERCEIVER_MPI OFF CACHE STRING "MPI between processes on CPUs, and as a launcher: ON, OFF, or AUTO (if it is installed)")
