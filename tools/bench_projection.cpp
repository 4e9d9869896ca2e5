// perceiver bench projection: keys and values from projected tables, as JSON lines (docs/projection.md).
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "kernels/gemm.h"
#include "kernels/projection.h"
#include "model/positions.h"
#include "model/precision.h"
#include "ops/projection.h"
#include "perceiver/experimental/random.h"
#include "tools/commands.h"
#include "tools/describe.h"
#include "tools/timing.h"
#include "tools/validators.h"

namespace perceiver::program {
namespace {

struct ProjectionCase {
  const char* name;
  int64_t batch, context, vocabulary, channels, heads;
  std::vector<int64_t> positions;  ///< rows of the absolute position tables; none: rotary
};

// Contexts of configs/bench, and images and text with absolute positions.
std::vector<ProjectionCase> cases(bool gpu) {
  if (!gpu)
    return {{"cpu", 4, 2048, 259, 256, 4, {}},
            {"cpu, absolute", 4, 2048, 259, 256, 4, {2050}},
            {"cpu, image", 4, 3072, 259, 256, 4, {34, 34, 5}}};
  return {{"copy131k", 4, 131072, 259, 1024, 16, {}},
          {"music4k", 16, 4096, 393, 1024, 16, {}},
          {"copy131k, absolute", 4, 131072, 259, 1024, 16, {131074}},
          {"imagenet64, absolute", 8, 12288, 259, 1024, 16, {66, 66, 5}}};
}

/// Operands of a case. Ids, the token table and so the gradients are random, since zeros can be faster; the
/// other tables are zero.
struct Data {
  Tensor tokens, positions, kv, d_kv, rstd, d_rstd, offset, d_offset, scratch;
  std::vector<Tensor> projected, centred, d_projected, d_centred;
  ops::RotaryTable angles;
};

Tensor random_ids(DeviceContext& context, const ProjectionCase& c, int64_t below, uint64_t seed) {
  RandomStream random(seed, RandomPurpose::batch);
  std::vector<int32_t> ids(static_cast<size_t>(c.batch * c.context));
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(static_cast<uint64_t>(below)));
  return Tensor::from_host<int32_t>(context, {c.batch * c.context}, ids);
}

/// Uniform in [-1, 1), f32.
Tensor random_values(DeviceContext& context, const Shape& shape, uint64_t seed) {
  RandomStream random(seed, RandomPurpose::batch);
  std::vector<float> values(static_cast<size_t>(shape.elements()));
  for (float& value : values) value = static_cast<float>(2 * random.uniform() - 1);
  return Tensor::from_host<float>(context, shape, values);
}

/// [batch * context, axes]: raster order, last axis fastest; a single axis counts up.
Tensor raster_positions(DeviceContext& context, const ProjectionCase& c) {
  const auto axes = static_cast<int64_t>(c.positions.size());
  std::vector<int32_t> ids(static_cast<size_t>(c.batch * c.context * std::max<int64_t>(1, axes)));
  for (int64_t row = 0; row < c.batch * c.context; ++row) {
    int64_t place = row % c.context;
    if (axes == 0) ids[static_cast<size_t>(row)] = static_cast<int32_t>(place + 1);
    for (int64_t axis = axes - 1; axis >= 0; --axis) {
      const int64_t size = c.positions[static_cast<size_t>(axis)];
      ids[static_cast<size_t>(row * axes + axis)] =
          static_cast<int32_t>(place % (size - 2) + 2 - (axes == 1));
      place /= size - 2;
    }
  }
  return Tensor::from_host<int32_t>(context, {static_cast<int64_t>(ids.size())}, ids);
}

Data make_data(DeviceContext& context, DType type, const ProjectionCase& c) {
  const DType wide = accumulation_type(type);
  const int64_t rows = c.batch * c.context, columns = 2 * c.channels;
  Data d;
  d.tokens = random_ids(context, c, c.vocabulary, 1);
  d.positions = raster_positions(context, c);
  d.kv = Tensor::zeros(context, type, {rows, columns});
  d.d_kv = Tensor::zeros(context, type, {rows, columns});
  d.rstd = random_values(context, {rows}, 2);
  d.d_rstd = Tensor::zeros(context, wide, {rows});
  for (Tensor* each : {&d.offset, &d.d_offset}) *each = Tensor::zeros(context, wide, {columns});
  std::vector<int64_t> sizes{c.vocabulary};
  sizes.insert(sizes.end(), c.positions.begin(), c.positions.end());
  for (const int64_t size : sizes) {
    for (auto* tables : {&d.projected, &d.d_projected})
      tables->push_back(Tensor::zeros(context, wide, {size, columns}));
    for (auto* tables : {&d.centred, &d.d_centred})
      tables->push_back(Tensor::zeros(context, wide, {size, c.channels}));
  }
  d.projected[0] = random_values(context, {c.vocabulary, columns}, 3);
  d.scratch = Tensor::empty(context, DType::i32, {rows + *std::max_element(sizes.begin(), sizes.end()) + 1});
  ModelConfig config;
  config.context_length = c.context;
  if (c.positions.empty())
    d.angles = make_rotary_table(context, type, config, c.heads, c.channels / c.heads, c.context + 2);
  return d;
}

kernels::TableRows terms_of(const Data& d, const std::vector<Tensor>& tables) {
  const auto axes = static_cast<int64_t>(tables.size()) - 1;
  kernels::TableRows terms;
  terms.tables = static_cast<int>(tables.size());
  for (size_t t = 0; t < tables.size(); ++t) {
    terms.table[t] = tables[t].data();
    terms.ids[t] = t == 0 ? d.tokens.as<int32_t>() : d.positions.as<int32_t>() + t - 1;
    terms.id_stride[t] = t == 0 ? 1 : axes;
    terms.table_rows[t] = tables[t].shape()[0];
  }
  return terms;
}

void run_case(DeviceContext& context, DType type, const ProjectionCase& c, int repeats) {
  const int64_t rows = c.batch * c.context, columns = 2 * c.channels;
  const DType wide = accumulation_type(type);
  const bool absolute = !c.positions.empty();
  Data d = make_data(context, type, c);
  const Launch& launch = context.launch();
  const kernels::TableRows terms = terms_of(d, d.projected), centred = terms_of(d, d.centred);
  kernels::Rotation rotation;
  if (!absolute)
    rotation = {c.heads,
                c.channels / c.heads,
                d.angles.bands,
                d.positions.as<int32_t>(),
                d.angles.cosine.data(),
                d.angles.sine.data()};
  const void* rstd = absolute ? d.rstd.data() : nullptr;
  const void* offset = absolute ? d.offset.data() : nullptr;
  const auto ms = [&](const std::function<void()>& work) { return median_ms(context, repeats, work); };
  const auto gather_into = [&](const Tensor& out) {
    kernels::projected_rows(launch, {.type = type,
                                     .rows = rows,
                                     .columns = columns,
                                     .examples = c.batch,
                                     .terms = terms,
                                     .rstd = rstd,
                                     .offset = offset,
                                     .rotation = rotation,
                                     .out = out.data()});
  };
  // Includes sorting the ids, as every backward does.
  const auto sum_by_id = [&](size_t t) {
    kernels::projected_rows_backward(launch, {.type = type,
                                              .rows = rows,
                                              .columns = columns,
                                              .table_rows = d.projected[t].shape()[0],
                                              .ids = terms.ids[t],
                                              .id_stride = terms.id_stride[t],
                                              .rstd = rstd,
                                              .rotation = rotation,
                                              .d_out = d.d_kv.data(),
                                              .d_table = d.d_projected[t].data(),
                                              .scratch = d.scratch.as<int32_t>()});
  };

  nlohmann::ordered_json out{{"benchmark", "projection"},  {"case", c.name}, {"device", context.name()},
                             {"precision", name_of(type)}, {"rows", rows},   {"columns", columns},
                             {"tables", terms.tables}};
  gather_into(d.d_kv);
  // Column sums, as for the gradient of a bias, read everything once and write almost nothing.
  const double read = ms([&] {
    kernels::bias_activation_backward(launch, {.type = type,
                                               .rows = rows,
                                               .columns = columns,
                                               .activation = Activation::identity,
                                               .d_out = d.d_kv.data(),
                                               .d_bias = d.d_offset.data()});
  });
  out["read_dk_dv_ms"] = read;
  out["read_gb_per_s"] = static_cast<double>(d.d_kv.bytes()) / read * 1e-6;
  out["gather_ms"] = ms([&] { gather_into(d.kv); });
  double sums = 0;
  for (size_t t = 0; t < d.projected.size(); ++t) {
    const double each = ms([&] { sum_by_id(t); });
    out["segment_sum_ms"].push_back(each);
    sums += each;
  }
  out["segment_sums_per_read"] = sums / read;
  if (absolute) {
    const kernels::SumRstd forward{.type = wide,
                                   .rows = rows,
                                   .columns = c.channels,
                                   .examples = c.batch,
                                   .terms = centred,
                                   .rstd = d.rstd.data()};
    out["scale_backward_ms"] = ms([&] {
      kernels::projected_scale_backward(launch, {.type = type,
                                                 .rows = rows,
                                                 .columns = columns,
                                                 .examples = c.batch,
                                                 .terms = terms,
                                                 .d_out = d.d_kv.data(),
                                                 .d_rstd = d.d_rstd.data(),
                                                 .d_offset = d.d_offset.data()});
    });
    out["variances_ms"] = ms([&] { kernels::sum_rstd(launch, forward); });
    out["variances_backward_ms"] = ms([&] {
      kernels::sum_rstd_backward(launch, {.forward = forward,
                                          .d_rstd = d.d_rstd.data(),
                                          .table = 0,
                                          .table_rows = c.vocabulary,
                                          .d_table = d.d_centred[0].data(),
                                          .scratch = d.scratch.as<int32_t>()});
    });
  }
  std::printf("%s\n", out.dump().c_str());
  std::fflush(stdout);
}

}  // namespace

void add_bench_projection(CLI::App& bench, Globals& globals, Action& action) {
  struct Options {
    int repeats = 10;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = bench.add_subcommand(
      "projection",
      "Time the gather of keys and values from projected tables and its backward (segment sums, including "
      "the sort of ids) against one read of dK and dV; one JSON line per shape");
  command->add_option("--repeats", options->repeats, "Timed samples")
      ->check(at_least(1))
      ->capture_default_str();
  command->footer(R"(Examples:
  perceiver bench projection --repeats 20)");
  command->callback([options, &globals, &action] {
    action = [options, &globals] {
      const auto context =
          DeviceContext::open(globals.device.empty() ? "auto" : globals.device, globals.threads);
      const DType type = apply_precision(Precision::automatic, *context);
      for (const ProjectionCase& c : cases(context->is_cuda())) run_case(*context, type, c, options->repeats);
      return 0;
    };
  });
}

}  // namespace perceiver::program
