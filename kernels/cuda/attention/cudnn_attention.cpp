// The graphs in which cuDNN recognises fused attention and its gradients: every step of the textbook formulas
// as an operation of its own, tensors between them never in memory.
#include "kernels/cuda/attention/cudnn_attention.h"

#include <cmath>
#include <limits>

#include "base/check.h"
#include "kernels/attention.h"
#include "kernels/cuda/attention/cudnn_library.h"

#if __has_include(<cudnn_graph.h>)
namespace perceiver::kernels::cuda {
namespace {

using cudnn::Extents;
using cudnn::Graph;
using cudnn::Library;
using cudnn::Plan;
using cudnn::TensorId;

constexpr int64_t round_up(int64_t bytes) {
  return (bytes + 255) / 256 * 256;
}

/// Extents and strides of one attention's tensors.
class Shapes {
 public:
  Shapes(const Attention& k, bool causal) : k_(k), causal_(causal) {}

  Extents queries() const { return {k_.batch, k_.heads, k_.queries, k_.head_dim}; }
  Extents keys() const { return {k_.batch, k_.heads, k_.keys, k_.head_dim}; }
  Extents transposed_keys() const { return {k_.batch, k_.heads, k_.head_dim, k_.keys}; }
  Extents scores() const { return {k_.batch, k_.heads, k_.queries, k_.keys}; }
  Extents transposed_scores() const { return {k_.batch, k_.heads, k_.keys, k_.queries}; }
  Extents rows() const { return {k_.batch, k_.heads, k_.queries, 1}; }
  Extents q_strides() const { return {k_.queries * k_.q_stride, k_.head_dim, k_.q_stride, 1}; }
  Extents out_strides() const { return {k_.queries * k_.out_stride, k_.head_dim, k_.out_stride, 1}; }
  Extents kv_strides() const { return {k_.keys * k_.kv_stride, k_.head_dim, k_.kv_stride, 1}; }
  Extents transposed_kv_strides() const { return {k_.keys * k_.kv_stride, k_.head_dim, 1, k_.kv_stride}; }
  Extents row_strides() const { return {k_.heads * k_.queries, k_.queries, 1, 1}; }
  Extents transposed_score_strides() const {
    return {k_.heads * k_.queries * k_.keys, k_.queries * k_.keys, 1, k_.keys};
  }
  Extents sum_strides() const {
    return {k_.heads * k_.queries * k_.head_dim, k_.queries * k_.head_dim, k_.head_dim, 1};
  }
  int64_t row_bytes() const { return round_up(k_.batch * k_.heads * k_.queries * 4); }
  int64_t sum_bytes() const { return round_up(k_.batch * k_.heads * k_.queries * k_.head_dim * 4); }

  /// q · kᵀ / sqrt(head_dim).
  TensorId scaled_scores(Graph& graph, TensorId q, TensorId k_transposed, TensorId scale) const {
    const TensorId raw = graph.matmul(q, k_transposed, graph.inner(CUDNN_DATA_FLOAT, scores()));
    return graph.pointwise(CUDNN_POINTWISE_MUL, raw, scale, graph.inner(CUDNN_DATA_FLOAT, scores()));
  }
  TensorId scale(Graph& graph) const {
    return graph.constant(1 / std::sqrt(static_cast<float>(k_.head_dim)));
  }

  /// -inf where row + keys - queries < column.
  TensorId masked(Graph& graph, TensorId values) const {
    if (!causal_) return values;
    const auto whole = [&] { return graph.inner(CUDNN_DATA_INT32, scores()); };
    TensorId row = graph.index(values, 2, whole());
    const TensorId column = graph.index(values, 3, whole());
    if (k_.keys != k_.queries) {
      row = graph.pointwise(CUDNN_POINTWISE_ADD, row, graph.constant(static_cast<int32_t>(k_.keys)), whole(),
                            CUDNN_DATA_INT32);
      row = graph.pointwise(CUDNN_POINTWISE_SUB, row, graph.constant(static_cast<int32_t>(k_.queries)),
                            whole(), CUDNN_DATA_INT32);
    }
    const TensorId seen = graph.pointwise(CUDNN_POINTWISE_CMP_GE, row, column,
                                          graph.inner(CUDNN_DATA_BOOLEAN, scores()), CUDNN_DATA_BOOLEAN);
    return graph.select(values, graph.constant(-std::numeric_limits<float>::infinity()), seen,
                        graph.inner(CUDNN_DATA_FLOAT, scores()));
  }

