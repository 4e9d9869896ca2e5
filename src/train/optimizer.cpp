#include "train/optimizer.h"

#include <algorithm>

#include "base/check.h"
#include "kernels/optimizer.h"
#include "train/muon.h"

namespace perceiver {
namespace {

// Small enough that a tile of parameter, gradient and two moments stays in the L2 cache.
constexpr int64_t kTileElements = 4096;

/// A table of plain structs in device memory.
template <typename Entry>
Tensor upload(DeviceContext& context, const std::vector<Entry>& entries) {
  const Tensor table =
      Tensor::empty(context, DType::u8, {static_cast<int64_t>(entries.size() * sizeof(Entry))});
  table.copy_from_host(std::as_bytes(std::span<const Entry>(entries)));
  return table;
}

/// The tiles that lie in a slice, counted from its start.
void add_tiles(const std::vector<kernels::ParameterTile>& all, const Slice& slice,
               std::vector<kernels::ParameterTile>& tiles) {
  for (kernels::ParameterTile tile : all) {
    const int64_t begin = std::max(tile.begin, slice.begin);
    const int64_t end = std::min(tile.begin + tile.elements, slice.begin + slice.elements);
    if (begin >= end) continue;
    tile.begin = begin - slice.begin;
    tile.elements = end - begin;
    tiles.push_back(tile);
  }
}

/// Shared by the elementwise optimizers: tiles, and buffers of state.
class TiledOptimizer : public Optimizer {
 public:
  std::vector<NamedTensor> state() const override {
    std::vector<NamedTensor> tensors;
    for (const NamedTensor& buffer : buffers_)
      for (const ParameterInfo& info : parameters_.infos())
        tensors.push_back(
            {fmt::format("{}/{}", buffer.name, info.name), buffer.tensor.view(info.offset, info.shape)});
    return tensors;
  }
  std::vector<NamedTensor> buffers() const override { return buffers_; }

 protected:
  /// A slice as kernels take it.
  struct Part {
    UpdatedSlice slice;
    size_t first_tile;
    int64_t tile_count;
  };

  TiledOptimizer(const OptimizerConfig& config, DeviceContext& context, ParameterStore& parameters,
                 std::vector<UpdatedSlice> slices, int64_t state_elements)
      : config_(config), context_(context), parameters_(parameters), state_elements_(state_elements) {
    const std::vector<kernels::ParameterTile> all = parameter_tiles(parameters, config.weight_decay);
    std::vector<kernels::ParameterTile> tiles;
    for (UpdatedSlice& slice : slices) {
      const size_t first = tiles.size();
      add_tiles(all, slice.place, tiles);
      parts_.push_back({std::move(slice), first, static_cast<int64_t>(tiles.size() - first)});
    }
    tile_count_ = static_cast<int64_t>(tiles.size());
    tiles_ = upload(context, tiles);
  }

  Tensor add_buffer(std::string name) { return add_buffer(std::move(name), type()); }
  Tensor add_buffer(std::string name, DType type) {
    buffers_.push_back({std::move(name), Tensor::zeros(context_, type, {state_elements_})});
    return buffers_.back().tensor;
  }

  const Part& part(size_t slice) const { return parts_[slice]; }
  DType type() const { return parts_.front().slice.values.dtype(); }
  const kernels::ParameterTile* tiles(const Part& part) const {
    return static_cast<const kernels::ParameterTile*>(tiles_.data()) + part.first_tile;
  }
  /// The part's place in a buffer of state, or null for no buffer.
  static void* state_of(const Tensor& buffer, const Part& part) {
    if (!buffer) return nullptr;
    return buffer.view(part.slice.place.state_begin, {part.slice.place.elements}).data();
  }

  OptimizerConfig config_;
  DeviceContext& context_;
  ParameterStore& parameters_;
  int64_t tile_count_ = 0;

 private:
  int64_t state_elements_;
  std::vector<Part> parts_;
  Tensor tiles_;
  std::vector<NamedTensor> buffers_;
};

class Adam final : public TiledOptimizer {
 public:
  Adam(const OptimizerConfig& config, DeviceContext& context, ParameterStore& parameters,
       std::vector<UpdatedSlice> slices, int64_t state_elements)
      : TiledOptimizer(config, context, parameters, std::move(slices), state_elements),
        moment_type_(config.state == OptimizerState::bfloat16 ? DType::bf16 : type()),
        first_(add_buffer("adam.first_moment", moment_type_)),
        second_(add_buffer("adam.second_moment", moment_type_)) {}

