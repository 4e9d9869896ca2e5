// Training steps seen from the CUDA runtime: starting one waits for nothing, memory may run out in one, and
// other passes in between leave recorded steps alone.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "eval/evaluator.h"
#include "model/precision.h"
#include "perceiver/experimental/host_values.h"
#include "tests/support/gpu.h"
#include "tests/support/tiny_run.h"

namespace perceiver {
namespace {

using testing::gpu;

Config config_of(int64_t micro_batches = 1) {
  Config config = tiny_config();
  config.device = "cuda";
  config.train.precision = Precision::bfloat16;
  config.train.batch = 4;
  config.train.micro_batches = micro_batches;
  config.model.input_channels = 64;
  config.model.residual_dropout = 0.1;
  return config;
}

/// A model, its learner and their batches.
struct Session {
  explicit Session(const Config& c)
      : config(c),
        context(gpu()),
        model(config.model, context, apply_precision(config.train.precision, *context)),
        learner(config, model),
        data(open_dataset(config.data)),
        loader(*data, Split::train, config.model, config.train.batch, config.train.seed, 0) {
    model.parameters().initialize(config.train.seed);
    model.parameters().publish();
  }

  double step() { return learner.step(steps++, loader.next()).sums.loss; }

  Config config;
  std::shared_ptr<DeviceContext> context;
  PerceiverAR model;
  Learner learner;
  std::unique_ptr<Dataset> data;
  Loader loader;
  int64_t steps = 0;
};

/// Work on a stream that ends when the gate is opened, or after 20 seconds.
struct Gate {
  std::atomic<bool> open = false, timed_out = false;

  static void CUDART_CB wait(void* self) {
    auto& gate = *static_cast<Gate*>(self);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!gate.open && !gate.timed_out) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (std::chrono::steady_clock::now() > end) gate.timed_out = true;
    }
  }
};

TEST(TrainingRuntime, StartingStepsWaitsForNothing) {
  SKIP_WITHOUT_GPU();
  for (const bool graph : {true, false}) {
    Config config = config_of(2);
    config.train.cuda_graph = graph;
    Session run(config);
    for (int i = 0; i < 3; ++i) run.step();  // to fill caches and to record
    Gate gate;
    const auto stream = static_cast<cudaStream_t>(run.context->launch().stream);
    ASSERT_EQ(cudaLaunchHostFunc(stream, Gate::wait, &gate), cudaSuccess);
    // Single launches fill the driver's queue of about a thousand, which then makes the host wait.
    const int64_t steps = graph ? run.learner.capacity() : 1;
    while (run.learner.in_flight() < steps) run.learner.start(run.steps++, run.loader.next());
    EXPECT_FALSE(gate.timed_out) << "starting steps waited for the GPU";
    gate.open = true;
    while (run.learner.in_flight() > 0) EXPECT_TRUE(run.learner.finish().finite);
  }
}

TEST(TrainingRuntime, OtherPassesLeaveRecordedStepsAlone) {
  SKIP_WITHOUT_GPU();
  Session plain(config_of()), disturbed(config_of());
  std::vector<Tensor> others;
  for (int step = 0; step < 8; ++step) {
    EXPECT_EQ(disturbed.step(), plain.step());
    EvaluationOptions options;
    options.max_documents = 3;
    options.batch = 1 + step % 2;
    evaluate(disturbed.model, *disturbed.data, Split::validation, options);
    if (step != 3) continue;
    // Positions beyond the rotary tables: they are replaced, and their memory is put to other use.
    Batch far = disturbed.loader.next();
    plain.loader.next();
    for (int32_t& position : far.positions) position += 3000;
    const ModelInputs inputs = disturbed.model.prepare(far, {});
    Tape tape(*disturbed.context, false);
    disturbed.model.loss(tape, inputs, {}, Recompute::none);
    for (int64_t bytes = 64; bytes <= 16384; bytes *= 2)
      for (int i = 0; i < 8; ++i) others.push_back(Tensor::zeros(*disturbed.context, DType::u8, {bytes}));
  }
  EXPECT_EQ(host_doubles(disturbed.model.parameters().values()),
            host_doubles(plain.model.parameters().values()));
}

TEST(TrainingRuntime, EvaluationsDoNotPileUpMemory) {
  SKIP_WITHOUT_GPU();
  Session run(config_of());
  const auto round = [&] {
    run.step();
    EvaluationOptions options;
    options.max_documents = 5;
    options.batch = 2;
    evaluate(run.model, *run.data, Split::validation, options);
    return run.context->statistics().system_allocations;
  };
  for (int i = 0; i < 3; ++i) round();
  const int64_t before = run.context->statistics().system_allocations;
  for (int i = 0; i < 5; ++i) EXPECT_EQ(round(), before);
}

/// Takes the GPU's memory down to the last 64 KiB that can be had.
std::vector<Tensor> take_all_memory(DeviceContext& context) {
  std::vector<Tensor> taken;
  for (const int64_t bytes : {int64_t{1} << 30, int64_t{1} << 26, int64_t{1} << 21, int64_t{1} << 16}) try {
      while (true) taken.push_back(Tensor::empty(context, DType::u8, {bytes}));
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("out of memory"), std::string::npos) << error.what();
    }
  return taken;
}

TEST(TrainingRuntime, RunningOutOfMemoryInAStepIsOneClearLine) {
  SKIP_WITHOUT_GPU();
  for (const bool graph : {true, false}) {
    Config config = config_of();
    config.train.cuda_graph = graph;
    config.train.batch = 64;
    config.model.input_channels = 256;
    Session run(config);
    std::vector<Tensor> taken = take_all_memory(*run.context);
    const Batch batch = run.loader.next();
    try {
      run.learner.step(0, batch);
      FAIL() << "a step without memory";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_EQ(error.kind(), ErrorKind::failure);
      for (const char* part : {"out of memory", "MiB on the GPU", "train.batch", "train.recompute"})
        EXPECT_NE(message.find(part), std::string::npos) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    }
    taken.clear();
    run.context->memory()->trim();
    for (int64_t step = 0; step < 4; ++step) EXPECT_TRUE(run.learner.step(step, batch).finite);
  }
}

}  // namespace
}  // namespace perceiver
