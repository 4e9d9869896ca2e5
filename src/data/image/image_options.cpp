#include "data/image/image_options.h"

#include <charconv>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "io/atomic_file.h"

namespace perceiver {
namespace {

constexpr int64_t largest_side = 512;
constexpr uint64_t longest_order_file = uint64_t{16} << 20;

/// "64" or "64x48".
std::pair<int64_t, int64_t> parse_size(const std::string& text) {
  const auto number = [&](std::string_view digits) {
    int64_t side = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), side);
    const bool whole = error == std::errc() && end == digits.data() + digits.size();
    if (!whole || side < 1 || side > largest_side)
      throw_user(
          "data.options.size: {} is neither a side nor width x height (64 or 64x48, sides from 1 to {})",
          quote(text), largest_side);
    return side;
  };
  const std::string_view view = text;
  const size_t cross = view.find('x');
  if (cross == std::string_view::npos) return {number(view), number(view)};
  return {number(view.substr(0, cross)), number(view.substr(cross + 1))};
}

}  // namespace

ImageShape read_image_shape(const ModalityOptions& options) {
  ImageShape shape;
  std::tie(shape.width, shape.height) = parse_size(options.text("size"));
  shape.channels = options.word("colour", {"rgb", "grey"}) == 0 ? 3 : 1;
  shape.own_ids = options.word("ids", {"shared", "channel"}) == 1;
  return shape;
}

ImageReading read_image_reading(const ModalityOptions& options) {
  return {.background = static_cast<Background>(options.word("background", {"white", "black"})),
          .exif = options.word("orientation", {"exif", "ignore"}) == 0};
}

ImageOrder read_image_order_kind(const ModalityOptions& options) {
  return static_cast<ImageOrder>(options.word("order", {"raster", "r_g_b", "random", "user"}));
}

std::vector<int32_t> read_image_order(const ModalityOptions& options, const ImageShape& shape) {
  const ImageOrder kind = read_image_order_kind(options);
  const std::string& path = options.text("order_file");
  if ((kind == ImageOrder::user) != !path.empty())
    throw_user("data.options.order_file and data.options.order: user need each other");
  if (kind == ImageOrder::user) return parse_image_order(read_file(path, longest_order_file), shape, path);
  return make_image_order(kind, shape, static_cast<uint64_t>(options.integer("order_seed", 0, INT64_MAX)));
}

}  // namespace perceiver
