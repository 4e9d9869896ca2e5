#include "io/array_walk.h"

#include <string_view>
#include <unordered_set>
#include <utility>

#include "base/check.h"
#include "io/torch_file.h"

namespace perceiver {
namespace {

/// A pickle may hold a value many times, and itself: a file of a hundred bytes can describe a tree of 2^30
/// leaves. Where nothing was found, nothing is looked for again, so that the work is bounded by the arrays
/// that are found.
class ArrayWalk {
 public:
  ArrayWalk(const std::string& source, const ReadArray& read, const TakeArray& take)
      : source_(source), read_(read), take_(take) {}

  void visit(const PickleValue& value) {
    if (++visits_ > TorchFile::most_visits)
      throw_user("{}: holds more than {} values, which no checkpoint needs", source_, TorchFile::most_visits);
    std::optional<StoredArray> array = read_(value);
    if (array) return give(std::move(*array));
    if (path_.size() == TorchFile::most_depth) return;
    const PickleValue& container = mapping(value);
    if (container.items.empty() && container.entries.empty()) return;
    // Until all of it has been visited nothing was found: a value inside itself is stepped over.
    if (!barren_.insert(&container).second) return;
    const size_t before = found_;
    visit_children(container);
    if (found_ > before) barren_.erase(&container);
  }

 private:
  /// A mapping that is made from a dict (of haiku, of flax) is taken for that dict.
  static const PickleValue& mapping(const PickleValue& value) {
    if (value.kind != PickleKind::object || value.state != nullptr || !value.entries.empty()) return value;
    const auto& arguments = value.arguments->items;
    return arguments.size() == 1 && arguments[0]->kind == PickleKind::dict ? *arguments[0] : value;
  }

  void visit_children(const PickleValue& value) {
    if (value.kind == PickleKind::list || value.kind == PickleKind::tuple) return visit_items(value);
    visit_entries(value);
  }

  void visit_items(const PickleValue& value) {
    for (size_t i = 0; i < value.items.size(); ++i) visit_child(std::to_string(i), *value.items[i]);
  }

  void visit_entries(const PickleValue& value) {
    for (const auto& [key, child] : value.entries) {
      if (key->kind == PickleKind::string) visit_child(key->text, *child);
      if (key->kind == PickleKind::integer) visit_child(std::to_string(key->integer), *child);
    }
  }

  void visit_child(std::string_view key, const PickleValue& value) {
    path_.push_back(key);
    visit(value);
    path_.pop_back();
  }

  void give(StoredArray array) {
    ++found_;
    take_(name(), std::move(array));
  }

  std::string name() {
    size_t bytes = path_.size();
    for (const std::string_view key : path_) bytes += key.size();
    if (bytes > TorchFile::most_name_bytes - name_bytes_)
      throw_user("{}: the names of its tensors have more than {} bytes, which no checkpoint needs", source_,
                 TorchFile::most_name_bytes);
    name_bytes_ += bytes;
    return fmt::format("{}", fmt::join(path_, "/"));
  }

  const std::string& source_;
  const ReadArray& read_;
  const TakeArray& take_;
  std::vector<std::string_view> path_;
  std::unordered_set<const PickleValue*> barren_;
  uint64_t visits_ = 0;
  size_t found_ = 0;
  size_t name_bytes_ = 0;
};

}  // namespace

void walk_arrays(const PickleValue& root, const std::string& source, const ReadArray& read,
                 const TakeArray& take) {
  ArrayWalk(source, read, take).visit(root);
}

}  // namespace perceiver
