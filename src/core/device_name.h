// The names of devices, as options give them.
#pragma once

#include <string>

namespace perceiver {

/// Throws `user` unless it is one that DeviceContext::open takes.
void check_device_name(const std::string& device);

}  // namespace perceiver
