#include "data/text/text_check.h"

#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <numeric>
#include <span>

#include "base/check.h"
#include "base/utf8.h"
#include "data/shards/shard_encode.h"
#include "data/text/byte_tokenizer.h"
#include "io/checksum.h"
#include "io/content_kind.h"
#include "io/file_content.h"
#include "io/file_descriptor.h"

namespace perceiver {
namespace {

constexpr std::string_view byte_order_mark = "\xEF\xBB\xBF";
constexpr int64_t block_bytes = 1 << 20;
constexpr int64_t least_read = 8192;  ///< of a file that is not read whole

/// Follows UTF-8 through consecutive blocks.
class Utf8Scan {
 public:
  /// Takes bytes that start at `offset` of the file; false at the first one that is not text.
  bool take(std::string_view bytes, int64_t offset) {
    const void* zero = std::memchr(bytes.data(), 0, bytes.size());
    const size_t end =
        zero ? static_cast<size_t>(static_cast<const char*>(zero) - bytes.data()) : bytes.size();
    for (size_t i = 0; i < end; ++i) {
      if (state_.whole()) i = skip_ascii(bytes, i, end);
      if (i == end) break;
      if (state_.whole()) start_ = offset + static_cast<int64_t>(i), lead_ = static_cast<uint8_t>(bytes[i]);
      if (!state_.put(static_cast<uint8_t>(bytes[i]))) return fail(lead_, start_);
    }
    return end == bytes.size() || fail(0, offset + static_cast<int64_t>(end));
  }

  bool whole() const { return state_.whole(); }
  int64_t character() const { return start_; }  ///< where the last character beyond ASCII starts
  int64_t bad_offset() const { return bad_offset_; }
  uint8_t bad_byte() const { return bad_byte_; }

 private:
  bool fail(uint8_t byte, int64_t offset) {
    bad_byte_ = byte, bad_offset_ = offset;
    return false;
  }
  static size_t skip_ascii(std::string_view bytes, size_t i, size_t end) {
    for (; i + 8 <= end; i += 8) {
      uint64_t eight;
      std::memcpy(&eight, bytes.data() + i, 8);
      if ((eight & 0x8080808080808080) != 0) break;
    }
    while (i < end && static_cast<uint8_t>(bytes[i]) < 0x80) ++i;
    return i;
  }

  Utf8State state_;
  int64_t start_ = 0, bad_offset_ = 0;
  uint8_t lead_ = 0, bad_byte_ = 0;
};

/// Bytes that texts do not have, in whatever encoding.
bool has_control_bytes(std::string_view bytes) {
  return std::any_of(bytes.begin(), bytes.end(), [](char c) {
    return static_cast<uint8_t>(c) < 0x20 &&
           std::string_view("\t\n\v\f\r\x1b").find(c) == std::string_view::npos;
  });
}

std::string describe_fault(const Utf8Scan& scan, std::string_view first_bytes) {
  const std::string name = name_content(first_bytes);
  if (!name.empty()) return name;
  if (scan.bad_byte() == 0 || has_control_bytes(first_bytes))
    return fmt::format("is not text: byte {} is {:02X} (encoding: bytes takes any file)", scan.bad_offset(),
                       scan.bad_byte());
  return fmt::format(
      "is not UTF-8 text: byte {} is {:02X}; convert it (if it is Latin-1: iconv -f LATIN1 -t UTF-8), or "
      "take "
      "its bytes as they are (encoding: bytes)",
      scan.bad_offset(), scan.bad_byte());
}

/// Checks the parts of a text, given in order. Gaps are allowed: characters are not followed across them.
class TextChecker {
 public:
  TextChecker(int64_t size, TextEncoding encoding) : encoding_(encoding), size_(size) { result_.last = size; }

  void take(std::span<const std::byte> bytes, int64_t offset) {
    checksum_.update(bytes);
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (encoding_ == TextEncoding::bytes || !result_.fault.empty()) return;
    if (offset == 0) begin(text);
    const bool gap = offset > next_ && next_ > 0;
    if (gap) scan_ = {};
    next_ = offset + static_cast<int64_t>(bytes.size());
    const int64_t skipped = gap ? continuation_bytes(text) : std::max<int64_t>(0, result_.first - offset);
    if (!scan_.take(text.substr(static_cast<size_t>(skipped)), offset + skipped))
      result_.fault = describe_fault(scan_, first_bytes_);
  }

