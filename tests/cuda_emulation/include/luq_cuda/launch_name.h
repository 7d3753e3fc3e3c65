// What messages call the kernel that is launched next.
#pragma once

namespace luq::device {

void name_next_launch(const char* name);

}  // namespace luq::device
