// AVX-512 (F, DQ, BW, VL): 32 registers of 64 bytes.
// Tiles: mr * nv accumulators + nv vectors of b; the broadcast of a is a memory operand of the FMA.

#pragma once

#include "kernels.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define TCE_VECTOR_BYTES 64
#include "kernels.inl"

namespace tce {
template <>
const Kernels<TCE_SCALAR>* kernels_avx512<TCE_SCALAR>() {
  static constexpr Kernels<TCE_SCALAR> kernels = make_kernels<TCE_SCALAR, 32, 14, 14, 9, 7>(1.0);
  return &kernels;
}
}  // namespace tce
#else
namespace tce {
template <>
const Kernels<TCE_SCALAR>* kernels_avx512<TCE_SCALAR>() {
  return nullptr;
}
}  // namespace tce
#endif
