// Winograd F(m, r) along one axis or both: the second algorithm, with fewer products (formulas and points:
// back/winograd.inl; accuracy: docs/kernels.md).
//
// NOTE [Residues and blocks]
// The transforms are those of stride 1 and few kernel elements. Along an axis of stride s the kernel elements
// k = s (r b + t) + a, t < r, of a residue a and a block b meet the positions s u + a - padding of X or dX,
//
//   forward      Y[o]                  = sum over a, b, t of   W[k] * X[s (o + r b + t) + a - padding]
//   grad_input   dX[s u + a - padding] = sum over b, t of      W[k] * dY[u - r b - t]
//   grad_weight  dW[k]                 = sum over o of         dY[o] * X[s (o + r b + t) + a - padding]
//
// so that residues (of both axes) of X are summed, those of dX and dW computed, as channels of their own; and
// so are blocks, whose sources are shifted. Elements beyond the kernel are zeros. With 6 points 4x4 kernels of
// stride 2 take 4 * 36 products for 5x5 pixels instead of 400, 7x7 kernels in 2x2 blocks of 4x4 4 * 36 for 3x3
// instead of 441, 3x3 kernels of stride 1 36 for 4x4 instead of 144.
//
// A layer of dilation d is d layers along an axis, too: the pixels d u + a of the result read pixels of one
// residue of the source, so that each residue is an image of its own, with tiles of its own.
//
// Groups of few channels would leave most lanes of a vector empty, and the transforms cost as much for an empty one.
// So many groups as fill a vector are joined to one, whose weights between different groups are zeros: that wastes
// products, which are cheap here, and not transforms.
//
// NOTE [Finite tiles]
// The transforms mix the pixels of a tile, so one Inf or NaN would spread over a tile, and Inf - Inf
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

template <class scalar_t>
const WinogradKernels<scalar_t>& transforms_of(const Plan& plan, const Kernels<scalar_t>& kernels) {
  const WinogradAxis &h = plan.winograd_h, &w = plan.winograd_w;
  const WinogradAxes axes = h.points == 1 ? kColumnsOnly : w.points == 1 ? kRowsOnly : kBothAxes;
  return kernels.winograd[axes][std::max(h.points, w.points)][std::max(h.taps, w.taps)];
}
// With the plan's groups joined.
inline ConvGeometry joined_geometry(const Plan& plan) {
  ConvGeometry g = plan.geometry;
  g.G /= plan.joined;
  g.Ci *= plan.joined;
  g.Co *= plan.joined;
  return g;
}
inline int64_t product_count(const Plan& plan) {
  return static_cast<int64_t>(plan.winograd_h.points) * plan.winograd_w.points;
}

// The sources of an axis, of `residues` of them (1 where X's are not split): part i = b * residues + a begins
// at this position from the first that a tile reads, and a tile reads so many; both in units of the dilation.
inline int64_t part_offset(const WinogradAxis& axis, int64_t residues, int64_t i) {
  return residues * axis.taps * (i / residues) + i % residues;
}
inline int64_t part_span(const WinogradAxis& axis, int64_t residues) {
  return residues * (axis.points + axis.taps * (axis.blocks - 1));
}
// Parts of the source of a plan: X has residues, dY of grad_input has not.
inline int64_t part_count(const Plan& plan) {
  const ConvGeometry& g = plan.geometry;
  const int64_t residues = plan.contraction == Contraction::kGradInput ? 1 : g.stride_h * g.stride_w;
  return residues * plan.winograd_h.blocks * plan.winograd_w.blocks;
}
// A plan that reads more rows for a tile is declined.
constexpr int64_t kMaxWinogradLines = 64;

// The u (NOTE [Residues and blocks]) whose pixels of an axis of dX lie inside the image, for one residue at least.
struct ResidueRange {
  int64_t first, count;
};
inline ResidueRange residue_range(int64_t i_size, int64_t stride, int64_t padding) {
  const int64_t first = floor_div(padding, stride);
  return {first, i_size > 0 ? floor_div(i_size - 1 + padding, stride) - first + 1 : 0};
}

// The elements of a residue and a block.
struct KernelPart {
  int64_t residue_h, block_h, residue_w, block_w;
};
// taps[r_w i + j]: element (i, j) of a part as an offset into elements [kh][kw] of `unit` scalars, -1 where
// there is none. `reversed`: in descending order of both.
void part_taps(const Plan& plan, const KernelPart& part, int64_t unit, bool reversed, int64_t* taps);

// Tiles of each residue.
inline int64_t tile_count(int64_t results, int64_t dilation, int64_t m) {
  return ceil_div(ceil_div(results, dilation), m);
}

// The tiles of `tile` along an axis of so many results, whose neighbours read sources `step` apart, in units of the
// dilation: tile t of residue a of the dilation, with the number t * dilation + a, reads the `span` positions
// first + t * m * step * dilation + a + i * dilation. `dense`: tile t reads those of all residues at once.
Axis tile_axis(const WinogradAxis& tile, int64_t results, int64_t step, int64_t span, int64_t source_size,
               int64_t first, int64_t dilation, bool dense);

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
    const scalar_t* lines[kMaxWinogradLines];
    for (int64_t i = 0; i < rows.max_taps; ++i) {
      const int32_t slot = rows.slot[row * rows.max_taps + i];
      lines[i] = (slot < 0 ? zeros : packed + slot * slot_size) + start;
    }
    transform(row, lines);
  }
}

// B^T d B of a row of tiles. lines[i]: the row of the source at position i of part_span; columns are dense.
// The parts are as channels: their results lie `part` apart. Residues of the dilation are as tiles: `tiles` of
// each follow each other.
template <class scalar_t>
void transform_parts(const Plan& plan, const Kernels<scalar_t>& kernels, const scalar_t* const* lines,
                     int64_t residues_h, int64_t residues_w, int64_t tiles, scalar_t* dst,
                     int64_t tile_stride, int64_t part, int64_t plane) {
  const WinogradAxis &axis_h = plan.winograd_h, &axis_w = plan.winograd_w;
  const auto input = transforms_of(plan, kernels).input;
  const int64_t dilation = plan.geometry.dilation_w, pixel = residues_w * dilation * kernels.lanes;
  for (int64_t h = 0; h < axis_h.blocks * residues_h; ++h) {
    for (int64_t w = 0; w < axis_w.blocks * residues_w; ++w, dst += part) {
      for (int64_t a = 0; a < dilation; ++a) {
        const int64_t column = part_offset(axis_w, residues_w, w) * dilation + a;
        const scalar_t* sources[kMaxWinogradPoints];
        for (int64_t i = 0; i < axis_h.points; ++i) {
          sources[i] = lines[residues_h * i + part_offset(axis_h, residues_h, h)] + column * kernels.lanes;
        }
        input(sources, pixel, axis_w.results() * pixel, tiles, dst + a * tiles * tile_stride, tile_stride,
              plane);
      }
    }
  }
}

// Distance of the planes of products: a few vectors more than their size, or they
// would compete for the same cache sets.
constexpr int64_t plane_stride(int64_t elements, int64_t lanes) {
  return elements + 3 * lanes;
}

}  // namespace tce
