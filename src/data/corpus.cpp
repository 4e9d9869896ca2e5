#include "data/corpus.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "data/split_folders.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using Identity = std::pair<uint64_t, uint64_t>;

Identity identity(const ListedFile& file) {
  return {file.device, file.inode};
}

std::string expected_endings(const ModalityKind& kind) {
  return fmt::format("is not a file of modality {} ({})", kind.name, fmt::join(kind.endings, ", "));
}

/// Drops the files that `kind` does not take: its companions without a word, the others as skipped.
void keep_taken(std::vector<ListedFile>& files, const ModalityKind& kind, const std::string& what,
                std::vector<FileRemark>& skipped) {
  std::erase_if(files,
                [&](const ListedFile& file) { return !file.named && kind.accompanies(file.relative); });
  std::vector<std::string> faults;
  for (const ListedFile& file : files)
    faults.push_back(kind.takes(file.relative) ? "" : expected_endings(kind));
  drop_files(files, faults, what, skipped);
}

/// Adds the files of a corpus that lie outside the folders of its splits, and are not `used` otherwise, to
/// `listing.skipped`.
void skip_outside(const std::string& corpus, const std::string& what, const SplitFolders& folders,
                  const std::vector<ListedFile>& used, SplitListing& listing) {
  std::set<Identity> inside;
  for (const ListedFile& file : used) inside.insert(identity(file));
  for (const std::vector<ListedFile>& files : listing.files)
    for (const ListedFile& file : files) inside.insert(identity(file));
  const auto below_split = [&](const std::string& relative) {
    const std::string top = fs::path(relative).begin()->string();
    return std::find(folders.names.begin(), folders.names.end(), top) != folders.names.end();
  };
  std::vector<FileRemark> outside;
  for (const ListedFile& file : list_files({corpus}, what, add_to(outside)))
    if (!inside.contains(identity(file)))
      outside.push_back({file.relative, "is outside the folders " + folders.list()});
  std::erase_if(outside, [&](const FileRemark& file) { return below_split(file.path); });
  listing.skipped.insert(listing.skipped.end(), outside.begin(), outside.end());
}

void list_folders(const std::string& corpus, const std::string& what, const SplitFolders& folders,
                  SplitListing& listing) {
  for (size_t i = 0; i < split_count; ++i) {
    const std::string& name = folders.names[i];
    if (name.empty()) continue;
    listing.own[i] = true;
    listing.files[i] =
        list_files({(fs::path(corpus) / name).string()}, what, add_to(listing.skipped, name + "/"));
    for (ListedFile& file : listing.files[i]) file.relative = name + "/" + file.relative;
  }
}

}  // namespace

void keep_usable(std::vector<ListedFile>& files, const ModalityKind& kind, const FileCheck& check,
                 const std::string& what, std::vector<FileRemark>& skipped) {
  keep_taken(files, kind, what, skipped);
  if (check) drop_files(files, check(files), what, skipped);
}

SkipPath add_to(std::vector<FileRemark>& skipped, const std::string& folder) {
  return [&skipped, folder](const std::string& relative, const std::string& reason) {
    skipped.push_back({folder + relative, reason});
  };
}

void drop_files(std::vector<ListedFile>& files, const std::vector<std::string>& faults,
                const std::string& what, std::vector<FileRemark>& skipped) {
  PERCEIVER_ASSERT(faults.size() == files.size());
  size_t kept = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    if (faults[i].empty()) {
      if (kept != i) files[kept] = std::move(files[i]);
      ++kept;
      continue;
    }
    if (files[i].named) throw_user("{}: {}: {}", what, printable(files[i].path), faults[i]);
    skipped.push_back({files[i].relative, faults[i]});
  }
  files.resize(kept);
}

SplitListing list_corpus(const std::string& path, const std::string& what, const ModalityKind& kind,
                         const FileCheck& check, const std::vector<ListedFile>& used) {
  SplitListing listing;
  const SplitFolders folders = find_split_folders(path);
  if (folders.decide()) {
    list_folders(path, what, folders, listing);
    skip_outside(path, what, folders, used, listing);
  } else {
    listing.of(Split::train) = list_files({path}, what, add_to(listing.skipped));
    if (!folders.list().empty())
      listing.notes.push_back(
          fmt::format("{}: has {} but no train/, so the files in there are used like all others; to hold "
                      "them out, put the "
                      "others into train/",
                      printable(path), folders.list()));
  }
  for (std::vector<ListedFile>& files : listing.files) keep_usable(files, kind, check, what, listing.skipped);
  for (const Split split : {Split::validation, Split::test})
    if (listing.has(split) && listing.of(split).empty())
      listing.notes.push_back(fmt::format("{}: {}/ has no usable files, so there is no {} data",
                                          printable(path), printable(folders.name(split)),
                                          split_name(split)));
  return listing;
}

}  // namespace perceiver
