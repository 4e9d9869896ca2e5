// Attention on CUDA: chooses the implementation by element type, head width, alignment and size.
#include "kernels/attention.h"
#include "kernels/cuda/attention/attention.cuh"
#include "kernels/cuda/attention/choice.h"
#include "kernels/cuda/attention/cudnn_attention.h"
#include "kernels/cuda/hopper/device.h"

namespace perceiver::kernels::cuda {
namespace {

bool aligned(const void* pointer, int64_t stride) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride % 8 == 0;
}

/// Channels of a head, at most.
constexpr int64_t kWidest = 128, kWidestHopper = 256;

/// The tensor-core kernels load and store 8 elements at a time.
bool tensor_cores_possible(const Attention& k, int64_t widest) {
  return k.type == DType::bf16 && k.queries > 0 && k.head_dim % 8 == 0 && k.head_dim <= widest &&
         aligned(k.q, k.q_stride) && aligned(k.k, k.kv_stride) && aligned(k.v, k.kv_stride) &&
         aligned(k.out, k.out_stride);
}
bool gradients_aligned(const AttentionBackward& a) {
  return aligned(a.d_out, a.forward.out_stride) && aligned(a.d_q, a.forward.q_stride) &&
         aligned(a.d_k, a.forward.kv_stride) && aligned(a.d_v, a.forward.kv_stride);
}

bool portable_possible(const Attention& k) {
  return tensor_cores_possible(k, kWidest) && k.head_dim % 16 == 0;
}

/// For wide heads the backward kernel needs more shared memory than some GPUs have.
bool portable_backward_fits(const AttentionBackward& a) {
  int device = 0, shared_bytes = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "shared memory");
  return attention_portable_backward_shared_bytes(a) <= shared_bytes;
}

bool portable_possible(const AttentionBackward& a) {
  return portable_possible(a.forward) && portable_backward_fits(a) && gradients_aligned(a);
}

/// wgmma and setmaxnreg exist in compute capability 9.0 only.
bool hopper_possible(const Attention& k) {
  return hopper::built() && k.keys > 0 && tensor_cores_possible(k, kWidestHopper) && hopper::on_hopper();
}
bool hopper_possible(const AttentionBackward& a) {
  return hopper_possible(a.forward) && gradients_aligned(a);
}

/// Its masks are causal or none: nothing that depends on the example.
bool cudnn_possible(const Attention& k) {
  return cudnn_obstacle() == nullptr && tensor_cores_possible(k, kWidest) && k.mask != MaskShape::general &&
         k.queries <= k.keys;
}
bool cudnn_possible(const AttentionBackward& a) {
  return cudnn_possible(a.forward) && gradients_aligned(a);
}

/// The Hopper kernels do not split keys over blocks, so they need enough query tiles to fill the GPU.
bool fills(const Attention& k, int sm_count) {
  return k.queries >= 64 && ceil_div(k.queries, 128) * k.heads * k.batch * 2 >= sm_count;
}

template <typename Arguments>
AttentionKernel choose(const Arguments& arguments, const Attention& k, int sm_count) {
  const bool hopper = hopper_possible(arguments), portable = portable_possible(arguments);
  require(k.kernel != AttentionKernel::portable || portable,
          "for portable attention bf16, a head width that is a multiple of 16 up to 128, rows aligned to 16 "
          "bytes, and for gradients of heads wider than 64 a GPU with 162 KiB of shared memory");
  require(
      k.kernel != AttentionKernel::hopper || hopper,
      "for Hopper's attention compute capability 9.0, a build for 90a, bf16, a head width that is a multiple "
      "of 8 up to 256, rows aligned to 16 bytes");
  require(
      k.kernel != AttentionKernel::cudnn || cudnn_possible(arguments),
      "for cuDNN's attention the library (cuDNN 9), bf16, a head width that is a multiple of 8 up to 128, "
      "a causal mask or none, no more queries than keys, rows aligned to 16 bytes");
  if (k.kernel != AttentionKernel::automatic) return k.kernel;
  if (hopper && (fills(k, sm_count) || !portable)) return AttentionKernel::hopper;
  return portable ? AttentionKernel::portable : AttentionKernel::reference;
}

AttentionKernel choose(const Attention& k, int sm_count) {
  return choose(k, k, sm_count);
}
AttentionKernel choose(const AttentionBackward& a, int sm_count) {
  return choose(a, a.forward, sm_count);
}

int64_t backward_bytes(AttentionKernel kernel, const Launch& launch, const AttentionBackward& a) {
  if (kernel == AttentionKernel::cudnn) return attention_cudnn_backward_bytes(launch, a);
  if (kernel == AttentionKernel::hopper) return attention_hopper_backward_bytes(a);
  if (kernel == AttentionKernel::portable) return attention_portable_backward_bytes(a, launch.sm_count);
  return attention_reference_backward_bytes(a);
}

constexpr int64_t kQuantizedHead = 64;

}  // namespace

