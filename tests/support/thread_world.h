// Ranks as threads of one process, for tests: a World and a Communicator over shared memory, on the CPU.
#pragma once

#include <gtest/gtest.h>

#include <barrier>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "distributed/world.h"

namespace perceiver {

/// What the ranks of a group share.
struct ThreadGroup {
  explicit ThreadGroup(int ranks)
      : arrived(ranks), texts(ranks), pointers(ranks), colors(ranks), groups(ranks) {}
  std::barrier<> arrived;
  std::vector<std::string> texts;
  std::vector<std::byte*> pointers;
  std::vector<int> colors;
  std::vector<std::shared_ptr<ThreadGroup>> groups;
  std::mutex mutex;
  int64_t collectives = 0, bytes = 0;  ///< calls and bytes received, of all ranks together
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadGroup> group, int rank, int size)
      : Communicator(rank, size), group_(std::move(group)) {}
  std::string name() const override { return "threads"; }

  void all_reduce(const Tensor& x, Order) override {
    dispatch(x, [&](auto* mine) { sum_into(mine, 0, x.elements()); });
  }
  void reduce_scatter(const Tensor& x, Order) override {
    ASSERT_EQ(x.elements() % size_, 0);
    const int64_t piece = x.elements() / size_;
    dispatch(x, [&](auto* mine) { sum_into(mine, rank_ * piece, piece); });
  }
  void all_gather(const Tensor& x, Order) override {
    ASSERT_EQ(x.elements() % size_, 0);
    publish(x);
    const size_t piece = x.bytes() / static_cast<size_t>(size_);
    for (int r = 0; r < size_; ++r)
      if (r != rank_) std::memcpy(at(rank_) + piece * r, at(r) + piece * r, piece);
    count(x.bytes() - piece);
    group_->arrived.arrive_and_wait();
  }
  void join() override {}
  bool recordable() const override { return false; }
  std::shared_ptr<Communicator> split(int color) override {
    group_->colors[rank_] = color;
    group_->arrived.arrive_and_wait();
    int rank = 0, size = 0, first = -1;
    for (int r = 0; r < size_; ++r) {
      if (group_->colors[r] != color) continue;
      if (first < 0) first = r;
      if (r == rank_) rank = size;
      ++size;
    }
    if (first == rank_) group_->groups[rank_] = std::make_shared<ThreadGroup>(size);
    group_->arrived.arrive_and_wait();
    const auto group = group_->groups[first];
    group_->arrived.arrive_and_wait();
    return std::make_shared<ThreadCommunicator>(group, rank, size);
  }
  const ThreadGroup& group() const { return *group_; }

 private:
  std::byte* at(int rank) const { return group_->pointers[rank]; }
  void count(size_t bytes) {
    const std::lock_guard lock(group_->mutex);
    ++group_->collectives;
    group_->bytes += static_cast<int64_t>(bytes);
  }
  void publish(const Tensor& x) {
    group_->pointers[rank_] = static_cast<std::byte*>(x.data());
    group_->arrived.arrive_and_wait();
  }
  template <typename Function>
  void dispatch(const Tensor& x, Function function) {
    publish(x);
    if (x.dtype() == DType::f64) return function(x.as<double>());
    ASSERT_EQ(x.dtype(), DType::f32);
    function(x.as<float>());
  }
  template <typename T>
  void sum_into(T* mine, int64_t begin, int64_t elements) {
    std::vector<T> sum(static_cast<size_t>(elements), T(0));
    for (int r = 0; r < size_; ++r)
      for (int64_t i = 0; i < elements; ++i) sum[i] += reinterpret_cast<const T*>(at(r))[begin + i];
    group_->arrived.arrive_and_wait();
    std::copy(sum.begin(), sum.end(), mine + begin);
    count(static_cast<size_t>(elements) * sizeof(T));
    group_->arrived.arrive_and_wait();
  }

  std::shared_ptr<ThreadGroup> group_;
};

class ThreadWorld final : public World {
 public:
  ThreadWorld(std::shared_ptr<ThreadGroup> group, int rank, int size)
      : World(rank, size, rank), group_(std::move(group)) {}
  std::vector<std::string> gather(const std::string& mine, std::string_view) override {
    group_->texts[rank_] = mine;
    group_->arrived.arrive_and_wait();
    std::vector<std::string> all = group_->texts;
    group_->arrived.arrive_and_wait();
    return all;
  }
  void request_stop() override { stop_ = true; }
  bool stop_requested() const override { return stop_; }
  std::shared_ptr<Communicator> communicator(DeviceContext&, bool) override {
    return std::make_shared<ThreadCommunicator>(group_, rank_, size_);
  }

 private:
  std::shared_ptr<ThreadGroup> group_;
  bool stop_ = false;
};

/// Runs `work` on `ranks` threads, each with its own World. An exception in one rank fails the test; it must
/// be thrown by all or none, or the others wait forever.
inline void run_ranks(int ranks, const std::function<void(ThreadWorld&)>& work) {
  const auto group = std::make_shared<ThreadGroup>(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      ThreadWorld world(group, rank, ranks);
      try {
        work(world);
      } catch (const std::exception& error) {
        ADD_FAILURE() << "rank " << rank << ": " << error.what();
      }
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace perceiver
