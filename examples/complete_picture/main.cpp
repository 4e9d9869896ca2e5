// Paints over the middle of a picture and lets a model of pictures complete it, several times.
//   complete_picture CHECKPOINT PICTURE OUT.png [COUNT]
// OUT.png shows the picture as the model sees it, the picture with its hole, and the completions.
#include <perceiver/perceiver.h>

#include <algorithm>
#include <iostream>

namespace {

using perceiver::Image;

/// 1 where the picture is known: everything but a rectangle in the middle, half as wide and half as high.
std::vector<uint8_t> around_the_middle(const Image& picture) {
  std::vector<uint8_t> known(static_cast<size_t>(picture.width * picture.height), 1);
  for (int64_t y = picture.height / 4; y < picture.height * 3 / 4; ++y)
    for (int64_t x = picture.width / 4; x < picture.width * 3 / 4; ++x)
      known[static_cast<size_t>(y * picture.width + x)] = 0;
  return known;
}

Image with_hole(Image picture, const std::vector<uint8_t>& known) {
  for (int64_t y = 0; y < picture.height; ++y)
    for (int64_t x = 0; x < picture.width; ++x)
      if (known[static_cast<size_t>(y * picture.width + x)] == 0)
        std::fill_n(picture.at(x, y), picture.channels, uint8_t{128});
  return picture;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 4 || argc > 5) {
    std::cerr << "usage: complete_picture CHECKPOINT PICTURE OUT.png [COUNT]\n";
    return 2;
  }
  const auto model = perceiver::Model::load(argv[1]);
  const perceiver::Tokenizer& tokenizer = model.tokenizer();
  if (tokenizer.info().modality != "image")
    throw perceiver::Error(perceiver::ErrorKind::user, std::string(argv[1]) + " is not a model of pictures");

  const perceiver::TokenSequence whole = tokenizer.encode_file(argv[2])[0];
  const Image picture = std::get<Image>(tokenizer.decode(whole));
  const std::vector<uint8_t> known = around_the_middle(picture);
  const perceiver::TokenPrompt prompt = tokenizer.complete(picture, known);
  std::cout << picture.width << " x " << picture.height << " pixels, " << prompt.remaining << " of "
            << whole.ids.size() << " tokens to be made\n";

  const int count = argc == 5 ? std::stoi(argv[4]) : 4;
  std::vector<perceiver::TokenSequence> row{whole, tokenizer.encode(with_hole(picture, known))};
  perceiver::BatchGenerator batch(model, {.slots = 4});
  for (int i = 0; i < count; ++i) batch.add(prompt, {.seed = static_cast<uint64_t>(i)});
  while (batch.step()) {
  }
  for (int i = 0; i < count; ++i) row.push_back(batch.take(i).sequence);
  for (const std::string& path : tokenizer.write(row, argv[3])) std::cout << path << "\n";
} catch (const perceiver::Error& error) {
  std::cerr << error.what() << "\n";
  return error.kind() == perceiver::ErrorKind::user ? 2 : 1;
}
