#include "data/shards/build_folder.h"

#include <fcntl.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <span>

#include "base/check.h"
#include "data/shards/shard_summary.h"
#include "io/atomic_file.h"
#include "io/atomic_folder.h"
#include "io/checksum.h"
#include "io/json_document.h"
#include "io/temporary_name.h"

namespace perceiver {

namespace fs = std::filesystem;

std::string build_fingerprint(const std::vector<ShardPlan>& plans, const ModalityKind& kind,
                              const Modality& modality, bool strict) {
  Checksum checksum;
  const auto add = [&](const std::string& text) {
    checksum.update(std::as_bytes(std::span(text)));
    checksum.update(std::as_bytes(std::span("\0", 1)));
  };
  add(std::string(kind.name));
  add(modality.tokenizer());
  if (strict) add("strict");
  for (const ShardPlan& plan : plans) {
    add(fmt::format("shard {}", split_name(plan.split)));
    for (const ListedFile& file : plan.files)
      add(fmt::format("{} {} {}", file.relative, file.size, file.modified));
  }
  return hexadecimal(checksum.digest());
}

FileDescriptor lock_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) throw_output_failure("create the folder", folder, error.value());
  FileDescriptor file(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!file.valid()) throw_output_failure("open the folder", folder, errno);
  if (!try_lock(file)) throw_user("{}: another process is building shards there", folder.string());
  return file;
}

void claim_folder(const fs::path& folder, const std::string& fingerprint) {
  std::error_code error;
  const fs::path journal = folder / journal_file_name;
  if (!fs::exists(journal, error)) {
    remove_stale_temporaries(folder);
    if (!fs::is_empty(folder, error))
      throw_user("{}: is not empty and contains no unfinished build; choose another folder", folder.string());
    write_file_atomically(journal, nlohmann::ordered_json{{"fingerprint", fingerprint}}.dump(2) + "\n");
    return;
  }
  const auto json = parse_json_document(read_file(journal, max_summary_bytes), journal.string());
  const auto held = json.find("fingerprint");
  if (held == json.end() || !held->is_string() || held->get<std::string>() != fingerprint)
    throw_user(
        "{}: contains a build of other files or options; choose another folder, or remove this one to start "
        "over",
        folder.string());
  remove_stale_temporaries(folder);
}

void check_claim(const fs::path& folder, const std::string& fingerprint) {
  const fs::path journal = folder / journal_file_name;
  std::error_code ignored;
  const bool same = fs::exists(journal, ignored) &&
                    read_file(journal, max_summary_bytes).find(fingerprint) != std::string::npos;
  if (!same)
    throw_user(
        "{}: is not the folder that rank 0 writes to; the output must be on a file system that all "
        "ranks share",
        folder.string());
}

}  // namespace perceiver
