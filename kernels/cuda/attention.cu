// Attention on CUDA: chooses the implementation by element type, head width and alignment.
#include "kernels/cuda/attention.cuh"

namespace perceiver::kernels::cuda {
namespace {

bool aligned(const void* pointer, int64_t stride) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride % 8 == 0;
}

/// The tensor-core kernels move rows in pieces of 8 elements.
bool portable_possible(const Attention& k) {
  return k.type == DType::bf16 && k.queries > 0 && k.head_dim % 16 == 0 && k.head_dim <= 128 &&
         aligned(k.q, k.q_stride) && aligned(k.k, k.kv_stride) && aligned(k.v, k.kv_stride) &&
         aligned(k.out, k.out_stride);
}

/// For wide heads the backward kernel needs more shared memory than some GPUs have.
bool portable_possible(const AttentionBackward& a) {
  if (!portable_possible(a.forward)) return false;
  int device = 0, shared_bytes = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "shared memory");
  return attention_portable_backward_shared_bytes(a) <= shared_bytes &&
         aligned(a.d_out, a.forward.out_stride) && aligned(a.d_q, a.forward.q_stride) &&
         aligned(a.d_k, a.forward.kv_stride) && aligned(a.d_v, a.forward.kv_stride);
}

bool use_portable(AttentionKernel wanted, bool possible) {
  require(wanted != AttentionKernel::portable || possible,
          "for portable attention bf16, a head width that is a multiple of 16 up to 128, rows aligned to 16 "
          "bytes, and for gradients of heads wider than 64 a GPU with 162 KiB of shared memory");
  return possible && wanted != AttentionKernel::reference;
}

}  // namespace

void attention(const Launch& launch, const Attention& k) {
  if (k.batch == 0 || k.heads == 0 || k.queries == 0) return;
  if (use_portable(k.kernel, portable_possible(k))) return attention_portable(launch, k);
  attention_reference(launch, k);
}

int64_t attention_backward_workspace(const AttentionBackward& a, int processors) {
  const int64_t bytes = use_portable(a.forward.kernel, portable_possible(a))
                            ? attention_portable_backward_bytes(a, processors)
                            : attention_reference_backward_bytes(a);
  return bytes <= kSmallestWorkspace ? 0 : bytes;
}

void attention_backward(const Launch& launch, const AttentionBackward& a) {
  const Attention& k = a.forward;
  if (k.batch == 0 || k.heads == 0) return;
  Scratch scratch{launch.workspace, launch.workspace_bytes};
  const int64_t wanted = attention_backward_workspace(a, launch.processors);
  if (wanted > 0 && a.scratch != nullptr) scratch = {a.scratch, wanted};
  if (use_portable(k.kernel, portable_possible(a))) return attention_portable_backward(launch, a, scratch);
  attention_reference_backward(launch, a, scratch);
}

}  // namespace perceiver::kernels::cuda