AttentionChoice attention_choice(const AttentionBackward& a, int sm_count) {
  return {choose(a.forward, sm_count), choose(a, sm_count)};
}

void attention(const Launch& launch, const Attention& k) {
  if (k.batch == 0 || k.heads == 0 || k.queries == 0) return;
  const AttentionKernel kernel = choose(k, launch.sm_count);
  if (kernel == AttentionKernel::cudnn) return attention_cudnn(launch, k);
  if (kernel == AttentionKernel::hopper) return attention_hopper(launch, k);
  if (kernel == AttentionKernel::portable) return attention_portable(launch, k);
  attention_reference(launch, k);
}

const char* attention_obstacle(AttentionKernel kernel, DType type, int64_t head_dim) {
  if (kernel == AttentionKernel::automatic || kernel == AttentionKernel::reference) return nullptr;
  if (kernel == AttentionKernel::hopper) {
    if (!hopper::built())
      return "this build has no Hopper kernels (PERCEIVER_CUDA_ARCHITECTURES without 90a)";
    if (!hopper::on_hopper()) return "it needs a GPU of compute capability 9.0 (Hopper)";
  }
  if (type != DType::bf16) return "it computes in bfloat16 only";
  if (kernel == AttentionKernel::hopper)
    return head_dim % 8 == 0 && head_dim <= kWidestHopper
               ? nullptr
               : "it takes heads of up to 256 channels, a multiple of 8";
  if (kernel == AttentionKernel::cudnn && (head_dim % 8 != 0 || head_dim > kWidest))
    return "it takes heads of up to 128 channels, a multiple of 8";
  if (kernel == AttentionKernel::cudnn) return cudnn_obstacle();
  if (head_dim % 16 != 0 || head_dim > kWidest)
    return "it takes heads of up to 128 channels, a multiple of 16";
  AttentionBackward a{};
  a.forward.head_dim = head_dim;
  return portable_backward_fits(a) ? nullptr
                                   : "its backward needs a GPU with 162 KiB of shared memory per block";
}

int64_t attention_backward_workspace(const Launch& launch, const AttentionBackward& a) {
  const int64_t bytes = backward_bytes(choose(a, launch.sm_count), launch, a);
  return bytes <= kSmallestWorkspace ? 0 : bytes;
}

bool fp8_attention_possible(const Launch& launch, const Attention& k) {
  return choose(k, launch.sm_count) == AttentionKernel::hopper && k.head_dim == kQuantizedHead &&
         k.queries % 16 == 0 && k.out_stride == k.heads * k.head_dim;
}

bool fp8_attention_possible(const Launch& launch, const AttentionBackward& a) {
  const Attention& k = a.forward;
  return choose(a, launch.sm_count) == AttentionKernel::hopper && k.head_dim == kQuantizedHead &&
         k.queries % 16 == 0 && k.keys == k.queries &&
         attention_hopper_backward_quantize_bytes(a) <= launch.workspace_bytes;
}

void fp8_attention(const Launch& launch, const Fp8Attention& k) {
  require(cuda::fp8_attention_possible(launch, k.attention), "heads of 64 channels on Hopper");
  require(
      k.quantize.out != nullptr && k.quantize.format == Fp8Format::e4m3 && k.quantize.column_sums == nullptr,
      "codes of e4m3 alone");
  if (k.quantize.rows > 0) attention_hopper_quantize(launch, k);
}

void fp8_attention_backward(const Launch& launch, const Fp8AttentionBackward& k) {
  require(cuda::fp8_attention_possible(launch, k.backward), "heads of 64 channels on Hopper");
  require(
      k.quantize.out != nullptr && k.quantize.transposed != nullptr && k.quantize.format == Fp8Format::e5m2,
      "both copies of codes of e5m2");
  if (k.quantize.rows == 0) return;
  attention_hopper_backward_quantize(launch, k, {launch.workspace, launch.workspace_bytes});
}

void attention_backward(const Launch& launch, const AttentionBackward& a) {
  const Attention& k = a.forward;
  if (k.batch == 0 || k.heads == 0) return;
  Scratch scratch{launch.workspace, launch.workspace_bytes};
  const int64_t wanted = cuda::attention_backward_workspace(launch, a);
  if (wanted > 0 && a.scratch != nullptr) scratch = {a.scratch, wanted};
  const AttentionKernel kernel = choose(a, launch.sm_count);
  if (kernel == AttentionKernel::hopper) return attention_hopper_backward(launch, a, scratch);
  if (kernel == AttentionKernel::cudnn) {
    attention_cudnn_backward(launch, a, scratch.data, scratch.bytes);
  } else if (kernel == AttentionKernel::portable) {
    attention_portable_backward(launch, a, scratch);
  } else {
    attention_reference_backward(launch, a, scratch);
  }
  if (a.q_rotary.positions != nullptr) cuda::rotary(launch, inverse_q_rotation(a));
  if (a.k_rotary.positions != nullptr) cuda::rotary(launch, inverse_k_rotation(a));
}

}  // namespace perceiver::kernels::cuda
