// The options for how the weights that generation reads are stored.
#include <map>

#include "tools/commands.h"
#include "tools/validators.h"

namespace perceiver::program {

void add_weights(CLI::App& command, Weights& weights) {
  const std::map<std::string, Weights> types{{"float32", Weights::float32},
                                             {"bfloat16", Weights::bfloat16},
                                             {"int8", Weights::int8},
                                             {"fp8", Weights::fp8}};
  CLI::Option* const type =
      command
          .add_option(
              "--weights", weights,
              "Type of the linear layers' weights: float32, bfloat16, int8 or fp8 (default: as in the model "
              "file). The last two save memory on a GPU; on a CPU bfloat16 and int8 make tokens faster")
          ->transform(one_of(types));
  command
      .add_flag_callback(
          "--bf16-weights", [&weights] { weights = Weights::bfloat16; }, "The same as --weights bfloat16")
      ->excludes(type);
}

}  // namespace perceiver::program
