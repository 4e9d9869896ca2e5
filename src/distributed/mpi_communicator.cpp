// Tensors between processes by MPI. The sums are our own, so that they are the same for any algorithm that
// MPI would choose: every rank sends each slice of the array to the rank that sums it, which adds in order of
// ranks.
#ifdef PERCEIVER_MPI
#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "distributed/mpi.h"
#include "distributed/mpi_call.h"

namespace perceiver::mpi {
namespace {

constexpr size_t kSmallBytes = 64 << 10;              // whole arrays of at most this are sent to everyone
constexpr int64_t kBlockElements = int64_t{1} << 20;  // of a larger array, that travel at a time
constexpr int kTag = 1;

/// Sends and receives in progress.
class Exchange {
 public:
  explicit Exchange(MPI_Comm comm) : comm_(comm) {}
  void send(const std::byte* from, size_t bytes, int rank) {
    if (bytes == 0) return;
    check(MPI_Isend(from, static_cast<int>(bytes), MPI_BYTE, rank, kTag, comm_, &requests_.emplace_back()),
          "send");
  }
  void receive(std::byte* to, size_t bytes, int rank) {
    if (bytes == 0) return;
    check(MPI_Irecv(to, static_cast<int>(bytes), MPI_BYTE, rank, kTag, comm_, &requests_.emplace_back()),
          "receive");
  }
  /// Sleeps between looks: ranks that share processors must not take them from the one they wait for.
  void wait() {
    for (int looks = 0;; ++looks) {
      int done = 0;
      check(MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &done, MPI_STATUSES_IGNORE),
            "exchange");
      if (done != 0) break;
      if (looks > 50) std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    requests_.clear();
  }

