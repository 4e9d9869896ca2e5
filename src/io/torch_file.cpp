#include "io/torch_file.h"

#include <cstring>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "io/array_walk.h"
#include "io/safetensors.h"

namespace perceiver {
namespace {

/// Of a file before torch 1.6: the first of five pickles is this number, little-endian.
constexpr std::string_view legacy_magic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);
constexpr int64_t legacy_protocol = 1001;

bool has_text(std::span<const std::byte> file, size_t offset, std::string_view text) {
  return file.size() >= offset + text.size() &&
         std::memcmp(file.data() + offset, text.data(), text.size()) == 0;
}

/// Refuses, by how they begin, files that are often taken for one of these.
void check_kind(std::span<const std::byte> file, const std::string& source) {
  if (has_text(file, 0, "\x1f\x8b"))
    throw_user("{}: is compressed with gzip; unpack it first, with gunzip", source);
  if (has_text(file, 257, "ustar"))
    throw_user(
        "{}: is a tar archive, as torch wrote before 0.1.10; load it in Python and save it with torch.save",
        source);
  if (!has_text(file, 0, "\x80"))
    throw_user("{}: is neither a file of torch.save nor a pickle of protocol 2 to 5", source);
}

/// The folder in the archive that holds everything: "archive" or the name of the file when it was saved.
std::string find_root(const ZipArchive& archive, const std::string& source) {
  constexpr std::string_view pickle = "/data.pkl";
  for (const ZipEntry& entry : archive.entries()) {
    if (!entry.name.ends_with(pickle)) continue;
    const std::string root = entry.name.substr(0, entry.name.size() - pickle.size());
    if (archive.find(root + "/constants.pkl") != nullptr)
      throw_user("{}: is a TorchScript program; load it in Python and save its state_dict() with torch.save",
                 source);
    return root;
  }
  throw_user("{}: is a zip archive without data.pkl, so not a file of torch.save", source);
}

void check_byte_order(const ZipArchive& archive, const std::string& root, const std::string& source) {
  const ZipEntry* entry = archive.find(root + "/byteorder");
  constexpr uint64_t longest = 16;
  if (entry == nullptr) return;
  const std::vector<std::byte> order =
      entry->size > longest ? std::vector<std::byte>() : archive.read(*entry);
  if (!has_text(order, 0, "little"))
    throw_user("{}: its numbers are big-endian, which is not read; save it again on another machine", source);
}

TorchStorages list_storages(const ZipArchive& archive, const std::string& root) {
  TorchStorages storages;
  const std::string folder = root + "/data/";
  for (const ZipEntry& entry : archive.entries()) {
    if (!entry.name.starts_with(folder)) continue;
    TorchStorage& storage = storages[entry.name.substr(folder.size())];
    storage = {entry.size, {}, nullptr};
    if (entry.stored)
      storage.data = archive.stored_bytes(entry);
    else
      storage.entry = &entry;
  }
  return storages;
}

bool is_legacy(const Pickle& first) {
  return first.root().kind == PickleKind::big_integer && first.root().text == legacy_magic;
}

}  // namespace

TorchFile TorchFile::open(const std::filesystem::path& path) {
  TorchFile result;
  result.source_ = path.string();
  result.mapping_ = FileView(path);
  result.load(result.mapping_.bytes());
  return result;
}

TorchFile TorchFile::parse(std::span<const std::byte> file, const std::string& source) {
  TorchFile result;
  result.source_ = source;
  result.load(file);
  return result;
}

void TorchFile::load(std::span<const std::byte> file) {
  if (has_text(file, 0, "PK"))
    load_zip(file);
  else
    load_pickles(file);
  find_tensors();
}

void TorchFile::load_zip(std::span<const std::byte> file) {
  archive_ = ZipArchive::parse(file, source_);
  const std::string root = find_root(archive_, source_);
  check_byte_order(archive_, root, source_);
  const ZipEntry& entry = *archive_.find(root + "/data.pkl");
  if (!entry.stored) inflated_pickle_ = archive_.read(entry);
  const std::span<const std::byte> bytes = entry.stored ? archive_.stored_bytes(entry) : inflated_pickle_;
  pickle_ = Pickle::parse(bytes, fmt::format("{}: {}", source_, printable(entry.name)));
  storages_ = list_storages(archive_, root);
}

void TorchFile::load_pickles(std::span<const std::byte> file) {
  check_kind(file, source_);
  pickle_ = Pickle::parse(file, source_);
  if (is_legacy(pickle_)) load_legacy(file, pickle_.end());
}