  TextCheck finish() {
    result_.checksum = checksum_.digest();
    if (encoding_ == TextEncoding::bytes || !result_.fault.empty()) return std::move(result_);
    if (!scan_.whole() && next_ == size_) {
      result_.last = scan_.character();
      result_.repairs.push_back(
          fmt::format("ends within a UTF-8 character, after {} of its bytes", size_ - result_.last));
    }
    if (result_.first >= result_.last)
      result_.fault = size_ == 0 ? "is empty" : "holds no whole character of text";
    return std::move(result_);
  }

 private:
  static int64_t continuation_bytes(std::string_view text) {
    size_t count = 0;
    while (count < std::min<size_t>(3, text.size()) &&
           is_utf8_continuation(static_cast<uint8_t>(text[count])))
      ++count;
    return static_cast<int64_t>(count);
  }

  void begin(std::string_view text) {
    first_bytes_ = text.substr(0, magic_bytes);
    if (text.starts_with("%PDF-")) result_.fault = name_content(first_bytes_);  // may be ASCII
    if (text.starts_with(byte_order_mark)) {
      result_.first = static_cast<int64_t>(byte_order_mark.size());
      result_.repairs.push_back("starts with a byte order mark");
      return;
    }
    result_.first = continuation_bytes(text);
    if (result_.first > 0)
      result_.repairs.push_back(
          fmt::format("starts within a UTF-8 character, with its last {} bytes", result_.first));
  }

  TextEncoding encoding_;
  int64_t size_, next_ = 0;
  std::string first_bytes_;
  Utf8Scan scan_;
  Checksum checksum_;
  TextCheck result_;
};

/// Reads bytes [first, last) of a file in blocks. Returns what is wrong, or an empty string.
std::string read_blocks(const FileDescriptor& file, int64_t first, int64_t last,
                        std::vector<std::byte>& block, TextChecker& checker) {
  while (first < last) {
    const auto wanted = static_cast<size_t>(std::min<int64_t>(last - first, block_bytes));
    ssize_t count = -1;
    do {
      count = ::pread(file.get(), block.data(), wanted, first);
    } while (count < 0 && errno == EINTR);
    if (count < 0) return read_fault(errno);
    if (count == 0) return "was cut short while it was read";
    checker.take(std::span(block).first(static_cast<size_t>(count)), first);
    first += count;
  }
  return {};
}

/// `part`: the fraction of the file to read.
TextCheck check_file(const ListedFile& listed, TextEncoding encoding, double part) {
  const FileDescriptor file(::open(listed.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) return {.fault = read_fault(errno)};
  TextChecker checker(listed.size, encoding);
  std::vector<std::byte> block(static_cast<size_t>(std::min(listed.size, block_bytes)));
  const auto wanted = std::max(static_cast<int64_t>(part * static_cast<double>(listed.size)), least_read);
  const bool whole = part >= 1 || wanted >= listed.size;
  std::string fault = read_blocks(file, 0, whole ? listed.size : wanted / 2, block, checker);
  if (fault.empty() && !whole)
    fault = read_blocks(file, listed.size - wanted / 2, listed.size, block, checker);
  TextCheck result = checker.finish();
  if (!fault.empty()) result.fault = std::move(fault);
  return result;
}

}  // namespace

TextEncoding text_encoding(const ModalityOptions& options) {
  const bool bytes = options.word("encoding", {"utf-8", "bytes"}) == 1;
  if (bytes && options.text("tokenizer") != ByteTokenizer::kind)
    throw_user("data.options.encoding: bytes needs tokenizer: bytes; SentencePiece reads UTF-8 only");
  return bytes ? TextEncoding::bytes : TextEncoding::utf8;
}

TextCheck check_text(std::string_view text, TextEncoding encoding) {
  TextChecker checker(static_cast<int64_t>(text.size()), encoding);
  checker.take(std::as_bytes(std::span(text)), 0);
  return checker.finish();
}

std::vector<TextCheck> check_text_files(const std::vector<ListedFile>& files, TextEncoding encoding,
                                        int64_t most) {
  double total = 0;
  for (const ListedFile& file : files) total += static_cast<double>(file.size);
  const double part = static_cast<double>(most) / std::max(total, 1.0);
  std::vector<TextCheck> checks(files.size());
  run_in_parallel(static_cast<int64_t>(files.size()), 0, [&](int64_t i) {
    const auto index = static_cast<size_t>(i);
    checks[index] = check_file(files[index], encoding, part);
  });
  return checks;
}

FileCheck text_file_check(const ModalityKind& kind, const ModalityOptions& options) {
  if (kind.name != "text" || text_encoding(options) == TextEncoding::bytes) return {};
  return [](const std::vector<ListedFile>& files) {
    std::vector<std::string> faults;
    for (TextCheck& check : check_text_files(files, TextEncoding::utf8))
      faults.push_back(std::move(check.fault));
    return faults;
  };
}

}  // namespace perceiver
