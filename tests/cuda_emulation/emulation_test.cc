// The emulation itself: right kernels give right results for every seed, and for each class of mistake a faulty kernel
// is caught.
#include "tests/cuda_emulation/emulation.h"

#include <cuda_runtime.h>
#include <luq_cuda/launch_name.h>
#include <luq_cuda/ptx.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/catch.h"

namespace {

using namespace luq;

constexpr int kSeeds = 40;

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    void* pointer = nullptr;
    REQUIRE(cudaMalloc(&pointer, count * sizeof(T)) == cudaSuccess);
    data_ = static_cast<T*>(pointer);
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    REQUIRE(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice) == cudaSuccess);
  }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  T* data() const { return data_; }
  std::vector<T> host() const {
    std::vector<T> values(count_);
    cudaMemcpy(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost);
    return values;
  }

 private:
  size_t count_;
  T* data_ = nullptr;
};

template <typename... Parameters, typename... Arguments>
cudaError_t launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
                   cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchConfig_t config;
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  device::name_next_launch(name);
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

// The message of the sticky error that `action` leads to, "" when there is none; the error is forgotten.
std::string message_of(const std::function<void()>& action) {
  action();
  const cudaError_t error = cudaDeviceSynchronize();
  const std::string message = error == cudaSuccess ? "" : cudaGetErrorString(error);
  emulation::reset();
  return message;
}

// What a process that runs `action` says on standard error as it dies; "" when it does not die.
std::string last_words(const std::function<void()>& action) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::dup2(ends[1], STDERR_FILENO);
    ::close(STDOUT_FILENO);
    ::close(ends[0]);
    action();
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string words;
  char buffer[4096];
  for (ssize_t got = 0; (got = ::read(ends[0], buffer, sizeof buffer)) > 0;)
    words.append(buffer, static_cast<size_t>(got));
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "" : words.empty() ? "died" : words;
}

// ---- A sum over a block, in shared memory and by shuffles -----------------------------------------------------------

struct SumShared {
  unsigned values[256];
};

template <bool WithBarriers>
__global__ void sum_block(const unsigned* x, unsigned* y) {
  auto& shared = device::shared_memory<SumShared>();
  const unsigned thread = threadIdx.x;
  shared.values[thread] = x[blockIdx.x * blockDim.x + thread];
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (WithBarriers) __syncthreads();
    if (thread < half) shared.values[thread] += shared.values[thread + half];
  }
  if (thread == 0) y[blockIdx.x] = shared.values[0];
}

__global__ void sum_warps(const unsigned* x, unsigned* y) {
  unsigned value = x[blockIdx.x * blockDim.x + threadIdx.x];
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffffu, value, lanes);
  const unsigned odd = __ballot_sync(0xffffffffu, threadIdx.x % 2 == 1);
  if (odd != 0xaaaaaaaau) value = 0;
  if (threadIdx.x % 32 == 0) y[(blockIdx.x * blockDim.x + threadIdx.x) / 32] = value;
}

// Seeds for which the kernel gives other sums than expected.
int wrong_sums(void (*kernel)(const unsigned*, unsigned*), unsigned threads, unsigned per_sum, size_t shared) {
  constexpr unsigned blocks = 3;
  std::vector<unsigned> values(blocks * threads);
  std::iota(values.begin(), values.end(), 5u);
  std::vector<unsigned> expected;
  for (auto at = values.begin(); at != values.end(); at += per_sum)
    expected.push_back(std::accumulate(at, at + per_sum, 0u));
  const DeviceArray<unsigned> x(values);
  int wrong = 0;
  for (int seed = 0; seed < kSeeds; ++seed) {
    emulation::set_seed(static_cast<uint64_t>(seed));
    const DeviceArray<unsigned> y(expected.size());
    REQUIRE(launch("sum", kernel, blocks, threads, shared, nullptr, x.data(), y.data()) == cudaSuccess);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    wrong += y.host() != expected;
  }
  return wrong;
}

// ---- Asynchronous copies --------------------------------------------------------------------------------------------

struct CopyShared {
  alignas(16) int values[2][128];
};

template <bool WithWait>
__global__ void copy_through_shared(const int* x, int* y) {
  auto& shared = device::shared_memory<CopyShared>();
  const unsigned thread = threadIdx.x;  // 32, four numbers each
  for (int part = 0; part < 2; ++part) {
    device::copy_async16(&shared.values[part][4 * thread], x + 128 * part + 4 * thread, part == 0 ? 16 : 8);
    device::commit_copies();
  }
  for (int part = 0; part < 2; ++part) {
    if (WithWait && part == 0) device::wait_for_copies<1>();
    if (WithWait && part == 1) device::wait_for_copies<0>();
    __syncthreads();
    for (int i = 0; i < 4; ++i)
      y[128 * part + 32 * i + static_cast<int>(thread)] = shared.values[part][32 * i + thread];
  }
}

