// What messages call the kernel that is launched next: of use under emulation alone.
#pragma once

namespace luq::device {

inline void name_next_launch(const char*) {}

}  // namespace luq::device
