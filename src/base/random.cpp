#include "perceiver/experimental/random.h"

#include "base/check.h"

namespace perceiver {

void RandomStream::refuse(const char* why) {
  throw_failure("internal error: random numbers: {}", why);
}

}  // namespace perceiver
