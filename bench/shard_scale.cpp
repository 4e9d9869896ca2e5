// shard_scale make FOLDER SHARDS TOKENS DOCUMENTS: makes a folder of sparse shards, with TOKENS tokens (all
// 0) in DOCUMENTS documents each, of which only headers and ends take space on the disk: 8 bytes per
// document. shard_scale measure FOLDER COLUMNS LATENTS [CROPS]: opens it and reads crops, as a rank does that
// starts to train. Prints seconds, resident memory, mappings and descriptors after each step.
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "base/check.h"
#include "data/batches/crops.h"
#include "data/shards/shard_builder.h"
#include "data/shards/shard_dataset.h"
#include "data/shards/shard_summary.h"
#include "io/checksum.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using namespace shard_format;

void write_at(int file, const void* data, size_t bytes, uint64_t offset) {
  const auto* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::pwrite(file, from, bytes, static_cast<off_t>(offset));
    if (written <= 0) throw_failure("cannot write: {}", std::strerror(errno));
    from += written, offset += static_cast<uint64_t>(written), bytes -= static_cast<size_t>(written);
  }
}

/// Documents of half to one and a half times the average length.
std::vector<uint64_t> ends_of(int64_t tokens, int64_t documents, uint64_t shard) {
  RandomStream random(shard, RandomPurpose::sampling);
  const int64_t average = tokens / documents;
  std::vector<uint64_t> ends(static_cast<size_t>(documents));
  for (int64_t i = 0; i < documents; ++i)
    ends[static_cast<size_t>(i)] = static_cast<uint64_t>(i * average + average / 2 + 1) +
                                   random.below(static_cast<uint64_t>(average / 2));
  ends.back() = static_cast<uint64_t>(tokens);
  return ends;
}

void make_shard(const fs::path& path, const Modality& modality, int64_t tokens,
                const std::vector<uint64_t>& ends) {
  const auto documents = static_cast<int64_t>(ends.size());
  ShardHeader header{.description = describe_shard("text", modality, "train"),
                     .token_bytes = 2,
                     .documents = documents,
                     .tokens = tokens,
                     .sections = {}};
  const uint64_t index = static_cast<uint64_t>(documents) * 8;
  const uint64_t bytes[] = {static_cast<uint64_t>(tokens) * 2, 0, index, index, index, 0, index};
  uint64_t offset = 0;
  for (size_t i = 0; i < header.sections.size(); ++i) {
    header.sections[i] = {.offset = offset, .bytes = bytes[i], .checksum = 0};
    offset = aligned(offset + bytes[i]);
  }
  const std::string text = write_shard_header(header);
  const uint64_t first = aligned(preamble_bytes + text.size());
  Preamble preamble{};
  std::memcpy(preamble.magic, magic.data(), magic.size());
  preamble.version = version;
  preamble.header_bytes = text.size();
  preamble.header_checksum = checksum_of(std::as_bytes(std::span(text)));
  preamble.file_bytes = first + offset;
  const FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file.valid() || ::ftruncate(file.get(), static_cast<off_t>(preamble.file_bytes)) != 0)
    throw_failure("cannot create {}: {}", path.string(), std::strerror(errno));
  write_at(file.get(), &preamble, sizeof preamble, 0);
  write_at(file.get(), text.data(), text.size(), preamble_bytes);
  write_at(file.get(), ends.data(), ends.size() * 8, first + header.sections[2].offset);
}

void make(const fs::path& folder, int64_t shards, int64_t tokens, int64_t documents) {
  fs::create_directories(folder);
  const ModalityKind& kind = find_modality("text");
  const auto modality = kind.open(ModalityOptions(kind, {}));
  ShardSummary summary;
  summary.modality = "text";
  summary.unit = modality->format().unit;
  summary.vocabulary = modality->format().vocabulary;
  summary.splits[0] = {.shards = shards, .documents = shards * documents, .tokens = shards * tokens};
  for (int64_t i = 0; i < shards; ++i) {
    const std::string name = fmt::format("train-{:05}-of-{:05}.shard", i, shards);
    make_shard(folder / name, *modality, tokens, ends_of(tokens, documents, static_cast<uint64_t>(i)));
    const ShardFile shard = ShardFile::open(folder / name);
    summary.shards.push_back({name, shard.file_bytes(), shard.fingerprint(), content_of(shard)});
  }
  write_summary(summary, folder);
}

int64_t lines_of(const char* path) {
  std::ifstream file(path);
  return std::count(std::istreambuf_iterator<char>(file), {}, '\n');
}

int64_t open_descriptors() {
  int64_t count = 0;
  DIR* folder = ::opendir("/proc/self/fd");
  while (::readdir(folder) != nullptr) ++count;
  ::closedir(folder);
  return count - 3;  // ".", ".." and the folder itself
}

/// "RssAnon", "RssFile" and "VmHWM" in MiB.
std::string memory() {
  std::ifstream file("/proc/self/status");
  std::string text;
  for (std::string line; std::getline(file, line);) {
    for (const char* name : {"VmHWM", "RssAnon", "RssFile"}) {
      if (!line.starts_with(name)) continue;
      std::istringstream fields(line.substr(line.find(':') + 1));
      double kilobytes = 0;
      fields >> kilobytes;
      text += fmt::format(" {} {:.1f} MiB,", name, kilobytes / 1024);
    }
  }
  return text;
}

class Steps {
 public:
  void end(const std::string& step) {
    const auto now = std::chrono::steady_clock::now();
    fmt::print("{:<28} {:9.4f} s,{} {} mappings, {} descriptors\n", step,
               std::chrono::duration<double>(now - last_).count(), memory(), lines_of("/proc/self/maps"),
               open_descriptors());
    last_ = std::chrono::steady_clock::now();
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

void measure(const std::string& folder, int64_t columns, int64_t latents, int64_t crops) {
  Steps steps;
  steps.end("the program");
  const auto data = ShardDataset::open(folder, {});
  steps.end("opened");
  const CropSampler sampler(*data, Split::train, columns, latents);
  steps.end("weights");
  Batch batch;
  uint64_t mixed = 0;
  for (int64_t i = 0; i < crops; ++i) {
    sampler.fill(1, i, 1, batch);
    const Row row = sampler.crop(1, i, 0);
    mixed = mixed * 31 + static_cast<uint64_t>(row.document * 7 + row.first);
    if (i == 0) steps.end("the first crop");
  }
  steps.end(fmt::format("{} crops, of hash {:x}", crops, mixed));
}

int run(const std::vector<std::string>& arguments) {
  const auto number = [&](size_t i) { return std::stoll(arguments.at(i)); };
  if (arguments.at(0) == "make")
    make(arguments.at(1), number(2), number(3), number(4));
  else
    measure(arguments.at(1), number(2), number(3), arguments.size() > 4 ? number(4) : 1000);
  return 0;
}

}  // namespace
}  // namespace perceiver

int main(int argc, char** argv) {
  try {
    return perceiver::run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "shard_scale: %s\n", error.what());
    return 1;
  }
}
