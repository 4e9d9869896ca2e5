#include "data/image/image_tokens.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "base/check.h"
#include "base/text.h"
#include "perceiver/experimental/random.h"
#include "perceiver/special_tokens.h"

namespace perceiver {
namespace {

constexpr uint8_t missing = 128;
constexpr int64_t axes = 3;

/// Channel after channel.
std::vector<int32_t> planes(const ImageShape& shape) {
  std::vector<int32_t> order;
  order.reserve(static_cast<size_t>(shape.dimensions()));
  for (int64_t c = 0; c < shape.channels; ++c)
    for (int64_t pixel = 0; pixel < shape.width * shape.height; ++pixel)
      order.push_back(static_cast<int32_t>(pixel * shape.channels + c));
  return order;
}

void shuffle(std::vector<int32_t>& order, uint64_t seed) {
  RandomStream random(seed, RandomPurpose::split, order.size());
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
}

bool is_gap(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == ',';
}

/// Calls `use` with each word and its line.
template <typename Use>
void for_each_word(std::string_view text, Use use) {
  int64_t line = 1;
  for (size_t i = 0; i < text.size();) {
    if (is_gap(text[i])) {
      line += text[i++] == '\n' ? 1 : 0;
      continue;
    }
    size_t end = i;
    while (end < text.size() && !is_gap(text[end])) ++end;
    use(text.substr(i, end - i), line);
    i = end;
  }
}

int32_t first_id(const ImageShape& shape, int64_t channel) {
  return static_cast<int32_t>(special_tokens + (shape.own_ids ? 256 * channel : 0));
}

}  // namespace

std::vector<int32_t> make_image_order(ImageOrder order, const ImageShape& shape, uint64_t seed) {
  PERCEIVER_ASSERT(order != ImageOrder::user);
  if (order == ImageOrder::r_g_b) return planes(shape);
  std::vector<int32_t> raster(static_cast<size_t>(shape.dimensions()));
  std::iota(raster.begin(), raster.end(), 0);
  if (order == ImageOrder::random) shuffle(raster, seed);
  return raster;
}

std::vector<int32_t> mirrored_places(const ImageShape& shape, std::span<const int32_t> order) {
  std::vector<int32_t> place_of_byte(order.size()), places;
  for (size_t i = 0; i < order.size(); ++i)
    place_of_byte[static_cast<size_t>(order[i])] = static_cast<int32_t>(i);
  const int64_t row = shape.width * shape.channels;
  for (const int32_t byte : order) {
    const int64_t y = byte / row, x = byte % row / shape.channels, channel = byte % shape.channels;
    const int64_t opposite = y * row + (shape.width - 1 - x) * shape.channels + channel;
    places.push_back(place_of_byte[static_cast<size_t>(opposite)]);
  }
  return places;
}

std::vector<int32_t> parse_image_order(std::string_view text, const ImageShape& shape,
                                       const std::string& source) {
  const auto dimensions = static_cast<size_t>(shape.dimensions());
  std::vector<int32_t> order;
  std::vector<bool> seen(dimensions);
  for_each_word(text, [&](std::string_view word, int64_t line) {
    int64_t value = -1;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (error != std::errc() || end != word.data() + word.size())
      throw_user("{}: line {}: {} is not an integer", source, line, quote(word));
    if (value < 0 || static_cast<size_t>(value) >= dimensions)
      throw_user("{}: line {}: {} is outside 0 to {}", source, line, value, dimensions - 1);
    if (seen[static_cast<size_t>(value)]) throw_user("{}: line {}: {} appears twice", source, line, value);
    seen[static_cast<size_t>(value)] = true;
    order.push_back(static_cast<int32_t>(value));
  });
  if (order.size() != dimensions)
    throw_user("{}: an order of {} numbers; images of {} x {} pixels with {} channels need {}", source,
               order.size(), shape.width, shape.height, shape.channels, dimensions);
  return order;
}

std::vector<int32_t> encode_image(const Image& image, const ImageShape& shape,
                                  std::span<const int32_t> order) {
  PERCEIVER_ASSERT(image.width == shape.width && image.height == shape.height);
  PERCEIVER_ASSERT(image.channels == shape.channels);
  std::vector<int32_t> ids;
  ids.reserve(order.size());
  for (const int32_t byte : order)
    ids.push_back(first_id(shape, byte % shape.channels) + image.pixels[static_cast<size_t>(byte)]);
  return ids;
}

Image decode_image(std::span<const int32_t> ids, const ImageShape& shape, std::span<const int32_t> order) {
  Image image(shape.width, shape.height, shape.channels);
  std::fill(image.pixels.begin(), image.pixels.end(), missing);
  size_t place = 0;
  for (const int32_t id : ids) {
    if (id < 0 || id >= shape.vocabulary())
      throw_user("token id {} is outside the image vocabulary (0 to {})", id, shape.vocabulary() - 1);
    if (id < special_tokens) continue;
    if (place == order.size())
      throw_user("more tokens than the {} bytes of the image or of its positions", order.size());
    const int32_t byte = order[place++];
    const int32_t value = id - first_id(shape, byte % shape.channels);
    if (value < 0 || value > 255)
      throw_user("token id {} belongs to another channel than its place {}, which is channel {}", id,
                 place - 1, byte % shape.channels);
    image.pixels[static_cast<size_t>(byte)] = static_cast<uint8_t>(value);
  }
  return image;
}

std::vector<int32_t> image_positions(const ImageShape& shape, std::span<const int32_t> order) {
  std::vector<int32_t> positions(axes, 1);
  positions.reserve((order.size() + 1) * axes);
  for (const int64_t byte : order) {
    const int64_t pixel = byte / shape.channels;
    positions.push_back(static_cast<int32_t>(pixel % shape.width + 2));
    positions.push_back(static_cast<int32_t>(pixel / shape.width + 2));
    positions.push_back(static_cast<int32_t>(byte % shape.channels + 2));
  }
  return positions;
}

std::vector<int32_t> order_of_positions(std::span<const int32_t> positions, const ImageShape& shape) {
  PERCEIVER_ASSERT(positions.size() % axes == 0);
  std::vector<int32_t> order;
  order.reserve(positions.size() / axes);
  for (size_t i = 0; i < positions.size(); i += axes) {
    const int64_t x = positions[i] - 2, y = positions[i + 1] - 2, channel = positions[i + 2] - 2;
    const bool inside =
        x >= 0 && x < shape.width && y >= 0 && y < shape.height && channel >= 0 && channel < shape.channels;
    if (!inside) throw_user("position ({}, {}, {}) is outside the image", x + 2, y + 2, channel + 2);
    order.push_back(static_cast<int32_t>((y * shape.width + x) * shape.channels + channel));
  }
  return order;
}

SamplingMask image_mask(const ImageShape& shape, std::span<const int32_t> order) {
  SamplingMask mask;
  if (!shape.own_ids || shape.channels == 1) return mask;
  for (int64_t c = 0; c < shape.channels; ++c)
    mask.sets.push_back({{first_id(shape, c), first_id(shape, c) + 256}});
  mask.cycle.reserve(order.size());
  for (const int32_t byte : order) mask.cycle.push_back(static_cast<uint16_t>(byte % shape.channels));
  // In raster order the channels alternate, and one period is enough.
  const auto period = static_cast<size_t>(shape.channels);
  bool alternate = true;
  for (size_t i = 0; i < mask.cycle.size(); ++i) alternate = alternate && mask.cycle[i] == i % period;
  if (alternate) mask.cycle.resize(period);
  return mask;
}

std::vector<int32_t> completion_order(std::span<const int32_t> order, const std::vector<bool>& known,
                                      int64_t& known_count) {
  PERCEIVER_ASSERT(known.size() == order.size());
  const auto is_known = [&](int32_t byte) { return known[static_cast<size_t>(byte)]; };
  std::vector<int32_t> plan;
  plan.reserve(order.size());
  std::copy_if(order.begin(), order.end(), std::back_inserter(plan), is_known);
  known_count = static_cast<int64_t>(plan.size());
  // The predecessor of the first unknown byte ends the initial run of known bytes.
  const auto before = std::find_if_not(order.begin(), order.end(), is_known) - order.begin();
  if (before > 0) std::rotate(plan.begin() + before - 1, plan.begin() + before, plan.begin() + known_count);
  std::copy_if(order.begin(), order.end(), std::back_inserter(plan),
               [&](int32_t byte) { return !is_known(byte); });
  return plan;
}

}  // namespace perceiver
