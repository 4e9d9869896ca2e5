#include "train/muon.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "kernels/elementwise.h"
#include "kernels/gemm.h"
#include "kernels/muon.h"

namespace perceiver {
namespace {

constexpr double kMomentum = 0.95;
constexpr int kIterations = 5;
constexpr double kStepOfAdam = 0.2;  // the usual root mean square of an update of Adam

bool is_hidden_matrix(const ParameterInfo& info) {
  return info.use == ParameterUse::layer && info.shape.rank() == 2;
}

/// Adjacent parameters that AdamW updates, and where its state of them is.
std::vector<UpdatedSlice> rest_of(const ParameterStore& parameters) {
  std::vector<UpdatedSlice> slices;
  bool continues = false;
  for (const ParameterInfo& info : parameters.infos()) {
    const bool rest = !is_hidden_matrix(info);
    if (rest && !continues)
      slices.push_back({.place = {.begin = info.offset}, .values = {}, .gradients = {}});
    if (rest) slices.back().place.elements = info.offset + info.elements() - slices.back().place.begin;
    continues = rest;
  }
  int64_t state = 0;
  for (UpdatedSlice& slice : slices) {
    slice.place.state_begin = state;
    slice.values = parameters.values().view(slice.place.begin, {slice.place.elements});
    slice.gradients = parameters.gradients().view(slice.place.begin, {slice.place.elements});
    state += (slice.place.elements + kSliceAlignment - 1) / kSliceAlignment * kSliceAlignment;
  }
  return slices;
}

class Muon final : public Optimizer {
 public:
  Muon(const OptimizerConfig& config, DeviceContext& context, ParameterStore& parameters)
      : config_(config), context_(context), parameters_(parameters), rest_slices_(rest_of(parameters)) {
    make_matrices();
    if (rest_slices_.empty()) return;
    OptimizerConfig adamw = config;
    adamw.type = OptimizerType::adamw;
    const Slice& last = rest_slices_.back().place;
    rest_ = make_optimizer(adamw, context, parameters, rest_slices_, last.state_begin + last.elements);
  }

  void update(size_t, const kernels::StepScalars* scalars) override {
    for (const Matrix& matrix : matrices_) update_matrix(matrix, scalars);
    for (size_t i = 0; i < rest_slices_.size(); ++i) rest_->update(i, scalars);
  }

  std::vector<NamedTensor> state() const override {
    std::vector<NamedTensor> tensors;
    for (const Matrix& matrix : matrices_)
      tensors.push_back({fmt::format("muon.momentum/{}", matrix.info.name), matrix.momentum});
    for (const NamedTensor& buffer : rest_ ? rest_->buffers() : std::vector<NamedTensor>())
      for (const ParameterInfo& info : parameters_.infos())
        if (!is_hidden_matrix(info))
          tensors.push_back({fmt::format("{}/{}", buffer.name, info.name),
                             buffer.tensor.view(state_begin(info), info.shape)});
    return tensors;
  }

  int64_t work_bytes() const override {
    int64_t bytes = 0;
    for (const Tensor* each : {&update_, &x_, &next_, &product_, &polynomial_, &squares_})
      if (*each) bytes += static_cast<int64_t>(each->bytes());
    return bytes;
  }

 private:
  struct Matrix {
    ParameterInfo info;
    int64_t rows, columns;
    Tensor momentum;

    /// The side on which the small products are.
    int64_t side() const { return std::min(rows, columns); }
  };

  void make_matrices() {
    int64_t elements = 0, side = 0;
    for (const ParameterInfo& info : parameters_.infos())
      if (is_hidden_matrix(info)) {
        matrices_.push_back({info, info.shape[0], info.shape[1],
                             Tensor::zeros(context_, parameters_.values().dtype(), info.shape)});
        elements = std::max(elements, info.elements());
        side = std::max(side, matrices_.back().side());
      }
    if (matrices_.empty()) return;
    const DType wide = parameters_.values().dtype(), type = parameters_.read_values().dtype();
    update_ = Tensor::zeros(context_, wide, {elements});
    x_ = Tensor::zeros(context_, type, {elements});
    next_ = Tensor::zeros(context_, type, {elements});
    product_ = Tensor::zeros(context_, type, {side * side});
    polynomial_ = Tensor::zeros(context_, type, {side * side});
    squares_ = Tensor::zeros(context_, DType::f64, {1});
  }

