// Limits, access, clients that leave, and what a server says about itself.
#include "serve/server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <dirent.h>

#include "perceiver/error.h"
#include "tests/support/test_server.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using namespace testing;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;
using std::chrono::milliseconds;

/// A connection that sends bytes as they are.
class RawClient {
 public:
  explicit RawClient(int port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in place{};
    place.sin_family = AF_INET;
    place.sin_port = htons(static_cast<uint16_t>(port));
    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<sockaddr*>(&place), sizeof place), 0);
  }
  ~RawClient() { leave(); }
  void send(const std::string& bytes) { (void)!::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL); }
  void post(const std::string& path, const std::string& body) {
    send("POST " + path +
         " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body);
  }
  std::string receive() {
    char buffer[4096];
    const ssize_t count = ::recv(socket_, buffer, sizeof buffer, 0);
    return count > 0 ? std::string(buffer, static_cast<size_t>(count)) : "";
  }
  void leave() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }

 private:
  int socket_;
};

constexpr const char* kEndless = R"({"prompt": "x", "max_tokens": 16000, "ignore_eos": true, "stream": )";

size_t open_files() {
  size_t count = 0;
  DIR* folder = ::opendir("/proc/self/fd");
  while (::readdir(folder) != nullptr) ++count;
  ::closedir(folder);
  return count;
}

TEST(Server, AClientThatLeavesFreesItsPlaceWithinASecond) {
  TestServer server({.slots = 1});
  for (const char* stream : {"true}", "false}"}) {
    RawClient running(server.server().port()), waiting(server.server().port());
    running.post("/v1/completions", std::string(kEndless) + stream);
    ASSERT_TRUE(
        TestServer::within(milliseconds(5000), [&] { return server.scheduler().status().active == 1; }));
    waiting.post("/v1/completions", std::string(kEndless) + stream);
    ASSERT_TRUE(
        TestServer::within(milliseconds(5000), [&] { return server.scheduler().status().queued == 1; }));
    waiting.leave();
    EXPECT_TRUE(TestServer::within(milliseconds(1000), [&] {
      return server.scheduler().status().queued == 0;
    })) << stream;
    EXPECT_EQ(server.scheduler().status().active, 1);
    running.leave();
    EXPECT_TRUE(TestServer::within(milliseconds(1000), [&] {
      return server.scheduler().status().active == 0;
    })) << stream;
  }
}

/// Whether scoring is free, or becomes so in that time.
bool scoring_free(TestServer& server, milliseconds time) {
  std::timed_mutex& scoring = server.server().models().front()->scoring;
  if (!scoring.try_lock_for(time)) return false;
  scoring.unlock();
  return true;
}

TEST(Server, AClientThatLeavesDuringItsPrefillFreesItsPlaceWithinASecond) {
  TestServer server({.slots = 40}, {}, "text", {}, 1 << 18);
  const std::string prompt(1 << 18, 'x');
  for (const char* path : {"/v1/completions", "/v1/generate"}) {
    const std::string name = path == std::string("/v1/generate") ? "text" : "prompt";
    for (const char* stream : {"true}", "false}"}) {
      const int64_t before = server.scheduler().status().tokens;
      RawClient client(server.server().port());
      client.post(path, "{\"" + name + "\": \"" + prompt +
                            R"(", "n": 40, "max_tokens": 9000, "ignore_eos": true, "stream": )" + stream);
      ASSERT_TRUE(
          TestServer::within(milliseconds(5000), [&] { return server.scheduler().status().active > 0; }));
      EXPECT_EQ(server.scheduler().status().tokens, before) << "it is in its prefill";
      client.leave();
      EXPECT_TRUE(
          TestServer::within(milliseconds(1000), [&] { return server.scheduler().status().active == 0; }))
          << path << stream;
    }
  }
}

