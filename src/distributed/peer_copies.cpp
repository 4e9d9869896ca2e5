#include "distributed/peer_copies.h"

#ifdef PERCEIVER_CUDA
#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <random>
#include <thread>
#include <type_traits>

#include "base/check.h"
#include "distributed/sockets.h"
#include "kernels/cuda/support/errors.h"
#include "kernels/ranks.h"

namespace perceiver {
namespace {

using kernels::cuda::check;

constexpr int kTurns = 8;
constexpr int kMostRanks = 16;  // of a host; a batch of stream operations has a limit, too
constexpr int64_t kStagingElements = int64_t{8} << 20;  // f32: pieces that wait to be added
constexpr int kAttempts = 5000;                         // of abandon, a millisecond apart
constexpr size_t kMostCalls = 32;                       // at a time
// What is left of kMostCalls tensors by pieces of kUnit elements, from all other ranks.
constexpr int64_t kRestElements = kMostCalls * kMostRanks * PeerCopies::kUnit * kMostRanks;

/// The driver's functions that the runtime library does not have, looked up so that programs start without a
/// driver.
struct Driver {
  Driver() {
    find(batch, "cuStreamBatchMemOp", 12000);
    find(address_range, "cuMemGetAddressRange", 3020);
  }
  template <typename Function>
  static void find(Function& function, const char* name, unsigned version) {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    check(cudaGetDriverEntryPointByVersion(name, &found, version, cudaEnableDefault, &result), name);
    if (result == cudaDriverEntryPointSuccess) function = reinterpret_cast<Function>(found);
  }
  PFN_cuStreamBatchMemOp_v11070 batch = nullptr;
  PFN_cuMemGetAddressRange_v3020 address_range = nullptr;
};

const Driver& driver() {
  static const Driver driver;
  return driver;
}

/// Numbers of processes repeat from one container of a host to the next; this does not.
uint64_t this_process() {
  static const uint64_t token = [] {
    std::random_device random;
    return uint64_t{random()} << 32 | random();
  }();
  return token;
}

/// Where another process finds an address of this one's: the handle of the allocation, and the place in it.
/// Within a process the address itself.
struct Place {
  uint64_t process = 0, address = 0, offset = 0;
  cudaIpcMemHandle_t handle{};
};

Place place_of(const void* data) {
  Place place{.process = this_process(), .address = reinterpret_cast<uint64_t>(data)};
  CUdeviceptr base = 0;
  size_t size = 0;
  const CUresult status = driver().address_range(&base, &size, place.address);
  if (status != CUDA_SUCCESS)
    throw_failure("CUDA: range of an allocation: driver error {}", static_cast<int>(status));
  place.offset = place.address - base;
  check(cudaIpcGetMemHandle(&place.handle, reinterpret_cast<void*>(base)),
        "handle of memory for other processes");
  return place;
}

// The ranks are of one build and on one host.
static_assert(std::is_trivially_copyable_v<Place>);
std::string to_text(const Place& place) {
  return {reinterpret_cast<const char*>(&place), sizeof place};
}

/// Nothing for a text of another size, such as that of a rank without a place.
std::optional<Place> parse_place(const std::string& text) {
  Place place;
  if (text.size() != sizeof place) return std::nullopt;
  std::memcpy(&place, text.data(), sizeof place);
  return place;
}

/// Memory of another rank, as this process sees it.
class Mapping {
 public:
  explicit Mapping(const Place& place) {
    if (place.process == this_process()) {
      data_ = reinterpret_cast<std::byte*>(place.address);
      return;
    }
    check(cudaIpcOpenMemHandle(&base_, place.handle, cudaIpcMemLazyEnablePeerAccess),
          "mapping memory of another process");
    data_ = static_cast<std::byte*>(base_) + place.offset;
  }
  ~Mapping() {
    if (base_ != nullptr) cudaIpcCloseMemHandle(base_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::byte* data() const { return data_; }

 private:
  void* base_ = nullptr;
  std::byte* data_ = nullptr;
};

/// One flag for each turn and rank, in memory that the other ranks map.
struct Flags {
  uint32_t ready[kTurns][kMostRanks];
  uint32_t done[kTurns][kMostRanks];
};

/// Operations on flags that a stream carries out in order.
class FlagOperations {
 public:
  void set(const uint32_t* flag, uint32_t value) {
    CUstreamBatchMemOpParams& operation = add(CU_STREAM_MEM_OP_WRITE_VALUE_32);
    operation.writeValue.address = reinterpret_cast<CUdeviceptr>(flag);
    operation.writeValue.value = value;
    operation.writeValue.flags = CU_STREAM_WRITE_VALUE_DEFAULT;
  }
  void await(const uint32_t* flag) {
    CUstreamBatchMemOpParams& operation = add(CU_STREAM_MEM_OP_WAIT_VALUE_32);
    operation.waitValue.address = reinterpret_cast<CUdeviceptr>(flag);
    operation.waitValue.value = 1;
    operation.waitValue.flags = CU_STREAM_WAIT_VALUE_EQ;
  }
  void enqueue(cudaStream_t stream) {
    if (operations_.empty()) return;
    const CUresult status =
        driver().batch(stream, static_cast<unsigned>(operations_.size()), operations_.data(), 0);
    if (status != CUDA_SUCCESS)
      throw_failure("CUDA: flags between GPUs: driver error {}", static_cast<int>(status));
    operations_.clear();
  }

 private:
  CUstreamBatchMemOpParams& add(CUstreamBatchMemOpType type) {
    operations_.emplace_back();
    std::memset(&operations_.back(), 0, sizeof operations_.back());
    operations_.back().operation = type;
    return operations_.back();
  }

  std::vector<CUstreamBatchMemOpParams> operations_;
};

/// A tensor of this rank, and the same of each other one.
struct Exposed {
  std::byte* begin = nullptr;
  size_t bytes = 0;
  std::vector<std::unique_ptr<Mapping>> peers;  ///< by rank; none of its own
};

class CopyEngines final : public PeerCopies {
 public:
  CopyEngines(DeviceContext& context, cudaStream_t stream, int rank, int size, HostGather gather)
      : context_(context),
        stream_(stream),
        rank_(rank),
        size_(size),
        gather_(std::move(gather)),
        flags_(Tensor::zeros(context, DType::i32, {int64_t{sizeof(Flags)} / 4})),
        staging_(Tensor::empty(context, DType::f32, {kStagingElements})),
        rest_staging_(Tensor::empty(context, DType::f32, {kRestElements})) {
    context.synchronize();  // the flags are clear before another rank can set one
  }

  ~CopyEngines() override { cudaStreamSynchronize(stream_); }

  /// Maps the other ranks' flags. Collective; what is wrong, or nothing.
  std::string meet() {
    std::string mine;
    try {
      mine = to_text(place_of(flags_.data()));
    } catch (const Error&) {
      cudaGetLastError();  // clears it; the others find no place
    }
    const std::vector<std::string> all = gather_(mine);
    try {
      peer_flags_ = map(all);
    } catch (const Error& error) {
      cudaGetLastError();
      return error.what();
    }
    return "";
  }

  void expose(const Tensor& x) override {
    Exposed exposed{.begin = static_cast<std::byte*>(x.data()), .bytes = x.bytes(), .peers = {}};
    exposed.peers = map(gather_(to_text(place_of(x.data()))));
    // A tensor may lie where one was that is gone.
    std::erase_if(exposed_, [&](const Exposed& each) {
      return each.begin < exposed.begin + exposed.bytes && exposed.begin < each.begin + each.bytes;
    });
    exposed_.push_back(std::move(exposed));
  }

  bool takes(const Tensor& x) const override { return find(x) != nullptr; }

  void run(std::span<const Call> calls) override {
    while (calls.size() > kMostCalls) {
      run(calls.first(kMostCalls));
      calls = calls.subspan(kMostCalls);
    }
    begin();
    for (const Call& call : calls) first_turn(call);
    add_all();
    const bool again = std::any_of(calls.begin(), calls.end(),
                                   [](const Call& call) { return call.kind == Kind::all_reduce; });
    if (again) {
      end();
      begin();
      for (const Call& call : calls)
        if (call.kind == Kind::all_reduce) gather(divided(call.x));
      add(rests_);
      rest_elements_ = 0;
    }
    end();
  }

  void join() override {
    for (int turn = 0; turn < std::min(turns_, kTurns); ++turn) await_done(turn);
    operations_.enqueue(stream_);
    turns_ = 0;
  }

  /// Sets the flags until nothing waits for them.
  void abandon() override {
    (void)context_.launch();  // makes the device current
    cudaStream_t aside = nullptr;
    if (cudaStreamCreateWithFlags(&aside, cudaStreamNonBlocking) != cudaSuccess) return;
    const std::vector<uint32_t> set(sizeof(Flags) / sizeof(uint32_t), 1);
    for (int attempt = 0; attempt < kAttempts && cudaStreamQuery(stream_) == cudaErrorNotReady; ++attempt) {
      cudaMemcpyAsync(flags_.data(), set.data(), sizeof(Flags), cudaMemcpyHostToDevice, aside);
      cudaStreamSynchronize(aside);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    cudaStreamDestroy(aside);
  }

 private:
  /// A sum that waits for its other pieces, which lie one after the other.
  struct Sum {
    Tensor own;
    const float* others;
  };

  std::vector<std::unique_ptr<Mapping>> map(const std::vector<std::string>& places) const {
    std::vector<std::unique_ptr<Mapping>> mappings(places.size());
    for (int peer = 0; peer < size_; ++peer) {
      if (peer == rank_) continue;
      const std::optional<Place> place = parse_place(places[static_cast<size_t>(peer)]);
      if (!place) throw_failure("rank {} cannot show its memory to others", peer);
      mappings[static_cast<size_t>(peer)] = std::make_unique<Mapping>(*place);
    }
    return mappings;
  }

  const Exposed* find(const Tensor& x) const {
    const auto* begin = static_cast<const std::byte*>(x.data());
    for (const Exposed& each : exposed_)
      if (each.begin <= begin && begin + x.bytes() <= each.begin + each.bytes) return &each;
    return nullptr;
  }

  Flags* flags() const { return reinterpret_cast<Flags*>(flags_.data()); }
  Flags* flags_of(int peer) const {
    return reinterpret_cast<Flags*>(peer_flags_[static_cast<size_t>(peer)]->data());
  }
  template <typename Work>
  void for_each_peer(Work work) const {
    for (int step = 1; step < size_; ++step) work((rank_ + step) % size_);
  }

  void await_done(int turn) {
    for_each_peer([&](int peer) { operations_.await(&flags()->done[turn][peer]); });
    for_each_peer([&](int peer) { operations_.set(&flags()->done[turn][peer], 0); });
  }

  void begin() {
    const int turn = turns_ % kTurns;
    if (turns_ >= kTurns) await_done(turn);
    for_each_peer([&](int peer) { operations_.set(&flags_of(peer)->ready[turn][rank_], 1); });
    for_each_peer([&](int peer) { operations_.await(&flags()->ready[turn][peer]); });
    for_each_peer([&](int peer) { operations_.set(&flags()->ready[turn][peer], 0); });
    operations_.enqueue(stream_);
  }

  void end() {
    const int turn = turns_++ % kTurns;
    for_each_peer([&](int peer) { operations_.set(&flags_of(peer)->done[turn][rank_], 1); });
    operations_.enqueue(stream_);
  }

  /// The part of x that divides evenly, and what is left.
  Tensor divided(const Tensor& x) const {
    return x.view(0, {x.elements() / (size_ * kUnit) * (size_ * kUnit)});
  }
  Tensor rest(const Tensor& x) const {
    const int64_t first = divided(x).elements();
    return x.view(first, {x.elements() - first});
  }

  void first_turn(const Call& call) {
    const Tensor even = divided(call.x);
    PERCEIVER_ASSERT(call.kind == Kind::all_reduce || even.elements() == call.x.elements());
    if (call.kind == Kind::all_gather) return gather(even);
    PERCEIVER_ASSERT(call.x.dtype() == DType::f32);
    const int64_t piece = even.elements() / size_;
    for (int64_t done = 0; done < piece;) {
      const int64_t chunk =
          std::min(piece - done, (kStagingElements - staged_elements_) / (size_ - 1) / kUnit * kUnit);
      if (chunk == 0) {
        add_all();
        continue;
      }
      stage(even.view(rank_ * piece + done, {chunk}), staging_, staged_elements_, sums_);
      done += chunk;
    }
    if (call.kind == Kind::all_reduce && even.elements() < call.x.elements())
      stage(rest(call.x), rest_staging_, rest_elements_, rests_);
  }

  /// Fetches what the others have in the place of `own`.
  void stage(const Tensor& own, const Tensor& staging, int64_t& staged, std::vector<Sum>& sums) {
    float* const others = staging.as<float>() + staged;
    const Exposed& exposed = *find(own);
    for_each_peer([&](int peer) {
      const int64_t place = peer < rank_ ? peer : peer - 1;
      fetch(exposed, peer, static_cast<std::byte*>(own.data()), others + place * own.elements(), own.bytes());
    });
    staged += (size_ - 1) * own.elements();
    sums.push_back({own, others});
  }

  void add(std::vector<Sum>& sums) {
    Launch launch = context_.launch();
    launch.stream = stream_;
    for (const Sum& sum : sums)
      kernels::sum_pieces(launch, {.type = DType::f32,
                                   .elements = sum.own.elements(),
                                   .own = rank_,
                                   .count = size_,
                                   .others = sum.others,
                                   .sum = sum.own.data()});
    sums.clear();
  }
  void add_all() {
    add(sums_);
    staged_elements_ = 0;
  }

  void gather(const Tensor& x) {
    const size_t piece = x.bytes() / static_cast<size_t>(size_);
    std::byte* const own = static_cast<std::byte*>(x.data());
    const Exposed& exposed = *find(x);
    for_each_peer([&](int peer) {
      std::byte* const place = own + piece * static_cast<size_t>(peer);
      fetch(exposed, peer, place, place, piece);
    });
  }

  /// Copies what `peer` has in the place of `like`.
  void fetch(const Exposed& exposed, int peer, const std::byte* like, void* target, size_t bytes) {
    if (bytes == 0) return;
    const std::byte* source = exposed.peers[static_cast<size_t>(peer)]->data() + (like - exposed.begin);
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, stream_), "copy from another GPU");
  }

  DeviceContext& context_;
  cudaStream_t stream_;
  int rank_, size_;
  HostGather gather_;
  Tensor flags_, staging_, rest_staging_;
  std::vector<std::unique_ptr<Mapping>> peer_flags_;
  std::vector<Exposed> exposed_;
  FlagOperations operations_;
  int turns_ = 0;                  ///< since the last join
  std::vector<Sum> sums_, rests_;  ///< to be added: pieces in `staging_`, and in `rest_staging_`
  int64_t staged_elements_ = 0, rest_elements_ = 0;
};

/// What keeps this process from it, before anything is tried.
std::string own_obstacle(int size) {
  const char* setting = std::getenv("PERCEIVER_PEER_COPIES");
  if (setting != nullptr && std::string(setting) == "0") return "PERCEIVER_PEER_COPIES=0";
  if (size > kMostRanks) return fmt::format("more than {} ranks", kMostRanks);
  if (driver().batch == nullptr || driver().address_range == nullptr) return "the driver is too old";
  return "";
}

/// The first rank's that has one; the same on every rank.
std::string first_obstacle(const HostGather& gather, const std::string& mine) {
  for (const std::string& each : gather(mine))
    if (!each.empty()) return each;
  return "";
}

std::string hosts_obstacle(const HostGather& gather) {
  const std::vector<std::string> boots = gather(boot_id());
  const bool one =
      std::all_of(boots.begin(), boots.end(), [&](const auto& boot) { return boot == boots[0]; });
  return one ? "" : "the ranks are on several hosts";
}

}  // namespace

std::unique_ptr<PeerCopies> PeerCopies::open(DeviceContext& context, void* stream, int rank, int size,
                                             HostGather gather, std::string& obstacle) {
  obstacle = hosts_obstacle(gather);
  if (obstacle.empty()) obstacle = first_obstacle(gather, own_obstacle(size));
  if (!obstacle.empty()) return nullptr;
  auto copies = std::make_unique<CopyEngines>(context, static_cast<cudaStream_t>(stream), rank, size, gather);
  obstacle = first_obstacle(gather, copies->meet());
  if (!obstacle.empty()) return nullptr;
  return copies;
}

}  // namespace perceiver
#endif
