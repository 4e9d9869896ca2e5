#include "serve/access.h"

#include <algorithm>
#include <string_view>

#include "base/check.h"
#include "serve/http_error.h"

namespace perceiver::serve {
namespace {

constexpr std::string_view kCookie = "perceiver_token=", kBearer = "Bearer ";

/// In a time that does not tell how much of it is right.
bool equal(std::string_view a, std::string_view b) {
  unsigned difference = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < a.size() && !b.empty(); ++i)
    difference |= static_cast<unsigned>(a[i] ^ b[i % b.size()]);
  return difference == 0;
}

/// Letters and digits, and what a header, a cookie and an address hold as it is.
bool is_plain(const std::string& token) {
  return std::all_of(token.begin(), token.end(), [](unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' ||
           c == '_' || c == '.' || c == '~';
  });
}

std::string cookie_token(const std::string& header) {
  const size_t begin = header.find(kCookie);
  if (begin == std::string::npos) return "";
  const size_t from = begin + kCookie.size();
  return header.substr(from, header.find(';', from) - from);
}

/// Without the port.
std::string name_of(const std::string& host) {
  if (host.starts_with("[")) return host.substr(1, host.find(']') - 1);
  return host.substr(0, host.find(':'));
}

}  // namespace

bool is_loopback(const std::string& host) {
  return host == "localhost" || host.starts_with("127.") || host == "::1";
}

Access::Access(const std::string& host, std::string token)
    : local_(is_loopback(host)), token_(std::move(token)) {
  if (!local_ && token_.empty())
    throw_user("--host {}: others can reach that address; give them a --token to know", host);
  if (!is_plain(token_)) throw_user("--token: only letters, digits and - _ . ~ are possible");
}

bool Access::knows_token(const Credentials& credentials) const {
  const std::string& header = credentials.authorization;
  if (header.starts_with(kBearer) && equal(header.substr(kBearer.size()), token_)) return true;
  return equal(cookie_token(credentials.cookie), token_);
}

bool Access::by_address(const Credentials& credentials) const {
  return !token_.empty() && equal(credentials.query_token, token_);
}

void Access::check(const Credentials& credentials) const {
  if (token_.empty()) {
    if (!credentials.host.empty() && !is_loopback(name_of(credentials.host)))
      refuse(403, "this server answers only to localhost and 127.0.0.1");
    return;
  }
  if (!knows_token(credentials) && !by_address(credentials))
    refuse(401, "a token is needed: send Authorization: Bearer TOKEN, or open the page as /?token=TOKEN");
}

std::string Access::cookie() const {
  return std::string(kCookie) + token_ + "; Path=/; HttpOnly; SameSite=Strict";
}

}  // namespace perceiver::serve
