#include "serve/scheduler.h"

#include <algorithm>

#include "serve/http_error.h"

namespace perceiver::serve {

bool Generation::wait(std::chrono::milliseconds patience, std::vector<SequenceEvent>& events) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, pause_end_, [&] { return over(); });
  wants_tokens_ = true;
  changed_.wait_for(lock, patience, [&] { return !events_.empty() || over(); });
  wants_tokens_ = false;
  if (error_) throw Error(*error_);
  const bool any = !events_.empty();
  if (any) pause_end_ = Clock::now() + kPause;
  std::move(events_.begin(), events_.end(), std::back_inserter(events));
  events_.clear();
  return any || !over();
}

void Generation::put(SequenceEvent event) {
  const std::lock_guard lock(mutex_);
  if (event.end) --unfinished_;
  events_.push_back(std::move(event));
  if (wants_tokens_ || over()) changed_.notify_all();
}

void Generation::fail(const Error& error) {
  const std::lock_guard lock(mutex_);
  error_ = error;
  closed_ = true;
  changed_.notify_all();
}

void Generation::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

Scheduler::Scheduler(const Model& model, const SchedulerOptions& options)
    : options_(options),
      batch_(model, {.slots = options.slots, .kv_cache = options.kv_cache},
             [this](int64_t id, const GeneratedToken& token) { return on_token(id, token); }),
      thread_([this] { run(); }) {}

Scheduler::~Scheduler() {
  stop();
}

std::shared_ptr<Generation> Scheduler::submit(std::vector<SequenceRequest> requests,
                                              std::chrono::milliseconds growth) {
  auto generation = std::make_shared<Generation>();
  generation->unfinished_ = requests.size();
  generation->requests_ = std::move(requests);
  generation->growth_ = growth;
  generation->submitted_ = generation->shown_ = Clock::now();
  const std::lock_guard lock(mutex_);
  if (stopping_) refuse(503, "the server is shutting down");
  const auto count = static_cast<int64_t>(generation->requests_.size());
  const auto waiting = static_cast<int64_t>(queue_.size());
  if (waiting + count > options_.queue + std::max<int64_t>(0, options_.slots - active_count_))
    refuse(429, "the queue is full: {} sequences wait for {} slots; try again in a moment", waiting,
           options_.slots);
  for (size_t i = 0; i < generation->requests_.size(); ++i) queue_.push_back({generation, i});
  work_.notify_all();
  return generation;
}

void Scheduler::cancel(Generation& generation) {
  const std::lock_guard lock(mutex_);
  {
    const std::lock_guard inner(generation.mutex_);
    if (generation.closed_ || generation.unfinished_ == 0) return;
  }
  generation.close();
  ++cancelled_;
  std::erase_if(queue_, [&](const Place& place) { return place.generation.get() == &generation; });
  for (const int64_t id : generation.ids_) batch_.cancel(id);
}

int64_t Scheduler::ahead_of(const Generation& generation) const {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(queue_.begin(), queue_.end(),
                                  [&](const Place& place) { return place.generation.get() == &generation; });
  return found == queue_.end() || !generation.ids_.empty() ? 0 : found - queue_.begin();
}

void Scheduler::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (const Place& place : queue_) place.generation->close();
    queue_.clear();
    for (const int64_t id : ids_) batch_.cancel(id);
    work_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

SchedulerStatus Scheduler::status() const {
  const std::lock_guard lock(mutex_);
  return {options_.slots, active_count_, static_cast<int64_t>(queue_.size()), tokens_, cancelled_};
}

// ---- the thread -------------------------------------------------------------------------------------------

void Scheduler::run() {
  while (wait_for_work()) {
    admit();
    advance();
    retire();
    show_growth();
  }
  for (const auto& [id, place] : active_) place.generation->close();
}

/// Sleeps until there is something to do; false if the thread is to end.
bool Scheduler::wait_for_work() {
  std::unique_lock lock(mutex_);
  work_.wait(lock, [&] { return stopping_ || !queue_.empty() || !active_.empty(); });
  return !stopping_;
}

/// Fills the free slots. The batch's own queue stays empty, so that whoever waits is in one place.
void Scheduler::admit() {
  while (batch_.unfinished() < options_.slots) {
    const std::optional<Place> place = next();
    if (!place) return;
    start(*place);
  }
}

std::optional<Scheduler::Place> Scheduler::next() {
  const std::lock_guard lock(mutex_);
  if (queue_.empty()) return std::nullopt;
  Place place = std::move(queue_.front());
  queue_.pop_front();
  ++active_count_;
  return place;
}

void Scheduler::start(const Place& place) {
  Generation& generation = *place.generation;
  try {
    const SequenceRequest& request = generation.requests_[place.index];
    const int64_t id = batch_.add(request.prompt, request.options);
    active_[id] = place;
    const std::lock_guard lock(mutex_);
    generation.ids_.push_back(id);
    ids_.insert(id);
    if (stopping_) batch_.cancel(id);
    const std::lock_guard inner(generation.mutex_);
    if (generation.closed_) batch_.cancel(id);  // since it left the queue
  } catch (const Error& error) {
    --active_count_;
    generation.fail(error);
  }
}

void Scheduler::advance() {
  try {
    batch_.step();
  } catch (const Error& error) {
    abandon(error);
  }
}

/// The engine failed; nobody's sequence can be trusted to go on.
void Scheduler::abandon(const Error& error) {
  for (const auto& [id, place] : active_) {
    place.generation->fail(error);
    batch_.cancel(id);
  }
}

bool Scheduler::on_token(int64_t id, const GeneratedToken& token) {
  const auto found = active_.find(id);
  if (found == active_.end()) return false;
  Generation& generation = *found->second.generation;
  ++tokens_;
  if (!generation.started_)
    first_token_.add(std::chrono::duration<double>(Clock::now() - generation.submitted_).count());
  generation.started_ = true;
  generation.put({.index = found->second.index, .token = token, .so_far = {}, .end = {}});
  return true;
}

/// Sends what has ended to whom it belongs.
void Scheduler::retire() {
  for (auto it = active_.begin(); it != active_.end();) {
    if (!batch_.finished(it->first)) {
      ++it;
      continue;
    }
    const Place place = it->second;
    GeneratedSequence end = batch_.take(it->first);
    forget(it->first);
    it = active_.erase(it);
    place.generation->put({.index = place.index, .token = {}, .so_far = {}, .end = std::move(end)});
  }
}

void Scheduler::forget(int64_t id) {
  const std::lock_guard lock(mutex_);
  ids_.erase(id);
  --active_count_;
}

void Scheduler::show_growth() {
  const Clock::time_point now = Clock::now();
  for (const auto& [id, place] : active_) {
    Generation& generation = *place.generation;
    if (generation.growth_.count() == 0 || now - generation.shown_ < generation.growth_) continue;
    generation.put({.index = place.index, .token = {}, .so_far = batch_.result(id).sequence, .end = {}});
  }
  for (const auto& [id, place] : active_)
    if (now - place.generation->shown_ >= place.generation->growth_) place.generation->shown_ = now;
}

}  // namespace perceiver::serve
