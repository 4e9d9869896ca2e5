// A server in this process, with small models, and a client of it.
#pragma once

#include <httplib.h>

#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "serve/server.h"
#include "tests/support/api_model.h"

namespace perceiver::testing {

class TestServer {
 public:
  explicit TestServer(serve::SchedulerOptions scheduler = {}, serve::ServerOptions options = {},
                      const std::string& modality = "text",
                      const std::map<std::string, std::string>& data_options = {}, int64_t context = 24)
      : server_(models(scheduler, modality, data_options, context), at_any_port(options)),
        thread_([this] { server_.run(); }) {}
  ~TestServer() {
    server_.stop();
    thread_.join();
  }

  httplib::Client client() const {
    httplib::Client client("127.0.0.1", server_.port());
    client.set_read_timeout(60);
    client.set_tcp_nodelay(true);
    return client;
  }
  httplib::Result post(const std::string& path, const std::string& body) const {
    return client().Post(path.c_str(), body, "application/json");
  }
  /// The JSON of an answer of that status.
  nlohmann::json answer(const std::string& path, const nlohmann::json& body, int status = 200) const {
    const httplib::Result result = post(path, body.dump());
    if (!result) throw std::runtime_error("no answer");
    EXPECT_EQ(result->status, status) << result->body;
    return nlohmann::json::parse(result->body);
  }
  /// The message of the error that a body is refused with.
  std::string refusal(const std::string& path, const std::string& body, int status = 400) const {
    const httplib::Result result = post(path, body);
    if (!result) return "no answer";
    EXPECT_EQ(result->status, status) << result->body;
    const nlohmann::json error = nlohmann::json::parse(result->body).at("error");
    EXPECT_TRUE(error.at("type").is_string());
    return error.at("message");
  }

  serve::Server& server() { return server_; }
  serve::Scheduler& scheduler() { return server_.models().front()->scheduler; }
  /// Whether it becomes true within the time.
  template <typename Condition>
  static bool within(std::chrono::milliseconds time, const Condition& condition) {
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return condition();
  }

 private:
  static serve::ServedModels models(serve::SchedulerOptions scheduler, const std::string& modality,
                                    const std::map<std::string, std::string>& data_options, int64_t context) {
    serve::ServedModels models;
    models.push_back(std::make_unique<serve::ServedModel>(
        "small", api_model(modality, data_options, 1, context), scheduler));
    return models;
  }
  static serve::ServerOptions at_any_port(serve::ServerOptions options) {
    options.port = 0;
    return options;
  }

  serve::Server server_;
  std::thread thread_;
};

}  // namespace perceiver::testing
