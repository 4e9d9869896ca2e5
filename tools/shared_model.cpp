#include "tools/shared_model.h"

#include "distributed/together.h"

namespace perceiver::program {

LoadedModel open_shared_checkpoint(const std::string& path, const Globals& globals, World* world,
                                   Weights weights) {
  if (world == nullptr) return open_checkpoint(path, globals, weights);
  std::string file;
  together(world, "the checkpoint", [&] {
    if (world->leads()) file = find_checkpoint(path);
  });
  file = world->from_leader(file, "the checkpoint");
  LoadedModel loaded;
  together(world, "the model", [&] { loaded = open_checkpoint(file, globals, weights); });
  const ModelMetadata& metadata = loaded.metadata;
  world->require_same(
      fmt::format("{} of step {}, {} parameters", file, metadata.step, loaded.model->parameters().count()),
      "the model");
  return loaded;
}

}  // namespace perceiver::program