  void update(size_t slice, const kernels::StepScalars* scalars) override {
    const Part& p = part(slice);
    kernels::adam(context_.launch(), {.type = type(),
                                      .moment_type = moment_type_,
                                      .tiles = tiles(p),
                                      .tile_count = p.tile_count,
                                      .parameters = p.slice.values.data(),
                                      .gradients = p.slice.gradients.data(),
                                      .first_moment = state_of(first_, p),
                                      .second_moment = state_of(second_, p),
                                      .rounded = p.slice.rounded.data(),
                                      .first_element = p.slice.place.begin,
                                      .beta1 = config_.beta1,
                                      .beta2 = config_.beta2,
                                      .epsilon = config_.epsilon,
                                      .decoupled = config_.type == OptimizerType::adamw,
                                      .scalars = scalars});
  }
  bool rounds() const override { return true; }

 private:
  DType moment_type_;
  Tensor first_, second_;
};

class Sgd final : public TiledOptimizer {
 public:
  Sgd(const OptimizerConfig& config, DeviceContext& context, ParameterStore& parameters,
      std::vector<UpdatedSlice> slices, int64_t state_elements)
      : TiledOptimizer(config, context, parameters, std::move(slices), state_elements) {
    if (config.momentum > 0) momentum_ = add_buffer("sgd.momentum");
  }

  void update(size_t slice, const kernels::StepScalars* scalars) override {
    const Part& p = part(slice);
    kernels::sgd(context_.launch(), {.type = type(),
                                     .tiles = tiles(p),
                                     .tile_count = p.tile_count,
                                     .parameters = p.slice.values.data(),
                                     .gradients = p.slice.gradients.data(),
                                     .momentum_buffer = state_of(momentum_, p),
                                     .momentum = config_.momentum,
                                     .nesterov = config_.nesterov,
                                     .scalars = scalars});
  }

 private:
  Tensor momentum_;  // none if momentum is 0
};

class Lamb final : public TiledOptimizer {
 public:
  Lamb(const OptimizerConfig& config, DeviceContext& context, ParameterStore& parameters,
       std::vector<UpdatedSlice> slices, int64_t state_elements)
      : TiledOptimizer(config, context, parameters, std::move(slices), state_elements),
        first_(add_buffer("lamb.first_moment")),
        second_(add_buffer("lamb.second_moment")),
        norms_(Tensor::empty(context, DType::f64, {2 * tile_count_})) {}

  void update(size_t slice, const kernels::StepScalars* scalars) override {
    const Part& p = part(slice);
    kernels::lamb(context_.launch(), {.type = type(),
                                      .tiles = tiles(p),
                                      .tile_count = p.tile_count,
                                      .parameters = p.slice.values.data(),
                                      .gradients = p.slice.gradients.data(),
                                      .first_moment = state_of(first_, p),
                                      .second_moment = state_of(second_, p),
                                      .beta1 = config_.beta1,
                                      .beta2 = config_.beta2,
                                      .epsilon = config_.epsilon,
                                      .norms = norms_.as<double>(),
                                      .scalars = scalars});
  }

 private:
  Tensor first_, second_, norms_;
};

class Adafactor final : public Optimizer {
 public:
  Adafactor(const OptimizerConfig& config, DeviceContext& context, ParameterStore& parameters)
      : context_(context), parameters_(parameters) {
    int64_t size = 0;
    for (const ParameterInfo& info : parameters.infos()) table_.push_back(entry(info, config, size));
    moments_ = Tensor::zeros(context, parameters.values().dtype(), {size});
    device_table_ = upload(context, table_);
  }

  void update(size_t, const kernels::StepScalars* scalars) override {
    kernels::adafactor(context_.launch(),
                       {.type = moments_.dtype(),
                        .table = static_cast<const kernels::AdafactorParameter*>(device_table_.data()),
                        .parameter_count = static_cast<int64_t>(table_.size()),
                        .parameters = parameters_.values().data(),
                        .gradients = parameters_.gradients().data(),
                        .moments = moments_.data(),
                        .scalars = scalars});
  }

