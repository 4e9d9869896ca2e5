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
/// Elements of the matrices that a rank multiplies at once: enough to fill a GPU, without doubling the memory
/// of a large model.
constexpr int64_t kMostElements = int64_t{1} << 24;

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

/// Matrices of one shape, which are multiplied at once: one small matrix does not fill a GPU. Over several
/// ranks each has the momentum of `share` of them, the last ones of fewer or none, and computes their
/// updates.
struct Group {
  int64_t rows, columns;
  std::vector<ParameterInfo> matrices;
  int64_t share = 0, first = 0, own = 0;  ///< this rank's are [first, first + own)
  Tensor momentum;                        ///< [share, rows, columns]

  /// The side on which the small products are.
  int64_t side() const { return std::min(rows, columns); }
  int64_t elements() const { return rows * columns; }
  int64_t count() const { return std::ssize(matrices); }
  const ParameterInfo& matrix(int64_t i) const { return matrices[static_cast<size_t>(i)]; }
  bool has_room(const ParameterInfo& info, int64_t most_elements) const {
    return rows == info.shape[0] && columns == info.shape[1] && (count() + 1) * elements() <= most_elements;
  }
  /// The momentum of matrix `first + i`.
  Tensor own_momentum(int64_t i) const { return momentum.view(i * elements(), {rows, columns}); }
};

std::vector<Group> groups_of(const ParameterStore& parameters, int64_t most_elements) {
  std::vector<Group> groups;
  for (const ParameterInfo& info : parameters.infos()) {
    if (!is_hidden_matrix(info)) continue;
    const auto group = std::find_if(groups.begin(), groups.end(),
                                    [&](const Group& each) { return each.has_room(info, most_elements); });
    if (group == groups.end()) {
      groups.push_back({.rows = info.shape[0], .columns = info.shape[1], .matrices = {info}, .momentum = {}});
    } else {
      group->matrices.push_back(info);
    }
  }
  return groups;
}

class Muon final : public Optimizer {
 public:
  Muon(const OptimizerConfig& config, DeviceContext& context, ParameterStore& parameters,
       std::shared_ptr<Communicator> ranks)
      : config_(config),
        context_(context),
        parameters_(parameters),
        ranks_(std::move(ranks)),
        groups_(groups_of(parameters, kMostElements * size())),
        rest_slices_(rest_of(parameters)) {
    for (Group& group : groups_) take_share(group);
    allocate();
    if (rest_slices_.empty()) return;
    OptimizerConfig adamw = config;
    adamw.type = OptimizerType::adamw;
    const Slice& last = rest_slices_.back().place;
    rest_ = make_optimizer(adamw, context, parameters, rest_slices_, last.state_begin + last.elements);
  }

  void update(size_t, const kernels::StepScalars* scalars) override {
    for (const Group& group : groups_) update_group(group, scalars);
    for (size_t i = 0; i < rest_slices_.size(); ++i) rest_->update(i, scalars);
  }

  std::vector<NamedTensor> state() const override {
    std::vector<NamedTensor> tensors = state_of_rest();
    for (const Group& group : groups_)
      for (int64_t i = 0; i < group.own; ++i)
        tensors.push_back({name_of(group.matrix(group.first + i)), group.own_momentum(i)});
    return tensors;
  }

  std::vector<NamedTensor> collect_state() const override {
    std::vector<NamedTensor> tensors = on_host(state_of_rest());
    for (const Group& group : groups_) {
      const Tensor all = all_momentum(group).on_host();
      for (int64_t i = 0; i < group.count(); ++i)
        tensors.push_back(
            {name_of(group.matrix(i)), all.view(i * group.elements(), {group.rows, group.columns})});
    }
    return tensors;
  }

  int64_t work_bytes() const override {
    int64_t bytes = 0;
    for (const Tensor* each : {&update_, &x_, &next_, &product_, &polynomial_, &squares_})
      if (*each) bytes += static_cast<int64_t>(each->bytes());
    return bytes;
  }

 private:
  int size() const { return ranks_ ? ranks_->size() : 1; }
  int rank() const { return ranks_ ? ranks_->rank() : 0; }

  static std::string name_of(const ParameterInfo& matrix) {
    return fmt::format("muon.momentum/{}", matrix.name);
  }

  void take_share(Group& group) {
    group.share = (group.count() + size() - 1) / size();
    group.first = std::min(group.count(), group.share * rank());
    group.own = std::min(group.share, group.count() - group.first);
    group.momentum =
        Tensor::zeros(context_, parameters_.values().dtype(), {group.share, group.rows, group.columns});
  }

  void allocate() {
    if (groups_.empty()) return;
    int64_t elements = 0, own = 0, all = 0, squares = 0;
    for (const Group& group : groups_) {
      elements = std::max(elements, group.elements());
      own = std::max(own, group.share * group.elements());
      all = std::max(all, group.share * size() * group.elements());
      squares = std::max(squares, group.share * group.side() * group.side());
    }
    const DType wide = parameters_.values().dtype(), type = parameters_.read_values().dtype();
    update_ = Tensor::zeros(context_, wide, {elements});
    x_ = Tensor::zeros(context_, type, {all});
    next_ = Tensor::zeros(context_, type, {own});
    product_ = Tensor::zeros(context_, type, {squares});
    polynomial_ = Tensor::zeros(context_, type, {squares});
    squares_ = Tensor::zeros(context_, DType::f64, {1});
  }

