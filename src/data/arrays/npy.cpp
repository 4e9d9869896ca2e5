#include "data/arrays/npy.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/text.h"

namespace perceiver {
namespace {

constexpr std::string_view magic = "\x93NUMPY";

/// Reads the header's Python dictionary: {'descr': '<i4', 'fortran_order': False, 'shape': (3, 4), }.
class HeaderReader {
 public:
  HeaderReader(std::string_view text, uint64_t offset, const std::string& source)
      : text_(text), offset_(offset), source_(source) {}

  std::string descr;
  bool fortran_order = false;
  std::vector<int64_t> shape;

  void read() {
    expect('{');
    while (!take('}')) {
      entry();
      if (take(',')) continue;
      expect('}');
      break;
    }
    skip_space();
    if (at_ != text_.size()) fail("unexpected text after the dictionary");
    if (!has_descr_ || !has_order_ || !has_shape_) fail("descr, fortran_order or shape is missing");
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw_user("{}: byte {}: {}; the file is damaged or not a .npy file", source_, offset_ + at_, what);
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool take(char c) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) fail(fmt::format("'{}' is missing", c));
  }
  std::string quoted() {
    skip_space();
    const char mark = at_ < text_.size() ? text_[at_] : '\0';
    const size_t end = mark == '\'' || mark == '"' ? text_.find(mark, at_ + 1) : std::string_view::npos;
    if (end == std::string_view::npos) fail("a quoted name is missing");
    const std::string word(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return word;
  }
  bool boolean() {
    skip_space();
    for (const bool value : {false, true}) {
      const std::string_view word = value ? "True" : "False";
      if (!text_.substr(at_).starts_with(word)) continue;
      at_ += word.size();
      return value;
    }
    fail("expected True or False");
  }
  int64_t number() {
    skip_space();
    int64_t value = 0;
    const size_t first = at_;
    for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
      if (value > INT64_MAX / 10 - 1) fail("a dimension is too large");
      value = value * 10 + (text_[at_] - '0');
    }
    if (at_ == first) fail("a dimension is missing");
    return value;
  }
  void tuple() {
    expect('(');
    while (!take(')')) {
      if (shape.size() == npy_max_dimensions)
        fail(fmt::format("more than {} dimensions", npy_max_dimensions));
      shape.push_back(number());
      if (take(',')) continue;
      expect(')');
      break;
    }
  }
  void claim(bool& seen, const std::string& name) {
    if (seen) fail(fmt::format("'{}' appears twice", name));
    seen = true;
  }
  void entry() {
    const std::string name = quoted();
    expect(':');
    if (name == "descr") {
      claim(has_descr_, name);
      skip_space();
      if (at_ < text_.size() && text_[at_] == '[') fail("structured arrays are not supported");
      descr = quoted();
    } else if (name == "fortran_order") {
      claim(has_order_, name);
      fortran_order = boolean();
    } else if (name == "shape") {
      claim(has_shape_, name);
      tuple();
    } else {
      fail(fmt::format("unknown key {}", quote(name)));
    }
  }

  std::string_view text_;
  uint64_t offset_;
  const std::string& source_;
  size_t at_ = 0;
  bool has_descr_ = false, has_order_ = false, has_shape_ = false;
};

uint64_t little_endian(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<uint64_t>(bytes[i]);
  return value;
}

}  // namespace

