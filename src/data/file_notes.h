// What the user is told about files that were skipped or repaired.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/file_remark.h"

namespace perceiver {

/// "1 file was skipped; …" or "3 files were skipped; the first, …", for `did` "skipped"; empty if there are
/// none. A file with several remarks counts once.
std::string note_remarks(const std::vector<FileRemark>& remarks, const std::string& did);
/// Adds that line to `notes` if there are any remarks.
void add_note(std::vector<std::string>& notes, const std::vector<FileRemark>& remarks,
              const std::string& did);
/// Files in a list of remarks, where those of one file follow each other.
int64_t count_files(const std::vector<FileRemark>& remarks);

}  // namespace perceiver
