#include "kernels/cuda/hopper/tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include "base/check.h"
#include "kernels/cuda/support/errors.h"

namespace perceiver::kernels::cuda::hopper {
namespace {

/// The driver's function, looked up at run time so that programs start without a driver.
PFN_cuTensorMapEncodeTiled_v12000 encode_function() {
  static const auto function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    check(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result),
        "cuTensorMapEncodeTiled");
    if (result != cudaDriverEntryPointSuccess) throw_failure("the NVIDIA driver is too old for tensor maps");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
  }();
  return function;
}

constexpr int64_t kBoxBytes = 128;  // of a row

CUtensorMap encode(CUtensorMapDataType type, int64_t element_bytes, const void* data, int64_t batch,
                   int64_t rows, int64_t columns, int64_t stride, int64_t box_rows, int64_t pitch) {
  const auto of = [](int64_t extent) { return static_cast<cuuint64_t>(extent); };
  const cuuint64_t extents[3] = {of(columns), of(rows), of(batch)};
  const cuuint64_t strides[2] = {of(stride * element_bytes),
                                 of((pitch == 0 ? rows : pitch) * stride * element_bytes)};
  const cuuint32_t box[3] = {static_cast<cuuint32_t>(kBoxBytes / element_bytes),
                             static_cast<cuuint32_t>(box_rows), 1},
                   steps[3] = {1, 1, 1};
  CUtensorMap map;
  const CUresult status = encode_function()(
      &map, type, 3, const_cast<void*>(data), extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw_failure("tensor map of [{}, {}, {}] with rows of {}: driver error {}", batch, rows, columns, stride,
                  static_cast<int>(status));
  return map;
}

}  // namespace

CUtensorMap tensor_map(const void* data, int64_t batch, int64_t rows, int64_t columns, int64_t stride,
                       int64_t box_rows, int64_t pitch) {
  return encode(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, data, batch, rows, columns, stride, box_rows, pitch);
}

CUtensorMap byte_tensor_map(const void* data, int64_t rows, int64_t columns, int64_t box_rows) {
  return encode(CU_TENSOR_MAP_DATA_TYPE_UINT8, 1, data, 1, rows, columns, columns, box_rows, 0);
}

}  // namespace perceiver::kernels::cuda::hopper
