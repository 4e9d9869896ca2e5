// Writes new rows to the slots' caches, and finds a rank's part of shared ones.
#include "kernels/cuda/support/common.cuh"
#include "kernels/sampling.h"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kThreads = 256;

/// One block per source row; elements are copied as words of their size.
template <typename Word>
__global__ void __launch_bounds__(kThreads) write_rows_kernel(WriteRows k) {
  const int64_t source_row = blockIdx.x, slot = source_row / k.copies, copy = source_row % k.copies;
  if (k.active != nullptr && k.active[slot] == 0) return;
  const int64_t first = k.row == nullptr ? 0 : k.row[slot];
  const Word* source = static_cast<const Word*>(k.source) + source_row * k.source_stride;
  Word* target = static_cast<Word*>(k.target) + (slot * k.capacity + (first + copy) % k.capacity) * k.columns;
  for (int64_t c = threadIdx.x; c < k.columns; c += kThreads) target[c] = source[c];
}

__global__ void __launch_bounds__(kThreads) share_slots_kernel(ShareSlots k) {
  const int64_t s = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (s >= k.slots) return;
  k.own_active[s] = k.active[s] != 0 && k.row[s] % k.ranks == k.rank;
  k.own_count[s] = k.count[s] > k.rank ? (k.count[s] - k.rank + k.ranks - 1) / k.ranks : 0;
  k.own_row[s] = k.row[s] / k.ranks;
}

}  // namespace

void write_rows(const Launch& launch, const WriteRows& k) {
  const auto blocks = static_cast<unsigned>(k.slots * k.copies);
  if (blocks == 0) return;
  const size_t size = size_of(k.type);
  require(size <= sizeof(uint32_t), "elements of at most 4 bytes");
  const auto kernel = size == 1   ? write_rows_kernel<uint8_t>
                      : size == 2 ? write_rows_kernel<uint16_t>
                                  : write_rows_kernel<uint32_t>;
  kernel<<<blocks, kThreads, 0, stream_of(launch)>>>(k);
  check_launch("write_rows");
}

void share_slots(const Launch& launch, const ShareSlots& k) {
  if (k.slots == 0) return;
  share_slots_kernel<<<static_cast<unsigned>(ceil_div(k.slots, kThreads)), kThreads, 0, stream_of(launch)>>>(
      k);
  check_launch("share_slots");
}

}  // namespace perceiver::kernels::cuda
