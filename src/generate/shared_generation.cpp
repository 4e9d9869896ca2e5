#include "generate/shared_generation.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "base/check.h"
#include "distributed/together.h"

namespace perceiver {
namespace {

/// Requests of a rank in a round, for each slot: many, because all ranks wait for the slowest of a round.
constexpr size_t kPerSlot = 16;

void put(std::string& bytes, const void* data, size_t size) {
  bytes.append(static_cast<const char*>(data), size);
}
template <typename Value>
void put(std::string& bytes, const Value& value) {
  put(bytes, &value, sizeof value);
}

/// Takes values from the front.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}
  bool ended() const { return bytes_.empty(); }
  void take(void* data, size_t size) {
    PERCEIVER_ASSERT(size <= bytes_.size());
    if (size > 0) std::memcpy(data, bytes_.data(), size);
    bytes_.remove_prefix(size);
  }
  template <typename Value>
  Value take() {
    Value value;
    take(&value, sizeof value);
    return value;
  }
  /// A count of elements, which must be there.
  size_t take_count(size_t element_bytes) {
    const auto count = take<uint64_t>();
    PERCEIVER_ASSERT(count <= bytes_.size() / element_bytes);
    return static_cast<size_t>(count);
  }

 private:
  std::string_view bytes_;
};

/// Requests [first, last) over the ranks.
class Round {
 public:
  Round(World& world, const std::vector<GenerationRequest>& requests, size_t first, size_t last)
      : world_(world), first_(first), last_(last) {
    for (size_t i = first + rank(); i < last; i += ranks()) mine_.push_back(requests[i]);
  }

  /// This rank's own completions.
  std::vector<Completion> generate(Engine& engine, const TokenCallback& callback,
                                   const TextTokenizer* tokenizer) const {
    const auto watch = [&](int64_t request, const ChosenToken& token, const std::string& text) {
      world_.still_working();
      return !callback ||
             callback(static_cast<int64_t>(place(rank(), static_cast<size_t>(request))), token, text);
    };
    return perceiver::generate(engine, mine_, watch, tokenizer);
  }

  /// Collective: puts the completions of all ranks in their places.
  void exchange(const std::vector<Completion>& mine, std::vector<Completion>& all) const {
    const std::vector<std::string> packed = world_.gather(pack(mine), "the samples");
    for (size_t r = 0; r < packed.size(); ++r) {
      std::vector<Completion> some = unpack_completions(packed[r]);
      for (size_t i = 0; i < some.size(); ++i) {
        PERCEIVER_ASSERT(place(r, i) < last_);
        all[place(r, i)] = std::move(some[i]);
      }
    }
  }

 private:
  size_t rank() const { return static_cast<size_t>(world_.rank()); }
  size_t ranks() const { return static_cast<size_t>(world_.size()); }
  size_t place(size_t rank, size_t index) const { return first_ + rank + index * ranks(); }

  World& world_;
  size_t first_, last_;
  std::vector<GenerationRequest> mine_;
};

}  // namespace

std::string pack(const std::vector<Completion>& completions) {
  std::string bytes;
  for (const Completion& completion : completions) {
    put(bytes, static_cast<uint64_t>(completion.tokens.size()));
    put(bytes, completion.tokens.data(), completion.tokens.size() * sizeof(int32_t));
    put(bytes, static_cast<uint64_t>(completion.text.size()));
    put(bytes, completion.text.data(), completion.text.size());
    put(bytes, completion.log_probability);
    put(bytes, completion.finish_reason.has_value());
    put(bytes, completion.finish_reason.value_or(FinishReason::length));
  }
  return bytes;
}

std::vector<Completion> unpack_completions(std::string_view bytes) {
  std::vector<Completion> completions;
  for (Reader reader(bytes); !reader.ended();) {
    Completion& completion = completions.emplace_back();
    completion.tokens.resize(reader.take_count(sizeof(int32_t)));
    reader.take(completion.tokens.data(), completion.tokens.size() * sizeof(int32_t));
    completion.text.resize(reader.take_count(1));
    reader.take(completion.text.data(), completion.text.size());
    completion.log_probability = reader.take<double>();
    const bool ended = reader.take<bool>();
    const auto reason = reader.take<FinishReason>();
    if (ended) completion.finish_reason = reason;
  }
  return completions;
}

std::vector<Completion> generate_together(World* world, Engine& engine,
                                          const std::vector<GenerationRequest>& requests,
                                          const TokenCallback& callback, const TextTokenizer* tokenizer,
                                          const FinishedCallback& finished) {
  if (world == nullptr || world->size() == 1)
    return generate(engine, requests, callback, tokenizer, finished);
  together(world, "the start of sampling", [&] {
    for (const GenerationRequest& request : requests)
      check_request(engine.model(), engine.options(), request);
  });
  std::vector<Completion> all(requests.size());
  const size_t step = kPerSlot * static_cast<size_t>(engine.slots()) * static_cast<size_t>(world->size());
  for (size_t first = 0; first < requests.size(); first += step) {
    const size_t last = std::min(first + step, requests.size());
    const Round round(*world, requests, first, last);
    std::vector<Completion> mine;
    together(world, "sampling", [&] { mine = round.generate(engine, callback, tokenizer); });
    round.exchange(mine, all);
    together(world, "the samples", [&] {
      if (!finished || !world->leads()) return;
      for (size_t i = first; i < last; ++i) finished(static_cast<int64_t>(i), all[i]);
    });
  }
  return all;
}

}  // namespace perceiver
