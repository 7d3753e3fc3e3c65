// A build without cuBLASLt.
#include "tools/luqbench/peers.h"

namespace luq::bench {

Peer cublaslt_int8_matmul(int64_t, int64_t, int64_t) { return nullptr; }
Peer cublaslt_bfloat16_matmul(int64_t, int64_t, int64_t) { return nullptr; }

}  // namespace luq::bench
