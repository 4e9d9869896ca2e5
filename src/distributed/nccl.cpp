#include "distributed/nccl.h"

#include "base/check.h"

#if defined(PERCEIVER_CUDA) && __has_include(<nccl.h>)
#include <dlfcn.h>
#include <nccl.h>

#include <cstdlib>
#include <cstring>
#include <exception>

#include "distributed/side_stream.h"
#include "kernels/cuda/support/errors.h"

namespace perceiver::nccl {
namespace {

using kernels::cuda::check;

constexpr int kOldest = 21800;  // the first with ncclCommSplit

std::string spelled(int version) {
  return fmt::format("{}.{}.{}", version / 10000, version / 100 % 100, version % 100);
}

/// The functions of libnccl.so.2, opened once per process.
struct Library {
  Library() {
    for (const char* name : {"libnccl.so.2", "/usr/local/cuda/lib64/libnccl.so.2"})
      if (object == nullptr) object = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (object == nullptr) {
      obstacle = "libnccl.so.2 is not where the loader looks (see LD_LIBRARY_PATH); install NCCL 2";
      return;
    }
    find(get_version, "ncclGetVersion");
    find(get_unique_id, "ncclGetUniqueId");
    find(init, "ncclCommInitRankConfig");
    find(split, "ncclCommSplit");
    find(destroy, "ncclCommDestroy");
    find(abort, "ncclCommAbort");
    find(error_string, "ncclGetErrorString");
    find(last_error, "ncclGetLastError");
    find(user_rank, "ncclCommUserRank");
    find(count, "ncclCommCount");
    find(all_reduce, "ncclAllReduce");
    find(reduce_scatter, "ncclReduceScatter");
    find(all_gather, "ncclAllGather");
    find(group_start, "ncclGroupStart");
    find(group_end, "ncclGroupEnd");
    int number = 0;
    if (obstacle.empty()) get_version(&number);
    if (obstacle.empty() && number < kOldest)
      obstacle = fmt::format("NCCL {} is too old; {} or later is needed", spelled(number), spelled(kOldest));
    version = spelled(number);
  }
  template <typename Function>
  void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(object, name));
    if (function == nullptr)
      obstacle = fmt::format("the NCCL installed is too old: it has no {}; {} or later is needed", name,
                             spelled(kOldest));
  }
  void check(ncclResult_t status, const char* what) const {
    if (status == ncclSuccess) return;
    const std::string detail = last_error(nullptr);
    throw_failure("NCCL: {}: {}{}{}; NCCL_DEBUG=WARN says more", what, error_string(status),
                  detail.empty() ? "" : ": ", detail);
  }

  void* object = nullptr;
  std::string obstacle, version;
  decltype(&ncclGetVersion) get_version = nullptr;
  decltype(&ncclGetUniqueId) get_unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) init = nullptr;
  decltype(&ncclCommSplit) split = nullptr;
  decltype(&ncclCommDestroy) destroy = nullptr;
  decltype(&ncclCommAbort) abort = nullptr;
  decltype(&ncclGetErrorString) error_string = nullptr;
  decltype(&ncclGetLastError) last_error = nullptr;
  decltype(&ncclCommUserRank) user_rank = nullptr;
  decltype(&ncclCommCount) count = nullptr;
  decltype(&ncclAllReduce) all_reduce = nullptr;
  decltype(&ncclReduceScatter) reduce_scatter = nullptr;
  decltype(&ncclAllGather) all_gather = nullptr;
  decltype(&ncclGroupStart) group_start = nullptr;
  decltype(&ncclGroupEnd) group_end = nullptr;
};

const Library& library() {
  static const Library library;
  return library;
}

