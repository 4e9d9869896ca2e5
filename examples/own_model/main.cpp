// Trains a model of one's own, a small transformer on the bytes of a file, and prints a sample.
//   own_model TEXT [--device cpu|cuda|auto]
#include <perceiver/error.h>
#include <perceiver/experimental/experimental.h>

#include <cmath>
#include <fstream>
#include <iostream>
#include <random>

using namespace perceiver;

constexpr int64_t kSteps = 150, kBatch = 16, kLength = 64, kVocabulary = 257;  // byte b is id b + 1
constexpr int64_t kChannels = 64, kHeads = 4, kHeadWidth = kChannels / kHeads;
constexpr double kTargets = kBatch * kLength;  // per step

/// A transformer of one block.
struct Model {
  explicit Model(DeviceContext& context) {
    parameters.declare(table, "bytes", {kVocabulary, kChannels}, {Initializer::fan_in}, ParameterUse::table);
    declare_norm(parameters, norm, "norm", kChannels);
    declare_linear(parameters, qkv, "qkv", kChannels, 3 * kChannels);
    declare_linear(parameters, out, "out", kChannels, kChannels);
    declare_norm(parameters, norm_mlp, "norm_mlp", kChannels);
    mlp.declare(parameters, "mlp", kChannels, 4, Activation::gelu);
    declare_norm(parameters, norm_out, "norm_out", kChannels);
    declare_linear(parameters, output, "output", kChannels, kVocabulary);
    parameters.allocate(context, context.is_cuda() ? DType::bf16 : DType::f32);
    parameters.initialize(1);
    rotary = ops::make_rotary_table(context, DType::f32, kLength, kHeads, kHeadWidth);
  }

  /// Ids [batch, length] to what the output layer reads, [batch * length, channels].
  Variable forward(Tape& tape, const Tensor& ids) const {
    const int64_t batch = ids.shape()[0], length = ids.shape()[1];
    std::vector<int32_t> places;
    for (int32_t i = 0; i < batch * length; ++i) places.push_back(i % static_cast<int32_t>(length));
    const Tensor positions = Tensor::from_host<int32_t>(tape.context(), {batch * length}, places);
    const Variable x = ops::embedding(tape, table, ids);
    const Variable heads = ops::linear(tape, ops::layer_norm(tape, x, norm), qkv);
    ops::rotary(tape, heads, 0, kHeadWidth, rotary, positions);
    ops::rotary(tape, heads, kChannels, kHeadWidth, rotary, positions);
    const ops::AttentionInputs in{heads, heads, 0, kChannels, 2 * kChannels, batch, kHeads, kHeadWidth};
    const Variable seen = ops::attention(tape, in, ops::causal_mask(tape.context(), batch, length));
    const ops::DropoutSite drop{.rate = 0.05, .per_example = length * kChannels};
    const auto [z, normal] = ops::residual_layer_norm(tape, x, ops::linear(tape, seen, out), norm_mlp, drop);
    return ops::layer_norm(tape, ops::residual_add(tape, z, mlp.forward(tape, normal), drop), norm_out);
  }

  ParameterStore parameters;
  Variable table;
  ops::NormParameters norm, norm_mlp, norm_out;
  ops::LinearParameters qkv, out, output;
  Mlp mlp;
  ops::RotaryTable rotary;
};

/// Ids of the 64 bytes from each of `begins` on, [begins, 64].
Tensor ids_of(DeviceContext& context, const std::string& text, const std::vector<size_t>& begins) {
  std::vector<int32_t> ids;
  for (const size_t begin : begins)
    for (const char byte : text.substr(begin, kLength)) ids.push_back(static_cast<uint8_t>(byte) + 1);
  return Tensor::from_host<int32_t>(context, {static_cast<int64_t>(begins.size()), kLength}, ids);
}

void train(DeviceContext& context, Model& model, const std::string& text) {
  Config config;
  config.optimizer = {.type = OptimizerType::adamw, .learning_rate = 3e-3, .weight_decay = 0.01};
  config.schedule.type = ScheduleType::cosine;
  config.train.steps = kSteps;
  TrainingSteps steps(config.optimizer, context, model.parameters);
  for (int64_t step = 0; step < kSteps; ++step) {
    RandomStream random(1, RandomPurpose::user, static_cast<uint64_t>(step));
    std::vector<size_t> inputs, targets;
    for (int64_t i = 0; i < kBatch; ++i) inputs.push_back(random.below(text.size() - kLength));
    for (const size_t begin : inputs) targets.push_back(begin + 1);
    steps.start(step, learning_rate(config, step), 1 / kTargets);
    Tape tape(context, true, true, steps.random(1));
    const Variable x = model.forward(tape, ids_of(context, text, inputs));
    const ops::LossResult loss = ops::output_loss(tape, x, model.output, ids_of(context, text, targets),
                                                  {.gradient_scale = steps.loss_scale()});
    tape.backward();
    steps.update(loss.totals);
    if (step % 25 > 0 && step + 1 < kSteps) continue;
    std::cout << "step " << step << ": loss " << loss.totals.to_host<double>()[1] / kTargets << " nats\n";
  }
}

char next_byte(DeviceContext& context, const Model& model, const std::string& text, std::mt19937& random) {
  Tape tape(context, false);
  const Tensor x = model.forward(tape, ids_of(context, text, {text.size() - kLength})).value;
  const Variable last = Tape::constant(x.view((kLength - 1) * kChannels, {1, kChannels}));
  std::vector<double> weights = host_doubles(ops::linear(tape, last, model.output).value);
  for (double& weight : weights) weight = std::exp(weight);
  weights[0] = 0;  // no byte
  return static_cast<char>(std::discrete_distribution<int>(weights.begin(), weights.end())(random) - 1);
}

int main(int argc, char** argv) {
  try {
    if (argc != 2 && !(argc == 4 && argv[2] == std::string("--device")))
      throw Error(ErrorKind::user, "usage: own_model TEXT [--device cpu|cuda|auto]");
    std::ifstream file(argv[1], std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(file), {}};
    if (text.size() <= kLength) throw Error(ErrorKind::user, std::string(argv[1]) + ": no text of 65 bytes");
    const auto context = DeviceContext::open(argc == 4 ? argv[3] : "auto");
    Model model(*context);
    std::cout << model.parameters.count() << " parameters on " << context->name() << "\n";
    train(*context, model, text);
    write_tensors("own_model.safetensors", model.parameters.tensors());
    text.resize(kLength);  // the prompt
    std::mt19937 random(2);
    for (int i = 0; i < 120; ++i) text.push_back(next_byte(*context, model, text, random));
    std::cout << "sample: " << text.substr(kLength) << "\n";
  } catch (const Error& error) {
    std::cerr << error.what() << "\n";
    return error.kind() == ErrorKind::user ? 2 : 1;
  }
}
