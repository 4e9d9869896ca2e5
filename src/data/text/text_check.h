// Whether files are text, found by reading them once in blocks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/modality_options.h"
#include "data/splits.h"

namespace perceiver {

/// How the bytes of a text file are taken: `utf8` refuses what is not UTF-8 text, `bytes` takes any.
enum class TextEncoding { utf8, bytes };

/// The option `encoding` of the text modality; throws `user` for another word, or for bytes with a tokenizer
/// that needs UTF-8.
TextEncoding text_encoding(const ModalityOptions& options);

/// What a file holds. The text is bytes [first, last): a byte order mark before it is left out, and so are
/// parts of a character at either end, which remain where a larger text was cut by bytes.
struct TextCheck {
  int64_t first = 0, last = 0;
  std::string fault = {};                 ///< why the file is not text; empty if it is
  std::vector<std::string> repairs = {};  ///< what is at the ends that are left out, one line each
  uint64_t checksum = 0;                  ///< XXH3-64 of the bytes read
};

/// Checks a whole text in memory.
TextCheck check_text(std::string_view text, TextEncoding encoding = TextEncoding::utf8);

/// Most bytes that `check_text_files` reads: a few seconds from a slow disk.
inline constexpr int64_t text_check_bytes = int64_t{1} << 30;

/// Checks files, on all CPUs, in blocks of 1 MiB. If together they are larger than `most`, only the beginning
/// and the end of each is read, in proportion to its size. A file that cannot be read has that as its fault.
std::vector<TextCheck> check_text_files(const std::vector<ListedFile>& files, TextEncoding encoding,
                                        int64_t most = text_check_bytes);

/// Finds the files that are not text before they are split; empty if `kind` is not text, or takes any bytes.
FileCheck text_file_check(const ModalityKind& kind, const ModalityOptions& options);

}  // namespace perceiver
