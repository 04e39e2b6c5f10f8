// Two algorithms on packed planes, for layers whose groups have few channels. A tap is one offset into the
// planes for all pixels of a phase, so neither packs per row of the result.
//
//   pixels     lanes are pixels, a tile's rows a group's result channels    few of these: RGB heads, ResNeXt
//   lanewise   lanes are groups, a tile's rows pixels (grad_weight: kw)     many small groups: depthwise

#pragma once

#include "contractions.h"
#include "correlate.h"

namespace tce {

// forward or grad_input.
template <class scalar_t>
void pixels_correlate(const Correlation<scalar_t>& correlation, const Plan& plan,
                      const Kernels<scalar_t>& kernels, int threads);
template <class scalar_t>
void lanewise_correlate(const Correlation<scalar_t>& correlation, const Plan& plan,
                        const Kernels<scalar_t>& kernels, int threads);

template <class scalar_t>
void lanewise_grad_weight(const Plan& plan, const ConvGeometry& geometry, const Operands<scalar_t>& operands,
                          const Kernels<scalar_t>& kernels, int threads);

}  // namespace tce
