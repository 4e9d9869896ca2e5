#include "data/splits.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace perceiver {
namespace {

std::string key_name(Split split) {
  return fmt::format("data.{}", split_name(split));
}

void check_fractions(double validation, double test) {
  const auto valid = [](double fraction) { return fraction >= 0 && fraction < 1; };
  if (!valid(validation)) throw_user("data.validation_fraction must be in [0, 1), but it is {}", validation);
  if (!valid(test)) throw_user("data.test_fraction must be in [0, 1), but it is {}", test);
  if (validation + test >= 1)
    throw_user("data.validation_fraction and data.test_fraction leave nothing to train on: {} + {}",
               validation, test);
}

/// Two splits must not share a file: evaluation would use training data.
void check_disjoint(const SplitFiles& files) {
  std::map<std::pair<uint64_t, uint64_t>, Split> owner;
  for (int i = 0; i < split_count; ++i) {
    const auto split = static_cast<Split>(i);
    for (const ListedFile& file : files[i]) {
      const auto [entry, fresh] = owner.try_emplace({file.device, file.inode}, split);
      if (!fresh)
        throw_user("{}: is in both {} and {}; a file can only be in one split", file.path,
                   key_name(entry->second), key_name(split));
    }
  }
}

/// Number of documents in a split with `fraction` of `all`: none for 0, else at least one.
int64_t share(double fraction, int64_t all) {
  if (fraction == 0) return 0;
  return std::max<int64_t>(1, std::llround(fraction * static_cast<double>(all)));
}

}  // namespace

double validation_share(const DataConfig& config) {
  return config.validation.empty() ? config.validation_fraction : 0;
}

double test_share(const DataConfig& config) {
  return config.test.empty() ? config.test_fraction : 0;
}

SplitFiles list_splits(const DataConfig& config, const FileFilter& wanted) {
  if (config.train.empty()) throw_user("data.train names no file or folder");
  check_fractions(validation_share(config), test_share(config));
  const std::vector<std::string>* paths[split_count] = {&config.train, &config.validation, &config.test};
  SplitFiles files;
  for (int i = 0; i < split_count; ++i) {
    if (paths[i]->empty()) continue;
    const std::string key = key_name(static_cast<Split>(i));
    files[i] = list_files(*paths[i], key);
    if (wanted) std::erase_if(files[i], [&](const ListedFile& file) { return !wanted(file); });
    if (files[i].empty())
      throw_user("{}: no file with any {} in {}", key, config.type == "text" ? "text" : "data of that kind",
                 fmt::join(*paths[i], ", "));
  }
  check_disjoint(files);
  return files;
}

std::vector<Split> choose_splits(const std::vector<ListedFile>& files, uint64_t seed, double validation,
                                 double test) {
  const auto count = static_cast<int64_t>(files.size());
  const int64_t for_validation = share(validation, count);
  const int64_t held_out = for_validation + share(test, count);
  if (held_out >= count)
    throw_user(
        "data.train: {} documents are too few for a validation fraction of {} and a test fraction of {}",
        count, validation, test);
  std::vector<uint64_t> hash(files.size());
  std::transform(files.begin(), files.end(), hash.begin(), [&](const ListedFile& file) {
    return XXH64(file.relative.data(), file.relative.size(), seed);
  });
  std::vector<int64_t> ranked(count);
  std::iota(ranked.begin(), ranked.end(), 0);
  std::stable_sort(ranked.begin(), ranked.end(), [&](int64_t a, int64_t b) { return hash[a] < hash[b]; });
  std::vector<Split> split(count, Split::train);
  for (int64_t i = 0; i < held_out; ++i)
    split[ranked[i]] = i < for_validation ? Split::validation : Split::test;
  return split;
}

}  // namespace perceiver
