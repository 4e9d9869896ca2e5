#include "distributed/sockets.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>

#include "base/check.h"

namespace perceiver {
namespace {

constexpr int kBacklog = 4096;  // all ranks may come at once; the system lowers it to its own limit

void set_option(int socket, int level, int option, int value) {
  (void)setsockopt(socket, level, option, &value, sizeof value);
}

void prepare(int socket) {
  fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) | O_NONBLOCK);
  set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
}

FileDescriptor new_socket(int family) {
  return FileDescriptor(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
}

/// Zero if it listens now, else an errno.
int try_listen(const FileDescriptor& socket, const sockaddr* address, socklen_t bytes) {
  if (!socket.valid()) return errno;
  set_option(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);  // a port of a run that has just ended
  if (bind(socket.get(), address, bytes) != 0) return errno;
  return listen(socket.get(), kBacklog) == 0 ? 0 : errno;
}

int listen_v6(FileDescriptor& socket, int port, bool loopback) {
  socket = new_socket(AF_INET6);
  if (socket.valid()) set_option(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, 0);
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons(static_cast<uint16_t>(port));
  address.sin6_addr = loopback ? in6addr_loopback : in6addr_any;
  return try_listen(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

int listen_v4(FileDescriptor& socket, int port, bool loopback) {
  socket = new_socket(AF_INET);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(loopback ? INADDR_LOOPBACK : INADDR_ANY);
  return try_listen(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address);
}

int port_of(const FileDescriptor& socket) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof address;
  if (getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &bytes) != 0) return 0;
  return address.ss_family == AF_INET6 ? ntohs(reinterpret_cast<sockaddr_in6*>(&address)->sin6_port)
                                       : ntohs(reinterpret_cast<sockaddr_in*>(&address)->sin_port);
}

std::string numeric(const sockaddr* address, socklen_t bytes) {
  std::array<char, NI_MAXHOST> text{};
  if (getnameinfo(address, bytes, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST) != 0) return "?";
  return text.data();
}

/// Zero if it is connected now, else an errno.
int finish_connect(const FileDescriptor& socket, Milliseconds limit) {
  pollfd wait{.fd = socket.get(), .events = POLLOUT, .revents = 0};
  if (poll(&wait, 1, static_cast<int>(limit.count())) <= 0) return ETIMEDOUT;
  int error = 0;
  socklen_t bytes = sizeof error;
  getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &bytes);
  return error;
}

Attempt connect_once(const addrinfo& to, Milliseconds limit) {
  Attempt attempt{new_socket(to.ai_family), {}};
  int error = attempt.socket.valid() ? 0 : errno;
  if (error == 0) {
    prepare(attempt.socket.get());
    if (connect(attempt.socket.get(), to.ai_addr, to.ai_addrlen) != 0) error = errno;
    if (error == EINPROGRESS) error = finish_connect(attempt.socket, limit);
  }
  if (error == 0) return attempt;
  return {FileDescriptor(), numeric(to.ai_addr, to.ai_addrlen) + ": " + std::strerror(error)};
}

bool reachable(const ifaddrs& each) {
  if (each.ifa_addr == nullptr || (each.ifa_flags & IFF_UP) == 0 || (each.ifa_flags & IFF_LOOPBACK) != 0)
    return false;
  if (each.ifa_addr->sa_family == AF_INET) return true;
  if (each.ifa_addr->sa_family != AF_INET6) return false;
  return !IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6*>(each.ifa_addr)->sin6_addr);
}

}  // namespace

Listener listen_at(int port, bool loopback) {
  Listener listener;
  // A loopback listener is IPv4 alone: that is what its peers are told to connect to.
  int error = loopback ? EAFNOSUPPORT : listen_v6(listener.socket, port, loopback);
  if (error != 0 && error != EADDRINUSE) error = listen_v4(listener.socket, port, loopback);
  if (error == EADDRINUSE)
    throw_failure("port {} of {} is in use by another program or an earlier run: choose another one", port,
                  host_name());
  if (error != 0)
    throw_failure("cannot listen for the other ranks at port {}: {}", port, std::strerror(error));
  fcntl(listener.socket.get(), F_SETFL, fcntl(listener.socket.get(), F_GETFL) | O_NONBLOCK);
  listener.port = port_of(listener.socket);
  return listener;
}

FileDescriptor accept_from(const Listener& listener) {
  FileDescriptor socket(accept4(listener.socket.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (socket.valid()) prepare(socket.get());
  return socket;
}

Attempt connect_to(const std::string& host, int port, Milliseconds limit) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (error != 0) return {FileDescriptor(), host + ": " + gai_strerror(error)};
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owner(found, freeaddrinfo);
  std::string problems;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    Attempt attempt = connect_once(*each, limit);
    if (attempt.socket.valid()) return attempt;
    problems += (problems.empty() ? "" : ", ") + attempt.problem;
  }
  return {FileDescriptor(), problems};
}

std::vector<std::string> own_addresses() {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&freeifaddrs)> owner(first, freeifaddrs);
  std::vector<std::string> addresses;
  for (const ifaddrs* each = first; each != nullptr; each = each->ifa_next) {
    if (!reachable(*each)) continue;
    const bool v6 = each->ifa_addr->sa_family == AF_INET6;
    addresses.push_back(numeric(each->ifa_addr, v6 ? sizeof(sockaddr_in6) : sizeof(sockaddr_in)));
  }
  std::stable_partition(addresses.begin(), addresses.end(),
                        [](const std::string& text) { return text.find(':') == std::string::npos; });
  return addresses;
}

std::string boot_id() {
  std::string text;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), text);
  return text;
}

std::string host_name() {
  std::array<char, 256> text{};
  return gethostname(text.data(), text.size() - 1) == 0 ? text.data() : "?";
}

bool wait_readable(int socket, Milliseconds limit) {
  pollfd wait{.fd = socket, .events = POLLIN, .revents = 0};
  return poll(&wait, 1, static_cast<int>(std::max<int64_t>(0, limit.count()))) > 0;
}

}  // namespace perceiver
