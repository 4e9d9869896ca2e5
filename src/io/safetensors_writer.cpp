#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "io/atomic_file.h"
#include "io/checksum.h"
#include "io/safetensors.h"
#include "io/safetensors_checksum.h"

namespace perceiver {
namespace {

constexpr size_t header_alignment = 8;

std::string dump(const nlohmann::ordered_json& header) {
  try {
    return header.dump();
  } catch (const nlohmann::json::exception& error) {
    throw_failure("cannot write a safetensors header: names and metadata must be UTF-8 ({})", error.what());
  }
}

}  // namespace

void SafetensorsWriter::add(std::string name, std::string dtype, std::vector<int64_t> shape,
                            std::span<const std::byte> bytes) {
  const int64_t wanted = safetensors_byte_count(dtype, shape);
  if (wanted < 0 || shape.size() > safetensors_max_rank)
    throw_failure("cannot store tensor '{}': unknown dtype '{}' or impossible shape", name, dtype);
  if (bytes.size() != static_cast<uint64_t>(wanted))
    throw_failure("cannot store tensor '{}': {} bytes given, but its shape needs {}", name, bytes.size(),
                  wanted);
  if (name == "__metadata__" || !names_.insert(name).second)
    throw_failure("cannot store tensor '{}': the name is taken", name);
  tensors_.push_back(
      {.entry = {.name = std::move(name), .dtype = std::move(dtype), .shape = std::move(shape)},
       .bytes = bytes});
}

std::string SafetensorsWriter::header(const std::vector<const Tensor*>& order) const {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  std::map<std::string, std::string> metadata = metadata_;
  metadata[safetensors_checksum_key] = content_checksum();
  header["__metadata__"] = std::move(metadata);
  uint64_t offset = 0;
  for (const Tensor* tensor : order) {
    const SafetensorsEntry& entry = tensor->entry;
    header[entry.name] = {{"dtype", entry.dtype},
                          {"shape", entry.shape},
                          {"data_offsets", {offset, offset + tensor->bytes.size()}}};
    offset += tensor->bytes.size();
  }
  std::string text = dump(header);
  text.resize((text.size() + header_alignment - 1) / header_alignment * header_alignment, ' ');
  if (text.size() > safetensors_max_header)
    throw_failure("cannot write a safetensors header of {} bytes; at most {} are allowed", text.size(),
                  safetensors_max_header);
  return text;
}

std::string SafetensorsWriter::content_checksum() const {
  std::vector<SafetensorsContent> tensors;
  for (const Tensor& tensor : tensors_) tensors.push_back({&tensor.entry, tensor.bytes});
  return safetensors_checksum(metadata_, std::move(tensors));
}

std::vector<const SafetensorsWriter::Tensor*> SafetensorsWriter::order() const {
  std::vector<const Tensor*> order;
  for (const Tensor& tensor : tensors_) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const Tensor* a, const Tensor* b) {
    return safetensors_dtype_size(a->entry.dtype) > safetensors_dtype_size(b->entry.dtype);
  });
  return order;
}

std::string SafetensorsWriter::file() const {
  const std::vector<const Tensor*> tensors = order();
  const std::string text = header(tensors);
  const uint64_t length = text.size();
  std::string file(reinterpret_cast<const char*>(&length), sizeof length);
  file += text;
  for (const Tensor* tensor : tensors)
    file.append(reinterpret_cast<const char*>(tensor->bytes.data()), tensor->bytes.size());
  return file;
}

uint64_t SafetensorsWriter::write(OutputFile& file) const {
  PERCEIVER_ASSERT(file.size() == 0);
  const std::vector<const Tensor*> tensors = order();
  Checksum checksum;
  const auto put = [&](std::span<const std::byte> bytes) {
    checksum.update(bytes);
    file.write(bytes);
  };
  const std::string text = header(tensors);
  const uint64_t length = text.size();
  put(std::as_bytes(std::span(&length, 1)));
  put(std::as_bytes(std::span(text)));
  for (const Tensor* tensor : tensors) put(tensor->bytes);
  return checksum.digest();
}

uint64_t SafetensorsWriter::write_atomically(const std::filesystem::path& path) const {
  AtomicFile file(path);
  const uint64_t checksum = write(file.output());
  file.commit();
  return checksum;
}

}  // namespace perceiver
