// A thread for each connection, up to a limit; more connections wait for one to end.
#pragma once

#include <httplib.h>

#include <functional>
#include <memory>
#include <utility>

namespace perceiver::serve {

/// void, or bool from cpp-httplib 0.15 on: whether the task was taken.
using Enqueued = decltype(std::declval<httplib::TaskQueue&>().enqueue({}));

class ConnectionThreads final : public httplib::TaskQueue {
 public:
  explicit ConnectionThreads(size_t most);
  ~ConnectionThreads() override;

  Enqueued enqueue(std::function<void()> task) override;
  /// Waits for all of them.
  void shutdown() override;

 private:
  struct State;
  std::shared_ptr<State> state_;  ///< a thread that ends holds it a moment longer
};

}  // namespace perceiver::serve
