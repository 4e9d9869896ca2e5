#include "generate/step_results.h"

#include <cmath>
#include <cstring>

#include "base/check.h"

namespace perceiver {
namespace {

constexpr int64_t kStepsInFlight = 2;  // on a GPU

}  // namespace

StepResults::StepResults(Slots& slots) : slots_(slots) {
  const DeviceContext& context = slots.context();
  const size_t bytes = static_cast<size_t>(slots.count()) * (sizeof(double) + sizeof(int32_t));
  for (int64_t i = 0; i < (context.is_cuda() ? kStepsInFlight : 1); ++i)
    mailboxes_.push_back(context.new_mailbox(bytes));
}

double* StepResults::log_probabilities() const {
  return reinterpret_cast<double*>(mailboxes_[next_]->content());
}

int32_t* StepResults::tokens() const {
  return reinterpret_cast<int32_t*>(log_probabilities() + slots_.count());
}

void StepResults::make_room() {
  if (static_cast<int64_t>(flights_.size()) >= depth()) read_oldest();
}

void StepResults::sent(const std::vector<int64_t>& slots) {
  Flight flight{mailboxes_[next_].get(), {}};
  next_ = (next_ + 1) % mailboxes_.size();
  flight.mailbox->seal();
  for (const int64_t s : slots) {
    Slot& slot = slots_[s];
    flight.entries.push_back({s, slot.tag, slot.admission});
    ++slot.length;
    ++slot.chosen;
  }
  flights_.push_back(std::move(flight));
}

void StepResults::read_oldest() {
  const Flight flight = std::move(flights_.front());
  flights_.pop_front();
  const std::byte* content = flight.mailbox->wait();
  const std::byte* ids = content + static_cast<size_t>(slots_.count()) * sizeof(double);
  std::vector<ChosenToken> tokens;
  bool failed = false;
  for (const Flight::Entry& entry : flight.entries) {
    ChosenToken chosen{entry.slot, entry.tag, 0, 0};
    const auto place = static_cast<size_t>(entry.slot);
    std::memcpy(&chosen.log_probability, content + place * sizeof(double), sizeof(double));
    std::memcpy(&chosen.token, ids + place * sizeof(int32_t), sizeof(int32_t));
    if (std::isnan(chosen.log_probability)) {
      fail(entry);
      failed = true;
      continue;
    }
    Slot& slot = slots_[entry.slot];
    if (slot.occupied && slot.admission == entry.admission) slot.tokens.push_back(chosen.token);
    tokens.push_back(chosen);
  }
  if (!tokens.empty()) arrived_.push_back(std::move(tokens));
  if (failed)
    throw_failure(
        "no token can be chosen: the model's logits are not finite (its weights are damaged), or the biases "
        "forbid every token");
}

void StepResults::fail(const Flight::Entry& entry) {
  Slot& slot = slots_[entry.slot];
  if (slot.admission == entry.admission) slot.failed = true;
  for (Flight& later : flights_)
    std::erase_if(later.entries,
                  [&](const Flight::Entry& other) { return other.admission == entry.admission; });
}

void StepResults::settle() {
  while (!flights_.empty()) read_oldest();
}

std::vector<ChosenToken> StepResults::collect() {
  if (arrived_.empty() && !flights_.empty()) {
    const auto lock = slots_.context().exclusive();
    read_oldest();
  }
  if (arrived_.empty()) return {};
  std::vector<ChosenToken> tokens = std::move(arrived_.front());
  arrived_.pop_front();
  return tokens;
}

}  // namespace perceiver