TEST(Server, AClientThatLeavesWhileMoreThanTextIsMadeFreesItsPlace) {
  TestServer server({.slots = 1}, {}, "music", {}, 64);
  for (const char* stream : {"true}", "false}"}) {
    RawClient running(server.server().port()), waiting(server.server().port());
    const std::string body = std::string(R"({"max_tokens": 16000, "ignore_eos": true, "stream": )") + stream;
    running.post("/v1/generate", body);
    ASSERT_TRUE(
        TestServer::within(milliseconds(5000), [&] { return server.scheduler().status().active == 1; }));
    waiting.post("/v1/generate", body);
    ASSERT_TRUE(
        TestServer::within(milliseconds(5000), [&] { return server.scheduler().status().queued == 1; }));
    waiting.leave();
    EXPECT_TRUE(
        TestServer::within(milliseconds(1000), [&] { return server.scheduler().status().queued == 0; }));
    running.leave();
    EXPECT_TRUE(
        TestServer::within(milliseconds(1000), [&] { return server.scheduler().status().active == 0; }));
  }
}

TEST(Server, AClientThatLeavesEndsItsScoring) {
  TestServer server({.slots = 1}, {}, "text", {}, 1 << 14);
  const std::string text((1 << 18) - 1, 'x');
  const std::pair<const char*, std::string> requests[] = {
      {"/v1/score", R"({"stride": 1, "input": ")" + text + "\"}"},
      {"/v1/completions",
       R"({"max_tokens": 0, "echo": true, "logprobs": 0, "prompt": ")" + text.substr(0, 60'000) + "\"}"}};
  const size_t idle = open_files();
  for (const auto& [path, body] : requests) {
    RawClient running(server.server().port());
    running.post(path, body);
    ASSERT_TRUE(
        TestServer::within(milliseconds(5000), [&] { return !scoring_free(server, milliseconds(0)); }));
    // Of each client its own end and the server's, which may still have that of the request before.
    ASSERT_TRUE(TestServer::within(milliseconds(5000), [&] { return open_files() == idle + 2; })) << path;
    RawClient waiting(server.server().port());
    waiting.post(path, body);
    ASSERT_TRUE(TestServer::within(milliseconds(5000), [&] { return open_files() == idle + 4; })) << path;
    std::this_thread::sleep_for(milliseconds(300));  // until it waits for its turn
    waiting.leave();
    EXPECT_TRUE(TestServer::within(milliseconds(1000), [&] { return open_files() == idle + 2; })) << path;
    EXPECT_FALSE(scoring_free(server, milliseconds(0))) << path;
    running.leave();
    EXPECT_TRUE(scoring_free(server, milliseconds(1000))) << path;
  }
  EXPECT_LT(server.answer("/v1/score", {{"input", "x"}})["data"][0]["sum"].get<double>(), 0);
}

TEST(Server, ScoringEndsWhenItsTimeIsUp) {
  serve::ServerOptions options;
  options.limits.seconds = 1;
  TestServer server({.slots = 1}, options, "text", {}, 1 << 14);
  const Json body{{"stride", 1}, {"input", std::string((1 << 18) - 1, 'x')}};
  EXPECT_THAT(server.refusal("/v1/score", body.dump(), 504), HasSubstr("the time for a request is up"));
}

TEST(Server, AFullQueueAsksToTryAgain) {
  TestServer server({.slots = 1, .queue = 0});
  RawClient running(server.server().port());
  running.post("/v1/completions", std::string(kEndless) + "true}");
  ASSERT_TRUE(
      TestServer::within(milliseconds(5000), [&] { return server.scheduler().status().active == 1; }));
  const auto refused = server.post("/v1/completions", R"({"prompt": "x"})");
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status, 429);
  EXPECT_EQ(refused->get_header_value("Retry-After"), "1");
  EXPECT_THAT(refused->body, HasSubstr("the queue is full"));
}

TEST(Server, ARequestEndsWhenItsTimeIsUp) {
  serve::ServerOptions options;
  options.limits.seconds = 1;
  options.limits.max_tokens = 100'000'000;
  TestServer server({.slots = 1}, options);
  const Json answer =
      server.answer("/v1/completions", {{"prompt", "x"}, {"max_tokens", 100'000'000}, {"ignore_eos", true}});
  EXPECT_EQ(answer["choices"][0]["finish_reason"], "length");
  EXPECT_GT(answer["usage"]["completion_tokens"], 10);
}

