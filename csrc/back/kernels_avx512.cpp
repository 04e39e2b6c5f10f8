// AVX-512 (F, DQ, BW, VL): 32 registers of 64 bytes.
// Tiles: mr * nv accumulators + nv vectors of b; the broadcast of a is a memory operand of the FMA.

#include "kernels.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define TCE_VECTOR_BYTES 64
#include "kernels.inl"

namespace tce {
const KernelTable* kernels_avx512() {
  static constexpr KernelTable table = {"avx512", make_kernels<float, 32, 14, 14, 9, 7>(1.0),
                                        make_kernels<double, 32, 14, 14, 9, 7>(1.0)};
  return &table;
}
}  // namespace tce
#else
namespace tce {
const KernelTable* kernels_avx512() {
  return nullptr;
}
}  // namespace tce
#endif
