#include "port/dialect.h"

#include <array>

#include "base/check.h"
#include "base/text.h"

namespace perceiver {

std::span<const Dialect* const> dialects() {
  static constexpr std::array<const Dialect*, 4> all{&krasserm_dialect, &lucidrains_dialect,
                                                     &official_dialect, &transfo_xl_dialect};
  return all;
}

const Dialect& find_dialect(std::string_view name) {
  for (const Dialect* dialect : dialects())
    if (dialect->name == name) return *dialect;
  throw_user("unknown source {}; the choices: krasserm, lucidrains, official, transfo-xl", quote(name));
}

}  // namespace perceiver
