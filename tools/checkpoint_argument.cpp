// The checkpoint on the command line, and what it is if it is no checkpoint.
#include <array>
#include <filesystem>

#include "data/shards/shard_summary.h"
#include "io/content_kind.h"
#include "io/file_descriptor.h"
#include "tools/commands.h"
#include "tools/describe.h"

namespace perceiver::program {
namespace {

namespace fs = std::filesystem;

constexpr const char* kExpected = "expected a run folder, a checkpoint folder or a model file";

std::string head_of(const fs::path& path) {
  std::array<char, 512> buffer{};
  const size_t size = read_some(open_for_reading(path), std::as_writable_bytes(std::span(buffer)), path);
  return std::string(buffer.data(), size);
}

/// A safetensors file starts with the length of its header, which is JSON.
bool may_be_model(const std::string& path, const std::string& head) {
  return path.ends_with(".safetensors") ? !head.empty() : head.size() > 8 && head[8] == '{';
}

void check_file(const std::string& path) {
  const std::string head = head_of(path);
  if (may_be_model(path, head)) return;
  if (path.ends_with(".yaml") || path.ends_with(".yml"))
    throw_user("{}: a configuration, not a model; {}. To train one: perceiver train {}", path, kExpected,
               path);
  throw_user("{}: is {}, not a model; {}", path, content_kind(head), kExpected);
}

void check_folder(const std::string& path) {
  if (is_shard_folder(path))
    throw_user("{}: a folder of shards, which hold data and no model; {}", path, kExpected);
}

}  // namespace

CLI::Option* add_checkpoint(CLI::App& command, std::string& checkpoint) {
  return command
      .add_option("checkpoint,--checkpoint,--model", checkpoint,
                  "Run folder, checkpoint folder, model file or a model's name (perceiver models)")
      ->type_name(kModel);
}

std::string find_checkpoint(const std::string& path) {
  std::error_code ignored;
  if (fs::is_regular_file(path, ignored)) check_file(path);
  if (fs::is_directory(path, ignored)) check_folder(path);
  return find_model_file(path).string();
}

}  // namespace perceiver::program