 private:
  MPI_Comm comm_;
  std::vector<MPI_Request> requests_;
};

/// target = sum of `parts` arrays of `elements`, in order; parts[own] is `target` itself.
template <typename T>
void sum_in_order(T* target, const std::byte* parts, size_t stride, int own, int count, int64_t elements) {
  const auto part = [&](int r) {
    return r == own ? target : reinterpret_cast<const T*>(parts + static_cast<size_t>(r) * stride);
  };
  for (int64_t i = 0; i < elements; ++i) {
    T sum = part(0)[i];
    for (int r = 1; r < count; ++r) sum += part(r)[i];
    target[i] = sum;
  }
}

/// Sums arrive in order of ranks whatever MPI's own algorithms are: every rank sends each slice of the array
/// to the rank that sums it.
class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, DeviceContext& context, int rank, int size)
      : Communicator(rank, size), comm_(comm), context_(context) {}
  ~MpiCommunicator() override {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized == 0 && comm_ != MPI_COMM_WORLD) MPI_Comm_free(&comm_);
  }

  std::string name() const override { return context_.is_cuda() ? "MPI, staged through the host" : "MPI"; }
  bool recordable() const override { return false; }
  void join() override {}

  void all_reduce(const Tensor& x, Order) override {
    with_host(x, [&](std::byte* data) {
      if (x.bytes() <= kSmallBytes) return sum_everywhere(x, data);
      sum_slices(x, data, [&](int r) { return x.elements() * r / size_; });
      gather_slices(x, data, [&](int r) { return x.elements() * r / size_; });
    });
  }
  void reduce_scatter(const Tensor& x, Order) override {
    PERCEIVER_ASSERT(x.elements() % size_ == 0);
    with_host(x,
              [&](std::byte* data) { sum_slices(x, data, [&](int r) { return x.elements() / size_ * r; }); });
  }
  void all_gather(const Tensor& x, Order) override {
    PERCEIVER_ASSERT(x.elements() % size_ == 0);
    with_host(
        x, [&](std::byte* data) { gather_slices(x, data, [&](int r) { return x.elements() / size_ * r; }); });
  }
  std::shared_ptr<Communicator> split(int color) override {
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split(comm_, color, rank_, &part), "split");
    int rank = 0, size = 0;
    MPI_Comm_rank(part, &rank);
    MPI_Comm_size(part, &size);
    return std::make_shared<MpiCommunicator>(part, context_, rank, size);
  }

 private:
  /// Calls `work` with the elements of x in host memory.
  template <typename Work>
  void with_host(const Tensor& x, Work work) {
    if (x.bytes() == 0 || size_ == 1) return;
    if (!context_.is_cuda()) return work(static_cast<std::byte*>(x.data()));
    if (!pinned_ || pinned_bytes_ < x.bytes())
      pinned_ = context_.new_mailbox(x.bytes()), pinned_bytes_ = x.bytes();
    pinned_->post(0, x.data(), x.bytes());
    pinned_->seal();
    pinned_->wait();
    work(pinned_->content());
    x.copy_from_host({pinned_->content(), x.bytes()});
    context_.synchronize();  // the memory is used again
  }

  void sum(const Tensor& x, std::byte* target, size_t stride, int64_t elements) {
    if (x.dtype() == DType::f64)
      return sum_in_order(reinterpret_cast<double*>(target), scratch_.data(), stride, rank_, size_, elements);
    PERCEIVER_ASSERT(x.dtype() == DType::f32);
    sum_in_order(reinterpret_cast<float*>(target), scratch_.data(), stride, rank_, size_, elements);
  }

  void sum_everywhere(const Tensor& x, std::byte* data) {
    const size_t stride = (x.bytes() + 63) / 64 * 64;
    scratch_.resize(stride * static_cast<size_t>(size_));
    Exchange exchange(comm_);
    for (int r = 0; r < size_; ++r) {
      if (r == rank_) continue;
      exchange.receive(scratch_.data() + stride * static_cast<size_t>(r), x.bytes(), r);
      exchange.send(data, x.bytes(), r);
    }
    exchange.wait();
    sum(x, data, stride, x.elements());
  }

  /// Slice r, elements [begin(r), begin(r + 1)), becomes its sum on rank r.
  template <typename Begin>
  void sum_slices(const Tensor& x, std::byte* data, Begin begin) {
    const size_t width = size_of(x.dtype());
    int64_t longest = 0;
    for (int r = 0; r < size_; ++r) longest = std::max(longest, begin(r + 1) - begin(r));
    const size_t stride = static_cast<size_t>(std::min(longest, kBlockElements)) * width;
    scratch_.resize(stride * static_cast<size_t>(size_));
    const auto block_of = [&](int r, int64_t done) {
      return std::clamp<int64_t>(begin(r + 1) - begin(r) - done, 0, kBlockElements);
    };
    Exchange exchange(comm_);
    for (int64_t done = 0; done < longest; done += kBlockElements) {
      const int64_t mine = block_of(rank_, done);
      for (int r = 0; r < size_; ++r) {
        if (r == rank_) continue;
        exchange.receive(scratch_.data() + stride * static_cast<size_t>(r), static_cast<size_t>(mine) * width,
                         r);
        exchange.send(data + static_cast<size_t>(begin(r) + done) * width,
                      static_cast<size_t>(block_of(r, done)) * width, r);
      }
      exchange.wait();
      sum(x, data + static_cast<size_t>(begin(rank_) + done) * width, stride, mine);
    }
  }

  /// Every rank gets the other ranks' slices.
  template <typename Begin>
  void gather_slices(const Tensor& x, std::byte* data, Begin begin) {
    const size_t width = size_of(x.dtype());
    int64_t longest = 0;
    for (int r = 0; r < size_; ++r) longest = std::max(longest, begin(r + 1) - begin(r));
    const auto block = [&](int r, int64_t done) {
      const int64_t elements = std::clamp<int64_t>(begin(r + 1) - begin(r) - done, 0, kBlockElements);
      return std::pair(data + static_cast<size_t>(begin(r) + done) * width,
                       static_cast<size_t>(elements) * width);
    };
    Exchange exchange(comm_);
    for (int64_t done = 0; done < longest; done += kBlockElements) {
      const auto [mine, bytes] = block(rank_, done);
      for (int r = 0; r < size_; ++r) {
        if (r == rank_) continue;
        const auto [theirs, their_bytes] = block(r, done);
        exchange.receive(theirs, their_bytes, r);
        exchange.send(mine, bytes, r);
      }
      exchange.wait();
    }
  }

  MPI_Comm comm_;
  DeviceContext& context_;
  std::vector<std::byte> scratch_;
  std::unique_ptr<Mailbox> pinned_;
  size_t pinned_bytes_ = 0;
};

}  // namespace

std::shared_ptr<Communicator> communicator(DeviceContext& context) {
  return std::make_shared<MpiCommunicator>(MPI_COMM_WORLD, context, rank(), size());
}

}  // namespace perceiver::mpi
#endif
