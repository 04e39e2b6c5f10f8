// Winograd F(m x m, r x r), with P = m + r - 1 points: the second algorithm, with fewer products
// (formulas and points: back/winograd.inl; accuracy: docs/kernels.md).
//
// NOTE [Residues]
// The transforms are those of stride 1. A layer of stride s is s layers of stride 1 along an axis: the kernel
// elements k = s t + a of one residue a, 0 <= a < s, meet the positions s u + a - padding of X or dX,
//
//   forward      Y[o]              = sum over a, t of   W[s t + a] * X[s (o + t) + a - padding]
//   grad_input   dX[s u + a - padding] = sum over t of  W[s t + a] * dY[u - t]
//   grad_weight  dW[s t + a]       = sum over o of      dY[o] * X[s (o + t) + a - padding]
//
// so that a residue (of both axes) of X is summed, of dX and dW computed, as channels of its own. r is the
// number of t, ceil(k / s); a residue without the last t has a zero there. With 6 points 4x4 kernels of stride 2
// take 4 * 36 products for 5x5 pixels instead of 400, 3x3 kernels of stride 1 36 for 4x4 instead of 144.
//
// A layer of dilation d is d layers along an axis, too: the pixels d u + a of the result read pixels of one residue
// of the source, so that each residue is an image of its own, with tiles of its own.
//
// NOTE [Finite tiles]
// The transforms mix the pixels of a tile, so one Inf or NaN would spread over m x m pixels, and Inf - Inf
// would become NaN. Whatever comes out not finite is therefore computed again by the direct algorithm, in
// units that only the geometry fixes (a row of tiles of one panel of channels, with the rows of all residues),
// so that the bits of the result stay independent of batch and threads.

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

// r, along an axis.
inline int64_t winograd_taps(int64_t k, int64_t stride) {
  return ceil_div(k, stride);
}
// m, of a plan.
inline int64_t winograd_results(const Plan& plan) {
  return plan.points + 1 - winograd_taps(plan.geometry.kH, plan.geometry.stride_h);
}

// The u (NOTE [Residues]) whose pixels of an axis of dX lie inside the image, for one residue at least.
struct ResidueRange {
  int64_t first, count;
};
inline ResidueRange residue_range(int64_t i_size, int64_t stride, int64_t padding) {
  const int64_t first = floor_div(padding, stride);
  return {first, i_size > 0 ? floor_div(i_size - 1 + padding, stride) - first + 1 : 0};
}

// taps[r i + j]: kernel element (i, j) of the residue (a_h, a_w) as an offset into elements [kh][kw] of `unit`
// scalars, -1 where there is none. `reversed`: in descending order of both.
void residue_taps(const ConvGeometry& geometry, int64_t a_h, int64_t a_w, int64_t unit, bool reversed,
                  int64_t* taps);

// The tiles along an axis: tile t of residue a, with the number t * dilation + a, reads the `count` positions
// first + t * step + a + i * dilation.
Axis tile_axis(int64_t tiles, int64_t step, int64_t source_size, int64_t first, int64_t count,
               int64_t dilation);

// Tiles of each residue.
inline int64_t tile_count(int64_t results, int64_t dilation, int64_t m) {
  return ceil_div(ceil_div(results, dilation), m);
}

// Calls transform(row, lines) for the `count` tile rows of a pixel-major packed source, where lines[i] is
// the first pixel that the tiles read in the row of tap i. Outside the image that is a row of zeros, which
// is made behind the packed rows.
template <class scalar_t, class F>
void each_tile_row(scalar_t* packed, const RowSlots& rows, const SourceRuns& columns, int64_t count,
                   int64_t col_first, int64_t pixel, F&& transform) {
  const int64_t slot_size = columns.length * pixel;
  scalar_t* zeros = packed + static_cast<int64_t>(rows.source.size()) * slot_size;
  std::fill(zeros, zeros + slot_size, scalar_t(0));
  const int64_t start = (columns.start[0][0] + columns.out_step * col_first) * pixel;
  for (int64_t row = 0; row < count; ++row) {
    const scalar_t* lines[kMaxWinogradPoints * kMaxVectors];
    for (int64_t i = 0; i < rows.max_taps; ++i) {
      const int32_t slot = rows.slot[row * rows.max_taps + i];
      lines[i] = (slot < 0 ? zeros : packed + slot * slot_size) + start;
    }
    transform(row, lines);
  }
}

// B^T d B of a row of tiles. lines[i]: the row of the source that stride and dilation give to i; columns are
// dense. Residues of the stride are channels: their results lie `residue` apart. Those of the dilation are
// tiles: `tiles` of each follow each other.
template <class scalar_t>
void transform_residues(const Plan& plan, const Kernels<scalar_t>& kernels, const scalar_t* const* lines,
                        int64_t stride_h, int64_t stride_w, int64_t tiles, scalar_t* dst, int64_t tile_stride,
                        int64_t residue, int64_t plane) {
  const ConvGeometry& g = plan.geometry;
  const auto input = kernels.winograd[plan.points][winograd_taps(g.kH, g.stride_h)].input;
  const int64_t residues_w = stride_w * g.dilation_w, pixel = residues_w * kernels.lanes;
  const int64_t next = g.dilation_w > 1 ? tiles * tile_stride : residue;
  for (int64_t h = 0; h < stride_h; ++h) {
    for (int64_t w = 0; w < residues_w; ++w) {
      const scalar_t* sources[kMaxWinogradPoints];
      for (int64_t i = 0; i < plan.points; ++i) sources[i] = lines[stride_h * i + h] + w * kernels.lanes;
      input(sources, pixel, winograd_results(plan) * pixel, tiles, dst + h * stride_w * residue + w * next,
            tile_stride, plane);
    }
  }
}

// Distance of the P^2 planes: a few vectors more than their size, or they
// would compete for the same cache sets.
constexpr int64_t plane_stride(int64_t elements, int64_t lanes) {
  return elements + 3 * lanes;
}

}  // namespace tce
