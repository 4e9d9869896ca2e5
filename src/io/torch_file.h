// Opens what people have their PyTorch and JAX models in: files of torch.save (.pt, .pth, .bin, .ckpt; the
// zip archive and the format before it) and pickles of dicts of NumPy or JAX arrays. Nothing in them is
// executed.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "io/file_view.h"
#include "io/numpy_array.h"
#include "io/pickle.h"
#include "io/tensor_source.h"
#include "io/torch_tensor.h"
#include "io/zip_archive.h"

namespace perceiver {

/// The tensors that dicts, lists and tuples of the file hold, however deep, and the tree itself for what else
/// an importer looks for. A tensor's name is its path: keys and indices joined by "/", as in
/// "state_dict/model.out_norm.weight". Other objects (optimizers, callbacks, enums) are stepped over.
class TorchFile : public TensorSource {
 public:
  static constexpr int most_depth = 32;                        ///< deeper tensors are not looked for
  static constexpr size_t most_tensors = 1 << 17;              ///< more is an error, as is …
  static constexpr size_t most_name_bytes = size_t{64} << 20;  ///< … this, of all names together
  static constexpr uint64_t most_visits = uint64_t{1}
                                          << 23;  ///< … and this: values, counted wherever they are shared

  /// Throws `user` if the file is something else, is damaged, or has a tensor that lies outside its storage.
  static TorchFile open(const std::filesystem::path& path);
  /// Reads a file in memory, which must outlive the object; `source` names it in errors.
  static TorchFile parse(std::span<const std::byte> file, const std::string& source);

  /// The value that was saved: for a checkpoint of Lightning a dict with "state_dict", "hyper_parameters" and
  /// more.
  const PickleValue& root() const { return pickle_.root(); }

  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  const std::string& source() const override { return source_; }
  void read(const SourceTensor& tensor, std::span<double> out) const override;

 private:
  TorchFile() = default;
  void load(std::span<const std::byte> file);
  void load_zip(std::span<const std::byte> file);
  void load_pickles(std::span<const std::byte> file);
  void load_legacy(std::span<const std::byte> file, uint64_t begin);
  void load_legacy_storages(std::span<const std::byte> file, const Pickle& keys);
  void find_tensors();
  void add(std::string name, StoredArray array);

  FileView mapping_;
  std::string source_;
  ZipArchive archive_;
  std::vector<std::byte> inflated_pickle_;
  TorchStorages storages_;
  LatinBytes latin_;
  Pickle pickle_;
  std::vector<SourceTensor> tensors_;
  std::vector<StoredArray> arrays_;  ///< of each tensor
  std::map<std::string, size_t, std::less<>> index_;
};

}  // namespace perceiver
