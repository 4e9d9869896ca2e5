// PNG and JPEG images as bytes with three position axes.
#include <algorithm>

#include "base/check.h"
#include "data/image/fit.h"
#include "data/image/image_options.h"
#include "data/image/image_reader.h"
#include "data/image/image_tokens.h"
#include "data/image/png_writer.h"
#include "data/image/resize.h"
#include "data/modality.h"
#include "io/atomic_file.h"

namespace perceiver {

const ModalityKind& image_modality();

namespace {

constexpr int64_t grid_side = 64;  ///< minimum pixels per side of an image in a grid
constexpr int64_t largest_file = int64_t{1} << 30;
constexpr int64_t smallest_tile = 16, largest_tile = 16'384;  ///< pixels of the file
constexpr int64_t most_tile_tokens = int64_t{1} << 28;        ///< of one file
/// Packed value: the permutation itself instead of the file that contained it.
constexpr const char* order_ids = "order_ids";

SequenceFormat image_format(const ImageShape& shape, std::span<const int32_t> order) {
  SequenceFormat format;
  format.vocabulary = shape.vocabulary();
  format.unit = "dimension";
  format.positions = PositionKind::shared;
  format.axes = 3;
  format.position_sizes = {shape.width + 2, shape.height + 2, shape.channels + 2};
  format.shared_positions = image_positions(shape, order);
  format.ends = false;
  format.fixed_length = shape.dimensions();
  format.mask = image_mask(shape, order);
  return format;
}

/// The permutation in the form that parse_image_order reads.
std::string format_order(std::span<const int32_t> order) {
  return fmt::format("{}", fmt::join(order, " "));
}

/// Enlarges small images by an integer factor, for viewing in a grid.
Image enlarged(const Image& image) {
  const int64_t factor = std::max<int64_t>(1, grid_side / std::max(image.width, image.height));
  return area_resize(image, image.width * factor, image.height * factor);
}

class ImageModality final : public Modality {
 public:
  ImageModality(const ModalityOptions& options, const ImageShape& shape, std::vector<int32_t> order)
      : shape_(shape),
        order_(std::move(order)),
        reading_(read_image_reading(options)),
        tile_(options.integer("tile", 0, largest_tile)),
        mirror_(options.flag("mirror") ? mirrored_places(shape_, order_) : std::vector<int32_t>()),
        format_(image_format(shape_, order_)) {
    if (tile_ > 0 && tile_ < smallest_tile)
      throw_user("data.options.tile: {} is neither 0 nor from {} to {}", tile_, smallest_tile, largest_tile);
    auto values = options.values(ModalityOption::Use::tokens);
    // What is packed only says what ids mean, and they mean the same in shards from before there was this
    // option.
    if (reading_.exif) values.erase("orientation");
    if (read_image_order_kind(options) == ImageOrder::user) {
      values["order_file"] = "";
      values[order_ids] = format_order(order_);
    }
    tokenizer_ = pack_tokenizer("image", values);
  }

  std::string_view name() const override { return "image"; }
  const SequenceFormat& format() const override { return format_; }
  std::string tokenizer() const override { return tokenizer_; }

  std::vector<TokenSequence> encode(const SourceFile& file) const override {
    if (tile_ == 0) return {sequence(fitted(file))};
    StoredImage image;
    scan_image(file, tile_reading(), image);
    const int64_t columns = image.width() / tile_, rows = image.height() / tile_;
    if (columns * rows == 0)
      throw_user("{}: {} x {} pixels are smaller than a tile of {}", file.path, image.width(), image.height(),
                 tile_);
    if (columns * rows > most_tile_tokens / shape_.dimensions())
      throw_user("{}: {} tiles of {} tokens are too many; make data.options.tile larger", file.path,
                 columns * rows, shape_.dimensions());
    std::vector<TokenSequence> tiles;
    for (int64_t i = 0; i < columns * rows; ++i)
      tiles.push_back(sequence(image.fit({i % columns * tile_, i / columns * tile_, tile_, tile_}, shape_)));
    return tiles;
  }

  std::span<const int32_t> mirror() const override { return mirror_; }

  Prompt prompt(const SourceFile& file, const PromptPart& options) const override {
    if (options.seconds > 0) throw_user("{}: images have no seconds; give rows, tokens or a mask", file.path);
    if (options.rows > shape_.height)
      throw_user("a prompt of {} rows, but images have {}", options.rows, shape_.height);
    std::vector<int32_t> ids = sequence(fitted(file)).ids;
    if (!options.known.empty()) return completion(ids, known_pixels(options.known));
    if (options.rows > 0) return completion(ids, known_rows(options.rows));
    Prompt prompt;
    if (options.tokens > 0 && options.tokens < shape_.dimensions())
      ids.resize(static_cast<size_t>(options.tokens));
    prompt.beginning.units = static_cast<int64_t>(ids.size());
    prompt.beginning.ids = std::move(ids);
    prompt.length = shape_.dimensions();
    return prompt;
  }

