// Choosing the microkernel's tile: shared by the algorithms' plans.

#pragma once

#include <algorithm>
#include <limits>
#include <numeric>

#include "plan.h"
#include "winograd.h"

namespace tce {

// Tuned constants were chosen on a 2-core AMD EPYC (Zen 4, 32 KiB L1, 1 MiB L2 per core), 2026-11, with the
// layers of `python -m torch_conv_ext bench`; they are sizes of caches and of sums, not of single layers.

// Terms summed in registers before the sum goes to memory. Short sums keep the rounding error low (error
// grows with the length of a run: blocked summation, Higham, Accuracy and Stability of Numerical Algorithms,
// 2nd ed., 4.2); long ones amortise the tile's load and store.
constexpr int64_t kTerms = 320;
// Bytes of L1 for the operands of a tile that the next one reads again.
constexpr int64_t kL1Bytes = 24 * 1024;
// Kernel elements in a block at most, whatever their number of channels.
constexpr int64_t kKernelElements = 256;
// Columns of a chunk, at most.
constexpr int64_t kChunkCols = 512;
// Bytes of each part of the scratch; their sum is what a thread holds.
constexpr int64_t kSourceBytes = 512 * 1024;
constexpr int64_t kWeightBytes = 512 * 1024;
constexpr int64_t kTileBytes = 1024 * 1024;
// A plan that needs more scratch than this is declined.
constexpr int64_t kScratchBytes = 8 * 1024 * 1024;

// Cycles that a tile takes beside its sum: the call, its accumulators' start and end.
constexpr double kTile = 40;
// Cycles of Winograd's transforms of one tile, or kernel, and one vector of channels, with its packing (measured
// on Zen 4); the kernels of grad_input lie across the channels that it sums (3x3: 300 cycles, 4x4: 540; between).
struct WinogradCycles {
  double input, kernel, kernel_turned, output;
};
inline WinogradCycles winograd_cycles(const Plan& plan) {
  const double size = 0.2 + 0.8 * static_cast<double>(product_count(plan)) / 36;
  return {300 * size, 110 * size, 420 * size, 200 * size};
}

// The largest part of total cut into equal parts of at most `limit`.
inline int64_t balanced(int64_t total, int64_t limit) {
  if (total <= 0) return 1;
  return ceil_div(total, ceil_div(total, std::max<int64_t>(limit, 1)));
}

// Cycles that a core needs for one step of the sum of an mr x nv tile: it starts fma_per_cycle FMAs and two
// loads a cycle, and an accumulator takes one FMA each four cycles.
template <class scalar_t>
double step_cycles(const Kernels<scalar_t>& k, int64_t mr, int64_t nv) {
  const double fma = static_cast<double>(mr * nv) / k.fma_per_cycle;
  const double loads = static_cast<double>(mr + nv) / 2;
  return std::max({fma, loads, 4.0});
}

// Cycles for one step over a result of `count` rows and `vectors` vectors of
// channels, cut into tiles of nv vectors.
template <class scalar_t>
double tiling_cycles(const Kernels<scalar_t>& k, int64_t count, int64_t vectors, int nv) {
  const auto panels = [&](int64_t panel_vectors) {
    const int64_t tiles = ceil_div(count, k.max_rows[panel_vectors]);
    const int64_t larger = count % tiles, mr = count / tiles;
    return static_cast<double>(larger) * step_cycles(k, mr + 1, panel_vectors) +
           static_cast<double>(tiles - larger) * step_cycles(k, mr, panel_vectors);
  };
  const int64_t rest = vectors % nv;
  return static_cast<double>(vectors / nv) * panels(nv) + (rest ? panels(rest) : 0.0);
}

// Returns the cycles of tiling_cycles for the chosen tile. Channels come in `sets` that a panel has together:
// nv is a multiple, or 0 where there is no such tile. Of tiles of the same cost it is the narrowest; a negative
// byte_cost prefers the widest.
template <class scalar_t>
double choose_tile(Plan& plan, const Kernels<scalar_t>& k, int64_t count, int64_t channels,
                   double byte_cost = 0.002, int sets = 1) {
  const int64_t vectors = sets * std::max<int64_t>(1, ceil_div(channels, k.lanes));
  count = std::max<int64_t>(1, count);
  double best = 0, best_cost = 0;
  for (int nv = sets; nv <= kMaxVectors && nv <= vectors; nv += sets) {
    if (!k.max_rows[nv]) continue;
    const double cycles = tiling_cycles(k, count, vectors, nv);
    // Of tiles with equal cycles the one that reads fewer bytes for an FMA: what
    // L1 does not hold comes from L2.
    const int64_t mr = std::min<int64_t>(count, k.max_rows[nv]);
    const double bytes =
        static_cast<double>((mr + nv * k.lanes) * sizeof(scalar_t)) / static_cast<double>(mr * nv);
    // Beside two FMAs a cycle loads find little room (measured).
    const double loads = static_cast<double>(mr + nv) / static_cast<double>(mr * nv);
    const double cost = cycles * (1 + byte_cost * bytes + 0.07 * (k.fma_per_cycle - 1) * loads);
    if (plan.nv == 0 || cost < best_cost) {
      best = cycles;
      best_cost = cost;
      plan.nv = nv;
    }
  }
  plan.mr = k.max_rows[plan.nv];
  plan.lanes = k.lanes;
  return best;
}

// How far apart the sources of an axis lie (bounds of what make_row_slots and
// make_source_runs in pack.h lay out).
struct AxisBound {
  int64_t out_size, source_size, out_step, source_step;
  int64_t taps;       // of a phase, at most
  int64_t taps_span;  // distance of the first and the last source that an output position can read, at most
  int64_t classes;    // different residues of a source modulo source_step
};

inline AxisBound axis_bound(bool is_forward, int64_t o, int64_t i, int64_t k, int64_t stride,
                            int64_t dilation) {
  const int64_t residues = stride / std::gcd(stride, dilation);
  if (is_forward) return {o, i, 1, stride, k, (k - 1) * dilation, std::min(k, residues)};
  return {i, o, stride, 1, ceil_div(k, residues), ((k - 1) * dilation + stride) / stride + 1, 1};
}

// Source rows that `rows` consecutive result rows read; consecutive over the
// images, so some may be the next image's.
inline int64_t slots_bound(const AxisBound& a, int64_t rows) {
  const int64_t images = a.out_size > 0 ? (rows - 1) / a.out_size + (rows > 1 ? 2 : 1) : 1;
  const int64_t dense = ceil_div(rows * a.source_step, a.out_step) + images * (a.taps_span + 2);
  return std::max<int64_t>(1, std::min({rows * a.taps, images * a.source_size, dense}));
}

// `bands`: sources are packed for these (axis.h), where no tap misses the image in all results.
inline int64_t width_bound(const AxisBound& a, int64_t cols, bool bands = false) {
  const int64_t results = ceil_div(cols, a.out_step);
  if (a.taps <= 1 && a.source_step == 1 && a.out_step == 1) return std::max<int64_t>(1, results);
  // Taps that miss the image share one run of zeros; those that do not are no further apart than the image.
  const int64_t span = std::min(a.taps_span, a.source_size + results * a.source_step);
  return a.classes * (results + span / a.source_step + 3) + (bands ? 0 : results);
}

// Cycles to pack or to store a row of a plane, and four bytes of it (measured on Zen 4): read or written where
// it lies, copied along rows, with every second element, transposed between planes and vectors of groups,
// dealt out from the channels of a pixel to planes, or one at a time.
struct Move {
  double row, element;
};
constexpr Move kInPlace{0, 0}, kRead{0, 0.1}, kCopied{25, 0.15}, kZipped{60, 0.4}, kTransposed{0, 0.4},
    kDealt{0, 1.2}, kGathered{0, 3};
// The same of many channels, a few rows of each at a time: lines that lie far apart are not fetched ahead.
// Results transposed, and sources of a layer without groups transposed or copied.
constexpr Move kFarStored{0, 0.7}, kFarTransposed{0, 1.1}, kFarCopied{25, 1.1};

// Cycles to pack a group's planes of X, dX's or dY's (`in`), and to store its results (`out`).
inline double plane_cycles(const Plan& plan, const Move& in, const Move& out) {
  const ConvGeometry& g = plan.geometry;
  const double size = plan.element_size / 4.0;
  const auto cycles = [&](const Move& move, int64_t channels, int64_t h, int64_t w) {
    return static_cast<double>(channels * h) * (move.row + size * move.element * static_cast<double>(w));
  };
  // Of grad_weight X is packed, and dY is `out`.
  const bool x_first = plan.contraction != Contraction::kGradInput;
  return cycles(x_first ? in : out, g.Ci, g.iH, g.iW) + cycles(x_first ? out : in, g.Co, g.oH, g.oW);
}

// Where channels lie side by side, a group has a piece of each pixel, and the processor does not fetch the
// lines of the next pieces ahead. Cycles for those of X and Y (dX, dY), of `joined` groups; `line`: for one
// (measured).
inline double piece_cycles(const Plan& plan, double line, int joined = 1) {
  const ConvGeometry& g = plan.geometry;
  if (!plan.layout.channels_inner || g.G == 1) return 0;
  const auto lines = [&](int64_t channels) {
    return std::min<int64_t>(2, ceil_div(channels * joined * plan.element_size, 64));
  };
  return line * static_cast<double>(g.iH * g.iW * lines(g.Ci) + g.oH * g.oW * lines(g.Co));
}
constexpr double kDirectLine = 20, kWinogradLine = 30, kPlanesLine = 15;

// What is best for each algorithm, and the cycles that it is expected to take per sample and group on one
// core. The cycles compare algorithms with each other; they are no prediction of time.
template <class scalar_t>
double plan_direct(Plan& plan, const Kernels<scalar_t>& kernels);
template <class scalar_t>
double plan_subpixel(Plan& plan, const Kernels<scalar_t>& kernels);
template <class scalar_t>
double plan_exchanged(Plan& plan, const Kernels<scalar_t>& kernels);
template <class scalar_t>
double plan_winograd(Plan& plan, const Kernels<scalar_t>& kernels);
template <class scalar_t>
double plan_pixels(Plan& plan, const Kernels<scalar_t>& kernels);
template <class scalar_t>
double plan_rows(Plan& plan, const Kernels<scalar_t>& kernels);
template <class scalar_t>
double plan_lanewise(Plan& plan, const Kernels<scalar_t>& kernels);

// The cycles of an algorithm that cannot compute a geometry, or not within its scratch.
constexpr double kNever = std::numeric_limits<double>::infinity();

}  // namespace tce
