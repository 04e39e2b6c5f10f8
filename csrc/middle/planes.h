// Two algorithms on packed planes, for layers whose groups have few channels. A tap is one offset for all
// pixels of a plane, so neither knows about rows, stride or padding.
//
//   pixels    lanes are pixels, a tile's rows are a group's result channels: few result channels (RGB heads,
//   ResNeXt) lanewise  lanes are groups: one or few channels per group, many groups (depthwise)

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