/// The magic number is followed by the version of the format, a dict about the machine, the value that was
/// saved, the keys of its storages, and the storages in that order.
void TorchFile::load_legacy(std::span<const std::byte> file, uint64_t begin) {
  const Pickle version = Pickle::parse(file, source_, begin);
  if (version.root().integer != legacy_protocol)
    throw_user(
        "{}: byte {}: its format has the version {}, only {} is read; load it in Python and save it with "
        "torch.save",
        source_, begin, version.root().integer, legacy_protocol);
  const Pickle machine = Pickle::parse(file, source_, version.end());
  const PickleValue* little = find_entry(machine.root(), "little_endian");
  if (little == nullptr || little->integer == 0)
    throw_user("{}: byte {}: its numbers are big-endian, which is not read", source_, version.end());
  pickle_ = Pickle::parse(file, source_, machine.end());
  load_legacy_storages(file, Pickle::parse(file, source_, pickle_.end()));
}

void TorchFile::load_legacy_storages(std::span<const std::byte> file, const Pickle& keys) {
  std::map<std::string_view, size_t> element_sizes;
  for (const PickleValue& value : pickle_.values())
    if (const auto id = read_torch_storage_id(value))
      element_sizes[id->key] = torch_storage_element_size(id->type);
  uint64_t next = keys.end();
  for (const PickleValue* key : keys.root().items) {
    const size_t size = element_sizes[key->text];
    if (size == 0)
      throw_user(
          "{}: byte {}: storage {} is of a type that is not read; load the file in Python and save it with "
          "torch.save",
          source_, next, quote(key->text));
    int64_t count = 0;
    const bool complete = file.size() - next >= sizeof count;
    if (complete) std::memcpy(&count, file.data() + next, sizeof count);
    const uint64_t begin = next + sizeof count;
    if (!complete || count < 0 || static_cast<uint64_t>(count) > (file.size() - begin) / size)
      throw_user("{}: byte {}: storage {} ends past the end of the file; the file was truncated", source_,
                 next, quote(key->text));
    const uint64_t bytes = static_cast<uint64_t>(count) * size;
    storages_[std::string(key->text)] = {bytes, file.subspan(begin, bytes), nullptr};
    next = begin + bytes;
  }
}

void TorchFile::find_tensors() {
  const auto read_array = [this](const PickleValue& value) {
    std::optional<StoredArray> array = read_torch_tensor(value, storages_);
    return array ? array : read_numpy_array(value, latin_);
  };
  walk_arrays(pickle_.root(), source_, read_array,
              [this](std::string name, StoredArray array) { add(std::move(name), std::move(array)); });
  if (tensors_.empty())
    throw_user(
        "{}: holds no tensors in dicts or lists; if it is a whole model, save its state_dict() instead",
        source_);
}

void TorchFile::add(std::string name, StoredArray array) {
  if (!array.fault.empty()) throw_user("{}: tensor {} {}", source_, quote(name), array.fault);
  if (!is_utf8(name))
    throw_user("{}: the name of tensor {} is not UTF-8; the file is damaged", source_, quote(name));
  if (tensors_.size() == most_tensors)
    throw_user("{}: holds more than {} tensors, which no checkpoint needs", source_, most_tensors);
  const auto [found, added] = index_.try_emplace(name, tensors_.size());
  if (added) {
    tensors_.emplace_back();
    arrays_.emplace_back();
  }
  // Of equal keys the last counts.
  tensors_[found->second] = {std::move(name), array.layout.dtype, array.layout.shape};
  arrays_[found->second] = std::move(array);
}

void TorchFile::read(const SourceTensor& tensor, std::span<double> out) const {
  const auto found = index_.find(tensor.name);
  PERCEIVER_ASSERT(found != index_.end());
  const StoredArray& array = arrays_[found->second];
  if (!is_float_dtype(array.layout.dtype))
    throw_user("{}: tensor {} has the type {}, where floating-point numbers are expected", source_,
               quote(tensor.name), array.layout.dtype);
  PERCEIVER_ASSERT(out.size() == static_cast<size_t>(tensors_[found->second].elements()));
  if (array.entry == nullptr) return read_elements(array.layout, array.storage, out);
  const std::vector<std::byte> inflated = archive_.read(*array.entry);
  read_elements(array.layout, inflated, out);
}

}  // namespace perceiver
