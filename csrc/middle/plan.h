// The plan: how one contraction of one geometry is computed. A pure function of geometry,
// dtype, ISA, settings, and layout: it never looks at the batch size or the number of threads.
//
// NOTE [Same bits]
// A result element is a sum over K blocks, in order, of a sum over (channel, kh, kw) within the block, in
// order. The algorithm and c_block, kh_block, kw_block (grad_weight: also the chunk, rows x cols, and segments)
// fix that order; with Winograd cols and nv fix what is computed again, too (winograd.h). All of it is in the plan.
// What cut.h chooses, and who computes what, decides when an element is computed, never how. So the bits are
// the same for one sample or many, on one thread or many.

#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "../back/kernels.h"
#include "geometry.h"

namespace tce {

enum class Contraction { kForward, kGradInput, kGradWeight };
enum class Algorithm { kDirect, kWinograd, kPixels, kLanewise, kRows, kSubpixel, kExchanged };
constexpr int kAlgorithms = 7;

const char* name_of(Contraction contraction);
const char* name_of(Algorithm algorithm);

// What the user allows (settings.h), and what a test asks for.
struct PlanOptions {
  bool winograd = true;
  int only = -1;  // an Algorithm: take it wherever it applies
};

// What a plan knows of where the tensors of a call lie: things that are the same for one sample and for many.
struct Layout {
  // Rows of an image follow each other without a gap, so that the image of a pointwise convolution may be
  // seen as one long row.
  bool rows_merge;
  bool columns_inner;   // neighbouring columns lie side by side (contiguous)
  bool channels_inner;  // neighbouring channels do (channels_last)
};

// An axis of a layer as Winograd computes it (winograd.h): F(m, r) with P = m + r - 1 points, for each of the
// blocks of r kernel elements. All are 1 of an axis that is left alone.
struct WinogradAxis {
  int points, taps, blocks;
  int results() const { return points + 1 - taps; }
};

struct Plan {
  Contraction contraction;
  Algorithm algorithm;
  double cycles;         // estimate per sample and group on one core: the algorithm with the least is taken
  const char* declined;  // why this algorithm cannot be taken, or null
  const char* isa;
  int element_size;
  int lanes;  // of a vector
  // Of a tile (pixels: nv counts vectors of pixels, and mr result channels; rows: vectors of columns, and
  // rows; lanewise: columns, 0 in strips, and rows):
  int nv;  // vectors of lanes; a panel is nv * lanes result channels wide
  int mr;  // largest number of rows
  Layout layout;
  ConvGeometry geometry;  // as computed: a pointwise convolution has its image flattened to one row; N is 0

  // K block: the terms that one microkernel call sums before the tile goes to memory.
  int64_t c_block;             // summed channels (grad_weight: Ci of an item)
  int64_t kh_block, kw_block;  // kernel elements (lanewise, rows: kh_block counts the row taps of a phase)

  bool turned;  // direct, exchanged grad_weight: lanes are a kernel row's (kw, ci), rows are co
  WinogradAxis winograd_h, winograd_w;
  int joined;  // Winograd: groups that are computed as one

  // Chunk: the pixels (Winograd: tiles of pixels) that an item holds in scratch at a time. forward,
  // grad_input: of the result; grad_weight: of dY.
  int64_t rows, cols;
  int64_t panels;    // most panels of an item (lanewise grad_weight: blocks of groups)
  int64_t segments;  // direct, exchanged grad_weight: parts of the pixels with sums of their own, at most

  // Parts of scratch_bytes: packed source; packed weights (grad_weight: dY); tiles; and for Winograd, whose
  // first two are transformed, what is not: pixels and kernels before their transform, results after theirs.
  int64_t source_bytes, weight_bytes, tile_bytes, edge_bytes;
  int64_t scratch_bytes;  // per thread, the upper bound