  std::vector<std::string_view> outputs() const override { return {".png"}; }
  std::string decode(const TokenSequence& sequence, std::string_view ending) const override {
    check_ending(ending);
    return write_png(image_of(sequence));
  }
  std::string decode_together(std::span<const TokenSequence> sequences,
                              std::string_view ending) const override {
    check_ending(ending);
    std::vector<Image> images;
    for (const TokenSequence& sequence : sequences) images.push_back(enlarged(image_of(sequence)));
    return write_png(image_grid(images));
  }

  std::string compare(const SourceFile& file) const override;

  Content decode_value(const TokenSequence& sequence) const override { return image_of(sequence); }
  void add_info(TokenizerInfo& info) const override {
    info.width = shape_.width;
    info.height = shape_.height;
    info.channels = shape_.channels;
  }

  Prompt complete(const Image& image, const std::vector<uint8_t>& known) const override {
    if (static_cast<int64_t>(known.size()) != image.width * image.height)
      throw_user("{} known pixels were marked in an image of {} x {}", known.size(), image.width,
                 image.height);
    Image mask(image.width, image.height, 1);
    for (size_t i = 0; i < known.size(); ++i) mask.pixels[i] = known[i] != 0 ? 255 : 0;
    return completion(sequence(fitted(image)).ids, known_bytes(fitted(mask)));
  }

 private:
  bool encode_content(const Content& content, TokenSequence& out) const override {
    const auto* image = std::get_if<Image>(&content);
    if (image != nullptr) out = sequence(fitted(*image));
    return image != nullptr;
  }

  /// Cropped, resized and converted as files are.
  Image fitted(const Image& image) const {
    check_image_size(image.width, image.height, nullptr, "the image", {});
    const auto wanted = static_cast<size_t>(image.width * image.height * image.channels);
    if ((image.channels != 1 && image.channels != 3) || image.pixels.size() != wanted)
      throw_user("the image of {} x {} pixels has {} channels and {} bytes; 1 or 3 channels are possible",
                 image.width, image.height, image.channels, image.pixels.size());
    CentreFit fit(shape_);
    fit.begin({.width = image.width, .height = image.height, .channels = image.channels});
    for (int64_t y = 0; y < image.height; ++y) fit.row(image.at(0, y));
    return fit.take();
  }
  Image fitted(const SourceFile& file) const {
    CentreFit fit(shape_);
    scan_image(file, reading_, fit);
    return fit.take();
  }

  /// Tiles are cut from an image that is held whole.
  ImageReading tile_reading() const {
    ImageReading reading = reading_;
    reading.limits.pixels = reading.limits.held_pixels;
    return reading;
  }

  TokenSequence sequence(const Image& image) const {
    TokenSequence document;
    document.ids = encode_image(image, shape_, order_);
    document.units = shape_.dimensions();
    return document;
  }

  static void check_ending(std::string_view ending) {
    if (ending != ".png") throw_user("images are written as .png, not as {}", ending);
  }

  Image image_of(const TokenSequence& sequence) const {
    if (sequence.positions.empty()) return decode_image(sequence.ids, shape_, order_);
    std::span<const int32_t> positions = sequence.positions;
    if (positions.size() % 3 != 0) throw_user("images have three positions per token");
    // SOS is at position 1 on every axis, where no byte can be.
    if (!positions.empty() && positions[0] == 1) positions = positions.subspan(3);
    return decode_image(sequence.ids, shape_, order_of_positions(positions, shape_));
  }

  /// Indexed by byte of the image.
  std::vector<bool> known_rows(int64_t rows) const {
    std::vector<bool> known(order_.size());
    std::fill_n(known.begin(), rows * shape_.width * shape_.channels, true);
    return known;
  }
  std::vector<bool> known_pixels(const std::string& path) const {
    const std::string bytes = read_file(path, static_cast<uint64_t>(largest_file));
    CentreFit fit(shape_);
    scan_image({.path = path, .bytes = std::as_bytes(std::span(bytes))},
               {.background = Background::black, .exif = reading_.exif}, fit);
    return known_bytes(fit.take());
  }
  /// Those of white pixels of a mask that has the images' shape.
  std::vector<bool> known_bytes(const Image& mask) const {
    std::vector<bool> known(order_.size());
    const int64_t channels = shape_.channels;
    for (size_t i = 0; i < known.size(); ++i) {
      const auto pixel = mask.pixels.begin() + static_cast<int64_t>(i) / channels * channels;
      known[i] = *std::max_element(pixel, pixel + channels) >= 128;
    }
    return known;
  }

