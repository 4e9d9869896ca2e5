// How many requests were answered, by path and status.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace perceiver::serve {

/// All members are for any thread.
class RequestCounts {
 public:
  using Map = std::map<std::pair<std::string, int>, int64_t>;
  void add(const std::string& path, int status) {
    const std::lock_guard lock(mutex_);
    ++counts_[{path, status}];
  }
  Map all() const {
    const std::lock_guard lock(mutex_);
    return counts_;
  }

 private:
  mutable std::mutex mutex_;
  Map counts_;
};

}  // namespace perceiver::serve
