// Cached generation against the authors' own sequences.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "perceiver/model.h"
#include "port/import.h"
#include "tests/support/generation_model.h"

namespace perceiver {
namespace {

using namespace testing;

std::vector<int32_t> integers(const SafetensorsFile& file, const std::string& name) {
  const SafetensorsEntry* entry = file.find(name);
  std::vector<int32_t> values(file.bytes(*entry).size() / 4);
  std::memcpy(values.data(), file.bytes(*entry).data(), file.bytes(*entry).size());
  return values;
}

std::filesystem::path golden_file(const std::string& name) {
  const char* given = std::getenv("PERCEIVER_GOLDEN_DIR");
  const auto folder = given != nullptr ? std::filesystem::path(given)
                                       : std::filesystem::path(PERCEIVER_SOURCE_DIR) / "tests/golden";
  return folder / (name + ".safetensors");
}

EngineOptions authors_policy() {
  EngineOptions options;
  options.policy = GenerationPolicy::refill;  // of half of the latents
  return options;
}

/// Goes on greedily until there are as many tokens as `events`, and compares.
void expect_events(Engine& engine, const std::vector<int32_t>& events) {
  while (engine.tokens(0).size() < events.size()) {
    engine.compute();
    engine.push(0, greedy(engine.logits(0)));
  }
  EXPECT_EQ(engine.tokens(0), events);
}

TEST(Golden, CachedGreedySequenceWithRotaryPositions) {
  const SafetensorsFile file = SafetensorsFile::open(golden_file("cached_greedy_rotary"));
  for (const DType type : {DType::f32, DType::f64}) {
    const auto model =
        import_model(golden_file("cached_greedy_rotary"), {}, DeviceContext::cpu(2), type).model;
    Engine engine(*model, authors_policy());
    Sequence sequence;
    sequence.tokens = integers(file, "in/prompt");
    engine.admit(0, sequence);
    expect_events(engine, integers(file, "out/events"));
    EXPECT_EQ(engine.passes(), 1 + 8) << "the prompt, and a refill for every 9 tokens";
  }
}

/// The state of `engine`'s sequence as if only its first `tokens` tokens were there and all but the last of
/// them were computed, with all its latents: what the authors' sampler is left with by a reset inside the
/// prompt.
std::string cut_back(Engine& engine, int64_t tokens) {
  SafetensorsWriter writer;
  Engine::Storage storage;
  engine.save(0, writer, storage);
  const std::string saved = writer.file();
  const SafetensorsFile file = SafetensorsFile::parse(std::as_bytes(std::span(saved)), "saved");
  SafetensorsWriter cut;
  cut.set_metadata("format", *file.find_metadata("format"));
  cut.set_metadata("model", *file.find_metadata("model"));
  auto state = nlohmann::json::parse(*file.find_metadata("state"));
  state["computed"] = state["context"] = state["context_row"] = tokens - 1;
  cut.set_metadata("state", state.dump());
  for (const SafetensorsEntry& entry : file.entries()) {
    std::vector<int64_t> shape = entry.shape;
    if (entry.name == "tokens") shape[0] = tokens;
    if (entry.name.starts_with("context.")) shape[0] = tokens - 1;
    const auto bytes = static_cast<size_t>(safetensors_byte_count(entry.dtype, shape));
    cut.add(entry.name, entry.dtype, shape, file.bytes(entry).first(bytes));
  }
  return cut.file();
}

// The authors' sampler was given the prompt token by token while all 20 tokens of it stood in its array
// already. At the 17th its 16 latents are full, and the reset computes the last half of them from the whole
// array, up to the 20th token; then the sampler goes on with the 18th. From the next refill on nothing is
// left of that.
TEST(Golden, CachedGreedySequenceWithPositionTables) {
  const SafetensorsFile file = SafetensorsFile::open(golden_file("cached_greedy_sinusoidal"));
  const std::vector<int32_t> events = integers(file, "out/events");
  for (const DType type : {DType::f32, DType::f64}) {
    const auto model =
        import_model(golden_file("cached_greedy_sinusoidal"), {}, DeviceContext::cpu(2), type).model;
    EngineOptions options = authors_policy();
    options.prompt_latents = 8;
    Engine reset(*model, options), engine(*model, options);
    Sequence sequence;
    sequence.tokens = integers(file, "in/prompt");
    reset.admit(0, sequence);
    reset.compute();
    reset.push(0, special_tokens);  // an engine saves sequences with a token to be computed
    const std::string saved = cut_back(reset, 18);
    engine.restore(0, SafetensorsFile::parse(std::as_bytes(std::span(saved)), "saved"));
    for (const size_t fed : {18, 19}) {
      engine.compute();
      engine.push(0, events[fed]);
    }
    expect_events(engine, events);
    EXPECT_EQ(engine.passes(), 4);
  }
}

}  // namespace
}  // namespace perceiver