/// One side stream serves the groups of a process. That is enough, and safer than several: the kernels of two
/// groups that run at a time may wait for each other's multiprocessors, in another order on each rank.
class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(ncclComm_t comm, std::shared_ptr<SideStream> side, int rank, int size)
      : Communicator(rank, size), comm_(comm), side_(std::move(side)) {}
  ~NcclCommunicator() override {
    // Destruction waits for work in progress, which never ends if another rank has failed.
    if (std::uncaught_exceptions() > 0) {
      library().abort(comm_);
    } else {
      library().destroy(comm_);
    }
  }

  std::string name() const override { return version(); }
  bool recordable() const override { return true; }
  void join() override { side_->lead(); }
  void start_group() override {
    library().check(library().group_start(), "starting a group");
    in_group_ = true;
  }
  void end_group() override {
    in_group_ = false;
    library().check(library().group_end(), "ending a group");
  }

  void all_reduce(const Tensor& x, Order order) override {
    run(order, "all-reduce", [&] {
      const auto elements = static_cast<size_t>(x.elements());
      return library().all_reduce(x.data(), x.data(), elements, type_of(x), ncclSum, comm_, side_->stream);
    });
  }
  void reduce_scatter(const Tensor& x, Order order) override {
    run(order, "reduce-scatter", [&] {
      const size_t piece = piece_of(x, x.elements());
      return library().reduce_scatter(x.data(), own(x), piece, type_of(x), ncclSum, comm_, side_->stream);
    });
  }
  void all_gather(const Tensor& x, Order order) override {
    run(order, "all-gather", [&] {
      const size_t piece = piece_of(x, static_cast<int64_t>(x.bytes()));
      return library().all_gather(own(x), x.data(), piece, ncclUint8, comm_, side_->stream);
    });
  }
  std::shared_ptr<Communicator> split(int color) override {
    ncclComm_t part = nullptr;
    library().check(library().split(comm_, color, rank_, &part, nullptr), "splitting a group");
    int rank = 0, size = 0;
    library().check(library().user_rank(part, &rank), "rank in a group");
    library().check(library().count(part, &size), "size of a group");
    return std::make_shared<NcclCommunicator>(part, side_, rank, size);
  }

 private:
  template <typename Work>
  void run(Order order, const char* what, Work work) {
    PERCEIVER_ASSERT(!in_group_ || order == Order::beside);
    side_->follow();
    library().check(work(), what);
    if (order == Order::in_stream) side_->lead();
  }
  static ncclDataType_t type_of(const Tensor& x) {
    switch (x.dtype()) {
      case DType::f32:
        return ncclFloat32;
      case DType::f64:
        return ncclFloat64;
      default:
        throw_failure("internal error: no sums of {} over ranks", name_of(x.dtype()));
    }
  }
  size_t piece_of(const Tensor& x, int64_t count) const {
    PERCEIVER_ASSERT(x.elements() % size_ == 0);
    return static_cast<size_t>(count / size_);
  }
  void* own(const Tensor& x) const {
    return static_cast<std::byte*>(x.data()) +
           x.bytes() / static_cast<size_t>(size_) * static_cast<size_t>(rank_);
  }

  ncclComm_t comm_;
  std::shared_ptr<SideStream> side_;
  bool in_group_ = false;
};

/// Settings that NCCL reads from the environment; what the user has set stays.
void set_defaults(bool deterministic) {
  // Ranks record their graphs independently of each other, but registering buffers in a graph is collective.
  setenv("NCCL_GRAPH_REGISTER", "0", 0);
  if (!deterministic) return;
  setenv("NCCL_ALGO", "Ring", 0);
  setenv("NCCL_PROTO", "Simple", 0);
  setenv("NCCL_NVLS_ENABLE", "0", 0);  // not a ring, so its buffers would be for nothing
}

}  // namespace

std::string obstacle() {
  return library().obstacle;
}

std::string version() {
  return library().obstacle.empty() ? "NCCL " + library().version : "";
}

std::shared_ptr<Communicator> communicator(DeviceContext& context, int rank, int size,
                                           const HostGather& gather, bool deterministic) {
  if (!obstacle().empty()) throw_user("several GPUs need NCCL, but {}", obstacle());
  set_defaults(deterministic);
  ncclUniqueId id{};
  if (rank == 0) library().check(library().get_unique_id(&id), "making an id");
  const std::string shared = gather(std::string(id.internal, sizeof id.internal)).front();
  PERCEIVER_ASSERT(shared.size() == sizeof id.internal);
  std::memcpy(id.internal, shared.data(), sizeof id.internal);
  auto side = std::make_shared<SideStream>(context);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  ncclComm_t comm = nullptr;
  library().check(library().init(&comm, size, id, rank, &config), "connecting the ranks");
  return std::make_shared<NcclCommunicator>(comm, std::move(side), rank, size);
}

}  // namespace perceiver::nccl

#else

namespace perceiver::nccl {

std::string obstacle() {
  return "this program was built without CUDA or without nccl.h";
}
std::string version() {
  return "";
}
std::shared_ptr<Communicator> communicator(DeviceContext&, int, int, const HostGather&, bool) {
  throw_user("several GPUs need NCCL, but {}", obstacle());
}

}  // namespace perceiver::nccl
#endif
