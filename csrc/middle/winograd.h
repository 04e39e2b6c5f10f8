// Winograd F(4x4, 3x3): the second algorithm for 3x3, stride-1, undilated contractions, with a quarter of the
// products (formulas and points: back/winograd.inl; accuracy: docs/kernels.md).
//
// NOTE [Finite tiles]
// The transforms mix the pixels of a tile, so one Inf or NaN would spread over 4x4 pixels, and Inf - Inf
// would become NaN. Whatever comes out not finite is therefore computed again by the direct algorithm, in
// units that only the geometry fixes (a row of tiles of one panel of channels), so that the bits of the
// result stay independent of batch and threads.

#pragma once

#include <algorithm>

#include "contractions.h"
#include "correlate.h"

namespace tce {

// forward or grad_input; `direct` is the plan for what is not finite.
template <class scalar_t>
void winograd_correlate(const Correlation<scalar_t>& correlation, const Plan& plan, const Plan& direct,
                        const Kernels<scalar_t>& kernels, int threads);

template <class scalar_t>
void winograd_grad_weight(const Plan& plan, const Plan& direct, const ConvGeometry& geometry,
                          const Operands<scalar_t>& operands, const Kernels<scalar_t>& kernels, int threads);

// The tiles along an axis: tile t reads the six positions first + 4 t, ..., first + 4 t + 5.
Axis tile_axis(int64_t out_size, int64_t source_size, int64_t first);

// Calls transform(row, sources) for the `count` tile rows of a pixel-major packed source, where sources[i] is
// the first column of the row that the tiles read with tap i. Outside the image that is a row of zeros, which
// is made behind the packed rows.
template <class scalar_t, class F>
void each_tile_row(scalar_t* packed, const RowSlots& rows, const SourceRuns& columns, int64_t count,
                   int64_t col_first, int64_t pixel, F&& transform) {
  const int64_t slot_size = columns.length * pixel;
  scalar_t* zeros = packed + static_cast<int64_t>(rows.source.size()) * slot_size;
  std::fill(zeros, zeros + slot_size, scalar_t(0));
  for (int64_t row = 0; row < count; ++row) {
    const scalar_t* sources[6];
    for (int64_t i = 0; i < rows.max_taps; ++i) {
      const int32_t slot = rows.slot[row * rows.max_taps + i];
      sources[i] =
          (slot < 0 ? zeros : packed + slot * slot_size) + (columns.start[0][0] + 4 * col_first) * pixel;
    }
    transform(row, sources);
  }
}

// Distance of the 36 planes: a few vectors more than their size, or they
// would compete for the same cache sets.
constexpr int64_t plane_stride(int64_t elements, int64_t lanes) {
  return elements + 3 * lanes;
}

}  // namespace tce
