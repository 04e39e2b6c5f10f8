// AVX2 with FMA: 16 registers of 32 bytes.
// Tiles: mr * nv accumulators + nv vectors of b + one broadcast of a.

#pragma once

#include "kernels.h"

#if defined(__AVX2__) && defined(__FMA__)
#define TCE_VECTOR_BYTES 32
#include "kernels.inl"

namespace tce {
template <>
const Kernels<TCE_SCALAR>* kernels_avx2<TCE_SCALAR>() {
  static constexpr Kernels<TCE_SCALAR> kernels = make_kernels<TCE_SCALAR, 16, 12, 6, 4>(2.0);
  return &kernels;
}
}  // namespace tce
#else
namespace tce {
template <>
const Kernels<TCE_SCALAR>* kernels_avx2<TCE_SCALAR>() {
  return nullptr;
}
}  // namespace tce
#endif
