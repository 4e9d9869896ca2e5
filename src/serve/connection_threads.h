// A thread for each connection, up to a limit; more connections wait for one to end.
#pragma once

#include <httplib.h>

#include <functional>
#include <memory>

namespace perceiver::serve {

class ConnectionThreads final : public httplib::TaskQueue {
 public:
  explicit ConnectionThreads(size_t most);
  ~ConnectionThreads() override;

  void enqueue(std::function<void()> task) override;
  /// Waits for all of them.
  void shutdown() override;

 private:
  struct State;
  std::shared_ptr<State> state_;  ///< a thread that ends holds it a moment longer
};

}  // namespace perceiver::serve
