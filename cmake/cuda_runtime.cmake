# The static runtime of CUDA, to which a program with CUDA kernels is linked. LUQ_CUDA_LIBRARIES_MISSING says what is not there.
set(LUQ_CUDA_LIBRARIES_MISSING "")
find_package(CUDAToolkit QUIET)
if(NOT TARGET CUDA::cudart_static)
  set(LUQ_CUDA_LIBRARIES_MISSING "no static CUDA runtime (libcudart_static.a)")
endif()
