// A small SentencePiece model for tests.
#pragma once

#include <string>

#include "data/text/sentencepiece_tokenizer.h"
#include "perceiver/experimental/random.h"

namespace perceiver::testing {

/// Sentences enough for a few hundred pieces.
inline std::string sentencepiece_corpus() {
  const char* syllables[] = {"wha", "le",   "cap", "tain", "sai",   "ling", "boat", "oc",
                             "ean", "deep", "har", "poon", "white", "ne",   "ver",  "more"};
  std::string text;
  uint32_t state = 1;
  for (int line = 0; line < 400; ++line) {
    for (int i = 0; i < 9; ++i) {
      state = state * 1664525 + 1013904223;
      text += syllables[state >> 28];
      text += syllables[state >> 24 & 15];
      text += i == 8 ? ".\n" : " ";
    }
  }
  return text;
}

inline std::string sentencepiece_of(int64_t pieces, bool unigram = true) {
  const std::string text = sentencepiece_corpus();
  size_t at = 0;
  SentencePieceTraining training;
  training.pieces = pieces;
  training.unigram = unigram;
  return train_sentencepiece(
      [&](std::string& line) {
        if (at >= text.size()) return false;
        const size_t end = text.find('\n', at);
        line = text.substr(at, end - at);
        at = end + 1;
        return true;
      },
      training);
}

inline const std::string& sentencepiece_model() {
  static const std::string trained = sentencepiece_of(400);
  return trained;
}

}  // namespace perceiver::testing