// ---- Tensor cores ---------------------------------------------------------------------------------------------------

struct TileShared {
  alignas(16) int8_t a[16][32];
  alignas(16) int8_t b[8][32];  // columns
};

// c (16, 8) = a (16, 32) b (8, 32)^T; Swap: the registers of a's lower and right quarters are exchanged. Unsigned: b
// is.
template <bool Swap, bool Ldmatrix, bool Unsigned = false>
__global__ void multiply_tile(const int8_t* a, const int8_t* b, int* c) {
  auto& shared = device::shared_memory<TileShared>();
  const int lane = static_cast<int>(threadIdx.x), group = lane / 4, quarter = lane % 4;
  for (int i = lane; i < 16 * 32; i += 32) shared.a[i / 32][i % 32] = a[i];
  for (int i = lane; i < 8 * 32; i += 32) shared.b[i / 32][i % 32] = b[i];
  __syncwarp();
  unsigned ra[4], rb[2];
  if (Ldmatrix) {
    device::load_matrix_x4(ra, &shared.a[lane % 16][lane / 16 * 16]);
    unsigned both[4];
    device::load_matrix_x4(both, &shared.b[lane % 8][lane / 8 % 2 * 16]);
    rb[0] = both[0];
    rb[1] = both[1];
  } else {
    for (int i = 0; i < 4; ++i) memcpy(&ra[i], &shared.a[group + i % 2 * 8][quarter * 4 + i / 2 * 16], 4);
    for (int i = 0; i < 2; ++i) memcpy(&rb[i], &shared.b[group][quarter * 4 + i * 16], 4);
  }
  if (Swap) {
    const unsigned kept = ra[1];
    ra[1] = ra[2];
    ra[2] = kept;
  }
  int rc[4] = {};
  if (Unsigned) {
    device::mma_s8_u8(rc, ra, rb, rc);
  } else {
    device::mma_s8(rc, ra, rb, rc);
  }
  for (int i = 0; i < 4; ++i) c[(group + i / 2 * 8) * 8 + quarter * 2 + i % 2] = rc[i];
}

struct MatricesShared {
  alignas(16) uint16_t rows[4][8][8];
};

// y (4 matrices, 8 columns, 8 rows) = x (4 matrices, 8 rows, 8 columns), transposed.
__global__ void transpose_matrices(const uint16_t* x, uint16_t* y) {
  auto& shared = device::shared_memory<MatricesShared>();
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) shared.rows[i / 64][i / 8 % 8][i % 8] = x[i];
  __syncwarp();
  unsigned words[4];
  device::load_matrix_x4_transposed(words, shared.rows[lane / 8][lane % 8]);
  for (int m = 0; m < 4; ++m) {
    uint16_t* column = y + m * 64 + lane / 4 * 8 + lane % 4 * 2;
    column[0] = static_cast<uint16_t>(words[m]);
    column[1] = static_cast<uint16_t>(words[m] >> 16);
  }
}

// ---- Mistakes -------------------------------------------------------------------------------------------------------

__global__ void diverge(int* x) {
  if (threadIdx.x < 40) __syncthreads();
  x[threadIdx.x] = 1;
}
__global__ void shuffle_among_some(int* x) {
  if (threadIdx.x < 16) x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
}
__global__ void shuffle_with_wrong_mask(int* x) { x[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, 1, 1); }
__global__ void write_at(int* x, int64_t index) { x[index] = 1; }
__global__ void write_shared_at(int index) { device::shared_memory<SumShared>().values[index] = 1; }
__global__ void read_uninitialised(unsigned* y) {
  y[threadIdx.x] = device::shared_memory<SumShared>().values[threadIdx.x];
}
__global__ void add_one(int* x) { x[threadIdx.x] += 1; }
__global__ void copy_to(const int* x, int* y) { y[threadIdx.x] = x[threadIdx.x]; }

}  // namespace

TEST_CASE("Barriers, shuffles and votes work for every seed", "[emulation]") {
  for (const unsigned threads : {32u, 64u, 256u}) {
    CHECK(wrong_sums(sum_block<true>, threads, threads, sizeof(SumShared)) == 0);
    CHECK(wrong_sums(sum_warps, threads, 32, 0) == 0);
  }
}