  int64_t panel_lanes() const { return static_cast<int64_t>(nv) * lanes; }
};

// Where the rows of a group's result channels lie: ceil(channels / panel_lanes) panels.
inline int64_t panel_count(const Plan& plan, int64_t channels) {
  return ceil_div(channels, plan.panel_lanes());
}

// `layout` is true of every tensor that has pixels.
template <class scalar_t>
Plan make_plan(Contraction contraction, const ConvGeometry& geometry, const Layout& layout,
               const PlanOptions& options, const KernelTable& table);

// The plans of all algorithms for a geometry, indexed by Algorithm. make_plan
// takes the cheapest that is not declined.
struct Candidates {
  Plan plan[kAlgorithms];
};
template <class scalar_t>
Candidates make_candidates(Contraction contraction, const ConvGeometry& geometry, const Layout& layout,
                           const PlanOptions& options, const KernelTable& table);

// The direct algorithm's plan for the contraction and geometry of another.
template <class scalar_t>
Plan make_direct_plan(const Plan& plan, const KernelTable& table);

// A geometry without the outer kernel elements that meet padding alone in all results (3x3 with a dilation as
// large as the image: all but one), and the first that is left. Not for results of few pixels, where packing parts
// of kernels costs more than their products; nor for grad_weight, where the others would be written apart.
struct Cropped {
  ConvGeometry geometry;
  int64_t kh, kw;
};
Cropped cropped(Contraction contraction, const ConvGeometry& geometry);

// A kernel that covers the image, for one pixel of Y (a fully connected layer on an image): the elements of
// the image may be taken as channels.
bool is_fully_connected(const ConvGeometry& geometry);
ConvGeometry as_pointwise(const ConvGeometry& geometry);

// Images of one pixel and a kernel of one element (a fully connected layer): the samples are taken as the
// pixels of one row. The plan is made for a row of kBatchRow pixels, whatever the batch, and serves any.
bool batch_is_row(const ConvGeometry& geometry);
constexpr int64_t kBatchRow = 64;

// rows (forward, grad_input): planes are read where they lie, and results with a stride written so.
inline bool rows_in_place(const Plan& plan) {
  return plan.layout.columns_inner && plan.geometry.stride_w <= 2;
}

// lanewise: channels lie side by side in all tensors, and are read and written there. (grad_weight: of depthwise
// layers alone.)
inline bool lanes_in_place(const Plan& plan) {
  return plan.layout.channels_inner &&
         (plan.contraction != Contraction::kGradWeight || (plan.geometry.Ci == 1 && plan.geometry.Co == 1));
}

// lanewise, forward and grad_input: units of one or more groups, each with as many vectors of result channels.
struct LaneUnits {
  LaneRead read;
  int64_t groups;    // of a unit; they share a vector
  int64_t vectors;   // of a unit
  int64_t sources;   // channels that a unit reads
  int64_t results;   // of a vector; those of a group's last one may be fewer
  int64_t channels;  // results of a unit
};
LaneUnits lane_units(const Plan& plan);
// From pixel to pixel of a unit's packed channels.
inline int64_t lane_pixel(const Plan& plan) {
  const LaneUnits unit = lane_units(plan);
  return unit.read == LaneRead::kShared ? std::max<int64_t>(unit.sources, 2) : plan.lanes;
}

// forward and grad_input of depthwise layers: from result to result of a strip (LaneStrip in kernels.h), where
// the sources of neighbouring taps are one apart; 0 where strips cannot compute the layer.
int64_t strip_step(const Plan& plan);
// Whether the plan has strips for its tiles.
inline bool in_strips(const Plan& plan) {
  return plan.algorithm == Algorithm::kLanewise && plan.nv == 0;
}

// grad_weight: planes of X without padding between their columns are read where they lie, if L1 holds a line of
// each row of a tile.
bool planes_in_place(const Plan& plan);

// grad_weight: the elements (kw, ci) of a kernel row lie side by side in the packed source, and a tile's rows run
// over both.
bool kernel_row_merges(const Plan& plan);

// forward, grad_input: so few summed channels are summed innermost, and together with the kernel elements: in
// channels_last those of a kernel row lie side by side.
constexpr int64_t kThinChannels = 4;

// The plan as text, for people.
std::string describe(const Plan& plan);

}  // namespace tce
