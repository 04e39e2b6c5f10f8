// Packing: from tensors as they lie to the dense panels that the microkernels read.
// Stride, dilation, padding and memory layout are dealt with here and are unknown below;
// the ISA is unknown here but for Kernels::copy_2d.
//
// A packed source row holds, for the columns that a chunk reads, zeros where they lie outside the image:
//
//   channel-major   [slot][c][width]     direct forward, grad_input: a tile's rows are neighbouring pixels
//   pixel-major     [slot][width][c]     the same of a tensor whose channels lie side by side; direct
//                                        grad_weight: a tile's rows are neighbouring (kw,) c; Winograd
//   planes          [c][height][width]   pixels, rows; lanewise, with a vector of groups innermost

#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "../back/kernels.h"
#include "axis.h"
#include "geometry.h"

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

// Of this step between neighbouring packed columns or more, and of a step of 2 in rows of so many results, see
// SourceRuns::wide.
constexpr int64_t kWideStep = 3, kWideRow = 64;

// The source rows of a chunk of result rows. Result rows are numbered over the whole batch:
// row = n * out_size + out.
struct RowSlots {
  struct Source {
    int64_t n, position;
  };
  int64_t max_taps;            // of a phase
  std::vector<int32_t> slot;   // [row - first][tap]; -1: outside the image, the term is absent
  std::vector<Source> source;  // [slot]
};

RowSlots make_row_slots(const Axis& axis, int64_t first, int64_t last);

// The source positions along one axis that the results [first, last) read. They are split by residue modulo
// the source step, so that neighbouring results read neighbouring packed elements:
//
//   source_step = 2, taps kw = 0, 1, 2:    packed row = | kw 0 and 2: even columns | kw 1: odd columns |
//
struct SourceRuns {
  struct Run {
    int64_t position, count, base;  // positions position + i * step, i < count, at packed elements base + i
  };
  // All residues have runs of one length that begin at neighbouring positions, so that they can be packed as
  // one transposed block. (Of short rows with a step of 2, every second element of all channels at once takes
  // fewer calls.)
  bool wide;
  int64_t step;           // between neighbouring packed elements
  int64_t out_step;       // packed elements from result j to result j + 1 of a phase
  int64_t length;         // packed elements
  std::vector<Run> runs;  // one per residue that a tap reads; one of zeros for taps that miss the image
  // [phase][tap]: packed element of j = 0 (j counts within the phase).
  std::vector<std::vector<int64_t>> start;
};

// The part [begin, end) of a run that lies inside the image; begin == end where none does.
KRange inside(const SourceRuns::Run& run, int64_t step, int64_t source_size);

// `dense`: keep all positions in one run of step 1, neighbouring taps side by side; result j then reads
// element start + j * source_step. `bands`: what their taps read is all that is packed.
SourceRuns make_source_runs(const Axis& axis, int64_t first, int64_t last, bool dense,
                            const Bands* bands = nullptr);

// Whether the results read every position between the first and the last: those of a stride, at least as many
// neighbouring taps. Packed densely they are one copy.
bool reads_all_columns(const Axis& axis);

// Whether the results [first, last) read no padding along an axis with the taps of their bands;
// then the start and the out_step of columns that are not packed at all: packed element i stands for position i.
bool all_inside(const Axis& axis, const Bands& bands, int64_t first, int64_t last);
SourceRuns columns_in_place(const Axis& axis);

// The sources inside the image that the results [first, last) read, from the first to the last; and these as one
// run, in a packed row of `length` elements.
KRange sources_of(const Axis& axis, int64_t first, int64_t last);
SourceRuns make_box(const KRange& range, int64_t length);

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

// The plane of lanes, dst[height][width][lanes]: lane l is channel[l] of the `channels` (at most 2 * lanes)
// that lie side by side from src on.
template <class scalar_t>
void spread_plane(const Kernels<scalar_t>& kernels, const scalar_t* src, int64_t src_h, int64_t src_w,
                  int64_t channels, const int32_t* channel, int64_t source_h, int64_t source_w,
                  const SourceRuns& rows, const SourceRuns& columns, bool clear, scalar_t* dst);

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

}  // namespace tce
