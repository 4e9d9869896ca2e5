#include "serve/connection.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <charconv>
#include <filesystem>

namespace perceiver::serve {
namespace {

struct Endpoint {
  std::string address;
  int port = -1;
};

Endpoint endpoint(const sockaddr_storage& place) {
  char text[INET6_ADDRSTRLEN] = "";
  if (place.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(place);
    inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
    return {text, ntohs(v4.sin_port)};
  }
  if (place.ss_family != AF_INET6) return {};
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(place);
  inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
  return {text, ntohs(v6.sin6_port)};
}

using NameCall = int (*)(int, sockaddr*, socklen_t*);

Endpoint endpoint_of(int socket, NameCall call) {
  sockaddr_storage place{};
  socklen_t size = sizeof place;
  if (call(socket, reinterpret_cast<sockaddr*>(&place), &size) != 0) return {};
  return endpoint(place);
}

/// Calls `visit` with the number of each open file of this process, until it returns false.
template <typename Visit>
void each_file(const Visit& visit) {
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", error)) {
    const std::string name = entry.path().filename();
    int file = -1;
    std::from_chars(name.data(), name.data() + name.size(), file);
    if (!visit(file)) return;
  }
}

/// The scope of a link-local address ("fe80::1%eth0") is not part of it.
std::string without_scope(const std::string& address) {
  return address.substr(0, address.find('%'));
}

}  // namespace

Connection Connection::find(const std::string& address, int port, int local_port) {
  Connection found;
  each_file([&](int file) {
    const Endpoint peer = endpoint_of(file, ::getpeername);
    const bool same = peer.port == port && peer.address == without_scope(address) &&
                      endpoint_of(file, ::getsockname).port == local_port;
    if (same) found = Connection(file);
    return !same;
  });
  return found;
}

bool Connection::gone() const {
  if (socket_ < 0) return false;
  pollfd state{socket_, POLLRDHUP, 0};
  return ::poll(&state, 1, 0) > 0 && (state.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

void Connection::end() const {
  if (socket_ >= 0) ::shutdown(socket_, SHUT_RDWR);
}

void end_requests(int local_port) {
  each_file([&](int file) {
    if (endpoint_of(file, ::getpeername).port >= 0 && endpoint_of(file, ::getsockname).port == local_port)
      ::shutdown(file, SHUT_RD);
    return true;
  });
}

void watch_peers(int socket) {
  const auto set = [&](int level, int option, int value) {
    (void)::setsockopt(socket, level, option, &value, sizeof value);
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 10);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 30'000);
}

}  // namespace perceiver::serve
