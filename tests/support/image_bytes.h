// Makes PNG and JPEG files of any colour type, with libpng and libjpeg.
#pragma once

#include <png.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
// libjpeg's header needs two of the above.
#include <jpeglib.h>

#include <span>
#include <string>
#include <vector>

namespace perceiver {

/// The content of a PNG file. Rows are packed as in PNG: `depth` bits per sample, big-endian.
struct PngContent {
  uint32_t width = 1, height = 1;
  int depth = 8;
  int colour = PNG_COLOR_TYPE_RGB;
  int interlace = PNG_INTERLACE_NONE;
  std::vector<uint8_t> rows = {};
  std::vector<png_color> palette = {};
  std::vector<uint8_t> palette_alpha = {};
  bool has_key = false;
  png_color_16 key{};  ///< the transparent colour
};

inline std::string make_png(const PngContent& content) {
  std::string out;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_set_write_fn(
      png, &out,
      [](png_structp p, png_bytep data, size_t size) {
        static_cast<std::string*>(png_get_io_ptr(p))->append(reinterpret_cast<char*>(data), size);
      },
      nullptr);
  png_set_IHDR(png, info, content.width, content.height, content.depth, content.colour, content.interlace,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  if (!content.palette.empty())
    png_set_PLTE(png, info, content.palette.data(), static_cast<int>(content.palette.size()));
  png_color_16 key = content.key;
  if (content.has_key) png_set_tRNS(png, info, nullptr, 0, &key);
  if (!content.palette_alpha.empty())
    png_set_tRNS(png, info, content.palette_alpha.data(), static_cast<int>(content.palette_alpha.size()),
                 nullptr);
  png_write_info(png, info);
  std::vector<uint8_t> rows = content.rows;
  const size_t stride = rows.size() / content.height;
  const int passes = png_set_interlace_handling(png);
  for (int pass = 0; pass < passes; ++pass)
    for (uint32_t y = 0; y < content.height; ++y) png_write_row(png, rows.data() + y * stride);
  png_write_end(png, nullptr);
  png_destroy_write_struct(&png, &info);
  return out;
}

struct JpegContent {
  int width = 8, height = 8;
  int components = 3;
  J_COLOR_SPACE given = JCS_RGB;  ///< of `samples`
  J_COLOR_SPACE stored = JCS_YCbCr;
  bool progressive = false;
  bool adobe_marker = true;  ///< CMYK and YCCK usually have one
  std::vector<uint8_t> samples = {};
};

inline std::string make_jpeg(const JpegContent& content) {
  jpeg_compress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  unsigned char* memory = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&jpeg, &memory, &size);
  jpeg.image_width = static_cast<JDIMENSION>(content.width);
  jpeg.image_height = static_cast<JDIMENSION>(content.height);
  jpeg.input_components = content.components;
  jpeg.in_color_space = content.given;
  jpeg_set_defaults(&jpeg);
  jpeg_set_colorspace(&jpeg, content.stored);
  if (!content.adobe_marker) jpeg.write_Adobe_marker = FALSE;
  jpeg_set_quality(&jpeg, 100, TRUE);
  for (int c = 0; c < jpeg.num_components; ++c)
    jpeg.comp_info[c].h_samp_factor = jpeg.comp_info[c].v_samp_factor = 1;
  if (content.progressive) jpeg_simple_progression(&jpeg);
  jpeg_start_compress(&jpeg, TRUE);
  std::vector<uint8_t> samples = content.samples;
  const int stride = content.width * content.components;
  while (jpeg.next_scanline < jpeg.image_height) {
    JSAMPROW row = samples.data() + jpeg.next_scanline * static_cast<size_t>(stride);
    jpeg_write_scanlines(&jpeg, &row, 1);
  }
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  std::string out(reinterpret_cast<char*>(memory), size);
  std::free(memory);
  return out;
}

}  // namespace perceiver
