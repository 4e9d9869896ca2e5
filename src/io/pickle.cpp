#include "io/pickle.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <utility>

#include "base/check.h"

namespace perceiver {
namespace {

enum class Opcode : uint8_t {
  mark = '(',
  stop = '.',
  pop = '0',
  pop_mark = '1',
  dup = '2',
  binint = 'J',
  binint1 = 'K',
  binint2 = 'M',
  none = 'N',
  binpersid = 'Q',
  reduce = 'R',
  binstring = 'T',
  short_binstring = 'U',
  binunicode = 'X',
  append = 'a',
  build = 'b',
  global = 'c',
  appends = 'e',
  binget = 'h',
  long_binget = 'j',
  empty_list = ']',
  binput = 'q',
  long_binput = 'r',
  setitem = 's',
  tuple = 't',
  empty_tuple = ')',
  empty_dict = '}',
  setitems = 'u',
  binfloat = 'G',
  binbytes = 'B',
  short_binbytes = 'C',
  proto = 0x80,
  newobj = 0x81,
  ext1 = 0x82,
  ext2 = 0x83,
  ext4 = 0x84,
  tuple1 = 0x85,
  tuple2 = 0x86,
  tuple3 = 0x87,
  newtrue = 0x88,
  newfalse = 0x89,
  long1 = 0x8a,
  long4 = 0x8b,
  short_binunicode = 0x8c,
  binunicode8 = 0x8d,
  binbytes8 = 0x8e,
  empty_set = 0x8f,
  additems = 0x90,
  frozenset = 0x91,
  newobj_ex = 0x92,
  stack_global = 0x93,
  memoize = 0x94,
  frame = 0x95,
  bytearray8 = 0x96,
  next_buffer = 0x97,
  readonly_buffer = 0x98,
};

/// Opcodes that only protocols 0 and 1 write: numbers and strings as lines of text, classes of Python 2.
constexpr std::string_view old_opcodes = "FILPSVdgilop";

}  // namespace

class PickleMachine {
  using enum Opcode;

 public:
  PickleMachine(std::span<const std::byte> file, const std::string& source, uint64_t begin)
      : file_(file), source_(source), next_(begin) {}

