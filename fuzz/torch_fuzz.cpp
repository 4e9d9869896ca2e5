// Any input is either refused with a perceiver::Error or is a file whose tensors can all be read. The first
// byte selects what the others are: a whole file, a pickle, a damaged archive or data.pkl of a sound one.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "io/pickle.h"
#include "io/torch_file.h"
#include "io/zip_archive.h"
#include "perceiver/error.h"

namespace {

using Bytes = std::span<const std::byte>;

void require(bool condition) {
  if (!condition) std::abort();
}

/// Keeps a sum from being optimized away, and with it the reads.
void use(double sum) {
  volatile double read = sum;
  static_cast<void>(read);
}

/// Errors must fit on one line of a terminal.
template <typename Check>
void check(const Check& parse) {
  try {
    parse();
  } catch (const perceiver::Error& error) {
    require(error.kind() == perceiver::ErrorKind::user);
    for (const char c : std::string_view(error.what()))
      require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F);
  }
}

void read_file(Bytes bytes) {
  const perceiver::TorchFile file = perceiver::TorchFile::parse(bytes, "fuzz");
  constexpr int64_t most_elements = 4096;
  constexpr size_t most_tensors = 64;
  for (size_t i = 0; i < std::min(file.tensors().size(), most_tensors); ++i) {
    const perceiver::SourceTensor& tensor = file.tensors()[i];
    require(file.find(tensor.name) != nullptr);
    if (tensor.elements() > most_elements || !perceiver::is_float_dtype(tensor.dtype)) continue;
    double sum = 0;
    for (const double value : file.values(tensor)) sum += value;
    use(sum);
  }
}

void read_pickle(Bytes bytes) {
  const perceiver::Pickle pickle = perceiver::Pickle::parse(bytes, "fuzz");
  require(pickle.end() <= bytes.size());
  size_t sum = 0;
  for (const perceiver::PickleValue& value : pickle.values()) {
    for (const char c : value.text) sum += static_cast<unsigned char>(c);
    for (const perceiver::PickleValue* item : value.items) sum += item->items.size();
    for (const perceiver::PickleEntry& entry : value.entries)
      sum += entry.key->text.size() + entry.value->text.size();
    if (value.kind == perceiver::PickleKind::object)
      require(value.callable != nullptr && value.arguments != nullptr);
  }
  use(static_cast<double>(sum));
}

void read_archive(Bytes bytes) {
  const perceiver::ZipArchive archive = perceiver::ZipArchive::parse(bytes, "fuzz");
  constexpr uint64_t most_bytes = 1 << 20;
  for (const perceiver::ZipEntry& entry : archive.entries())
    if (entry.size <= most_bytes) require(archive.read(entry).size() == entry.size);
}

void add_number(std::vector<uint8_t>& file, uint64_t number, int bytes) {
  for (; bytes > 0; --bytes, number >>= 8) file.push_back(static_cast<uint8_t>(number));
}

/// What the header of an entry and its line in the directory have in common. The checksum is not read.
void add_entry(std::vector<uint8_t>& file, std::string_view name, size_t size) {
  for (const int field : {0, 0, 0, 0}) add_number(file, field, 2);  // flags, stored, time, date
  add_number(file, 0, 4);
  add_number(file, size, 4);
  add_number(file, size, 4);
  add_number(file, name.size(), 2);
  add_number(file, 0, 2);
}

/// An archive of torch with that pickle and one storage of 64 bytes.
std::vector<uint8_t> archive_of(std::span<const uint8_t> pickle) {
  const std::vector<uint8_t> storage(64, 0x3c);
  const std::pair<std::string_view, std::span<const uint8_t>> entries[] = {{"a/data.pkl", pickle},
                                                                           {"a/data/0", storage}};
  std::vector<uint8_t> file;
  std::vector<uint8_t> directory;
  for (const auto& [name, content] : entries) {
    add_number(directory, 0x02014b50, 4);
    add_number(directory, 20 | 20 << 16, 4);
    add_entry(directory, name, content.size());
    add_number(directory, 0, 10);  // comment, disk, attributes
    add_number(directory, file.size(), 4);
    directory.insert(directory.end(), name.begin(), name.end());
    add_number(file, 0x04034b50, 4);
    add_number(file, 20, 2);
    add_entry(file, name, content.size());
    file.insert(file.end(), name.begin(), name.end());
    file.insert(file.end(), content.begin(), content.end());
  }
  const size_t start = file.size();
  file.insert(file.end(), directory.begin(), directory.end());
  add_number(file, 0x06054b50, 4);
  add_number(file, 0, 4);
  add_number(file, std::size(entries) | std::size(entries) << 16, 4);
  add_number(file, directory.size(), 4);
  add_number(file, start, 4);
  add_number(file, 0, 2);
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::span<const uint8_t> input(data + 1, size - 1);
  const Bytes bytes = std::as_bytes(input);
  switch (data[0] & 3) {
    case 0:
      check([&] { read_file(bytes); });
      break;
    case 1:
      check([&] { read_pickle(bytes); });
      break;
    case 2:
      check([&] { read_archive(bytes); });
      break;
    case 3: {
      const std::vector<uint8_t> file = archive_of(input);
      check([&] { read_file(std::as_bytes(std::span(file))); });
      break;
    }
  }
  return 0;
}