TEST_CASE("A missing barrier is found", "[emulation]") {
  CHECK(wrong_sums(sum_block<false>, 256, 256, sizeof(SumShared)) > kSeeds / 2);
}

TEST_CASE("Asynchronous copies arrive at the wait", "[emulation]") {
  std::vector<int> values(256);
  std::iota(values.begin(), values.end(), 1);
  std::vector<int> expected = values;
  for (size_t i = 128; i < 256; ++i) {
    if (i % 4 >= 2) expected[i] = 0;  // not filled
  }
  const DeviceArray<int> x(values);
  for (const bool with_wait : {true, false}) {
    const DeviceArray<int> y(256);
    launch("copy", with_wait ? copy_through_shared<true> : copy_through_shared<false>, 1, 32, sizeof(CopyShared),
           nullptr, x.data(), y.data());
    CHECK((y.host() == expected) == with_wait);
  }
}

TEST_CASE("mma and ldmatrix have the fragments of the PTX manual", "[emulation]") {
  std::mt19937 random(1);
  std::vector<int8_t> a(16 * 32), b(8 * 32);
  for (int8_t& value : a) value = static_cast<int8_t>(random());
  for (int8_t& value : b) value = static_cast<int8_t>(random());
  std::vector<int> expected(16 * 8), of_unsigned(16 * 8);
  for (size_t i = 0; i < 16; ++i) {
    for (size_t j = 0; j < 8; ++j) {
      for (size_t k = 0; k < 32; ++k) {
        expected[i * 8 + j] += a[i * 32 + k] * b[j * 32 + k];
        of_unsigned[i * 8 + j] += a[i * 32 + k] * static_cast<uint8_t>(b[j * 32 + k]);
      }
    }
  }
  const DeviceArray<int8_t> da(a), db(b);
  const auto product = [&](void (*kernel)(const int8_t*, const int8_t*, int*)) {
    const DeviceArray<int> c(16 * 8);
    launch("multiply", kernel, 1, 32, sizeof(TileShared), nullptr, da.data(), db.data(), c.data());
    return c.host();
  };
  CHECK(product(multiply_tile<false, false>) == expected);
  CHECK(product(multiply_tile<false, true>) == expected);
  CHECK(product(multiply_tile<false, true, true>) == of_unsigned);
  CHECK(product(multiply_tile<true, false>) != expected);  // a wrong fragment index
}

TEST_CASE("Matrices are transposed by units of 16 bits", "[emulation]") {
  std::vector<uint16_t> x(4 * 8 * 8), expected(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<uint16_t>(i * 257 + 3);
    expected[i / 64 * 64 + i % 8 * 8 + i / 8 % 8] = x[i];
  }
  const DeviceArray<uint16_t> dx(x), dy(x.size());
  launch("transpose", transpose_matrices, 1, 32, sizeof(MatricesShared), nullptr, dx.data(), dy.data());
  CHECK(dy.host() == expected);
}

TEST_CASE("A barrier that not all reach is an error with the thread", "[emulation]") {
  const DeviceArray<int> x(64);
  CHECK_THAT(
      message_of([&] { launch("diverge", diverge, 1, 64, 0, nullptr, x.data()); }),
      contains_text(
          "kernel diverge, block (0, 0, 0): thread (0, 0, 0) waits at __syncthreads, and thread (40, 0, 0) has ended"));
  CHECK_THAT(message_of([&] { launch("some", shuffle_among_some, 1, 32, 0, nullptr, x.data()); }),
             contains_text("waits at __shfl_sync, and thread (16, 0, 0) has ended"));
  CHECK_THAT(message_of([&] { launch("mask", shuffle_with_wrong_mask, 1, 32, 0, nullptr, x.data()); }),
             contains_text("does not name the lane that calls it"));
}

