// The socket of a request. The HTTP library does not show it in every version, but whether the client is
// still there can be told from nothing else while there is nothing to write.
#pragma once

#include <string>

namespace perceiver::serve {

class Connection {
 public:
  Connection() = default;
  /// Of the peer at that address and port, on the server's port `local_port`. The connection must stay open
  /// while this is used, as it does within a request.
  static Connection find(const std::string& address, int port, int local_port);

  /// Whether the client has closed the connection, or its half of it. False if the socket was not found.
  bool gone() const;
  /// Ends it: what is left of a body would be taken for the next request.
  void end() const;

 private:
  explicit Connection(int socket) : socket_(socket) {}
  int socket_ = -1;
};

/// Lets this process read nothing more from its connections on that port: threads that wait for a request
/// end.
void end_requests(int local_port);

/// Lets the kernel find out within half a minute that a peer has vanished without a word. For a listening
/// socket, whose connections inherit it.
void watch_peers(int socket);

}  // namespace perceiver::serve
