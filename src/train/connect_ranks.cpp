#include "train/connect_ranks.h"

#include "base/check.h"

namespace perceiver {
namespace {

void check_division(int64_t ranks, const Config& config) {
  const int64_t shards = config.train.context_shards;
  if (ranks % shards != 0)
    throw_user("train.context_shards ({}) does not divide the number of ranks ({})", shards, ranks);
  const int64_t examples = config.train.batch / config.train.micro_batches;
  if (examples < ranks / shards)
    throw_user(
        "train.batch ({}) in {} micro-batches is {} examples at a time, too few for {} ranks; use fewer "
        "ranks, "
        "a larger batch or fewer micro-batches",
        config.train.batch, config.train.micro_batches, examples, ranks / shards);
}

}  // namespace

LearnerRanks connect_ranks(World* world, const Config& config, DeviceContext& context) {
  const TrainConfig& train = config.train;
  if (world == nullptr) {
    if (train.context_shards > 1)
      throw_user("train.context_shards ({}) needs as many ranks, or a multiple of that; this is one process",
                 train.context_shards);
    return {.share = share_of(train.batch, train.micro_batches)};
  }
  check_division(world->size(), config);
  LearnerRanks ranks{.world = world, .all = world->communicator(context, train.deterministic_reduction)};
  const int64_t shards = train.context_shards, group = world->rank() / shards;
  if (shards > 1) ranks.context_group = ranks.all->split(static_cast<int>(group));
  ranks.share = share_of(train.batch, train.micro_batches, group, world->size() / shards);
  return ranks;
}

}  // namespace perceiver
