// The folder of a build: which build it belongs to, and that only one process builds there.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "data/shards/shard_encode.h"
#include "io/file_descriptor.h"

namespace perceiver {

/// Identifies a build by its modality, its tokenizer, and the names, sizes and times of its files.
std::string build_fingerprint(const std::vector<ShardPlan>& plans, const ModalityKind& kind,
                              const Modality& modality, bool strict);

/// Creates the folder if necessary. Throws `user` if another process builds there.
FileDescriptor lock_folder(const std::filesystem::path& folder);

/// Makes sure that the folder belongs to this build, and removes what killed ones left half done. Throws
/// `user` if it contains anything else.
void claim_folder(const std::filesystem::path& folder, const std::string& fingerprint);

/// On another machine than the one that claimed the folder: throws `user` if it is not to be seen there.
void check_claim(const std::filesystem::path& folder, const std::string& fingerprint);

}  // namespace perceiver
