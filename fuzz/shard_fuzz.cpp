// Any input is either refused with a perceiver::Error or is a shard whose documents can all be read.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "data/shards/shard_file.h"
#include "data/shards/shard_format.h"
#include "io/checksum.h"
#include "perceiver/error.h"

namespace {

using namespace perceiver;

void require(bool condition) {
  if (!condition) std::abort();
}

void read_all(const ShardFile& shard) {
  int64_t tokens = 0;
  for (int64_t d = 0; d < shard.documents(); ++d) {
    const int64_t count = shard.document_tokens(d);
    require(count >= 1 && count <= shard.file_bytes());
    std::vector<int32_t> ids(static_cast<size_t>(count));
    shard.read(d, 0, count, ids.data());
    if (shard.description().positions == PositionKind::stored) {
      std::vector<int32_t> positions(static_cast<size_t>(count * shard.description().axes));
      shard.read_positions(d, 0, count, positions.data());
    }
    static_cast<void>(shard.document_name(d));
    require(shard.document_units(d) >= 0 && shard.document_words(d) >= 0);
    tokens += count;
  }
  require(tokens == shard.tokens());
}

void check(std::span<const std::byte> file) {
  try {
    const ShardFile shard = ShardFile::parse(file, "fuzz");
    read_all(shard);
    shard.verify();
  } catch (const Error& error) {
    require(error.kind() == ErrorKind::user);
    for (const char c : std::string(error.what()))
      require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F);
  }
}

/// The input with what random bytes almost never get right corrected: lengths and the checksum of the header.
std::vector<std::byte> sealed(std::span<const std::byte> input) {
  std::vector<std::byte> file(input.begin(), input.end());
  shard_format::Preamble preamble;
  if (file.size() < sizeof preamble) return file;
  std::memcpy(&preamble, file.data(), sizeof preamble);
  std::memcpy(preamble.magic, shard_format::magic.data(), shard_format::magic.size());
  preamble.version = shard_format::version;
  preamble.file_bytes = file.size();
  preamble.header_bytes = std::min<uint64_t>(preamble.header_bytes & 0xFFF, file.size() - sizeof preamble);
  Checksum checksum;
  checksum.update(std::span(file).subspan(sizeof preamble, preamble.header_bytes));
  preamble.header_checksum = checksum.digest();
  std::memcpy(file.data(), &preamble, sizeof preamble);
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> input = std::as_bytes(std::span(data, size));
  check(input);
  check(sealed(input));
  return 0;
}
