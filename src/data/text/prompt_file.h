// Files of prompts, from any editor: a byte order mark and Windows line ends are not part of a prompt.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace perceiver {

/// The content of a file that is one prompt: without a UTF-8 byte order mark, else unchanged (line ends too).
/// `source` is for errors. Throws `user` for UTF-16 and for other content with NUL bytes.
std::string prompt_text(std::string_view content, const std::string& source);

/// The prompts of a file with one a line; blank lines are none. With `json`, each line is a JSON string or an
/// object with a string 'prompt'. Throws `user` as `prompt_text` does, for a line that is neither, and if
/// there is no prompt.
std::vector<std::string> prompt_lines(std::string_view content, bool json, const std::string& source);

}  // namespace perceiver
