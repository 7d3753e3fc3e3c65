// Marks functions that the host and the device compiler both build from the same source.
#pragma once

#ifdef __CUDACC__
#define LUQ_HOST_DEVICE __host__ __device__
#else
#define LUQ_HOST_DEVICE
#endif