 private:
  Attention k_;
  bool causal_;
};

struct Forward {
  Forward(const Library& library, const Shapes& shapes)
      : graph(library),
        q(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.queries(), shapes.q_strides())),
        k(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.transposed_keys(), shapes.transposed_kv_strides())),
        v(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.keys(), shapes.kv_strides())),
        out(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.queries(), shapes.out_strides())),
        lse(graph.tensor(CUDNN_DATA_FLOAT, shapes.rows(), shapes.row_strides())),
        plan(build(shapes)) {}

  Plan build(const Shapes& shapes) {
    const auto row = [&] { return graph.inner(CUDNN_DATA_FLOAT, shapes.rows()); };
    const auto square = [&] { return graph.inner(CUDNN_DATA_FLOAT, shapes.scores()); };
    const TensorId scores = shapes.masked(graph, shapes.scaled_scores(graph, q, k, shapes.scale(graph)));
    const TensorId largest = graph.reduce(CUDNN_REDUCE_TENSOR_MAX, scores, row());
    const TensorId shifted = graph.pointwise(CUDNN_POINTWISE_SUB, scores, largest, square());
    const TensorId powers = graph.pointwise(CUDNN_POINTWISE_EXP, shifted, square());
    const TensorId sum = graph.reduce(CUDNN_REDUCE_TENSOR_ADD, powers, row());
    const TensorId log_sum = graph.pointwise(CUDNN_POINTWISE_LOG, sum, row());
    graph.pointwise(CUDNN_POINTWISE_ADD, largest, log_sum, lse);
    const TensorId probabilities =
        graph.pointwise(CUDNN_POINTWISE_DIV, powers, sum, graph.inner(CUDNN_DATA_BFLOAT16, shapes.scores()));
    graph.matmul(probabilities, v, out);
    return graph.compile("attention");
  }

  Graph graph;
  TensorId q, k, v, out, lse;
  Plan plan;
};

struct Backward {
  Backward(const Library& library, const Shapes& shapes)
      : graph(library),
        q(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.queries(), shapes.q_strides())),
        k(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.transposed_keys(), shapes.transposed_kv_strides())),
        v(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.transposed_keys(), shapes.transposed_kv_strides())),
        out(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.queries(), shapes.out_strides())),
        d_out(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.queries(), shapes.out_strides())),
        lse(graph.tensor(CUDNN_DATA_FLOAT, shapes.rows(), shapes.row_strides())),
        d_q(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.queries(), shapes.q_strides())),
        d_k(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.keys(), shapes.kv_strides())),
        d_v(graph.tensor(CUDNN_DATA_BFLOAT16, shapes.keys(), shapes.kv_strides())),
        delta(graph.tensor(CUDNN_DATA_FLOAT, shapes.rows(), shapes.row_strides())),
        d_q_sum(graph.tensor(CUDNN_DATA_FLOAT, shapes.queries(), shapes.sum_strides())),
        plan(build(shapes)) {}

  Plan build(const Shapes& shapes) {
    const auto square = [&] { return graph.inner(CUDNN_DATA_FLOAT, shapes.scores()); };
    const auto transposed = [&](TensorId x) {
      return graph.reshape(
          x, graph.inner(CUDNN_DATA_BFLOAT16, shapes.transposed_scores(), shapes.transposed_score_strides()));
    };
    // delta = rows' sums of d_out * out; the product with 1 is where the keep rate of dropout would stand.
    const TensorId products =
        graph.pointwise(CUDNN_POINTWISE_MUL, d_out, out, graph.inner(CUDNN_DATA_FLOAT, shapes.queries()));
    const TensorId sums =
        graph.reduce(CUDNN_REDUCE_TENSOR_ADD, products, graph.inner(CUDNN_DATA_FLOAT, shapes.rows()));
    graph.pointwise(CUDNN_POINTWISE_MUL, sums, graph.constant(1.0f), delta);

    const TensorId scale = shapes.scale(graph);
    const TensorId scores = shapes.scaled_scores(graph, q, k, scale);
    const TensorId logs = graph.pointwise(CUDNN_POINTWISE_SUB, scores, lse, square());
    const TensorId p = graph.pointwise(CUDNN_POINTWISE_EXP, shapes.masked(graph, logs), square());
    graph.matmul(transposed(p), d_out, d_v);

    const TensorId d_p = graph.matmul(d_out, v, square());
    const TensorId centred = graph.pointwise(CUDNN_POINTWISE_SUB, d_p, delta, square());
    const TensorId weighted = graph.pointwise(CUDNN_POINTWISE_MUL, centred, p, square());
    const TensorId d_s = graph.pointwise(CUDNN_POINTWISE_MUL, weighted, scale, square());
    graph.matmul(transposed(d_s), q, d_k);

    const TensorId k_rows =
        graph.reshape(k, graph.inner(CUDNN_DATA_BFLOAT16, shapes.keys(), shapes.kv_strides()));
    graph.matmul(d_s, k_rows, d_q_sum);
    graph.pointwise(CUDNN_POINTWISE_IDENTITY, d_q_sum, d_q);
    return graph.compile("attention's gradients");
  }

  Graph graph;
  TensorId q, k, v, out, d_out, lse, d_q, d_k, d_v;
  TensorId delta;    ///< f32 [batch, heads, queries]
  TensorId d_q_sum;  ///< f32 [batch, heads, queries, head_dim]
  Plan plan;
};

