#include "kernels/cuda/hopper/tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <iterator>

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

constexpr uint32_t kBoxBytes = 128;  // of a row

/// Of a tensor's dimensions, the innermost first.
template <size_t kRank>
struct Extents {
  cuuint64_t elements[kRank];
  cuuint64_t bytes[kRank - 1];  // from one element of dimension i + 1 to the next
  cuuint32_t box[kRank];        // elements
};

template <size_t kRank>
CUtensorMap encode(CUtensorMapDataType type, const void* data, const Extents<kRank>& extents,
                   CUtensorMapSwizzle swizzle = CU_TENSOR_MAP_SWIZZLE_128B) {
  cuuint32_t steps[kRank];
  std::fill(std::begin(steps), std::end(steps), 1u);
  CUtensorMap map;
  const CUresult status =
      encode_function()(&map, type, kRank, const_cast<void*>(data), extents.elements, extents.bytes,
                        extents.box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw_failure("tensor map of [{}] elements, [{}] bytes apart: driver error {}",
                  fmt::join(extents.elements, ", "), fmt::join(extents.bytes, ", "),
                  static_cast<int>(status));
  return map;
}

constexpr cuuint64_t of(int64_t extent) {
  return static_cast<cuuint64_t>(extent);
}

}  // namespace

CUtensorMap tensor_map(const void* data, int64_t batch, int64_t rows, int64_t columns, int64_t stride,
                       int64_t box_rows, int64_t pitch) {
  return encode<3>(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, data,
                   {.elements = {of(columns), of(rows), of(batch)},
                    .bytes = {of(stride * 2), of((pitch == 0 ? rows : pitch) * stride * 2)},
                    .box = {kBoxBytes / 2, static_cast<cuuint32_t>(box_rows), 1}});
}

CUtensorMap heads_tensor_map(const void* data, int64_t batch, int64_t rows, int64_t heads, int64_t width,
                             int64_t stride, int64_t box_rows) {
  return encode<4>(CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, data,
                   {.elements = {of(width), of(heads), of(rows), of(batch)},
                    .bytes = {of(width * 2), of(stride * 2), of(rows * stride * 2)},
                    .box = {kBoxBytes / 2, 1, static_cast<cuuint32_t>(box_rows), 1}});
}

CUtensorMap narrow_tensor_map(const void* data, int64_t batch, int64_t rows, int64_t columns,
                              int64_t box_rows, int64_t pitch) {
  return encode<3>(CU_TENSOR_MAP_DATA_TYPE_UINT8, data,
                   {.elements = {of(columns), of(rows), of(batch)},
                    .bytes = {of(columns), of(pitch * columns)},
                    .box = {kBoxBytes / 2, static_cast<cuuint32_t>(box_rows), 1}},
                   CU_TENSOR_MAP_SWIZZLE_64B);
}

CUtensorMap byte_tensor_map(const void* data, int64_t rows, int64_t columns, int64_t box_rows) {
  return encode<3>(CU_TENSOR_MAP_DATA_TYPE_UINT8, data,
                   {.elements = {of(columns), of(rows), 1},
                    .bytes = {of(columns), of(rows * columns)},
                    .box = {kBoxBytes, static_cast<cuuint32_t>(box_rows), 1}});
}

}  // namespace perceiver::kernels::cuda::hopper
