#include "distributed/copying_communicator.h"

#ifdef PERCEIVER_CUDA
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "distributed/peer_copies.h"
#include "distributed/side_stream.h"

namespace perceiver {
namespace {

class CopyingCommunicator final : public Communicator {
 public:
  CopyingCommunicator(std::shared_ptr<Communicator> base, DeviceContext& context, const HostGather& gather)
      : Communicator(base->rank(), base->size()),
        base_(std::move(base)),
        side_(context),
        copies_(PeerCopies::open(context, side_.stream, rank_, size_, gather, obstacle_)) {}

  /// After an exception another rank may be gone: this one's streams wait for each other, and for it. NCCL is
  /// given up while the copies are.
  ~CopyingCommunicator() override {
    if (!copies_ || std::uncaught_exceptions() == 0) return;
    std::thread abandons([this] { copies_->abandon(); });
    base_.reset();
    abandons.join();
  }

  std::string name() const override {
    return copies_ ? fmt::format("{}, copy engines", base_->name())
                   : fmt::format("{} (no copy engines: {})", base_->name(), obstacle_);
  }
  bool recordable() const override { return base_->recordable(); }
  std::shared_ptr<Communicator> split(int color) override { return base_->split(color); }

  void all_reduce(const Tensor& x, Order order) override {
    if (!copied(PeerCopies::Kind::all_reduce, x, order)) base(order).all_reduce(x, order);
  }
  void reduce_scatter(const Tensor& x, Order order) override {
    if (!copied(PeerCopies::Kind::reduce_scatter, x, order)) base(order).reduce_scatter(x, order);
  }
  void all_gather(const Tensor& x, Order order) override {
    if (!copied(PeerCopies::Kind::all_gather, x, order)) base(order).all_gather(x, order);
  }

  void expose(const Tensor& x) override {
    if (copies_) copies_->expose(x);
  }
  void start_group() override {
    in_group_ = true;
    base_->start_group();
  }
  void end_group() override {
    in_group_ = false;
    base_->end_group();
    run();
  }
  /// What has not been used is not joined: it need not be part of the work that is being recorded.
  void join() override {
    if (std::exchange(copies_used_, false)) {
      copies_->join();
      side_.lead();
    }
    if (std::exchange(base_used_, false)) base_->join();
  }

 private:
  /// Whether copy engines do it.
  bool copied(PeerCopies::Kind kind, const Tensor& x, Order order) {
    const bool sums = kind != PeerCopies::Kind::all_gather;
    if (!copies_ || order != Order::beside || (sums && x.dtype() != DType::f32) || !copies_->takes(x))
      return false;
    calls_.push_back({kind, x});
    if (!in_group_) run();
    return true;
  }
  void run() {
    if (calls_.empty()) return;
    side_.follow();
    copies_->run(calls_);
    calls_.clear();
    copies_used_ = true;
  }
  Communicator& base(Order order) {
    base_used_ = base_used_ || order == Order::beside;
    return *base_;
  }

  std::shared_ptr<Communicator> base_;
  SideStream side_;
  std::string obstacle_;
  std::unique_ptr<PeerCopies> copies_;   ///< null if there is an obstacle
  std::vector<PeerCopies::Call> calls_;  ///< of the current group
  bool in_group_ = false;
  bool copies_used_ = false, base_used_ = false;  ///< since the last join
};

}  // namespace

std::shared_ptr<Communicator> with_peer_copies(std::shared_ptr<Communicator> base, DeviceContext& context,
                                               const HostGather& gather) {
  if (base->size() == 1) return base;
  return std::make_shared<CopyingCommunicator>(std::move(base), context, gather);
}

}  // namespace perceiver

#else

namespace perceiver {

std::shared_ptr<Communicator> with_peer_copies(std::shared_ptr<Communicator> base, DeviceContext&,
                                               const HostGather&) {
  return base;
}

}  // namespace perceiver
#endif
