// What a server says about itself: models, metrics, health.
#pragma once

#include <memory>
#include <vector>

#include "serve/reply.h"
#include "serve/request_counts.h"
#include "serve/served_model.h"

namespace perceiver::serve {

using ServedModels = std::vector<std::unique_ptr<ServedModel>>;

/// GET /v1/models: as OpenAI's, with what the pages need to know.
Reply list_models(const ServedModels& models);
/// GET /metrics, in Prometheus' text format 0.0.4.
Reply show_metrics(const ServedModels& models, const RequestCounts& requests);
/// GET /health. `runs`: whether training runs are shown.
Reply show_health(const ServedModels& models, bool runs);

}  // namespace perceiver::serve
