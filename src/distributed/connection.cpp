#include "distributed/connection.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace perceiver {
namespace {

// A message: "PAR1", type, three zeros, length of the content (little-endian, as every host that CUDA runs
// on).
constexpr std::array<char, 4> kMagic{'P', 'A', 'R', '1'};
constexpr size_t kHeader = 16;
constexpr size_t kPiece = 256 << 10;      // bytes that are read at a time
constexpr size_t kPerCall = 64 * kPiece;  // then others have their turn

std::string header_of(MessageType type, uint64_t bytes) {
  std::string header(kHeader, '\0');
  std::memcpy(header.data(), kMagic.data(), kMagic.size());
  header[4] = static_cast<char>(type);
  std::memcpy(header.data() + 8, &bytes, sizeof bytes);
  return header;
}

bool tries_again(int error) {
  return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

}  // namespace

void Connection::send(MessageType type, std::shared_ptr<const std::string> content) {
  if (closed_) return;
  const uint64_t bytes = content->size();
  queue_.push_back({header_of(type, bytes), std::move(content), 0});
  flush();
}

void Connection::flush() {
  while (!queue_.empty() && send_some(queue_.front())) queue_.pop_front();
}

/// True once all of the message is sent.
bool Connection::send_some(Outgoing& message) {
  const size_t total = kHeader + message.content->size();
  while (message.sent < total) {
    const bool in_header = message.sent < kHeader;
    const std::string& part = in_header ? message.header : *message.content;
    const size_t begin = in_header ? message.sent : message.sent - kHeader;
    const ssize_t sent = ::send(socket_.get(), part.data() + begin, part.size() - begin,
                                MSG_NOSIGNAL | MSG_DONTWAIT | (in_header && total > kHeader ? MSG_MORE : 0));
    if (sent < 0 && tries_again(errno)) return false;
    if (sent < 0) {
      stop_sending(errno);
      return false;
    }
    message.sent += static_cast<size_t>(sent);
  }
  return true;
}

/// What the other side sent before it went is still there to read.
void Connection::stop_sending(int error) {
  closed_ = true;
  note(error);
  queue_.clear();
}

void Connection::end(int error) {
  stop_sending(error);
  ended_ = true;
}

/// A connection that was reset is like one that was closed: the process has gone, the host is there.
void Connection::note(int error) {
  if (error != 0 && error != ECONNRESET && error != EPIPE) lost_ = true;
}

void Connection::read() {
  std::array<char, kPiece> piece;
  for (size_t read = 0; !ended_ && read < kPerCall;) {
    const ssize_t got = recv(socket_.get(), piece.data(), piece.size(), MSG_DONTWAIT);
    if (got < 0 && tries_again(errno)) break;
    if (got <= 0) {
      end(got < 0 ? errno : 0);
      break;
    }
    read += static_cast<size_t>(got);
    input_.append(piece.data(), static_cast<size_t>(got));
  }
}

std::vector<Message> Connection::receive() {
  read();
  std::vector<Message> messages;
  while (std::optional<Message> message = next()) messages.push_back(std::move(*message));
  return messages;
}

std::optional<Message> Connection::next() {
  if (input_.size() - used_ < kHeader) return std::nullopt;
  const char* header = input_.data() + used_;
  uint64_t bytes = 0;
  std::memcpy(&bytes, header + 8, sizeof bytes);
  const auto type = static_cast<uint8_t>(header[4]);
  if (std::memcmp(header, kMagic.data(), kMagic.size()) != 0 || bytes > limit_ ||
      type > static_cast<uint8_t>(MessageType::goodbye)) {
    end(0);
    input_.clear();
    used_ = 0;
    return std::nullopt;
  }
  if (input_.size() - used_ < kHeader + bytes) return std::nullopt;
  Message message{static_cast<MessageType>(type), input_.substr(used_ + kHeader, bytes)};
  used_ += kHeader + bytes;
  if (used_ == input_.size() || used_ > kPiece) {
    input_.erase(0, used_);
    used_ = 0;
  }
  return message;
}

}  // namespace perceiver