  std::vector<NamedTensor> state() const override {
    std::vector<NamedTensor> tensors;
    for (size_t i = 0; i < table_.size(); ++i) {
      const ParameterInfo& info = parameters_.infos()[i];
      const kernels::AdafactorParameter& moments = table_[i];
      if (moments.factored) {
        tensors.push_back({fmt::format("adafactor.row_moment/{}", info.name),
                           moments_.view(moments.row_moment, {moments.rows})});
        tensors.push_back({fmt::format("adafactor.column_moment/{}", info.name),
                           moments_.view(moments.column_moment, {moments.columns})});
      } else {
        tensors.push_back({fmt::format("adafactor.second_moment/{}", info.name),
                           moments_.view(moments.row_moment, info.shape)});
      }
    }
    return tensors;
  }

 private:
  /// Appends a parameter's moments to a buffer that has `size` elements so far.
  static kernels::AdafactorParameter entry(const ParameterInfo& info, const OptimizerConfig& config,
                                           int64_t& size) {
    const bool factored = info.shape.rank() >= 2;
    kernels::AdafactorParameter entry{};
    entry.begin = info.offset;
    entry.rows = info.shape.rows();
    entry.columns = info.shape.last();
    entry.factored = factored;
    entry.row_moment = size;
    entry.column_moment = size + entry.rows;
    entry.weight_decay = info.decays() ? config.weight_decay : 0;
    size += factored ? entry.rows + entry.columns : info.elements();
    return entry;
  }

  DeviceContext& context_;
  ParameterStore& parameters_;
  std::vector<kernels::AdafactorParameter> table_;
  Tensor moments_, device_table_;
};

}  // namespace

std::vector<kernels::ParameterTile> parameter_tiles(const ParameterStore& parameters, double weight_decay) {
  std::vector<kernels::ParameterTile> tiles;
  for (size_t i = 0; i < parameters.infos().size(); ++i) {
    const ParameterInfo& info = parameters.infos()[i];
    const int64_t elements = info.elements();
    for (int64_t begin = 0; begin < elements; begin += kTileElements)
      tiles.push_back({info.offset + begin, std::min(kTileElements, elements - begin),
                       static_cast<int64_t>(i), info.decays() ? weight_decay : 0, info.shape.rank() >= 2});
  }
  return tiles;
}

UpdatedSlice whole_slice(const ParameterStore& parameters) {
  const Tensor &values = parameters.values(), &read = parameters.read_values();
  return {{.begin = 0, .elements = values.elements()},
          values,
          parameters.gradients(),
          read.dtype() == values.dtype() ? Tensor() : read};
}

std::vector<NamedTensor> on_host(const std::vector<NamedTensor>& tensors) {
  std::vector<NamedTensor> copies;
  for (const NamedTensor& each : tensors) copies.push_back({each.name, each.tensor.on_host()});
  return copies;
}

std::vector<NamedTensor> Optimizer::collect_state() const {
  return on_host(state());
}

bool divides(OptimizerType type) {
  return type == OptimizerType::adam || type == OptimizerType::adamw || type == OptimizerType::sgd;
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config, DeviceContext& context,
                                          ParameterStore& parameters) {
  UpdatedSlice whole = whole_slice(parameters);
  const int64_t elements = whole.place.elements;
  return make_optimizer(config, context, parameters, {std::move(whole)}, elements);
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config, DeviceContext& context,
                                          ParameterStore& parameters, std::vector<UpdatedSlice> slices,
                                          int64_t state_elements, std::shared_ptr<Communicator> ranks) {
  const bool whole = slices.size() == 1 && slices[0].place.elements == parameters.size();
  PERCEIVER_ASSERT(whole || divides(config.type));
  switch (config.type) {
    case OptimizerType::adam:
    case OptimizerType::adamw:
      return std::make_unique<Adam>(config, context, parameters, std::move(slices), state_elements);
    case OptimizerType::sgd:
      return std::make_unique<Sgd>(config, context, parameters, std::move(slices), state_elements);
    case OptimizerType::lamb:
      return std::make_unique<Lamb>(config, context, parameters, std::move(slices), state_elements);
    case OptimizerType::adafactor:
      return std::make_unique<Adafactor>(config, context, parameters);
    case OptimizerType::muon:
      return make_muon(config, context, parameters, std::move(ranks));
  }
  throw_failure("internal error: unknown optimizer type {}", static_cast<int>(config.type));
}

}  // namespace perceiver
