#include "serve/server.h"

#include <httplib.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <new>
#include <thread>

#include "base/check.h"
#include "base/text.h"
#include "report/report_page.h"
#include "report/web_files.h"
#include "serve/access.h"
#include "serve/completions.h"
#include "serve/connection.h"
#include "serve/connection_threads.h"
#include "serve/generations.h"
#include "serve/http_error.h"
#include "serve/json_fields.h"
#include "serve/live_runs.h"
#include "serve/scores.h"
#include "serve/web_files.h"

namespace perceiver::serve {
namespace {

constexpr time_t kSilence = 10;       ///< seconds without a byte from or to a client
constexpr time_t kIdleSeconds = 5;    ///< seconds between requests of a connection
constexpr size_t kRequests = 10'000;  ///< of a connection
constexpr int kBacklog = 1024;        ///< connections that wait to be accepted
constexpr size_t kDrain = 64;         ///< bodies of up to this many times the limit are read to be refused
constexpr const char* kPolicy =
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; style-src 'self' "
    "'unsafe-inline'; frame-ancestors 'none'";

Credentials credentials_of(const httplib::Request& request) {
  return {request.get_header_value("Host"), request.get_header_value("Authorization"),
          request.get_header_value("Cookie"), request.get_param_value("token")};
}

Connection connection_of(const httplib::Request& request) {
  return Connection::find(request.remote_addr, request.remote_port, request.local_port);
}

void set_error(httplib::Response& response, int status, const std::string& message) {
  response.status = status;
  if (status == 401) response.set_header("WWW-Authenticate", "Bearer");
  if (status == 429 || status == 503) response.set_header("Retry-After", "1");
  const nlohmann::ordered_json error{
      {"error", {{"message", printable(message)}, {"type", error_type(status)}}}};
  response.set_content(to_text(error), "application/json");
}

/// Whatever goes wrong becomes an answer.
template <typename Work>
void guarded(httplib::Response& response, const Work& work) {
  try {
    work();
  } catch (const HttpError& error) {
    set_error(response, error.status, error.what());
  } catch (const Error& error) {
    set_error(response, error.kind() == ErrorKind::user ? 400 : 500, error.what());
  } catch (const std::bad_alloc&) {
    set_error(response, 503, "out of memory; ask for less, or try again later");
  } catch (const std::exception& error) {
    set_error(response, 500, error.what());
  }
}

void send_stream(httplib::Response& response, std::shared_ptr<ReplyStream> stream,
                 const Connection& connection) {
  // This very type: the HTTP library would compress others, and hold them back for that.
  response.set_header("Cache-Control", "no-cache");
  response.set_header("X-Accel-Buffering", "no");  // proxies must not wait for more
  response.set_chunked_content_provider("text/event-stream",
                                        [stream, connection](size_t, httplib::DataSink& sink) {
                                          try {
                                            std::string out;
                                            const bool more = stream->next(out);
                                            if (connection.gone()) return false;
                                            if (!out.empty() && !sink.write(out.data(), out.size()))
                                              return false;
                                            if (!more) sink.done();
                                            return true;
                                          } catch (const std::exception&) {
                                            return false;
                                          }
                                        });
}

void send(httplib::Response& response, Reply reply, const Connection& connection) {
  if (reply.stream) return send_stream(response, std::move(reply.stream), connection);
  if (!reply.file_name.empty())
    response.set_header("Content-Disposition", "attachment; filename=\"" + reply.file_name + "\"");
  response.set_content(std::move(reply.body), reply.type.c_str());
}

/// The body, read to its end even if it is refused: the next request of the connection follows it. It is not
/// left to the HTTP library, which does not limit what a compressed or chunked body becomes.
std::string read_body(const httplib::Request& request, const httplib::ContentReader& reader, size_t limit) {
  std::string body;
  size_t size = 0;
  const auto take = [&](const char* data, size_t count) {
    size += count;
    if (size <= limit) body.append(data, count);
    return size / kDrain <= limit;
  };
  const auto any_part = [](const httplib::MultipartFormData&) { return true; };
  const bool whole = request.is_multipart_form_data() ? reader(any_part, take) : reader(take);
  if (!whole) connection_of(request).end();
  if (size > limit) refuse(413, "the body is too large; the most are {} bytes", limit);
  if (!whole) refuse(400, "the body is not complete");
  return body;
}

void require_json(const httplib::Request& request) {
  const std::string type = request.get_header_value("Content-Type");
  if (!type.starts_with("application/json"))
    refuse(415, "send JSON with the header Content-Type: application/json");
}

ServedModel& find_model(const ServedModels& models, const std::string& name) {
  if (models.empty()) refuse(404, "this server has no models; it shows training runs");
  if (name.empty() && models.size() == 1) return *models.front();
  std::vector<std::string> names;
  for (const auto& model : models) {
    if (model->name == name) return *model;
    names.push_back(model->name);
  }
  if (name.empty()) refuse(400, "model is missing; the choices: {}", fmt::join(names, ", "));
  refuse(404, "there is no model {}; the choices: {}", quote(name), fmt::join(names, ", "));
}

ServedModel& model_of(const nlohmann::json& body, const ServedModels& models) {
  const auto name = body.find("model");
  const bool given = name != body.end() && !name->is_null();
  if (given && !name->is_string()) refuse(400, "model must be a string");
  return find_model(models, given ? name->get<std::string>() : "");
}

Reply list_model(const ServedModels& models, const std::string& name) {
  const ServedModel& model = find_model(models, name);
  const auto all = nlohmann::ordered_json::parse(list_models(models).body);
  for (const auto& each : all["data"])
    if (each["id"] == model.name) return json_reply(each);
  return json_reply(nullptr);
}

const WebFile* find_web_file(const std::string& path) {
  const std::string wanted = path == "/" ? "/index.html" : path;
  if (wanted == "/report.html") return nullptr;  // without data; /runs is what becomes of it
  for (const auto& files : {web_files(), report::web_files()})
    for (const WebFile& file : files)
      if (file.path == wanted) return &file;
  return nullptr;
}

/// For metrics: paths that nobody serves are counted together.
std::string counted_path(const std::string& path) {
  for (const char* known : {"/v1/completions", "/v1/generate", "/v1/score", "/v1/models", "/v1/runs",
                            "/v1/runs/data", "/v1/runs/sample", "/runs", "/metrics", "/health"})
    if (path == known) return path;
  return find_web_file(path) != nullptr ? "page" : "other";
}

}  // namespace

struct Server::State {
  State(ServedModels served, const ServerOptions& given)
      : models(std::move(served)), options(given), access(given.host, given.token) {
    if (!options.runs.empty()) runs = std::make_unique<LiveRuns>(options.runs);
    configure();
    add_routes();
    bind();
  }

