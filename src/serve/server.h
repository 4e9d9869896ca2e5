// The HTTP server: routes, limits and errors around what the other files of this folder answer.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "serve/limits.h"
#include "serve/reports.h"

namespace perceiver::serve {

struct ServerOptions {
  std::string host = "127.0.0.1";
  int port = 8080;    ///< 0: any that is free
  std::string token;  ///< empty: none; needed where others can reach the host
  std::string runs;   ///< folder of training runs that are shown; empty: none
  Limits limits;
};

class Server {
 public:
  /// Takes the port. Throws perceiver::Error (`user`) if it cannot be had, a token is needed, or the folder
  /// of runs is not there.
  Server(ServedModels models, const ServerOptions& options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  int port() const;
  const ServedModels& models() const;
  /// Answers until `stop`. To be called once.
  void run();
  /// Ends what is on its way, and `run`, within a few seconds. From any thread.
  void stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace perceiver::serve
