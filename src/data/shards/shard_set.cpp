#include "data/shards/shard_set.h"

#include <algorithm>

#include "base/check.h"

namespace perceiver {

void ShardSet::add(ShardFile shard) {
  Entry entry;
  entry.content = content_of(shard);
  entry.shard = std::make_shared<const ShardFile>(std::move(shard));
  add(std::move(entry));
}

void ShardSet::add(std::filesystem::path path, ShardEntry listed,
                   std::function<void(const ShardFile&)> check) {
  Entry entry;
  entry.path = std::move(path);
  entry.fingerprint = listed.fingerprint;
  entry.content = std::move(listed.content).value();
  entry.check = std::move(check);
  add(std::move(entry));
}

void ShardSet::add(Entry entry) {
  if (entry.content.documents == 0) return;
  ends_.push_back(documents() + entry.content.documents);
  tokens_ += entry.content.tokens;
  entries_.push_back(std::move(entry));
}

ShardSet::Shard ShardSet::open_file(const Entry& entry) {
  auto shard = std::make_shared<ShardFile>(ShardFile::open(entry.path));
  if (shard->fingerprint() != entry.fingerprint)
    throw_user("{}: is not the shard listed in {}; rebuild the folder", shard->source(), summary_file_name);
  if (shard->documents() != entry.content.documents || shard->tokens() != entry.content.tokens ||
      shard->content_checksum() != entry.content.checksum)
    throw_user("{}: has {} documents of {} tokens, not what {} says; rebuild the folder", shard->source(),
               shard->documents(), shard->tokens(), summary_file_name);
  if (entry.check) entry.check(*shard);
  shard->forget_texts();
  return shard;
}

/// Files are opened without the lock, so that several threads can open several; of two that open the same
/// one, the second gives its own up.
ShardSet::Shard ShardSet::open(int64_t index) const {
  {
    const std::lock_guard lock(mutex_);
    if (const Shard& shard = entry(index).shard) return shard;
  }
  Shard opened = open_file(entry(index));
  const std::lock_guard lock(mutex_);
  Entry& entry = entries_[static_cast<size_t>(index)];
  if (entry.shard != nullptr) return entry.shard;
  if (opened_.size() >= max_open_) {
    entries_[static_cast<size_t>(opened_.front())].shard.reset();
    opened_.pop_front();
  }
  opened_.push_back(index);
  return entry.shard = std::move(opened);
}

ShardSet::Place ShardSet::find(int64_t document) const {
  PERCEIVER_ASSERT(document >= 0 && document < documents());
  const int64_t shard = std::upper_bound(ends_.begin(), ends_.end(), document) - ends_.begin();
  return {open(shard), document - first_document(shard)};
}

int64_t ShardSet::open_files() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(opened_.size());
}

}  // namespace perceiver
