// Messages over a socket that never blocks: they wait in a queue until the other side takes them.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "io/file_descriptor.h"

namespace perceiver {

enum class MessageType : uint8_t {
  hello,         ///< to rank 0: who I am
  welcome,       ///< from rank 0: everybody is here
  gather,        ///< to rank 0
  result,        ///< of a gather
  status,        ///< what a rank does; heartbeat
  stop,          ///< stop in good order
  failed,        ///< to rank 0: this rank cannot go on
  failed_alike,  ///< the same, and no rank can, for the same reason
  end,           ///< end at once; the sender has reported why, or knows that another rank has
  gave_up,       ///< to rank 0: this rank ends; it leaves the report to another one
  goodbye,       ///< the next thing is the end of this connection
};

struct Message {
  MessageType type = MessageType::status;
  std::string content;
};

/// One side of a connection. One thread at a time.
class Connection {
 public:
  static constexpr uint64_t kLargest = uint64_t{1} << 31;  ///< bytes of a message
  static constexpr uint64_t kLargestHello = 64 << 10;      ///< from a process that is not known yet

  explicit Connection(FileDescriptor socket) : socket_(std::move(socket)) {}

  int socket() const { return socket_.get(); }
  /// The other side has closed it, or what came is no message of ours; what was received before is still
  /// returned.
  bool ended() const { return ended_; }
  /// Whether it ended because of the network or the host, not of the process.
  bool lost() const { return lost_; }
  bool sending() const { return !queue_.empty(); }
  /// Messages longer than `bytes` end the connection; kLargestHello at first.
  void set_limit(uint64_t bytes) { limit_ = bytes; }

  /// Puts a message in the queue. The content may be shared by many connections.
  void send(MessageType type, std::shared_ptr<const std::string> content);
  void send(MessageType type, std::string content = "") {
    send(type, std::make_shared<const std::string>(std::move(content)));
  }
  /// Sends what the other side takes now.
  void flush();
  /// Reads what has arrived.
  void read();
  /// The next message that is complete.
  std::optional<Message> next();
  /// read(), and all messages that are complete.
  std::vector<Message> receive();

 private:
  struct Outgoing {
    std::string header;
    std::shared_ptr<const std::string> content;
    size_t sent = 0;
  };
  bool send_some(Outgoing& message);
  void stop_sending(int error);
  void end(int error);
  void note(int error);

  FileDescriptor socket_;
  std::deque<Outgoing> queue_;
  std::string input_;
  size_t used_ = 0;  ///< bytes at the start of input_ that were returned already
  uint64_t limit_ = kLargestHello;
  bool closed_ = false;  ///< for what is sent
  bool ended_ = false, lost_ = false;
};

}  // namespace perceiver