  void update_matrix(const Matrix& matrix, const kernels::StepScalars* scalars) {
    const Launch& launch = context_.launch();
    const DType wide = update_.dtype(), type = x_.dtype();
    const int64_t elements = matrix.info.elements();
    kernels::muon_momentum(launch, {.type = wide,
                                    .elements = elements,
                                    .gradients = parameters_.gradient(matrix.info).data(),
                                    .momentum = matrix.momentum.data(),
                                    .update = update_.data(),
                                    .decay = kMomentum,
                                    .scalars = scalars});
    kernels::sum_of_squares(
        launch, {.type = wide, .elements = elements, .x = update_.data(), .sum = squares_.as<double>()});
    kernels::muon_normalize(launch, {.from = wide,
                                     .to = type,
                                     .elements = elements,
                                     .x = update_.data(),
                                     .sum_of_squares = squares_.as<double>(),
                                     .y = x_.data()});
    Tensor x = x_, next = next_;
    for (int i = 0; i < kIterations; ++i) {
      iterate(matrix, x, next);
      std::swap(x, next);
    }
    const auto longest = static_cast<double>(std::max(matrix.rows, matrix.columns));
    kernels::muon_step(launch, {.type = wide,
                                .update_type = type,
                                .elements = elements,
                                .parameters = parameters_.value(matrix.info).data(),
                                .update = x.data(),
                                .scale = kStepOfAdam * std::sqrt(longest),
                                .weight_decay = config_.weight_decay,
                                .scalars = scalars});
  }

  /// next = (a I + b P + c P²) x with P = x xᵀ, or where x has more rows than columns the same from the
  /// right: next = x (a I + b P + c P²) with P = xᵀ x.
  void iterate(const Matrix& matrix, const Tensor& x, const Tensor& next) {
    const Launch& launch = context_.launch();
    const DType type = x.dtype();
    const bool tall = matrix.rows > matrix.columns;
    const int64_t side = matrix.side();
    kernels::gemm(launch, {.type = type,
                           .out_type = type,
                           .transpose_a = tall,
                           .transpose_b = !tall,
                           .m = side,
                           .n = side,
                           .k = std::max(matrix.rows, matrix.columns),
                           .a = x.data(),
                           .lda = matrix.columns,
                           .b = x.data(),
                           .ldb = matrix.columns,
                           .c = product_.data(),
                           .ldc = side});
    kernels::gemm(launch, {.type = type,
                           .out_type = type,
                           .m = side,
                           .n = side,
                           .k = side,
                           .a = product_.data(),
                           .lda = side,
                           .b = product_.data(),
                           .ldb = side,
                           .c = polynomial_.data(),
                           .ldc = side});
    kernels::muon_polynomial(
        launch, {.type = type, .size = side, .matrix = product_.data(), .square = polynomial_.data()});
    const Tensor &left = tall ? x : polynomial_, &right = tall ? polynomial_ : x;
    kernels::gemm(launch, {.type = type,
                           .out_type = type,
                           .m = matrix.rows,
                           .n = matrix.columns,
                           .k = side,
                           .a = left.data(),
                           .lda = side,
                           .b = right.data(),
                           .ldb = matrix.columns,
                           .c = next.data(),
                           .ldc = matrix.columns});
  }

  /// Where AdamW's state of a parameter begins.
  int64_t state_begin(const ParameterInfo& info) const {
    const auto after = std::find_if(rest_slices_.begin(), rest_slices_.end(), [&](const UpdatedSlice& each) {
      return info.offset < each.place.begin + each.place.elements;
    });
    return after->place.state_begin + info.offset - after->place.begin;
  }

  OptimizerConfig config_;
  DeviceContext& context_;
  ParameterStore& parameters_;
  std::vector<Matrix> matrices_;
  std::vector<UpdatedSlice> rest_slices_;
  std::unique_ptr<Optimizer> rest_;  // null: there are only matrices
  Tensor update_, x_, next_, product_, polynomial_, squares_;
};

}  // namespace

std::unique_ptr<Optimizer> make_muon(const OptimizerConfig& config, DeviceContext& context,
                                     ParameterStore& parameters) {
  return std::make_unique<Muon>(config, context, parameters);
}

}  // namespace perceiver