TEST_CASE("Accesses outside of memory are errors", "[emulation]") {
  const DeviceArray<int> x(100);  // 400 bytes; 112 more up to the page that is closed
  // Under AddressSanitizer the first access behind the end dies; without it the next page does, and damage is noticed.
  const auto words = [&](int64_t index) {
    return last_words([&] {
      const std::string message = message_of([&] { launch("write", write_at, 1, 1, 0, nullptr, x.data(), index); });
      if (!message.empty()) {
        std::fprintf(stderr, "%s", message.c_str());
        ::_exit(1);
      }
    });
  };
  CHECK(words(99).empty());
  CHECK_THAT(words(100), contains_text("behind an allocation") || contains_text("AddressSanitizer"));
  CHECK_THAT(words(-1), contains_text("before an allocation") || contains_text("AddressSanitizer"));
  CHECK_THAT(words(128), contains_text("outside of every allocation") || contains_text("AddressSanitizer"));
  const auto shared = [&](int index) {
    return message_of([&] { launch("shared", write_shared_at, 1, 1, sizeof(SumShared), nullptr, index); });
  };
  CHECK(shared(255).empty());
  CHECK_THAT(last_words([&] {
               std::fprintf(stderr, "%s", shared(256).c_str());
               ::_exit(1);
             }),
             contains_text("behind its shared memory") || contains_text("outside") || contains_text("Sanitizer") ||
                 contains_text("died"));
  CHECK_THAT(message_of([&] { launch("small", write_shared_at, 1, 1, 16, nullptr, 0); }),
             contains_text("uses 1024 bytes of shared memory, and the launch gave 16"));
  const DeviceArray<unsigned> y(32);
  launch("poison", read_uninitialised, 1, 32, sizeof(SumShared), nullptr, y.data());
  CHECK(y.host() == std::vector<unsigned>(32, 0xdbdbdbdbu));
  CHECK(DeviceArray<unsigned>(3).host() == std::vector<unsigned>(3, 0xcbcbcbcbu));
}

TEST_CASE("Host and device memory are told apart", "[emulation]") {
  const DeviceArray<int> x(std::vector<int>(32, 1));
  std::vector<int> host(32);
  CHECK_THAT(last_words([&] { std::fprintf(stderr, "%d", *static_cast<volatile int*>(x.data())); }),
             contains_text("the host touched device memory") || contains_text("AddressSanitizer"));
  CHECK_THAT(message_of([&] { launch("host", add_one, 1, 32, 0, nullptr, host.data()); }),
             contains_text("kernel host: an argument of type"));
  CHECK_THAT(message_of([&] { cudaMemcpy(host.data(), x.data(), 128, cudaMemcpyHostToDevice); }),
             contains_text("expected device memory"));
  CHECK_THAT(message_of([&] { cudaMemcpy(x.data(), x.data(), 128, cudaMemcpyHostToDevice); }),
             contains_text("expected host memory"));
  CHECK_THAT(message_of([&] { cudaFree(host.data()); }), contains_text("no allocation"));
}

TEST_CASE("Work on different streams needs events", "[emulation]") {
  cudaStream_t first = nullptr, second = nullptr;
  cudaEvent_t event = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking) == cudaSuccess);
  REQUIRE(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking) == cudaSuccess);
  REQUIRE(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess);
  for (const bool with_event : {true, false}) {
    int wrong = 0;
    for (int seed = 0; seed < kSeeds; ++seed) {
      emulation::set_seed(static_cast<uint64_t>(seed));
      const DeviceArray<int> x(std::vector<int>(32, 1)), y(32);
      launch("add", add_one, 1, 32, 0, first, x.data());
      if (with_event) {
        cudaEventRecord(event, first);
        cudaStreamWaitEvent(second, event);
      }
      launch("copy", copy_to, 1, 32, 0, second, x.data(), y.data());
      REQUIRE(cudaStreamSynchronize(second) == cudaSuccess);
      wrong += y.host() != std::vector<int>(32, 2);
    }
    CHECK((wrong == 0) == with_event);
  }
  // A copy from the host happens when somebody waits for it.
  const DeviceArray<int> x(32);
  std::vector<int> staging(32, 1);
  cudaMemcpyAsync(x.data(), staging.data(), 128, cudaMemcpyHostToDevice, first);
  staging.assign(32, 7);
  cudaStreamSynchronize(first);
  CHECK(x.host() == std::vector<int>(32, 7));
  cudaEventDestroy(event);
  cudaStreamDestroy(first);
  cudaStreamDestroy(second);
}

TEST_CASE("Launches that no device takes are refused", "[emulation]") {
  const DeviceArray<int> x(32);
  for (const dim3 block : {dim3(0), dim3(1025), dim3(32, 33)}) {
    CHECK_THAT(message_of([&] { launch("block", add_one, 1, block, 0, nullptr, x.data()); }),
               contains_text("no device takes this grid and block"));
  }
  CHECK_THAT(message_of([&] { launch("grid", add_one, dim3(1, 65536), 32, 0, nullptr, x.data()); }),
             contains_text("grid"));
  CHECK_THAT(message_of([&] { launch("shared", add_one, 1, 32, 200000, nullptr, x.data()); }), contains_text("99 KiB"));
}
