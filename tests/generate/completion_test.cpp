// What chosen tokens become: text, and the reason why it ended.
#include "generate/completion.h"

#include <gtest/gtest.h>

#include "data/text/byte_tokenizer.h"
#include "generate/generate.h"
#include "perceiver/error.h"
#include "tests/support/engine_checks.h"

namespace perceiver {
namespace {

using namespace testing;

/// Puts the bytes of `text`; returns what came out, pieces separated by |.
std::string pieces(CompletionStream& stream, std::string_view text) {
  std::string out;
  for (const int32_t token : ByteTokenizer().encode(text)) out += stream.put(token, -1) + "|";
  return out;
}

TEST(CompletionStream, HoldsBackCharactersAndPossibleStopStrings) {
  const ByteTokenizer tokenizer;
  GenerationRequest request;
  request.stop = {"END"};
  CompletionStream stream(request, &tokenizer);
  EXPECT_EQ(pieces(stream, "aé"), "a||é|");
  EXPECT_EQ(pieces(stream, "ENx"), "||ENx|");
  EXPECT_FALSE(stream.finished());
  EXPECT_EQ(pieces(stream, "END"), "|||");
  EXPECT_EQ(stream.completion().finish_reason, FinishReason::stop_string);
  EXPECT_EQ(stream.completion().text, "aéENx");
  EXPECT_EQ(stream.completion().tokens.size(), 9u);
  EXPECT_EQ(stream.completion().log_probability, -9);
}

TEST(CompletionStream, TheLastTokenReleasesWhatWasHeldBack) {
  const ByteTokenizer tokenizer;
  GenerationRequest request;
  request.stop = {"END"};
  request.tokens = 3;
  CompletionStream length(request, &tokenizer);
  EXPECT_EQ(pieces(length, "xEN"), "x||EN|");
  EXPECT_EQ(length.completion().finish_reason, FinishReason::length);
  CompletionStream half(request, &tokenizer);
  EXPECT_EQ(pieces(half, "ab\xC3"), "a|b|\xEF\xBF\xBD|");
  request.stop = {"\xC3ND"};
  CompletionStream held(request, &tokenizer);
  EXPECT_EQ(pieces(held, "ab\xC3"), "a|b|\xEF\xBF\xBD|");
  request.stop = {"END"};
  CompletionStream end(request, &tokenizer);
  EXPECT_EQ(pieces(end, "E"), "|");
  EXPECT_EQ(end.put(eos_token, 0), "E");
  EXPECT_EQ(end.completion().finish_reason, FinishReason::end_token);
  CompletionStream context(request, &tokenizer);
  context.limit(2, FinishReason::context);
  EXPECT_EQ(pieces(context, "ab"), "a|b|");
  EXPECT_EQ(context.completion().finish_reason, FinishReason::context);
}

TEST(CompletionStream, ACharacterMayStartInTheEcho) {
  const ByteTokenizer tokenizer;
  GenerationRequest request;
  request.echo = "END caf\xC3";
  request.stop = {"END"};
  CompletionStream stream(request, &tokenizer);
  EXPECT_EQ(pieces(stream, "\xA9s"), "END café|s|");
  EXPECT_FALSE(stream.finished());
  request.tokens = 0;
  EXPECT_EQ(CompletionStream(request, &tokenizer).completion().text, "END caf\xEF\xBF\xBD");
}

TEST(CompletionStream, StopStringsNeedText) {
  GenerationRequest request;
  request.stop = {"END"};
  EXPECT_THROW(CompletionStream(request, nullptr), Error);
  const ByteTokenizer tokenizer;
  request.stop = {""};
  EXPECT_THROW(CompletionStream(request, &tokenizer), Error);
}

TEST(CompletionStream, GenerateAnswersWithTextAndReasons) {
  ModelConfig config = generation_config();
  config.vocabulary = 259;
  const auto model = varied_model(config);
  const ByteTokenizer tokenizer;
  EngineOptions options;
  options.slots = 2;
  options.context_end = ContextEnd::stop;
  Engine engine(*model, options);
  GenerationRequest request;
  request.prompt = prompt_of(3);
  request.tokens = 4;
  request.token_biases = {{'A' + 3, 1000.0f}};
  std::vector<GenerationRequest> requests(4, request);
  requests[1].stop = {"AA"};
  requests[2].tokens = 1000;
  requests[3].tokens = 0;
  std::vector<std::string> streamed(requests.size());
  const auto completions = generate(
      engine, requests,
      [&](int64_t i, const ChosenToken&, const std::string& text) {
        streamed[static_cast<size_t>(i)] += text;
        return true;
      },
      &tokenizer);
  const std::string texts[] = {"AAAA", "", std::string(22, 'A'), ""};
  const FinishReason reasons[] = {FinishReason::length, FinishReason::stop_string, FinishReason::context,
                                  FinishReason::length};
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(completions[i].text, texts[i]);
    EXPECT_EQ(streamed[i], texts[i]);
    EXPECT_EQ(completions[i].finish_reason, reasons[i]) << i;
  }
}

}  // namespace
}  // namespace perceiver
