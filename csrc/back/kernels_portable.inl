// The build for any CPU: 16-byte vectors, which every 64-bit target has (SSE2, NEON); the compiler lowers
// them. AArch64 has 32 registers and takes the larger tiles.

#pragma once

#include "kernels.h"

#define TCE_VECTOR_BYTES 16
#include "kernels.inl"

namespace tce {
template <>
const Kernels<TCE_SCALAR>* kernels_portable<TCE_SCALAR>() {
#if defined(__aarch64__)
  static constexpr Kernels<TCE_SCALAR> kernels = make_kernels<TCE_SCALAR, 32, 14, 12, 8, 6>(2.0);
#else
  static constexpr Kernels<TCE_SCALAR> kernels = make_kernels<TCE_SCALAR, 16, 12, 6, 4>(1.0);
#endif
  return &kernels;
}
}  // namespace tce
