// Reads Python pickles (protocols 2 to 5; the opcodes are those of CPython's Lib/pickletools.py) without
// executing anything. Where Python would import a name or call a function, the name and the arguments are
// kept as values, for the caller to recognise those that it knows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace perceiver {

enum class PickleKind : uint8_t {
  none,
  boolean,
  integer,
  big_integer,  ///< beyond 64 bits
  real,
  string,
  bytes,  ///< also a bytearray
  list,
  tuple,
  dict,
  set,
  global,      ///< a name in a module: a function or a class
  object,      ///< what calling a function or class would have made
  persistent,  ///< what the program that reads the pickle is to look up, in torch files a storage
};

struct PickleValue;

struct PickleEntry {
  const PickleValue* key;
  const PickleValue* value;
};

/// A node of the graph that a pickle describes. Nodes may be shared and may contain themselves: whoever walks
/// the graph bounds depth and number of visits. Which members count depends on the kind.
struct PickleValue {
  PickleKind kind = PickleKind::none;
  int64_t integer = 0;  ///< integer; boolean: 0 or 1
  double real = 0;
  std::string_view text;  ///< string (unchecked UTF-8), bytes; big_integer: little-endian two's complement;
                          ///< global: the module
  std::string_view name;  ///< global: the name in the module
  std::vector<const PickleValue*> items;   ///< list, tuple, set; object: what is appended
  std::vector<PickleEntry> entries;        ///< dict; object: what is set. Of equal keys the last counts
  const PickleValue* callable = nullptr;   ///< object
  const PickleValue* arguments = nullptr;  ///< object: a tuple; persistent: the id
  const PickleValue* state = nullptr;      ///< object or global: what its __setstate__ would get; or nullptr

  bool is_global(std::string_view module, std::string_view wanted) const {
    return kind == PickleKind::global && text == module && name == wanted;
  }
};

/// The value for a string key of a dict or of an object that has entries (OrderedDict and the like), or
/// nullptr.
const PickleValue* find_entry(const PickleValue& mapping, std::string_view key);

/// One pickle in memory. Lives in an arena: no value is owned by another, so neither cycles nor depth matter.
class Pickle {
 public:
  /// Most operations accepted: a checkpoint of thousands of tensors has some hundred thousand.
  static constexpr uint64_t most_operations = uint64_t{1} << 23;

  /// Reads the pickle that starts at byte `begin` of `file`, which must outlive the object. Throws `user`
  /// "<source>: byte <n>: …" if it is damaged or uses what this reader refuses: protocols 0 and 1, extension
  /// codes, buffers outside the file.
  static Pickle parse(std::span<const std::byte> file, const std::string& source, uint64_t begin = 0);

  const PickleValue& root() const { return *root_; }
  /// All values, in the order in which they were made.
  const std::deque<PickleValue>& values() const { return values_; }
  /// One past its last byte.
  uint64_t end() const { return end_; }

 private:
  friend class PickleMachine;
  std::deque<PickleValue> values_;
  const PickleValue* root_ = nullptr;
  uint64_t end_ = 0;
};

}  // namespace perceiver
