# The CPU kernels for several instruction sets in one library: baseline, AVX2 and AVX-512, chosen at run time
# (src/base/cpu_variant.h). Where the instruction set is settled when it is built (PERCEIVER_NATIVE, flags of one's own such as
# -march=x86-64-v3, processors other than x86-64), and under sanitizers and coverage, there is one variant: kernels/cpu are
# sources like any other.
#
# Each variant is kernels/cpu compiled with its flags and linked to one object (ld -r) in which only the kernels, the symbols
# perceiver_cpu_VARIANT_*, remain global. That matters: the inline functions of Eigen, the standard library and our own headers are weak
# symbols, of which a linker keeps any one for the whole program. Left global, an AVX-512 copy of std::max could run in code for the baseline
# and stop the program on an older processor. --force-group-allocation dissolves their COMDAT groups, by which a linker would still
# discard the copies.
#
# The alternatives: an object loaded at run time for each variant (ggml) does not go into a static library; attributes for each function
# (Highway, target_clones) do not reach the templates that a kernel calls; a namespace for each variant leaves out those of Eigen and std.

include(CheckCXXSourceCompiles)

# The instructions that machine_has (src/base/cpu_variant.cpp) asks for.
set(PERCEIVER_CPU_FLAGS_baseline "")
set(PERCEIVER_CPU_FLAGS_avx2 -mavx2 -mfma -mbmi -mbmi2)
set(PERCEIVER_CPU_FLAGS_avx512 ${PERCEIVER_CPU_FLAGS_avx2} -mavx512f -mavx512cd -mavx512bw -mavx512dq -mavx512vl)

# Sets `result` to whether this build has several variants.
function(perceiver_dispatches_cpu result)
  set(${result} OFF PARENT_SCOPE)
  string(TOUPPER "${CMAKE_BUILD_TYPE}" type)
  if(PERCEIVER_NATIVE OR PERCEIVER_SANITIZE OR "${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${type}}" MATCHES "-fsanitize|-flto|-coverage|-fprofile")
    return()
  endif()
  check_cxx_source_compiles("
    #if !defined(__x86_64__) || !defined(__ELF__) || defined(__AVX2__)
    #error one variant
    #endif
    int main() {}" PERCEIVER_CPU_BASELINE_X86_64)
  if(NOT PERCEIVER_CPU_BASELINE_X86_64)
    return()
  endif()
  execute_process(COMMAND ${CMAKE_LINKER} --help OUTPUT_VARIABLE help ERROR_QUIET)
  if(NOT CMAKE_OBJCOPY OR NOT help MATCHES "--force-group-allocation")
    message(WARNING "The CPU kernels use the baseline instruction set alone, and are slow: several variants need GNU ld and objcopy; "
      "set CMAKE_LINKER (now ${CMAKE_LINKER}) and CMAKE_OBJCOPY (now ${CMAKE_OBJCOPY})")
    return()
  endif()
  set(${result} ON PARENT_SCOPE)
endfunction()

# An object library of kernels/cpu, whose files ${name}_OBJECTS is then. They take the time: the default of release builds,
# -O3, stays.
function(perceiver_add_cpu_kernels name sources)
  add_library(${name} OBJECT ${sources})
  target_include_directories(${name} PRIVATE include src kernels ${PROJECT_SOURCE_DIR})
  target_link_libraries(${name} PRIVATE perceiver_flags Eigen3::Eigen fmt::fmt DNNL::dnnl OpenMP::OpenMP_CXX)
  if(PERCEIVER_UNITY)
    target_precompile_headers(${name} PRIVATE <Eigen/Core> <algorithm> <memory> <string> <vector> <fmt/format.h>)
  endif()
  # CMake counts the precompiled header among the objects.
  set(${name}_OBJECTS $<FILTER:$<TARGET_OBJECTS:${name}>,EXCLUDE,[.]gch> PARENT_SCOPE)
endfunction()

# Compiles `sources` for `variant` and links them to `object`.
function(perceiver_compile_cpu_variant variant object sources)
  set(name perceiver_cpu_${variant})
  perceiver_add_cpu_kernels(${name} "${sources}")
  set_target_properties(${name} PROPERTIES CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
    INTERPROCEDURAL_OPTIMIZATION OFF)
  target_compile_definitions(${name} PRIVATE PERCEIVER_CPU_VARIANT=${variant})
  # Unique symbols (static variables of templates) would stay global.
  target_compile_options(${name} PRIVATE ${PERCEIVER_CPU_FLAGS_${variant}} $<$<CXX_COMPILER_ID:GNU>:-fno-gnu-unique>)
  add_custom_command(OUTPUT ${object}
    COMMAND ${CMAKE_LINKER} -r --force-group-allocation -o ${object} ${${name}_OBJECTS}
    COMMAND ${CMAKE_OBJCOPY} --wildcard --keep-global-symbol=${name}_* ${object}
    DEPENDS ${name} ${${name}_OBJECTS} COMMENT "Linking the CPU kernels for ${variant}"
    COMMAND_EXPAND_LISTS VERBATIM)
  set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
endfunction()

# In the list `sources`, replaces kernels/cpu by its objects: one for each variant, if this build has several.
function(perceiver_cpu_variants sources)
  perceiver_dispatches_cpu(dispatch)
  message(STATUS "CPU kernels for several instruction sets: ${dispatch}")
  set(kernels ${${sources}})
  list(FILTER kernels INCLUDE REGEX "/kernels/cpu/")
  set(others ${${sources}})
  list(REMOVE_ITEM others ${kernels})
  if(dispatch)
    # Selects the choice in kernels/backend.h, the same way for every file of this tree.
    target_compile_definitions(perceiver_flags INTERFACE PERCEIVER_CPU_DISPATCH)
    foreach(variant baseline avx2 avx512)
      set(object ${PROJECT_BINARY_DIR}/perceiver_cpu_${variant}.o)
      perceiver_compile_cpu_variant(${variant} ${object} "${kernels}")
      list(APPEND others ${object})
    endforeach()
  else()
    perceiver_add_cpu_kernels(perceiver_cpu "${kernels}")
    list(APPEND others ${perceiver_cpu_OBJECTS})
  endif()
  set(${sources} ${others} PARENT_SCOPE)
endfunction()
