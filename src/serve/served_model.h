// A model with the scheduler that shares it among users.
#pragma once

#include <memory>
#include <mutex>
#include <string>

#include "perceiver/model.h"
#include "serve/limits.h"
#include "serve/scheduler.h"
#include "serve/token_texts.h"

namespace perceiver::serve {

struct ServedModel {
  /// Throws as Scheduler does.
  ServedModel(std::string name_, Model model_, const SchedulerOptions& options)
      : name(std::move(name_)), model(std::move(model_)), scheduler(model, options) {
    if (data().modality == "text") texts = std::make_unique<TokenTexts>(model.tokenizer());
  }
  const TokenizerInfo& data() const { return model.tokenizer().info(); }

  const std::string name;
  const Model model;
  std::unique_ptr<const TokenTexts> texts;  ///< null for other data
  std::timed_mutex scoring;                 ///< for one request at a time
  Scheduler scheduler;
};

}  // namespace perceiver::serve
