// What a run leaves to its caller.
#include <span>

#include "train/open_run.h"
#include "train/trainer.h"

namespace perceiver {

void Trainer::close() {
  loader_.reset();
  log_.reset();
  folder_.reset();
}

// On a context of its own: memory and workers of one belong to the thread that trains.
LoadedModel Trainer::copy_of_model() const {
  const Tensor values = learner_->averages() ? learner_->collect_average() : learner_->collect_values();
  if (!leads()) return {};
  LoadedModel copy;
  copy.model = make_model(config_, open_device(config_, options_.world, options_.device_index));
  copy.model->parameters().values().copy_from_host(
      std::span(static_cast<const std::byte*>(values.data()), values.bytes()));
  copy.model->parameters().publish();
  copy.metadata = metadata_of(state_, *model_, {data_->tokenizer(), data_->modality()});
  return copy;
}

}  // namespace perceiver
