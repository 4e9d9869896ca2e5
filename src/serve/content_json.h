// Pictures, notes, sounds, codes and ids in JSON, as values or as files in base64.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "perceiver/media.h"
#include "perceiver/tokenizer.h"
#include "serve/json_fields.h"

namespace perceiver::serve {

/// The tokens of what the object holds, by exactly one member: text, notes, image, sound, codes, ids (with
/// positions), or file (base64). Nothing if there is none. Throws HttpError 400 for values of another
/// modality and for what is damaged.
std::optional<TokenSequence> read_content(JsonFields& fields, const Tokenizer& tokenizer);

/// {"notes": [{"start", "end", "pitch", "velocity"}]} in seconds, {"image": {"width", "height", "channels",
/// "pixels"}} in base64, {"sound": {"rate", "samples"}}, {"codes": {"levels", "values"}}, {"text"} or
/// {"ids"}.
nlohmann::ordered_json write_content(const Content& content);
nlohmann::ordered_json write_note(const Note& note);

}  // namespace perceiver::serve