  std::vector<NamedTensor> state_of_rest() const {
    std::vector<NamedTensor> tensors;
    for (const NamedTensor& buffer : rest_ ? rest_->buffers() : std::vector<NamedTensor>())
      for (const ParameterInfo& info : parameters_.infos())
        if (!is_hidden_matrix(info))
          tensors.push_back({fmt::format("{}/{}", buffer.name, info.name),
                             buffer.tensor.view(state_begin(info), info.shape)});
    return tensors;
  }

  /// The momentum of all ranks, [size() share, rows, columns].
  Tensor all_momentum(const Group& group) const {
    if (!ranks_) return group.momentum;
    const int64_t own = group.share * group.elements();
    const Tensor all = Tensor::zeros(context_, group.momentum.dtype(), {size() * own});
    all.view(rank() * own, {own}).copy_from(group.momentum.view(0, {own}));
    ranks_->all_gather(all);
    return all;
  }

  void update_group(const Group& group, const kernels::StepScalars* scalars) {
    const int64_t elements = group.elements(), share = group.share * elements;
    // Of an odd number of iterations from one buffer to the other, the last one ends in x_.
    static_assert(kIterations % 2 == 1);
    Tensor x = next_, next = x_.view(rank() * share, {share});
    for (int64_t i = 0; i < group.own; ++i) begin(group, i, x.view(i * elements, {elements}), scalars);
    for (int i = 0; i < kIterations && group.own > 0; ++i) {
      iterate(group, x, next);
      std::swap(x, next);
    }
    if (ranks_) ranks_->all_gather(x_.view(0, {size() * share}));
    const double scale = kStepOfAdam * std::sqrt(static_cast<double>(std::max(group.rows, group.columns)));
    for (int64_t i = 0; i < group.count(); ++i)
      kernels::muon_step(context_.launch(), {.type = update_.dtype(),
                                             .update_type = x_.dtype(),
                                             .elements = elements,
                                             .parameters = parameters_.value(group.matrix(i)).data(),
                                             .update = x_.view(i * elements, {elements}).data(),
                                             .scale = scale,
                                             .weight_decay = config_.weight_decay,
                                             .scalars = scalars});
  }

  /// x = the momentum of this rank's matrix `i`, divided by its norm.
  void begin(const Group& group, int64_t i, const Tensor& x, const kernels::StepScalars* scalars) {
    const Launch& launch = context_.launch();
    const DType wide = update_.dtype();
    const int64_t elements = group.elements();
    kernels::muon_momentum(launch, {.type = wide,
                                    .elements = elements,
                                    .gradients = parameters_.gradient(group.matrix(group.first + i)).data(),
                                    .momentum = group.own_momentum(i).data(),
                                    .update = update_.data(),
                                    .decay = kMomentum,
                                    .scalars = scalars});
    kernels::sum_of_squares(
        launch, {.type = wide, .elements = elements, .x = update_.data(), .sum = squares_.as<double>()});
    kernels::muon_normalize(launch, {.from = wide,
                                     .to = x.dtype(),
                                     .elements = elements,
                                     .x = update_.data(),
                                     .sum_of_squares = squares_.as<double>(),
                                     .y = x.data()});
  }

  /// next = (a I + b P + c P²) x with P = x xᵀ, or where x has more rows than columns the same from the
  /// right: next = x (a I + b P + c P²) with P = xᵀ x.
  void iterate(const Group& group, const Tensor& x, const Tensor& next) {
    const Launch& launch = context_.launch();
    const DType type = x.dtype();
    const bool tall = group.rows > group.columns;
    const int64_t side = group.side(), square = side * side, elements = group.elements(), count = group.own;
    kernels::gemm(launch, {.type = type,
                           .out_type = type,
                           .transpose_a = tall,
                           .transpose_b = !tall,
                           .m = side,
                           .n = side,
                           .k = std::max(group.rows, group.columns),
                           .a = x.data(),
                           .lda = group.columns,
                           .b = x.data(),
                           .ldb = group.columns,
                           .c = product_.data(),
                           .ldc = side,
                           .batch = count,
                           .stride_a = elements,
                           .stride_b = elements,
                           .stride_c = square});
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
                           .ldc = side,
                           .batch = count,
                           .stride_a = square,
                           .stride_b = square,
                           .stride_c = square});
    kernels::muon_polynomial(launch, {.type = type,
                                      .count = count,
                                      .size = side,
                                      .matrix = product_.data(),
                                      .square = polynomial_.data()});
    const Tensor &left = tall ? x : polynomial_, &right = tall ? polynomial_ : x;
    kernels::gemm(launch, {.type = type,
                           .out_type = type,
                           .m = group.rows,
                           .n = group.columns,
                           .k = side,
                           .a = left.data(),
                           .lda = side,
                           .b = right.data(),
                           .ldb = group.columns,
                           .c = next.data(),
                           .ldc = group.columns,
                           .batch = count,
                           .stride_a = tall ? elements : square,
                           .stride_b = tall ? square : elements,
                           .stride_c = elements});
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
  std::shared_ptr<Communicator> ranks_;  // null: one rank, or nothing is divided
  std::vector<Group> groups_;
  std::vector<UpdatedSlice> rest_slices_;
  std::unique_ptr<Optimizer> rest_;  // null: there are only matrices
  Tensor update_, x_, next_, product_, polynomial_, squares_;
};

}  // namespace

std::unique_ptr<Optimizer> make_muon(const OptimizerConfig& config, DeviceContext& context,
                                     ParameterStore& parameters, std::shared_ptr<Communicator> ranks) {
  return std::make_unique<Muon>(config, context, parameters, std::move(ranks));
}

}  // namespace perceiver
