#include "perceiver/experimental/tensor_file.h"

#include <set>
#include <vector>

#include "base/check.h"
#include "core/read_tensor.h"
#include "io/safetensors.h"

namespace perceiver {

void write_tensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                   const std::map<std::string, std::string>& metadata) {
  SafetensorsWriter writer;
  for (const auto& [key, value] : metadata) writer.set_metadata(key, value);
  std::set<std::string> names;
  std::vector<Tensor> held;  // the writer keeps pointers
  for (const auto& [name, tensor] : tensors) {
    if (!tensor) throw_user("{}: tensor {} has no value", path.string(), name);
    if (!names.insert(name).second) throw_user("{}: two tensors are named {}", path.string(), name);
    held.push_back(tensor.on_host());
    const Tensor& host = held.back();
    writer.add(name, file_dtype(host.dtype()), host.shape().vector(),
               {static_cast<const std::byte*>(host.data()), host.bytes()});
  }
  writer.write_atomically(path);
}

std::map<std::string, std::string> read_tensors(const std::filesystem::path& path,
                                                std::span<const NamedTensor> tensors) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  file.verify();
  for (const auto& [name, tensor] : tensors) {
    if (!tensor) throw_user("{}: tensor {} has no place to be read to", path.string(), name);
    check_tensor(file, name, tensor.shape(), tensor.dtype());
  }
  for (const auto& [name, tensor] : tensors) read_tensor(file, name, tensor.shape(), tensor);
  return file.metadata();
}

}  // namespace perceiver
