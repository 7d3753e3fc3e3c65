// What messages call the kernel that is launched next.
#pragma once

namespace luq::cuda {

void name_next_launch(const char* name);

}  // namespace luq::cuda