  void configure() {
    http.new_task_queue = [most = options.limits.connections] { return new ConnectionThreads(most); };
    http.set_read_timeout(kSilence);
    http.set_write_timeout(kSilence);
    http.set_keep_alive_timeout(kIdleSeconds);
    http.set_keep_alive_max_count(kRequests);
    http.set_tcp_nodelay(true);
    http.set_socket_options([this](socket_t socket) {
      listener = socket;
      const int yes = 1;
      (void)::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
      watch_peers(socket);
    });
    http.set_default_headers({{"X-Content-Type-Options", "nosniff"}, {"Content-Security-Policy", kPolicy}});
    http.set_error_handler([](const httplib::Request&, httplib::Response& response) {
      if (response.body.empty())
        set_error(response, response.status, "the request is not well-formed HTTP, or too long");
    });
    http.set_logger([this](const httplib::Request& request, const httplib::Response& response) {
      requests.add(counted_path(request.path), response.status);
    });
  }

  void bind() {
    const int wanted = options.port;
    port = wanted == 0                               ? http.bind_to_any_port(options.host)
           : http.bind_to_port(options.host, wanted) ? wanted
                                                     : -1;
    if (port <= 0)
      throw_user("{}:{} cannot be had: {}; is another server running there? Choose another --port",
                 options.host, wanted, printable(std::strerror(errno)));
    ::listen(listener, kBacklog);
  }

  using Answer = std::function<Reply(const nlohmann::json& body, std::function<bool()> gone)>;

  void post(const char* path, Answer answer) {
    http.Post(
        path, [this, answer = std::move(answer)](const httplib::Request& request, httplib::Response& response,
                                                 const httplib::ContentReader& reader) {
          guarded(response, [&] {
            const std::string body = read_body(request, reader, options.limits.body);
            access.check(credentials_of(request));
            require_json(request);
            const Connection connection = connection_of(request);
            send(response, answer(parse_body(body), [connection] { return connection.gone(); }), connection);
          });
        });
  }

  void get(const char* path, std::function<Reply(const httplib::Request&)> answer, bool open = false) {
    http.Get(path, [this, open, answer = std::move(answer)](const httplib::Request& request,
                                                            httplib::Response& response) {
      guarded(response, [&] {
        if (!open) access.check(credentials_of(request));
        send(response, answer(request), {});
      });
    });
  }