  /// The prompt for an image of which only the `known` bytes are given. `ids`: the whole image, in the
  /// model's order.
  Prompt completion(std::span<const int32_t> ids, const std::vector<bool>& known) const {
    int64_t count = 0;
    const std::vector<int32_t> plan = completion_order(order_, known, count);
    const Image whole = decode_image(ids, shape_, order_);
    Prompt prompt;
    prompt.beginning.ids = encode_image(whole, shape_, std::span(plan).first(static_cast<size_t>(count)));
    prompt.beginning.units = count;
    prompt.length = shape_.dimensions();
    if (plan == order_) return prompt;
    prompt.positions = image_positions(shape_, plan);
    prompt.mask = image_mask(shape_, plan);
    return prompt;
  }

  ImageShape shape_;
  std::vector<int32_t> order_;
  ImageReading reading_;
  int64_t
      tile_;  ///< side of the squares of a file that become documents, pixels; 0: the file is one document
  std::vector<int32_t> mirror_;  ///< empty: pictures are trained as they are
  SequenceFormat format_;
  std::string tokenizer_;
};

std::string ImageModality::compare(const SourceFile& file) const {
  CentreFit fit(shape_);
  scan_image(file, reading_, fit);
  const Image small = fit.take();
  const bool same = decode_image(encode_image(small, shape_, order_), shape_, order_) == small;
  std::string text;
  const auto line = [&](const char* what, const std::string& value) {
    text += fmt::format("{:<28} {}\n", what, value);
  };
  const auto size = [&](int64_t width, int64_t height, int64_t channels) {
    return fmt::format("{} x {}, {}", width, height, channels == 1 ? "grey" : "RGB");
  };
  const ImageHeader& header = fit.header();
  line("file", size(header.width, header.height, header.channels));
  line("orientation", std::string(orientation_name(header.orientation)));
  line("centre", size(fit.part().width, fit.part().height, header.channels));
  line("resized", size(small.width, small.height, small.channels));
  line("tokens", fmt::format("{} of {} ids", shape_.dimensions(), shape_.vocabulary()));
  line("tokens and back", same ? "the same bytes" : "other bytes");
  return text;
}

std::unique_ptr<Modality> open_image(const ModalityOptions& options) {
  const ImageShape shape = read_image_shape(options);
  return std::make_unique<ImageModality>(options, shape, read_image_order(options, shape));
}

std::unique_ptr<Modality> restore_image(std::string_view tokenizer, const ModalityOptions& training) {
  std::map<std::string, std::string> values = unpack_tokenizer("image", tokenizer);
  const auto ids = values.extract(order_ids);
  values.merge(training.values(ModalityOption::Use::training));
  const ModalityOptions options(image_modality(), std::move(values));
  const ImageShape shape = read_image_shape(options);
  if (read_image_order_kind(options) != ImageOrder::user)
    return std::make_unique<ImageModality>(options, shape, read_image_order(options, shape));
  if (ids.empty()) throw_user("the image tokenizer has order user but no permutation");
  return std::make_unique<ImageModality>(options, shape,
                                         parse_image_order(ids.mapped(), shape, "the image tokenizer"));
}

}  // namespace

const ModalityKind& image_modality() {
  static const ModalityKind kind{
      .name = "image",
      .doc =
          "PNG and JPEG images, cropped to the centre and scaled down to one size; one token per byte, "
          "positions x, "
          "y and channel",
      .endings = {".png", ".jpg", ".jpeg", ".jpe", ".jfif"},
      .companions = {},
      .unreadable = {".webp", ".gif", ".bmp", ".dib", ".heic", ".heif", ".avif", ".tif", ".tiff", ".jxl",
                     ".jp2", ".svg", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw"},
      .max_file_bytes = largest_file,
      .options =
          {
              {"size", "64", "Pixels per side, or width x height as in 64x48; 1 to 512."},
              {"colour", "rgb", "rgb or grey."},
              {"order", "raster",
               "Order of the bytes: raster (pixel by pixel), r_g_b (channel by channel), random (a fixed "
               "permutation), user (order_file)."},
              {"order_seed", "0", "Seed of the permutation for order random."},
              {"order_file", "",
               "Text file with the permutation for order user: the numbers 0 to width * height * channels - "
               "1, byte "
               "(y * width + x) * channels + channel, in the order of the sequence.",
               ModalityOption::Use::tokens, true},
              {"ids", "shared", "shared: a byte is id 3 + value; channel: 3 + 256 * channel + value."},
              {"tile", "0",
               "Cuts each file into squares of this many pixels, 16 to 16384, from the top left, each an "
               "image of "
               "its own; the rest at the right and at the bottom is not used. 0 = whole files."},
              {"background", "white", "Colour behind transparent pixels: white or black."},
              {"orientation", "exif",
               "exif: turn pictures as their EXIF data say, as viewers do; ignore: take them as stored."},
              {"mirror", "false",
               "true: half of the training crops are of the picture with left and right swapped.",
               ModalityOption::Use::training},
          },
      .open = open_image,
      .restore = restore_image,
  };
  return kind;
}

}  // namespace perceiver
