// Loads a checkpoint, scores a string and streams a sample.   consumer CHECKPOINT PROMPT
#include <perceiver/perceiver.h>

#include <iostream>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: consumer CHECKPOINT PROMPT\n";
    return 2;
  }
  try {
    const auto model = perceiver::Model::load(argv[1]);
    const std::string prompt = argv[2];
    std::cout << model.parameter_count() << " parameters, " << model.score(prompt).bits_per_byte()
              << " bits per byte\n"
              << prompt;
    perceiver::GenerateOptions options;
    options.tokens = 100;
    options.top_p = 0.95;
    model.generate(prompt, options, [](std::string_view text) {
      std::cout << text << std::flush;
      return true;
    });
    std::cout << "\n";
  } catch (const perceiver::Error& error) {
    std::cerr << error.what() << "\n";
    return error.kind() == perceiver::ErrorKind::user ? 2 : 1;
  }
}
