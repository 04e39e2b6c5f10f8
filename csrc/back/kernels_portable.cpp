// The build for any CPU: 16-byte vectors, which every 64-bit target has (SSE2, NEON); the compiler lowers
// them. AArch64 has 32 registers and takes the larger tiles.

#include "kernels.h"

#define TCE_VECTOR_BYTES 16
#include "kernels.inl"

namespace tce {
const KernelTable* kernels_portable() {
#if defined(__aarch64__)
  static constexpr KernelTable table = {"portable", make_kernels<float, 32, 14, 12, 8, 6>(2.0),
                                        make_kernels<double, 32, 14, 12, 8, 6>(2.0)};
#else
  static constexpr KernelTable table = {"portable", make_kernels<float, 16, 12, 6, 4>(1.0),
                                        make_kernels<double, 16, 12, 6, 4>(1.0)};
#endif
  return &table;
}
}  // namespace tce
