// Named tensors of a file, whatever its format: what an importer of models from elsewhere reads from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace perceiver {

class SafetensorsFile;

/// One tensor. The dtype is named as in safetensors: "F64", "F32", "F16", "BF16", "I64", …, "BOOL". A scalar
/// has an empty shape; a dimension may be 0.
struct SourceTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;

  /// The product of the shape, which a TensorSource has checked.
  int64_t elements() const;
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;

  /// Unique names, in the order of the file.
  virtual const std::vector<SourceTensor>& tensors() const = 0;
  /// The name of the file in errors.
  virtual const std::string& source() const = 0;
  /// Writes the elements of one of tensors(), row-major, converted exactly. `out` has elements() values.
  /// Throws `user` for a dtype other than F64, F32, F16 and BF16.
  virtual void read(const SourceTensor& tensor, std::span<double> out) const = 0;

  std::vector<double> values(const SourceTensor& tensor) const;
  /// The tensor with that name, or nullptr.
  const SourceTensor* find(std::string_view name) const;
};

/// The tensors of a safetensors file, which must outlive the object.
class SafetensorsSource : public TensorSource {
 public:
  explicit SafetensorsSource(const SafetensorsFile& file);

  const std::vector<SourceTensor>& tensors() const override { return tensors_; }
  const std::string& source() const override;
  void read(const SourceTensor& tensor, std::span<double> out) const override;

 private:
  const SafetensorsFile& file_;
  std::vector<SourceTensor> tensors_;
};

/// Whether TensorSource::read converts elements of that dtype.
bool is_float_dtype(std::string_view dtype);

/// The value of an element of a dtype for which is_float_dtype holds; `bytes` need not be aligned.
using ElementReader = double (*)(const std::byte* bytes);
ElementReader element_reader(std::string_view dtype);

}  // namespace perceiver