TEST(Server, StopsWhileClientsWait) {
  auto server = std::make_unique<TestServer>(serve::SchedulerOptions{.slots = 1});
  RawClient streaming(server->server().port()), silent(server->server().port()),
      half(server->server().port());
  streaming.post("/v1/completions", std::string(kEndless) + "true}");
  half.send("POST /v1/completions HTTP/1.1\r\nContent-Le");
  EXPECT_THAT(streaming.receive(), HasSubstr("200"));
  const auto before = std::chrono::steady_clock::now();
  server.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - before, std::chrono::seconds(3));
}

TEST(Server, BodiesAreLimitedHoweverTheyCome) {
  serve::ServerOptions options;
  options.limits.body = 1000;
  TestServer server({}, options);
  EXPECT_THAT(server.refusal("/v1/completions", std::string(5000, ' '), 413),
              HasSubstr("the most are 1000 bytes"));
  // Compressed, it takes less than the limit.
  httplib::Client client = server.client();
  client.set_compress(true);
  const auto bomb = client.Post("/v1/completions", std::string(50'000, ' '), "application/json");
  ASSERT_TRUE(bomb);
  EXPECT_EQ(bomb->status, 413);
  httplib::Client chunked = server.client();
  int sent = 0;
  const auto large = chunked.Post(
      "/v1/completions",
      [&](size_t, httplib::DataSink& sink) {
        const std::string piece(1000, ' ');
        sink.write(piece.data(), piece.size());
        if (++sent == 20) sink.done();
        return true;
      },
      "application/json");
  ASSERT_TRUE(large);
  EXPECT_EQ(large->status, 413);
  EXPECT_TRUE(server.client().Get("/health"));
}

TEST(Server, RefusedBodiesAreNoRequests) {
  TestServer server;
  const std::string hidden = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n";
  RawClient client(server.server().port());
  client.send(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: " +
      std::to_string(hidden.size()) + "\r\n\r\n");
  client.send(hidden);
  EXPECT_THAT(client.receive(), HasSubstr("415"));
  client.send("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  std::string rest;
  for (std::string part = client.receive(); !part.empty(); part = client.receive()) rest += part;
  EXPECT_THAT(rest, HasSubstr("\"status\":\"ok\""));
  EXPECT_THAT(rest, Not(HasSubstr("vocabulary")));
}

TEST(Server, PagesOfOtherSitesCannotUseIt) {
  TestServer server;
  httplib::Client client = server.client();
  const auto plain = client.Post("/v1/completions", R"({"prompt": "x"})", "text/plain");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->status, 415);
  const auto rebound = client.Get("/v1/models", {{"Host", "evil.example"}});
  ASSERT_TRUE(rebound);
  EXPECT_EQ(rebound->status, 403);
  const auto named = client.Get("/v1/models", {{"Host", "localhost:8080"}});
  ASSERT_TRUE(named);
  EXPECT_EQ(named->status, 200);
}

TEST(Server, TheTokenIsAskedForOnceByAddressOrHeader) {
  serve::ServerOptions options;
  options.token = "secret-1";
  TestServer server({}, options);
  httplib::Client client = server.client();
  EXPECT_EQ(client.Get("/v1/models")->status, 401);
  EXPECT_EQ(client.Get("/")->status, 401);
  EXPECT_EQ(client.Get("/?token=secret-2")->status, 401);
  EXPECT_EQ(client.Get("/v1/models", {{"Authorization", "Bearer secret-2"}})->status, 401);
  EXPECT_EQ(client.Get("/v1/models", {{"Authorization", "Bearer secret-1"}})->status, 200);
  EXPECT_EQ(client.Get("/health")->status, 200);
  const auto page = client.Get("/?token=secret-1");
  EXPECT_EQ(page->status, 303);
  const std::string cookie = page->get_header_value("Set-Cookie");
  EXPECT_THAT(cookie, HasSubstr("HttpOnly; SameSite=Strict"));
  EXPECT_EQ(client.Get("/", {{"Cookie", "a=b; " + cookie.substr(0, cookie.find(';'))}})->status, 200);
}

TEST(Server, OthersNeedAToken) {
  serve::ServerOptions options;
  options.host = "0.0.0.0";
  EXPECT_THAT(message_of([&] { TestServer server({}, options); }), HasSubstr("give them a --token to know"));
  options.token = "a b";
  EXPECT_THAT(message_of([&] { TestServer server({}, options); }), HasSubstr("only letters, digits"));
  options.token = "ab";
  TestServer server({}, options);
  EXPECT_EQ(server.client().Get("/health")->status, 200);
}

TEST(Server, APortIsTakenByOne) {
  TestServer first;
  serve::ServerOptions options;
  options.port = first.server().port();
  EXPECT_THAT(message_of([&] { serve::Server second({}, options); }),
              HasSubstr("another server running there"));
}

TEST(Server, GarbageIsRefusedAndForgotten) {
  TestServer server;
  for (const char* bytes :
       {"\r\n\r\n", "hello\r\n\r\n", "GET\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        "POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        "POST /v1/completions HTTP/1.1\r\nContent-Type: multipart/form-data\r\nContent-Length: 3\r\n\r\nabc",
        "GET /%00%ff HTTP/1.1\r\n\r\n", "DELETE /v1/models HTTP/1.1\r\n\r\n"}) {
    RawClient client(server.server().port());
    client.send(bytes);
  }
  const auto missing = server.client().Get("/nothing");
  ASSERT_TRUE(missing);
  EXPECT_EQ(missing->status, 404);
  EXPECT_THAT(missing->body, HasSubstr("there is no '/nothing'"));
  EXPECT_EQ(server.client().Get("/health")->status, 200);
}

TEST(Server, ManyRequestsLeaveNothingBehind) {
  TestServer server({.slots = 4});
  (void)server.answer("/v1/completions", {{"prompt", "x"}, {"max_tokens", 2}});
  const size_t before = open_files();
  httplib::Client client = server.client();
  client.set_keep_alive(true);
  for (int i = 0; i < 10'000; ++i) {
    const auto result = i % 10 == 0 ? client.Post("/v1/completions", R"({"prompt": "x", "max_tokens": 1})",
                                                  "application/json")
                                    : client.Get("/health");
    ASSERT_TRUE(result) << i;
    ASSERT_EQ(result->status, 200) << result->body;
  }
  client.stop();
  EXPECT_TRUE(TestServer::within(milliseconds(10'000), [&] { return open_files() <= before + 1; }));
  EXPECT_TRUE(
      TestServer::within(milliseconds(1000), [&] { return server.scheduler().status().active == 0; }));
  EXPECT_GE(server.scheduler().status().tokens, 1000);
}

TEST(Server, SaysWhatItServesAndHowItIs) {
  TestServer server({.slots = 3});
  (void)server.answer("/v1/completions", {{"prompt", "x"}, {"max_tokens", 5}, {"ignore_eos", true}});
  (void)server.refusal("/v1/completions", "{");
  const Json models = Json::parse(server.client().Get("/v1/models")->body);
  EXPECT_EQ(models["data"][0]["id"], "small");
  EXPECT_EQ(models["data"][0]["modality"], "text");
  EXPECT_EQ(Json::parse(server.client().Get("/v1/models/small")->body), models["data"][0]);
  EXPECT_EQ(server.client().Get("/v1/models/large")->status, 404);
  const std::string metrics = server.client().Get("/metrics")->body;
  EXPECT_THAT(metrics, HasSubstr("perceiver_requests_total{path=\"/v1/completions\",status=\"200\"} 1\n"));
  EXPECT_THAT(metrics, HasSubstr("perceiver_requests_total{path=\"/v1/completions\",status=\"400\"} 1\n"));
  EXPECT_THAT(metrics, HasSubstr("perceiver_generated_tokens_total{model=\"small\"} 5\n"));
  EXPECT_THAT(metrics, HasSubstr("perceiver_slots{model=\"small\"} 3\n"));
  EXPECT_THAT(metrics, HasSubstr("perceiver_first_token_seconds_bucket{model=\"small\",le=\"+Inf\"} 1\n"));
}

TEST(Server, ServesItsPages) {
  TestServer server;
  const auto page = server.client().Get("/");
  ASSERT_TRUE(page);
  EXPECT_EQ(page->status, 200);
  EXPECT_THAT(page->body, HasSubstr("<html"));
  EXPECT_THAT(page->get_header_value("Content-Security-Policy"), HasSubstr("default-src 'self'"));
  EXPECT_THAT(server.client().Get("/app.js")->get_header_value("Content-Type"), HasSubstr("text/javascript"));
}

}  // namespace
}  // namespace perceiver
