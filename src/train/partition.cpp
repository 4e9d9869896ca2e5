#include "train/partition.h"

#include "base/check.h"

namespace perceiver {
namespace {

struct WholeBucket {
  int64_t begin, end;
  bool whole;
  int kind;
};

std::vector<WholeBucket> gather_runs(const std::vector<ParameterRun>& runs, int64_t bucket_elements) {
  std::vector<WholeBucket> buckets;
  for (const ParameterRun& run : runs) {
    PERCEIVER_ASSERT(buckets.empty() ? run.begin == 0 : run.begin == buckets.back().end);
    const bool joins = !buckets.empty() && buckets.back().whole == run.whole &&
                       buckets.back().kind == run.kind && run.end - buckets.back().begin <= bucket_elements;
    if (joins) {
      buckets.back().end = run.end;
    } else {
      buckets.push_back({run.begin, run.end, run.whole, run.kind});
    }
  }
  return buckets;
}

int64_t round_up(int64_t elements) {
  return (elements + kSliceAlignment - 1) / kSliceAlignment * kSliceAlignment;
}

void add_slice(Partition& partition, Slice slice) {
  if (slice.elements == 0) return;
  slice.state_begin = partition.state_elements;
  partition.state_elements += round_up(slice.elements);
  partition.slices.push_back(slice);
}

}  // namespace

Partition make_partition(const std::vector<ParameterRun>& runs, int rank, int ranks,
                         int64_t bucket_elements) {
  Partition partition;
  for (const WholeBucket& run : gather_runs(runs, bucket_elements)) {
    const int64_t unit = kSliceAlignment * ranks;
    const int64_t divided = run.whole ? 0 : (run.end - run.begin) / unit * unit;
    const Bucket bucket{run.begin, run.begin + divided, run.end};
    partition.buckets.push_back(bucket);
    add_slice(partition,
              {.begin = bucket.begin + divided / ranks * rank, .elements = divided / ranks, .shared = false});
    add_slice(partition, {.begin = bucket.divided_end, .elements = bucket.end - bucket.divided_end});
  }
  return partition;
}

Partition undivided_partition(const std::vector<ParameterRun>& runs, int64_t bucket_elements) {
  Partition partition;
  for (const WholeBucket& run : gather_runs(runs, bucket_elements))
    partition.buckets.push_back({run.begin, run.begin, run.end});
  partition.state_elements = runs.back().end;
  partition.slices = {{.begin = 0, .elements = runs.back().end}};
  return partition;
}

}  // namespace perceiver