  void add_routes() {
    post("/v1/completions", [this](const nlohmann::json& body, std::function<bool()> gone) {
      ServedModel& model = model_of(body, models);
      if (!model.texts)
        refuse(400, "{} is a model of {}; use /v1/generate", model.name, model.data().modality);
      return complete(model,
                      parse_completion(body, model.model.tokenizer(), model.model.config().context_length,
                                       options.limits),
                      std::move(gone), options.limits);
    });
    post("/v1/generate", [this](const nlohmann::json& body, std::function<bool()> gone) {
      ServedModel& model = model_of(body, models);
      return generate(
          model,
          parse_generate(body, model.model.tokenizer(), model.model.config().context_length, options.limits),
          std::move(gone), options.limits);
    });
    post("/v1/score", [this](const nlohmann::json& body, const std::function<bool()>& gone) {
      ServedModel& model = model_of(body, models);
      return score(model, parse_score(body, model.model.tokenizer(), options.limits), gone, options.limits);
    });
    get("/v1/models", [this](const httplib::Request&) { return list_models(models); });
    get("/v1/models/(.+)",
        [this](const httplib::Request& request) { return list_model(models, request.matches[1].str()); });
    get("/metrics", [this](const httplib::Request&) { return show_metrics(models, requests); });
    get(
        "/health", [this](const httplib::Request&) { return show_health(models, runs != nullptr); }, true);
    add_runs();
    http.Get("/", [this](const httplib::Request& request, httplib::Response& response) {
      guarded(response, [&] { show_start(request, response); });
    });
    get(".*", [](const httplib::Request& request) { return page(request.path); });
    refuse_others();
  }

  void add_runs() {
    if (!runs) return;
    get("/runs", [](const httplib::Request&) {
      return Reply{"text/html; charset=utf-8", live_page(), nullptr, {}};
    });
    get("/v1/runs", [this](const httplib::Request&) { return runs->list(); });
    get("/v1/runs/data", [this](const httplib::Request& request) {
      return runs->data(request.get_param_value("run"), request.get_param_value("mark"));
    });
    get("/v1/runs/sample", [this](const httplib::Request& request) {
      return runs->sample(request.get_param_value("run"), request.get_param_value("name"));
    });
  }

  /// A token in the address becomes a cookie, so that it is not left in the browser's history and links.
  void show_start(const httplib::Request& request, httplib::Response& response) {
    const Credentials credentials = credentials_of(request);
    access.check(credentials);
    if (!access.by_address(credentials)) return send(response, page("/"), {});
    response.set_header("Set-Cookie", access.cookie());
    response.set_redirect("/", 303);
  }

  static Reply page(const std::string& path) {
    const WebFile* file = find_web_file(path);
    if (file == nullptr) refuse(404, "there is no {}", quote(path));
    return {std::string(file->type), std::string(file->bytes), nullptr, {}};
  }

  void refuse_others() {
    const auto other = [this](const httplib::Request& request, httplib::Response& response,
                              const httplib::ContentReader& reader) {
      guarded(response, [&] {
        (void)read_body(request, reader, options.limits.body);
        refuse(404, "there is no {} {}", request.method, quote(request.path));
      });
    };
    http.Post(".*", other);
    http.Put(".*", other);
    http.Patch(".*", other);
    http.Delete(".*", other);
    http.Options(".*", [](const httplib::Request&, httplib::Response& response) {
      set_error(response, 405, "pages of other sites cannot use this server");
    });
  }

  const ServedModels models;
  const ServerOptions options;
  const Access access;
  std::unique_ptr<LiveRuns> runs;  ///< null: none are shown
  RequestCounts requests;
  httplib::Server http;
  int port = -1, listener = -1;
  std::atomic<bool> started = false, stopped = false, ended = false;
};

Server::Server(ServedModels models, const ServerOptions& options)
    : state_(std::make_unique<State>(std::move(models), options)) {}
Server::~Server() {
  stop();
}

int Server::port() const {
  return state_->port;
}
const ServedModels& Server::models() const {
  return state_->models;
}

void Server::run() {
  state_->started = true;
  if (!state_->stopped) state_->http.listen_after_bind();
  state_->ended = true;
}

void Server::stop() {
  state_->stopped = true;
  for (const auto& model : state_->models) model->scheduler.stop();
  while (state_->started && !state_->ended && !state_->http.is_running())
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  state_->http.stop();
  end_requests(state_->port);
}

}  // namespace perceiver::serve
