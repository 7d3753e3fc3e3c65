// From bytes to floats: eight neighbouring values of an image a thread, one load of 8 bytes where the image is not
// mirrored, one store of 16 bytes of bfloat16 or two of float32. Bytes a value: 5 (3 of bfloat16), one more with mixup;
// the double arithmetic is one multiply-add and two conversions a value.
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/tables.h"
#include "kernels/cuda/vectors.h"

namespace luq::kernels::cuda {
namespace {

template <typename Part>
__device__ bool is_inside(const Part& part, int64_t row, int64_t col) {
  return row >= part.top && row < part.top + part.height && col >= part.left && col < part.left + part.width;
}

// Index holds every position in an image.
template <typename Index>
struct Images {
  FinishImagesArgs a;
  Index values;  // of an image
  bool aligned;  // bytes, 8 at a time

  // The values of image i from `first` on, normalised and erased, where `take` says so of their row and column.
  template <typename Take>
  __device__ void make(int64_t i, Index first, int here, float (&value)[kUnit], Take take) const {
    const ImageEdit& edit = image_edit(a.edits, a.c, i);
    const double* scale = image_scales(edit);
    const double* shift = scale + a.c;
    const uint8_t* image = a.x + i * static_cast<int64_t>(values);
    const auto w = static_cast<Index>(a.w), c = static_cast<Index>(a.c);
    const bool mirrored = edit.flip != 0, together = aligned && here == kUnit && !mirrored;
    uint2 bytes{};
    if (together) bytes = *reinterpret_cast<const uint2*>(image + first);
    Index row = first / (w * c), col = first % (w * c) / c, channel = first % c;
    for (int k = 0; k < kUnit; ++k) {
      if (k < here && take(row, col)) {
        const uint32_t byte = together   ? (k < 4 ? bytes.x : bytes.y) >> (8 * (k % 4)) & 0xffu
                              : mirrored ? image[(row * w + (w - 1 - col)) * c + channel]
                                         : image[first + static_cast<Index>(k)];
        const double normalized = fma(static_cast<double>(byte), scale[channel], shift[channel]);
        value[k] = is_inside(edit, row, col) ? 0.0f : static_cast<float>(normalized);
      }
      if (++channel < c) continue;
      channel = 0;
      if (++col < w) continue;
      col = 0;
      ++row;
    }
  }
};

template <typename T, typename Index>
__global__ void __launch_bounds__(kThreads)
    finish_values(Images<Index> images, unsigned blocks_per_image, bool whole_units, T* y) {
  const FinishImagesArgs& a = images.a;
  const int64_t at = blockIdx.x / blocks_per_image, i = a.first + at, other = i > 0 ? i - 1 : a.n - 1;
  const Index first = (Index{blockIdx.x % blocks_per_image} * kThreads + threadIdx.x) * kUnit;
  if (first >= images.values) return;
  const int here = images.values - first < Index{kUnit} ? static_cast<int>(images.values - first) : kUnit;
  float value[kUnit] = {};
  images.make(i, first, here, value, [](Index, Index) { return true; });
  if (a.mix.kind == ImageMix::Kind::cutmix) {
    images.make(other, first, here, value, [&a](Index row, Index col) { return is_inside(a.mix, row, col); });
  } else if (a.mix.kind == ImageMix::Kind::mixup) {
    float others[kUnit] = {};
    images.make(other, first, here, others, [](Index, Index) { return true; });
    for (int k = 0; k < kUnit; ++k) value[k] = others[k] * a.mix.others + value[k] * a.mix.own;
  }
  store_some(y + at * static_cast<int64_t>(images.values) + first, here, whole_units && here == kUnit, value);
}

template <typename T, typename Index>
void finish(const FinishImagesArgs& a) {
  T* y = a.y.as<T>();
  const int64_t values = a.h * a.w * a.c, blocks = blocks_for(values, kThreads * kUnit);
  const bool aligned = reinterpret_cast<uintptr_t>(a.x) % 8 == 0 && values % 8 == 0;
  const bool whole_units = are_aligned(y) && values * static_cast<int64_t>(sizeof(T)) % 16 == 0;
  launch("finish_images", finish_values<T, Index>, {.blocks = a.count * blocks, .threads = kThreads},
         Images<Index>{a, static_cast<Index>(values), aligned}, static_cast<unsigned>(blocks), whole_units, y);
}

void finish_images(const FinishImagesArgs& a) {
  const bool small = a.h * a.w * a.c <= int64_t{0x7fffffff};
  if (a.y.bfloat16) {
    small ? finish<BFloat16, uint32_t>(a) : finish<BFloat16, uint64_t>(a);
  } else {
    small ? finish<float, uint32_t>(a) : finish<float, uint64_t>(a);
  }
}

}  // namespace

void add_images(Kernels& table) { table.finish_images = {finish_images, "cuda"}; }

}  // namespace luq::kernels::cuda
