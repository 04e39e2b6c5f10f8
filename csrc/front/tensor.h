// The few things that the core needs of a torch tensor, through the stable ABI:
// one binary serves every torch >= 2.10.

#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../middle/geometry.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

// The name of the check in torch 2.10's headers.
#if !defined(STABLE_TORCH_ERROR_CODE_CHECK)
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

namespace tce {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  message << "torch_conv_ext: ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline std::string shape_text(const Tensor& t) {
  std::string text = "[";
  for (int64_t d = 0; d < t.dim(); ++d) text += (d ? ", " : "") + std::to_string(t.size(d));
  return text + "]";
}

// What at::Tensor::suggest_memory_format calls channels last: strides that grow in the order C, W, H, N,
// where a dimension of size 1 cannot decide.
inline bool suggests_channels_last(const Tensor& t) {
  int64_t low = 0;
  for (const int d : {1, 3, 2, 0}) {
    if (t.size(d) == 0 || t.stride(d) < low) return false;
    // N of size 1 with W's stride: an NCHW tensor of one channel and one column looks like this, too.
    if (d == 0 && low == t.stride(1)) return false;
    low = t.stride(d);
    if (t.size(d) > 1) low *= t.size(d);
  }
  return t.stride(1) != 0;
}

// Asks the kernel for huge pages behind a large result. Memory that malloc has just mapped
// costs a page fault for each page that is first written; with 4 KiB pages that can take
// longer than the convolution (docs/kernels.md).
inline void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
  constexpr int64_t kLarge = 4 << 20, kHugePage = 2 << 20;
  if (bytes < kLarge) return;
  // Whole huge pages inside the result only: its neighbours are not ours to advise on.
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end =
      (reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes)) / kHugePage * kHugePage;
  // Advice: where it cannot be followed, nothing is lost.
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// A new CPU tensor of these sizes (NCHW order), contiguous or channels last, uninitialised.
inline Tensor empty(const int64_t (&size)[4], bool channels_last, ScalarType dtype) {
  int64_t stride[4];
  int64_t next = 1;
  const int nchw[] = {3, 2, 1, 0}, nhwc[] = {1, 3, 2, 0};
  for (const int d : channels_last ? nhwc : nchw) {
    stride[d] = next;
    // As torch does: a size of 0 counts as 1 in the contiguous format, and as 0 in channels last.
    next *= size[d] == 0 && !channels_last ? 1 : size[d];
  }
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      4, size, stride, dtype == ScalarType::Float ? aoti_torch_dtype_float32() : aoti_torch_dtype_float64(),
      aoti_torch_device_type_cpu(), 0, &handle));
  const Tensor result(handle);
  const int64_t element = dtype == ScalarType::Float ? sizeof(float) : sizeof(double);
  advise_huge_pages(result.mutable_data_ptr(), result.numel() * element);
  return result;
}

template <class scalar_t>
TensorView<const scalar_t> view(const Tensor& t) {
  return {static_cast<const scalar_t*>(t.const_data_ptr()),
          {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}};
}
template <class scalar_t>
TensorView<scalar_t> mutable_view(const Tensor& t) {
  return {static_cast<scalar_t*>(t.mutable_data_ptr()), {t.stride(0), t.stride(1), t.stride(2), t.stride(3)}};
}

inline int thread_count() {
  uint32_t threads = 1;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_get_num_threads(&threads));
  return static_cast<int>(threads);
}

}  // namespace tce
