// AVX2 with FMA: 16 registers of 32 bytes.
// Tiles: mr * nv accumulators + nv vectors of b + one broadcast of a.

#include "kernels.h"

#if defined(__AVX2__) && defined(__FMA__)
#define TCE_VECTOR_BYTES 32
#include "kernels.inl"

namespace tce {
const KernelTable* kernels_avx2() {
  static constexpr KernelTable table = {"avx2", make_kernels<float, 16, 12, 6, 4>(2.0),
                                        make_kernels<double, 16, 12, 6, 4>(2.0)};
  return &table;
}
}  // namespace tce
#else
namespace tce {
const KernelTable* kernels_avx2() {
  return nullptr;
}
}  // namespace tce
#endif
