// Many requests over several ranks, each with an engine of its own.
#pragma once

#include <vector>

#include "distributed/world.h"
#include "generate/generate.h"

namespace perceiver {

/// Collective: `generate` with the requests dealt to the ranks in turn. Every rank passes the same requests
/// and gets all completions, which are those of a single rank. `callback` is called for a rank's own
/// requests; `finished` on rank 0, for every request in order. They come in rounds, so that results appear,
/// and are safe, long before the last is done. An exception on one rank, callbacks included, ends the work on
/// all, as `together` says. A null `world`, or one of one rank, is `generate` itself.
std::vector<Completion> generate_together(World* world, Engine& engine,
                                          const std::vector<GenerationRequest>& requests,
                                          const TokenCallback& callback = {},
                                          const TextTokenizer* tokenizer = nullptr,
                                          const FinishedCallback& finished = {});

/// A completion as bytes, for another process of the same build.
std::string pack(const std::vector<Completion>& completions);
std::vector<Completion> unpack_completions(std::string_view bytes);

}  // namespace perceiver
