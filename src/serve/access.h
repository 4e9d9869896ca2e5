// Who may use a server: whoever knows its token, or, without one, programs and pages of this machine.
#pragma once

#include <string>

namespace perceiver::serve {

/// Whether only this machine can reach it: localhost, 127.*, ::1.
bool is_loopback(const std::string& host);

/// What of a request tells who sent it; each may be empty.
struct Credentials {
  std::string host;           ///< the header
  std::string authorization;  ///< the header
  std::string cookie;         ///< the header
  std::string query_token;    ///< ?token=
};

class Access {
 public:
  /// An empty token: none is asked for. Throws perceiver::Error (`user`) for a host that others can reach
  /// without a token, and for a token that no header can hold.
  Access(const std::string& host, std::string token);

  /// Throws HttpError 401 without the token, and 403 for a page of another site that had its name point to
  /// this machine (DNS rebinding).
  void check(const Credentials& credentials) const;
  /// Whether the token came in the address, and is right: the page then gets it as a cookie.
  bool by_address(const Credentials& credentials) const;
  /// The value of Set-Cookie.
  std::string cookie() const;

 private:
  bool knows_token(const Credentials& credentials) const;

  const bool local_;
  const std::string token_;
};

}  // namespace perceiver::serve
