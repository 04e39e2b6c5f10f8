// grad_input with a stride and few result channels: the pixels that share their sources lie in the lanes of a
// tile.
//
// dX[c, a*S + r - padding] reads dY[., a - q] with the kernel's element r + q*S, for every residue r alike.
// So S_h * S_w pixels of O channels are one correlation with O * S_h * S_w channels, stride 1 and k / S taps,
// whose result is shuffled into place. k is a multiple of S: the plan declines others, where some of the
// pixels would lack a tap, and a zero in its place would make a NaN of an Inf.
//
//   lane (o, r_h, r_w) of result (a_h, a_w)
//       ->  channel o, pixel (a_h*S_h + r_h - padding_h, a_w*S_w + r_w - padding_w)
//
// The loops are the direct algorithm's (correlate.cpp), which packs weights and stores rows through here.

#pragma once

#include "../back/kernels.h"
#include "axis.h"
#include "geometry.h"
#include "pack.h"

namespace tce {

// How the lanes of a correlation stand for pixels; step 1 x 1: they do not.
struct Subpixel {
  int64_t step_h = 1, step_w = 1;
  int64_t first_h = 0, first_w = 0;  // pixel of residue 0 of result (0, 0); negative in the padding
  int64_t image_h = 0, image_w = 0;

  int64_t lanes() const { return step_h * step_w; }  // of a channel
};

// The stride-1 view of one axis: `first` is the pixel of residue 0 of the first result.
struct SubpixelAxis {
  int64_t results, taps, first;
  int64_t source;  // result j reads source j + source - q with tap q
};
SubpixelAxis subpixel_axis(int64_t i_size, int64_t k, int64_t stride, int64_t padding);

// As pack_weight, for the lanes [first, first + valid) and the taps q_h, q_w.
template <class scalar_t>
void pack_subpixel_weight(const Kernels<scalar_t>& kernels, const WeightView<scalar_t>& w,
                          const Subpixel& subpixel, int64_t first, int64_t valid, int64_t panel_lanes,
                          int64_t channels, KRange q_h, KRange q_w, scalar_t* dst);

// Stores the results (row, col_first ...) of the lanes [first, first + valid) from tiles[column][tile_lanes].
// out: the image of the group's first channel.
template <class scalar_t>
void store_subpixel_row(const Kernels<scalar_t>& kernels, const scalar_t* tiles, int64_t tile_lanes,
                        const Subpixel& subpixel, int64_t first, int64_t valid, int64_t row,
                        int64_t col_first, int64_t cols, const TensorView<scalar_t>& out);

}  // namespace tce
