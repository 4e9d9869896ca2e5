// The options for how a CPU stores the weights that generation reads.
#include <map>

#include "tools/commands.h"
#include "tools/validators.h"

namespace perceiver::program {

void add_weights(CLI::App& command, Weights& weights) {
  const std::map<std::string, Weights> types{
      {"float32", Weights::float32}, {"bfloat16", Weights::bfloat16}, {"int8", Weights::int8}};
  CLI::Option* const type =
      command
          .add_option("--weights", weights,
                      "CPU: round weights to float32, bfloat16 or int8 (half and a quarter of the bytes read "
                      "per token; default: as in the model file)")
          ->transform(one_of(types));
  command
      .add_flag_callback(
          "--bf16-weights", [&weights] { weights = Weights::bfloat16; }, "The same as --weights bfloat16")
      ->excludes(type);
}

void set_weights(PerceiverAR& model, Weights weights) {
  if (weights == Weights::automatic) return;
  if (model.context().is_cuda())
    throw_usage("--weights and --bf16-weights are for the CPU; leave them out, or add --device cpu");
  model.set_weights(weights);
}

}  // namespace perceiver::program