NpyArray NpyArray::parse(std::span<const std::byte> file, const std::string& source) {
  const auto fail = [&](uint64_t offset, const std::string& what) {
    throw_user("{}: byte {}: {}", source, offset, what);
  };
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (!text.starts_with(magic)) fail(0, "does not begin like a .npy file");
  if (file.size() < 10) fail(file.size(), "the file ends before its header");
  const auto version = static_cast<int>(file[6]);
  if (version < 1 || version > 3) fail(6, fmt::format(".npy version {}; 1 to 3 are supported", version));
  const size_t length_bytes = version == 1 ? 2 : 4;
  const uint64_t header_offset = 8 + length_bytes;
  if (file.size() < header_offset) fail(file.size(), "the file ends before its header");
  const uint64_t length = little_endian(file.subspan(8, length_bytes));
  if (length > npy_max_header || length > file.size() - header_offset)
    fail(8, fmt::format("a header of {} bytes does not fit into the file (the limit is {})", length,
                        npy_max_header));
  HeaderReader header(text.substr(header_offset, length), header_offset, source);
  header.read();

  NpyArray array;
  array.source_ = source;
  array.data_offset_ = header_offset + length;
  const std::string& d = header.descr;
  const bool known = d.size() == 3 && std::strchr("<>|=", d[0]) != nullptr &&
                     std::strchr("iub", d[1]) != nullptr && std::strchr("1248", d[2]) != nullptr &&
                     (d[1] != 'b' || d[2] == '1');
  if (!known)
    fail(header_offset,
         fmt::format("elements of type {}; only integers of 1 to 8 bytes are supported", quote(d)));
  array.width_ = static_cast<size_t>(d[2] - '0');
  array.is_signed_ = d[1] == 'i';
  array.big_endian_ = d[0] == '>';
  array.shape_ = header.shape;
  array.column_major_ = header.fortran_order && header.shape.size() > 1;
  const uint64_t available = (file.size() - array.data_offset_) / array.width_;
  uint64_t elements = 1;
  for (const int64_t dimension : header.shape) {
    if (dimension == 0) elements = 0;
    if (elements > 0 && static_cast<uint64_t>(dimension) > available / elements) {
      fail(file.size(), fmt::format("the file ends before the last of its elements, shape [{}]",
                                    fmt::join(header.shape, ", ")));
    }
    elements *= static_cast<uint64_t>(dimension);
  }
  if (elements * array.width_ != file.size() - array.data_offset_)
    fail(array.data_offset_ + elements * array.width_,
         fmt::format("{} bytes follow the last element",
                     file.size() - array.data_offset_ - elements * array.width_));
  array.elements_ = static_cast<int64_t>(elements);
  array.data_ = file.subspan(array.data_offset_);
  return array;
}

int64_t NpyArray::stored_index(int64_t i) const {
  if (!column_major_ || elements_ == 0) return i;
  int64_t index = 0, stride = elements_;
  for (size_t d = shape_.size(); d-- > 0;) {  // the last dimension varies fastest in i, slowest in the file
    stride /= shape_[d];
    index += i % shape_[d] * stride;
    i /= shape_[d];
  }
  return index;
}

int64_t NpyArray::at(int64_t i) const {
  PERCEIVER_ASSERT(i >= 0 && i < elements_);
  std::byte bytes[8];
  std::memcpy(bytes, data_.data() + static_cast<size_t>(stored_index(i)) * width_, width_);
  if (big_endian_) std::reverse(bytes, bytes + width_);
  const uint64_t value = little_endian({bytes, width_});
  if (is_signed_) {
    const int shift = static_cast<int>(64 - 8 * width_);
    return static_cast<int64_t>(value << shift) >> shift;
  }
  if (value > static_cast<uint64_t>(INT64_MAX))
    throw_user("{}: byte {}: the value {} is too large", source_, offset_of(i), value);
  return static_cast<int64_t>(value);
}

std::string write_npy(std::span<const int32_t> values, const std::vector<int64_t>& shape) {
  const std::string comma = shape.size() == 1 ? "," : "";
  std::string header = fmt::format("{{'descr': '<i4', 'fortran_order': False, 'shape': ({}{}), }}",
                                   fmt::join(shape, ", "), comma);
  const size_t before = magic.size() + 4;
  header.append(63 - (before + header.size()) % 64, ' ');
  header += '\n';
  std::string file(magic);
  file += std::string("\x01\x00", 2);
  file += static_cast<char>(header.size() & 255);
  file += static_cast<char>(header.size() >> 8);
  file += header;
  file.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int32_t));
  return file;
}

}  // namespace perceiver
