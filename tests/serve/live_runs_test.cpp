// GET /v1/runs: what is shown of trainings, and what is not.
#include "serve/live_runs.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>

#include <fstream>

#include "io/file_descriptor.h"
#include "tests/support/temp_folder.h"
#include "tests/support/test_server.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using namespace testing;
using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;
namespace fs = std::filesystem;

void write(const fs::path& path, const std::string& text, std::ios::openmode mode = std::ios::trunc) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary | mode) << text;
}

class LiveRunsTest : public ::testing::Test {
 protected:
  LiveRunsTest() {
    write(run_ / "config.yaml", "train:\n  steps: 20\ndata:\n  type: copy\n");
    write(run_ / "metrics.jsonl",
          "{\"step\":5,\"loss\":3.5,\"elapsed\":1}\n{\"step\":5,\"validation_loss\":3.4}\n");
    write(run_ / "samples" / "step-000000005.txt", "five & <six>");
    write(temp_.path("secret.txt"), "hidden");
  }
  static serve::ServerOptions options_for(const fs::path& folder) {
    serve::ServerOptions options;
    options.runs = folder.string();
    return options;
  }
  Json get(const std::string& path, int status = 200) {
    const auto result = server().client().Get(path.c_str());
    if (!result) throw std::runtime_error("no answer");
    EXPECT_EQ(result->status, status) << path << ": " << result->body;
    return Json::parse(result->body);
  }
  TestServer& server() {
    if (!server_) server_ = std::make_unique<TestServer>(serve::SchedulerOptions{}, options_for(root_));
    return *server_;
  }

  const TempFolder temp_;
  const fs::path root_ = fs::path(temp_.path()) / "runs", run_ = root_ / "books" / "small";
  std::unique_ptr<TestServer> server_;
};

TEST_F(LiveRunsTest, ListsRunsWithStateAndBest) {
  write(root_ / "other" / "metrics.jsonl", "");
  const FileDescriptor lock(::open(run_.c_str(), O_RDONLY | O_DIRECTORY));
  ASSERT_EQ(::flock(lock.get(), LOCK_EX | LOCK_NB), 0);
  const Json list = get("/v1/runs");
  ASSERT_EQ(list["data"].size(), 2u);
  const Json& run = list["data"][0];
  EXPECT_EQ(run["id"], "books/small");
  EXPECT_EQ(run["state"], "running");
  EXPECT_EQ(run["step"], 5);
  EXPECT_EQ(run["steps"], 20);
  EXPECT_EQ(run["best"]["validation_loss"], 3.4);
  EXPECT_EQ(list["data"][1]["state"], "stopped");
  EXPECT_TRUE(list["data"][1]["best"].is_null());
}

TEST_F(LiveRunsTest, ShowsWhatIsNewSinceTheMark) {
  const std::string path = "/v1/runs/data?run=books%2Fsmall&mark=";
  const Json first = get(path);
  EXPECT_EQ(first["entries"].size(), 1u);
  EXPECT_EQ(first["config"]["train.steps"], "20");
  EXPECT_FALSE(first["continues"]);
  EXPECT_EQ(first["state"], "stopped");
  write(run_ / "metrics.jsonl", "{\"step\":20,\"loss\":2}\n{\"step\":20,\"validation_loss\":3}\n",
        std::ios::app);
  const Json second = get(path + first["mark"].get<std::string>());
  EXPECT_TRUE(second["continues"]);
  ASSERT_EQ(second["entries"].size(), 1u);
  EXPECT_EQ(second["entries"][0]["loss"], 2);
  EXPECT_EQ(second["state"], "finished");
  const Json third = get(path + second["mark"].get<std::string>());
  EXPECT_EQ(third["entries"].size(), 0u);
  EXPECT_EQ(third["step"], 20) << "though the part has no entry";
  EXPECT_TRUE(TestServer::within(std::chrono::milliseconds(3000),
                                 [&] { return get("/v1/runs")["data"][0]["best"]["validation_loss"] == 3; }));
}

TEST_F(LiveRunsTest, SendsSamples) {
  const Json sample = get("/v1/runs/data?run=books%2Fsmall")["samples"][0];
  EXPECT_EQ(sample["kind"], "text");
  EXPECT_FALSE(sample.contains("text"));
  const auto file = server().client().Get(sample["url"].get<std::string>().c_str());
  ASSERT_TRUE(file);
  EXPECT_EQ(file->body, "five & <six>");
  EXPECT_THAT(file->get_header_value("Content-Type"), HasSubstr("text/plain"));
}

