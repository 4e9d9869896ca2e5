#include "train/checkpoint.h"

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "config/save.h"
#include "core/read_tensor.h"
#include "io/atomic_folder.h"
#include "io/checksum.h"
#include "model/model_file.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxStateBytes = 16 << 20;
constexpr const char* kOptimizerFormat = "perceiver optimizer state";
constexpr const char* kMemoryFormat = "perceiver segment memory";

/// Where files go, and whom to tell that they do.
struct Output {
  const AtomicFolder& folder;
  const std::function<void()>& working;
};

/// Streams a file into the folder. Returns its record for state.json.
FileRecord write_tensors(const Output& output, const char* name, const SafetensorsWriter& writer) {
  OutputFile file = output.folder.create_file(name);
  if (output.working) file.on_progress(output.working);
  const uint64_t checksum = writer.write(file);
  const uint64_t bytes = file.size();
  file.finish();
  return {bytes, checksum};
}

FileRecord write_model(const Output& output, const char* name, const PerceiverAR& model,
                       const ModelMetadata& metadata, const Tensor& flat) {
  SafetensorsWriter writer;
  add_model(writer, model, metadata, flat);
  return write_tensors(output, name, writer);
}

FileRecord write_state(const Output& output, const char* name, const char* format,
                       const std::vector<NamedTensor>& tensors) {
  SafetensorsWriter writer;
  writer.set_metadata("format", format);
  for (const NamedTensor& each : tensors)
    writer.add(each.name, file_dtype(each.tensor.dtype()), each.tensor.shape().vector(),
               {static_cast<const std::byte*>(each.tensor.data()), each.tensor.bytes()});
  return write_tensors(output, name, writer);
}

/// What the ranks that do not write contribute, in the order in which rank 0 asks for it.
void send_parts(const Learner& learner) {
  learner.collect_values();
  learner.collect_average();
  learner.collect_optimizer_state();
  learner.collect_memory();
}

template <typename... Args>
[[noreturn]] void throw_damage(fmt::format_string<Args...> format, Args&&... args) {
  throw CheckpointDamage(fmt::format(format, std::forward<Args>(args)...));
}

/// Checkpoints appear whole, so a missing file is damage; one whose size cannot be read may be intact.
uint64_t member_size(const fs::path& path) {
  std::error_code error;
  const uint64_t bytes = fs::file_size(path, error);
  if (!error) return bytes;
  const bool lost = error == std::errc::no_such_file_or_directory || error == std::errc::is_a_directory;
  if (lost) throw_damage("{}: {}", path.string(), error.message());
  throw_failure("cannot read '{}': {}; make it readable and try again", path.string(), error.message());
}

ParsedState parse_state(const fs::path& folder) {
  const fs::path path = folder / state_file_name;
  if (const uint64_t bytes = member_size(path); bytes > kMaxStateBytes)
    throw_damage("{}: {} bytes are too many for a checkpoint's state", path.string(), bytes);
  return state_from_json(read_file(path, kMaxStateBytes), path.string());
}

void verify_file(const fs::path& path, const FileRecord& record) {
  const uint64_t bytes = member_size(path);
  if (bytes != record.bytes)
    throw_damage("{}: has {} bytes instead of {}", path.string(), bytes, record.bytes);
  if (file_checksum(path) != record.checksum)
    throw_damage("{}: its checksum differs from that in {}", path.string(), state_file_name);
}

/// Reads tensors of `file`, which must live as long.
Learner::ReadTensor reader(const SafetensorsFile& file) {
  return [&file](const std::string& name, const Shape& shape, const Tensor& target) {
    read_tensor(file, name, shape, target);
  };
}

}  // namespace

ModelMetadata metadata_of(const CheckpointState& state, const PerceiverAR& model,
                          const DataDescription& data) {
  ModelMetadata metadata;
  metadata.model = model.config();
  metadata.tokenizer = data.tokenizer;
  metadata.modality = data.modality;
  metadata.step = state.step;
  metadata.run = config_to_json(state.config).dump();
  return metadata;
}

void write_checkpoint(const fs::path& folder, const CheckpointState& state, const PerceiverAR& model,
                      const Learner& learner, const DataDescription& data, bool leads,
                      const std::function<void()>& working) {
  if (!leads) return send_parts(learner);
  AtomicFolder target(folder);
  const Output output{target, working};
  const ModelMetadata metadata = metadata_of(state, model, data);
  std::map<std::string, FileRecord> files;
  files[model_file_name] = write_model(output, model_file_name, model, metadata, learner.collect_values());
  if (learner.averages())
    files[average_file_name] =
        write_model(output, average_file_name, model, metadata, learner.collect_average());
  files[optimizer_file_name] =
      write_state(output, optimizer_file_name, kOptimizerFormat, learner.collect_optimizer_state());
  if (learner.remembers())
    files[memory_file_name] = write_state(output, memory_file_name, kMemoryFormat, learner.collect_memory());
  target.write_file(state_file_name, state_to_json(state, files));
  target.commit();
}

CheckpointState read_checkpoint_state(const fs::path& folder) {
  return parse_state(folder).state;
}

CheckpointState verify_checkpoint(const fs::path& folder) {
  ParsedState parsed = parse_state(folder);
  for (const char* name : {model_file_name, optimizer_file_name})
    if (!parsed.files.contains(name))
      throw_user("{}: does not list {}", (folder / state_file_name).string(), name);
  if (parsed.state.config.train.ema_decay > 0 && !parsed.files.contains(average_file_name))
    throw_user("{}: does not list {}", (folder / state_file_name).string(), average_file_name);
  const ModelConfig& model = parsed.state.config.model;
  if (model.recurrent() && model.memory_length > 0 && !parsed.files.contains(memory_file_name))
    throw_user("{}: does not list {}", (folder / state_file_name).string(), memory_file_name);
  for (const auto& [name, record] : parsed.files) {
    if (fs::path(name).filename() != name)
      throw_user("{}: '{}' is not a file name", (folder / state_file_name).string(), name);
    verify_file(folder / name, record);
  }
  return std::move(parsed.state);
}

void load_checkpoint_weights(const fs::path& folder, PerceiverAR& model) {
  read_parameters(SafetensorsFile::open(folder / model_file_name), model);
}

void load_checkpoint_state(const fs::path& folder, Learner& learner) {
  const CheckpointState state = read_checkpoint_state(folder);
  const SafetensorsFile optimizer = SafetensorsFile::open(folder / optimizer_file_name);
  learner.load_optimizer_state(reader(optimizer));
  // A run that turns to fp8 has none yet.
  if (learner.multiplies_in_fp8() && optimizer.find(fp8_peaks_name) != nullptr)
    learner.load_fp8_scales(reader(optimizer));
  if (learner.averages()) {
    const SafetensorsFile average = SafetensorsFile::open(folder / average_file_name);
    learner.load_average(reader(average));
  }
  if (learner.remembers()) {
    const SafetensorsFile memory = SafetensorsFile::open(folder / memory_file_name);
    learner.load_memory(reader(memory));
  }
  learner.set_updates(state.updates);
}

}  // namespace perceiver
