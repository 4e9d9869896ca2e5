#include "data/shards/shard_encode.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#include "base/check.h"
#include "base/processors.h"
#include "base/text.h"
#include "io/file_content.h"

namespace perceiver {
namespace {

constexpr size_t most_repairs = 16;  ///< listed of one file

/// The documents of a file, or why there are none.
std::vector<TokenSequence> encode_file(const ListedFile& file, const ModalityKind& kind,
                                       const Modality& modality, bool strict,
                                       std::vector<std::string>& repairs, std::string& reason) {
  try {
    if (file.size > kind.max_file_bytes)
      throw_user("has {} bytes; at most {} are read, split it into several files", file.size,
                 kind.max_file_bytes);
    const FileContent content(file.path);
    std::vector<TokenSequence> documents = modality.encode({file.path, content.bytes(), strict, &repairs});
    std::erase_if(documents, [](const TokenSequence& document) { return document.ids.empty(); });
    if (documents.empty()) reason = "contains no tokens";
    return documents;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::user) throw;
    reason = error.what();
    return {};
  }
}

/// The reason without the path, which is shown next to it.
std::string without_path(const std::string& reason, const std::string& path) {
  return reason.starts_with(path + ": ") ? reason.substr(path.size() + 2) : reason;
}

void add_repairs(ShardBuilder& builder, const std::string& path, std::vector<std::string>& repairs) {
  if (repairs.size() > most_repairs) {
    const size_t more = repairs.size() - most_repairs + 1;
    repairs.resize(most_repairs - 1);
    repairs.push_back(fmt::format("and {} more repairs", more));
  }
  for (std::string& repair : repairs) builder.repair({path, std::move(repair)});
}

}  // namespace

EncodeCounts& EncodeCounts::operator+=(const EncodeCounts& other) {
  files += other.files, bytes += other.bytes, documents += other.documents, tokens += other.tokens;
  skipped += other.skipped;
  return *this;
}

std::vector<ShardPlan> plan_shards(const SplitFiles& files, const Modality& modality, int64_t shard_tokens) {
  PERCEIVER_ASSERT(shard_tokens >= 1);
  std::vector<ShardPlan> plans;
  for (int i = 0; i < split_count; ++i) {
    int64_t tokens = shard_tokens;  // makes the first file start a shard
    for (const ListedFile& file : files[i]) {
      if (tokens >= shard_tokens) {
        plans.push_back({static_cast<Split>(i), {}});
        tokens = 0;
      }
      plans.back().files.push_back(file);
      tokens += std::max<int64_t>(1, modality.estimate_tokens(file.size));
    }
  }
  return plans;
}

ShardBuilder encode_shard(const ShardPlan& plan, const ModalityKind& kind, const Modality& modality,
                          bool strict, const std::function<void(const EncodeCounts&)>& done) {
  ShardBuilder builder(describe_shard(kind.name, modality, std::string(split_name(plan.split))));
  for (const ListedFile& file : plan.files) {
    std::string reason;
    std::vector<std::string> repairs;
    const std::vector<TokenSequence> documents = encode_file(file, kind, modality, strict, repairs, reason);
    const int64_t tokens_before = builder.tokens();
    EncodeCounts counts{.files = 1, .bytes = file.size, .skipped = documents.empty() ? 1 : 0};
    for (size_t i = 0; i < documents.size(); ++i) {
      builder.add(documents.size() == 1 ? file.relative : fmt::format("{}#{}", file.relative, i + 1),
                  documents[i]);
      ++counts.documents;
    }
    counts.tokens = builder.tokens() - tokens_before;
    if (!documents.empty()) {
      add_repairs(builder, file.relative, repairs);
    } else if (file.named) {
      throw_user("{}: {}", printable(file.path), without_path(reason, file.path));
    } else {
      builder.skip({file.relative, without_path(reason, file.path)});
    }
    if (done) done(counts);
  }
  return builder;
}

void run_in_parallel(int64_t count, int workers, const std::function<void(int64_t)>& work) {
  std::atomic<int64_t> next = 0;
  std::mutex mutex;
  std::exception_ptr failure;
  const auto take = [&] {
    for (int64_t i = next++; i < count; i = next++) {
      try {
        work(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
        next = count;
      }
    }
  };
  const int64_t threads = std::min<int64_t>(count, workers > 0 ? workers : available_processors());
  std::vector<std::thread> pool;
  for (int64_t i = 1; i < threads; ++i) pool.emplace_back(take);
  take();
  for (std::thread& thread : pool) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace perceiver