TEST_F(LiveRunsTest, ShowsNothingOutsideTheFolder) {
  fs::create_symlink(temp_.path("secret.txt"), run_ / "samples" / "step-000000006.txt");
  write(fs::path(temp_.path()) / "elsewhere" / "metrics.jsonl", "");
  fs::create_directory_symlink(fs::path(temp_.path()) / "elsewhere", root_ / "linked");
  write(root_ / "sly" / "metrics.jsonl", "");
  fs::create_symlink(temp_.path("secret.txt"), root_ / "sly" / "config.yaml");
  EXPECT_EQ(get("/v1/runs")["data"].size(), 1u);
  EXPECT_EQ(get("/v1/runs/data?run=books%2Fsmall")["samples"].size(), 1u);
  for (const char* run : {"..", "../elsewhere", "linked", "sly", "books%2F..%2F..%2Felsewhere", "%2Fetc",
                          "books", "", "books%2Fsmall%2F", "books%2Fsmall%00", "."})
    EXPECT_THAT(get("/v1/runs/data?run=" + std::string(run), 404).dump(), HasSubstr("there is no run"))
        << run;
  for (const char* name : {"..%2Fconfig.yaml", "config.yaml", "step-000000006.txt",
                           "..%2F..%2F..%2F..%2Fsecret.txt", "", "step-000000005.txt%00", "%2Fetc%2Fpasswd"})
    EXPECT_THAT(get("/v1/runs/sample?run=books%2Fsmall&name=" + std::string(name), 404).dump(),
                HasSubstr("has no sample"))
        << name;
}

TEST_F(LiveRunsTest, NeedsTheToken) {
  serve::ServerOptions options = options_for(root_);
  options.token = "secret";
  TestServer closed({}, options);
  for (const char* path :
       {"/runs", "/v1/runs", "/v1/runs/data?run=books%2Fsmall", "/v1/runs/sample?run=books%2Fsmall&name=x"})
    EXPECT_EQ(closed.client().Get(path)->status, 401) << path;
  EXPECT_EQ(closed.client().Get("/v1/runs", {{"Authorization", "Bearer secret"}})->status, 200);
}

TEST_F(LiveRunsTest, AreServedWithoutModels) {
  serve::ServerOptions options = options_for(root_);
  options.port = 0;
  serve::Server only({}, options);
  std::thread thread([&] { only.run(); });
  httplib::Client client("127.0.0.1", only.port());
  EXPECT_EQ(client.Get("/v1/runs")->status, 200);
  EXPECT_THAT(client.Get("/health")->body, HasSubstr("\"runs\":true"));
  const auto refused = client.Post("/v1/completions", R"({"prompt": "x"})", "application/json");
  EXPECT_EQ(refused->status, 404);
  EXPECT_THAT(refused->body, HasSubstr("this server has no models"));
  only.stop();
  thread.join();
}

TEST_F(LiveRunsTest, ThePageIsTheReports) {
  const auto page = server().client().Get("/runs");
  ASSERT_TRUE(page);
  EXPECT_EQ(page->status, 200);
  EXPECT_THAT(page->body, HasSubstr("live.js"));
  EXPECT_THAT(page->body, Not(HasSubstr("<!--")));
  for (const char* part : {"/live.js", "/report.js", "/report.css", "/midi.js", "/roll.js", "/synth.js"})
    EXPECT_EQ(server().client().Get(part)->status, 200) << part;
  EXPECT_EQ(server().client().Get("/report.html")->status, 404);
  EXPECT_EQ(TestServer().client().Get("/runs")->status, 404) << "without runs";
}

TEST_F(LiveRunsTest, ManyRequestsLeaveNothingOpen) {
  const auto open_files = [] {
    return std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator());
  };
  httplib::Client client = server().client();
  client.set_keep_alive(true);
  ASSERT_EQ(client.Get("/v1/runs")->status, 200);
  const auto before = open_files();
  for (int i = 0; i < 2'000; ++i) {
    const char* path = i % 4 == 0   ? "/v1/runs"
                       : i % 4 == 1 ? "/v1/runs/data?run=books%2Fsmall"
                       : i % 4 == 2 ? "/v1/runs/sample?run=books%2Fsmall&name=step-000000005.txt"
                                    : "/v1/runs/data?run=gone";
    ASSERT_EQ(client.Get(path)->status, i % 4 == 3 ? 404 : 200);
  }
  EXPECT_LE(open_files(), before + 1);
}

TEST_F(LiveRunsTest, RefusesAFolderThatIsNotThere) {
  EXPECT_THAT(message_of([&] { serve::LiveRuns runs(root_ / "missing"); }), HasSubstr("no such folder"));
}

TEST_F(LiveRunsTest, LookingStopsNoTraining) {
  const FileDescriptor looking(::open(run_.c_str(), O_RDONLY | O_DIRECTORY));
  ASSERT_EQ(::flock(looking.get(), LOCK_SH | LOCK_NB), 0);
  EXPECT_EQ(get("/v1/runs")["data"][0]["state"], "stopped") << "two who look";
}

}  // namespace
}  // namespace perceiver
