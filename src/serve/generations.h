// POST /v1/generate: pictures, music, sounds and the rest.
#pragma once

#include <functional>

#include "serve/generate_request.h"
#include "serve/reply.h"
#include "serve/served_model.h"

namespace perceiver::serve {

/// As `complete` for any modality: values as JSON, a file, or a stream that shows the sequences grow.
Reply generate(ServedModel& model, GenerateRequest request, std::function<bool()> gone, const Limits& limits);

/// The media type of files with that ending (".png").
const char* media_type(std::string_view ending);

}  // namespace perceiver::serve