  Pickle run() {
    check_start();
    for (uint64_t operations = 0;; ++operations) {
      opcode_at_ = next_;
      if (operations == Pickle::most_operations)
        fail("the pickle has more than {} operations, which no checkpoint needs", Pickle::most_operations);
      const Opcode opcode = static_cast<Opcode>(take(1)[0]);
      if (opcode == stop) break;
      step(opcode);
    }
    result_.root_ = pop_value();
    result_.end_ = next_;
    return std::move(result_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw_user("{}: byte {}: {}", source_, opcode_at_, fmt::format(format, std::forward<Args>(args)...));
  }

  void check_start() {
    opcode_at_ = next_;
    if (next_ >= file_.size()) fail("the file ends where a pickle should start; it was truncated");
    if (static_cast<Opcode>(file_[next_]) != proto)
      fail(
          "no pickle of protocol 2 to 5 starts here; save the file again with torch.save, or with pickle "
          "protocol 4");
  }

  std::string_view take(uint64_t count) {
    if (count > file_.size() - next_)
      fail("the pickle ends in the middle of a value; the file was truncated");
    const std::string_view taken(reinterpret_cast<const char*>(file_.data()) + next_, count);
    next_ += count;
    return taken;
  }

  template <typename T>
  T take_number() {
    static_assert(std::endian::native == std::endian::little);
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  /// Bytes that follow their length.
  template <typename Length>
  std::string_view take_counted() {
    return take(take_number<Length>());
  }

  std::string_view take_line() {
    const std::string_view rest(reinterpret_cast<const char*>(file_.data()) + next_, file_.size() - next_);
    const size_t length = rest.find('\n');
    if (length == rest.npos) fail("a name does not end; the file was truncated");
    const std::string_view line = take(length);
    take(1);
    return line;
  }

  PickleValue* make(PickleKind kind) {
    PickleValue& value = result_.values_.emplace_back();
    value.kind = kind;
    return &value;
  }

  PickleValue* push(PickleKind kind) {
    PickleValue* value = make(kind);
    stack_.push_back(value);
    return value;
  }

  void push_text(PickleKind kind, std::string_view text) { push(kind)->text = text; }
  void push_integer(int64_t value) { push(PickleKind::integer)->integer = value; }
  void push_boolean(bool value) { push(PickleKind::boolean)->integer = value; }

  /// Values above the last mark may be taken, those below only after the mark is gone.
  size_t bottom() const { return marks_.empty() ? 0 : marks_.back(); }

  PickleValue* top() const {
    if (stack_.size() <= bottom()) fail("an operation finds no value to work on; the file is damaged");
    return stack_.back();
  }

  PickleValue* pop_value() {
    PickleValue* value = top();
    stack_.pop_back();
    return value;
  }

  /// Where the values above the last mark begin; removes the mark.
  size_t pop_last_mark() {
    if (marks_.empty()) fail("an operation finds no mark; the file is damaged");
    const size_t begin = marks_.back();
    marks_.pop_back();
    return begin;
  }

  /// The last mark and what is above it leave the stack.
  std::vector<const PickleValue*> pop_marked() {
    const size_t begin = pop_last_mark();
    std::vector<const PickleValue*> values(stack_.begin() + static_cast<ptrdiff_t>(begin), stack_.end());
    stack_.resize(begin);
    return values;
  }

  void push_tuple(size_t count) {
    if (stack_.size() - bottom() < count) fail("a tuple finds too few values; the file is damaged");
    PickleValue* value = make(PickleKind::tuple);
    value->items.assign(stack_.end() - static_cast<ptrdiff_t>(count), stack_.end());
    stack_.resize(stack_.size() - count);
    stack_.push_back(value);
  }

  void push_marked(PickleKind kind) {
    std::vector<const PickleValue*> values = pop_marked();
    push(kind)->items = std::move(values);
  }

  void push_long(std::string_view bytes) {
    if (bytes.size() > sizeof(int64_t)) return push_text(PickleKind::big_integer, bytes);
    const bool negative = !bytes.empty() && (static_cast<uint8_t>(bytes.back()) & 0x80) != 0;
    int64_t value = negative ? -1 : 0;
    std::memcpy(&value, bytes.data(), bytes.size());
    push_integer(value);
  }

  void push_real() {
    const uint64_t bits = __builtin_bswap64(take_number<uint64_t>());
    push(PickleKind::real)->real = std::bit_cast<double>(bits);
  }

  void push_global(std::string_view module, std::string_view name) {
    PickleValue* value = push(PickleKind::global);
    value->text = module;
    value->name = name;
  }

  void push_stack_global() {
    const PickleValue* name = pop_value();
    const PickleValue* module = pop_value();
    if (name->kind != PickleKind::string || module->kind != PickleKind::string)
      fail("a name in a module is no string; the file is damaged");
    push_global(module->text, name->text);
  }

  void push_object() {
    const PickleValue* arguments = pop_value();
    const PickleValue* callable = pop_value();
    if (arguments->kind != PickleKind::tuple)
      fail("the arguments of an object are no tuple; the file is damaged");
    PickleValue* value = push(PickleKind::object);
    value->callable = callable;
    value->arguments = arguments;
  }

  void push_persistent() {
    const PickleValue* id = pop_value();
    push(PickleKind::persistent)->arguments = id;
  }

  void set_state() {
    const PickleValue* state = pop_value();
    PickleValue* target = top();
    if (target->kind != PickleKind::object && target->kind != PickleKind::global)
      fail("a state is set in a value that has none; the file is damaged");
    target->state = state;
  }

  /// The value under those just taken, if it is of that kind or an object, which may be a subclass.
  PickleValue* container(PickleKind kind) {
    PickleValue* target = top();
    if (target->kind != kind && target->kind != PickleKind::object)
      fail("values are added to a value that holds none; the file is damaged");
    return target;
  }

  void add_items(PickleKind kind, const std::vector<const PickleValue*>& values) {
    std::vector<const PickleValue*>& items = container(kind)->items;
    items.insert(items.end(), values.begin(), values.end());
  }

  void add_entries(const std::vector<const PickleValue*>& values) {
    if (values.size() % 2 != 0) fail("a key has no value; the file is damaged");
    std::vector<PickleEntry>& entries = container(PickleKind::dict)->entries;
    for (size_t i = 0; i < values.size(); i += 2) entries.push_back({values[i], values[i + 1]});
  }

  void add_entry() {
    const PickleValue* value = pop_value();
    const PickleValue* key = pop_value();
    add_entries({key, value});
  }

  void get(uint64_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) fail("value {} is used before it is stored; the file is damaged", index);
    stack_.push_back(found->second);
  }

  void put(uint64_t index) { memo_[index] = top(); }

  void check_protocol() {
    const int version = take_number<uint8_t>();
    if (version < 2 || version > 5)
      fail("pickle protocol {} is not read, only 2 to 5; save the file again with pickle protocol 4",
           version);
  }

  void step(Opcode opcode) {
    if (!step_value(opcode) && !step_structure(opcode)) refuse(opcode);
  }

  /// Operations that push a value without looking at the stack.
  bool step_value(Opcode opcode) {
    switch (opcode) {
      case none:
        push(PickleKind::none);
        break;
      case newtrue:
        push_boolean(true);
        break;
      case newfalse:
        push_boolean(false);
        break;
      case binint:
        push_integer(take_number<int32_t>());
        break;
      case binint1:
        push_integer(take_number<uint8_t>());
        break;
      case binint2:
        push_integer(take_number<uint16_t>());
        break;
      case long1:
        push_long(take_counted<uint8_t>());
        break;
      case long4:
        push_long(take_counted<uint32_t>());
        break;
      case binfloat:
        push_real();
        break;
      case short_binstring:
        push_text(PickleKind::string, take_counted<uint8_t>());
        break;
      case short_binunicode:
        push_text(PickleKind::string, take_counted<uint8_t>());
        break;
      case binstring:
        push_text(PickleKind::string, take_counted<uint32_t>());
        break;
      case binunicode:
        push_text(PickleKind::string, take_counted<uint32_t>());
        break;
      case binunicode8:
        push_text(PickleKind::string, take_counted<uint64_t>());
        break;
      case short_binbytes:
        push_text(PickleKind::bytes, take_counted<uint8_t>());
        break;
      case binbytes:
        push_text(PickleKind::bytes, take_counted<uint32_t>());
        break;
      case binbytes8:
        push_text(PickleKind::bytes, take_counted<uint64_t>());
        break;
      case bytearray8:
        push_text(PickleKind::bytes, take_counted<uint64_t>());
        break;
      case empty_list:
        push(PickleKind::list);
        break;
      case empty_tuple:
        push(PickleKind::tuple);
        break;
      case empty_dict:
        push(PickleKind::dict);
        break;
      case empty_set:
        push(PickleKind::set);
        break;
      case global: {
        const std::string_view module = take_line();
        push_global(module, take_line());
        break;
      }
      default:
        return false;
    }
    return true;
  }

  /// Operations on the stack and the memo.
  bool step_structure(Opcode opcode) {
    switch (opcode) {
      case proto:
        check_protocol();
        break;
      case frame:
        take_number<uint64_t>();
        break;  // how much Python reads at a time
      case mark:
        marks_.push_back(stack_.size());
        break;
      case pop:
        pop_or_unmark();
        break;
      case pop_mark:
        pop_marked();
        break;
      case dup:
        stack_.push_back(top());
        break;
      case binget:
        get(take_number<uint8_t>());
        break;
      case long_binget:
        get(take_number<uint32_t>());
        break;
      case binput:
        put(take_number<uint8_t>());
        break;
      case long_binput:
        put(take_number<uint32_t>());
        break;
      case memoize:
        put(memo_.size());
        break;
      case tuple:
        push_marked(PickleKind::tuple);
        break;
      case frozenset:
        push_marked(PickleKind::set);
        break;
      case tuple1:
        push_tuple(1);
        break;
      case tuple2:
        push_tuple(2);
        break;
      case tuple3:
        push_tuple(3);
        break;
      case stack_global:
        push_stack_global();
        break;
      case binpersid:
        push_persistent();
        break;
      case newobj_ex:
        pop_value();
        push_object();
        break;  // without its keyword arguments
      case newobj:
        push_object();
        break;
      case reduce:
        push_object();
        break;
      case build:
        set_state();
        break;
      case append: {
        const PickleValue* value = pop_value();
        add_items(PickleKind::list, {value});
        break;
      }
      case appends:
        add_items(PickleKind::list, pop_marked());
        break;
      case additems:
        add_items(PickleKind::set, pop_marked());
        break;
      case setitem:
        add_entry();
        break;
      case setitems:
        add_entries(pop_marked());
        break;
      default:
        return false;
    }
    return true;
  }

  /// As Python does it, POP also takes a mark that nothing follows.
  void pop_or_unmark() {
    if (!marks_.empty() && marks_.back() == stack_.size())
      marks_.pop_back();
    else
      pop_value();
  }

  [[noreturn]] void refuse(Opcode opcode) const {
    if (opcode == ext1 || opcode == ext2 || opcode == ext4)
      fail("the pickle uses an extension code, which only the program that registered it can read");
    if (opcode == next_buffer || opcode == readonly_buffer)
      fail("the pickle's data lies in buffers outside the file; save it again without buffer_callback");
    if (old_opcodes.find(static_cast<char>(opcode)) != old_opcodes.npos)
      fail("the pickle is of protocol 0 or 1; save it again with pickle protocol 4");
    fail("{:#04x} is no operation of a pickle; the file is damaged", static_cast<uint8_t>(opcode));
  }

  std::span<const std::byte> file_;
  const std::string& source_;
  uint64_t next_;
  uint64_t opcode_at_ = 0;
  std::vector<PickleValue*> stack_;
  std::vector<size_t> marks_;
  std::map<uint64_t, PickleValue*> memo_;  // indices are the file's: not hashed, not an array
  Pickle result_;
};

const PickleValue* find_entry(const PickleValue& mapping, std::string_view key) {
  const auto found =
      std::find_if(mapping.entries.rbegin(), mapping.entries.rend(), [&](const PickleEntry& entry) {
        return entry.key->kind == PickleKind::string && entry.key->text == key;
      });
  return found == mapping.entries.rend() ? nullptr : found->value;
}

Pickle Pickle::parse(std::span<const std::byte> file, const std::string& source, uint64_t begin) {
  return PickleMachine(file, source, begin).run();
}

}  // namespace perceiver
