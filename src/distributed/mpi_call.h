// MPI's own header, the C interface only, and what becomes of its errors. For mpi*.cpp.
#pragma once

#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <string_view>

#include "base/check.h"

namespace perceiver::mpi {

inline void check(int status, const char* what) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(status, text, &length);
  throw_failure("MPI: {}: {}", what, std::string_view(text, static_cast<size_t>(length)));
}

}  // namespace perceiver::mpi
