#include "io/safetensors_header.h"

#include <nlohmann/json.hpp>

#include <set>

#include "base/check.h"
#include "base/text.h"

namespace perceiver {
namespace {

using Json = nlohmann::json;

/// Iterates over the text and records how far the parser has read.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, const char** furthest) : at_(at), furthest_(furthest) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    *furthest_ = ++at_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** furthest_;
};

/// Where in the header the parser is.
enum class Place {
  start,
  top,           ///< between tensors
  metadata,      ///< inside __metadata__
  tensor,        ///< inside a tensor's object, before one of its keys
  tensor_dtype,  ///< before the value of "dtype"
  tensor_shape,  ///< before the value of "shape"
  shape,         ///< inside the list of dimensions
  tensor_range,  ///< before the value of "data_offsets"
  range,         ///< inside the list of offsets
  done,
};

class HeaderHandler : public nlohmann::json_sax<Json> {
 public:
  HeaderHandler(std::string_view text, uint64_t file_offset, const std::string& source)
      : text_(text), furthest_(text.data()), file_offset_(file_offset), source_(source) {}

  SafetensorsHeader run() {
    if (text_.empty() || text_.front() != '{') fail("the header does not begin with '{'");
    // The JSON parser takes a zero byte for the end of the text and ignores what follows.
    if (text_.find('\0') != std::string_view::npos) fail("the header contains a zero byte");
    const CountingIterator begin(text_.data(), &furthest_);
    const CountingIterator end(text_.data() + text_.size(), &furthest_);
    Json::sax_parse(begin, end, this);
    return std::move(header_);
  }

  bool start_object(std::size_t) override {
    if (place_ == Place::start) return go(Place::top);
    if (place_ != Place::top) reject_value("an object");
    if (key_ == "__metadata__") return go(Place::metadata);
    header_.entries.push_back({.name = key_, .dtype = "", .shape = {}});
    has_dtype_ = has_shape_ = has_range_ = false;
    return go(Place::tensor);
  }

  bool end_object() override {
    if (place_ == Place::top) return go(Place::done);
    if (place_ == Place::tensor && !(has_dtype_ && has_shape_ && has_range_))
      fail(fmt::format("tensor {} lacks \"{}\"", quote(entry().name),
                       !has_dtype_   ? "dtype"
                       : !has_shape_ ? "shape"
                                     : "data_offsets"));
    return go(Place::top);
  }

  bool key(std::string& name) override {
    if (place_ == Place::tensor) return tensor_key(name);
    const bool fresh = place_ == Place::top ? names_.insert(name).second : !header_.metadata.contains(name);
    if (!fresh) fail(fmt::format("the name {} appears twice", quote(name)));
    key_ = name;
    return true;
  }

  bool start_array(std::size_t) override {
    if (place_ == Place::tensor_shape) return go(Place::shape);
    if (place_ == Place::tensor_range) return go(Place::range);
    reject_value("a list");
  }

  bool end_array() override {
    if (place_ == Place::range && offsets_ != 2)
      fail(fmt::format("tensor {}: \"data_offsets\" must hold two numbers", quote(entry().name)));
    return go(Place::tensor);
  }

  bool string(std::string& value) override {
    if (place_ == Place::metadata) {
      header_.metadata[key_] = value;
      return true;
    }
    if (place_ != Place::tensor_dtype) reject_value("a string");
    if (safetensors_dtype_size(value) == 0)
      fail(fmt::format("tensor {} has the unknown dtype {}", quote(entry().name), quote(value)));
    entry().dtype = value;
    return go(Place::tensor);
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::shape) return dimension(value);
    if (place_ != Place::range) reject_value("a number");
    if (offsets_ == 2)
      fail(fmt::format("tensor {}: \"data_offsets\" must hold two numbers", quote(entry().name)));
    (offsets_ == 0 ? entry().begin : entry().end) = value;
    ++offsets_;
    return true;
  }

  bool number_integer(number_integer_t) override { reject_value("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { reject_value("a fraction"); }
  bool boolean(bool) override { reject_value("a boolean"); }
  bool null() override { reject_value("null"); }
  bool binary(binary_t&) override { reject_value("binary data"); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    fail("the header is not valid JSON");
  }

 private:
  SafetensorsEntry& entry() { return header_.entries.back(); }

  bool go(Place place) {
    place_ = place;
    return true;
  }

  bool tensor_key(const std::string& name) {
    if (name == "dtype") return claim(has_dtype_, name, Place::tensor_dtype);
    if (name == "shape") return claim(has_shape_, name, Place::tensor_shape);
    if (name != "data_offsets")
      fail(fmt::format("tensor {} has the unknown key {}", quote(entry().name), quote(name)));
    offsets_ = 0;
    return claim(has_range_, name, Place::tensor_range);
  }

  bool claim(bool& seen, const std::string& name, Place place) {
    if (seen) fail(fmt::format("tensor {}: \"{}\" appears twice", quote(entry().name), name));
    seen = true;
    return go(place);
  }

  bool dimension(number_unsigned_t value) {
    if (value > static_cast<number_unsigned_t>(INT64_MAX) || entry().shape.size() == safetensors_max_rank)
      fail(fmt::format("tensor {} has too large a shape", quote(entry().name)));
    entry().shape.push_back(static_cast<int64_t>(value));
    return true;
  }

  [[noreturn]] void reject_value(const char* what) {
    const bool in_tensor = place_ != Place::start && place_ != Place::top && place_ != Place::metadata;
    fail(fmt::format("the header has {} in the wrong place ({} {})", what, in_tensor ? "tensor" : "key",
                     quote(in_tensor ? entry().name : key_)));
  }

  [[noreturn]] void fail(const std::string& what) const {
    const bool started = furthest_ != text_.data();
    const uint64_t offset =
        file_offset_ + static_cast<uint64_t>(furthest_ - text_.data()) - (started ? 1 : 0);
    throw_user("{}: byte {}: {}; the file is damaged or not a safetensors file", source_, offset, what);
  }

  std::string_view text_;
  const char* furthest_;
  uint64_t file_offset_;
  const std::string& source_;
  SafetensorsHeader header_;
  std::set<std::string> names_;
  std::string key_;
  Place place_ = Place::start;
  bool has_dtype_ = false;
  bool has_shape_ = false;
  bool has_range_ = false;
  int offsets_ = 0;
};

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, uint64_t file_offset,
                                           const std::string& source) {
  return HeaderHandler(text, file_offset, source).run();
}

}  // namespace perceiver