void check_shape(const Attention& k) {
  if (k.type != DType::bf16)
    throw_user("cuDNN's attention is compared in bfloat16 alone; add --precision bfloat16");
  if (k.queries > k.keys)
    throw_user("cuDNN's attention takes no more queries ({}) than keys ({})", k.queries, k.keys);
}

}  // namespace

struct CudnnAttention::State {
  State(const Launch& launch, const Attention& k, bool causal)
      : library(static_cast<cudaStream_t>(launch.stream)),
        shapes(k, causal),
        forward(library, shapes),
        backward(library, shapes),
        delta_bytes(shapes.row_bytes()),
        sum_bytes(shapes.sum_bytes()) {}

  Library library;
  Shapes shapes;
  Forward forward;
  Backward backward;
  int64_t delta_bytes, sum_bytes;
};

bool CudnnAttention::installed() {
  return cudnn::open_library() != nullptr;
}

CudnnAttention::CudnnAttention(const Launch& launch, const Attention& shape, bool causal) {
  check_shape(shape);
  state_ = std::make_unique<State>(launch, shape, causal);
}

CudnnAttention::~CudnnAttention() = default;

const std::string& CudnnAttention::version() const {
  return state_->library.version();
}

int64_t CudnnAttention::scratch_bytes() const {
  return std::max(state_->forward.plan.workspace_bytes(),
                  state_->delta_bytes + state_->sum_bytes + state_->backward.plan.workspace_bytes());
}

void CudnnAttention::forward(const Attention& k, void* scratch) const {
  const Forward& f = state_->forward;
  const Graph::Binding bindings[] = {{f.q, k.q}, {f.k, k.k}, {f.v, k.v}, {f.out, k.out}, {f.lse, k.lse}};
  f.graph.run(f.plan, bindings, scratch);
}

void CudnnAttention::backward(const AttentionBackward& a, void* scratch) const {
  const Backward& b = state_->backward;
  const Attention& k = a.forward;
  auto* bytes = static_cast<std::byte*>(scratch);
  const Graph::Binding bindings[] = {{b.q, k.q},
                                     {b.k, k.k},
                                     {b.v, k.v},
                                     {b.out, k.out},
                                     {b.lse, k.lse},
                                     {b.d_out, a.d_out},
                                     {b.d_q, a.d_q},
                                     {b.d_k, a.d_k},
                                     {b.d_v, a.d_v},
                                     {b.delta, bytes},
                                     {b.d_q_sum, bytes + state_->delta_bytes}};
  b.graph.run(b.plan, bindings, bytes + state_->delta_bytes + state_->sum_bytes);
}

}  // namespace perceiver::kernels::cuda
#else
namespace perceiver::kernels::cuda {

struct CudnnAttention::State {
  std::string version;
};

bool CudnnAttention::installed() {
  return false;
}

CudnnAttention::CudnnAttention(const Launch&, const Attention&, bool) {
  throw_user("this build has no cuDNN attention: its headers (cudnn_graph.h) were not there");
}

CudnnAttention::~CudnnAttention() = default;

const std::string& CudnnAttention::version() const {
  return state_->version;
}

int64_t CudnnAttention::scratch_bytes() const {
  return 0;
}

void CudnnAttention::forward(const Attention&, void*) const {}
void CudnnAttention::backward(const AttentionBackward&, void*) const {}

}  // namespace perceiver::kernels::cuda
#endif
