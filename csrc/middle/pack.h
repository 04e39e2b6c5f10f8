// Packing: from tensors as they lie to the dense panels that the microkernels read.
// Stride, dilation, padding and memory layout are dealt with here and are unknown below;
// the ISA is unknown here but for Kernels::copy_2d.
//
// A packed source row holds, for the columns that a chunk reads, zeros where they lie outside the image:
//
//   channel-major   [slot][c][width]     direct forward, grad_input: a tile's rows are neighbouring pixels
//   pixel-major     [slot][width][c]     the same of a tensor whose channels lie side by side; direct
//                                        grad_weight: a tile's rows are neighbouring (kw,) c; Winograd
//   planes          [c][height][width]   pixels, rows; lanewise, with the channels of a unit innermost

#pragma once

#include <cstdint>
#include <numeric>

#include "../back/kernels.h"
#include "axis.h"
#include "geometry.h"
#include "sources.h"

namespace tce {

// The distance of packed lines of `elements` elements that a sum walks across. A round one would make them
// compete for a few sets of L1; then it is a cache line longer.
constexpr int64_t line_stride(int64_t elements, int64_t element_size) {
  return elements * element_size % 256 == 0 ? elements + 64 / element_size : elements;
}

// How many cache lines that lie `stride` elements apart find room in L1 (32 KiB, ways of 4 KiB) at once: a round
// distance leaves them few sets.
constexpr int64_t sets_hold(int64_t stride, int64_t element_size) {
  return 32768 / std::gcd(stride * element_size, int64_t{4096});
}

// x: the first channel of the view to pack; dst: channel-major, see above.
template <class scalar_t>
void pack_channel_major(const Kernels<scalar_t>& kernels, const TensorView<const scalar_t>& x,
                        int64_t channels, int64_t source_w, const RowSlots& rows, const SourceRuns& columns,
                        scalar_t* dst);
// `stride`: from column to column in dst, >= channels; the elements between are zero, or with `loose` left as
// they are.
template <class scalar_t>
void pack_pixel_major(const Kernels<scalar_t>& kernels, const TensorView<const scalar_t>& x, int64_t channels,
                      int64_t stride, int64_t source_w, const RowSlots& rows, const SourceRuns& columns,
                      scalar_t* dst, bool loose = false);

// The planes of `channels` channels of one image:
//
//   src   element (c, h, w) at c * src_c + h * src_h + w * src_w
//   dst   channel c's packed pixel i, counted row by row, at c * dst_c + i * dst_px
//
// What lies outside the image is written with `clear` only: planes that follow in the same place keep it.
// Lanes of dst_px that have no channel (dst_px > 1) hold zeros, or what the planes before them left.
struct PlaneStrides {
  int64_t src_c, src_h, src_w, dst_c, dst_px;
};
//
// `spare`: room for spare_pixels pixels of dst, or null. Narrow planes without gaps are transposed there as
// one line.
template <class scalar_t>
void pack_planes(const Kernels<scalar_t>& kernels, const scalar_t* src, const PlaneStrides& strides,
                 int64_t channels, int64_t source_h, int64_t source_w, const SourceRuns& rows,
                 const SourceRuns& columns, bool clear, scalar_t* dst, scalar_t* spare = nullptr,
                 int64_t spare_pixels = 0);

// A weight as a correlation reads it: strides of its lane (result) channel,
// summed channel and kernel elements.
template <class scalar_t>
struct WeightView {
  const scalar_t* data;
  int64_t lane, channel, kh, kw;
};

// dst[c][kh][kw][panel_lanes] for c < channels and the kernel elements kh, kw; lanes >= valid_lanes are zero.
template <class scalar_t>
void pack_weight(const Kernels<scalar_t>& kernels, const WeightView<scalar_t>& w, int64_t valid_lanes,
                 int64_t panel_lanes, int64_t channels, KRange kh, KRange kw, scalar_t* dst);
// The same of some of a panel's lanes: the others are left as they are.
template <class scalar_t>
void pack_weight_lanes(const Kernels<scalar_t>& kernels, const WeightView<scalar_t>& w, int64_t valid_lanes,
                       int64_t panel_lanes, int64_t channels, KRange kh, KRange kw, scalar_t* dst);

// The same of few channels as dst[kh][kw][c][panel_lanes], in the order of their terms. What lies `ahead` elements
// beyond w is packed next, and fetched meanwhile.
template <class scalar_t>
void pack_few(const Kernels<scalar_t>& kernels, const WeightView<scalar_t>& w, int64_t valid_lanes,
              int64_t panel_lanes, int64_t channels, KRange kh, KRange kw, scalar_t* dst, int64_t ahead);

}  // namespace tce
