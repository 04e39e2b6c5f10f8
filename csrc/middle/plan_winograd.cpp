// The plan of Winograd F(m, r) (winograd.cpp, winograd_weight.cpp). Rows and columns count tiles.

#include <algorithm>

#include "plan_tiles.h"
#include "scratch.h"
#include "winograd.h"

namespace tce {

namespace {

// Channels whose weights are transformed at a time: 36 * 64 * 32 floats are 288 KiB, a part of L2; and the
// terms of a sum in registers (the shorter, the smaller its rounding error).
constexpr int64_t kChannels = 64;
// Tiles of a chunk: enough to amortise the transform of the weights (about 100 cycles per vector and channel,
// against 36 for the products of one tile).
constexpr int64_t kTiles = 128;
constexpr int64_t kTransformedBytes = 5 * 512 * 1024;
constexpr int64_t kPackedBytes = 512 * 1024;  // of weights before their transform
// The plan does not know the batch: so many samples are taken to share a chunk, and the transforms of weights.
constexpr double kSamples = 4;
// grad_weight: tiles summed in registers, channels of an item, bytes of its sums.
constexpr int64_t kSumTiles = 64;
constexpr int64_t kItemChannels = 128;
constexpr int64_t kSumBytes = 5 * 256 * 1024;

// Of equal tiles the narrowest panel: its 36 planes of weights and of products then stay in L2.
constexpr double kNarrow = 0;

// Elements of the packed rows of a chunk of tiles, and of a row of zeros, for one vector of channels.
int64_t packed_pixels(const Plan& plan, int64_t residues_h, int64_t residues_w) {
  const WinogradAxis &h = plan.winograd_h, &w = plan.winograd_w;
  return (part_span(h, residues_h) * plan.rows + 1) * plan.geometry.dilation_w *
         (residues_w * w.results() * (plan.cols - 1) + part_span(w, residues_w));
}

// Sets the points, taps and blocks of both axes to those with the fewest products for h x w results. False if
// there are none.
template <class scalar_t>
bool choose_points(Plan& plan, const Kernels<scalar_t>& k, int64_t h, int64_t w) {
  const ConvGeometry& g = plan.geometry;
  // A residue without an element would be multiplied as zeros.
  if (g.kH < g.stride_h || g.kW < g.stride_w || std::max(g.stride_h, g.stride_w) > kMaxVectors) return false;
  if (std::min(g.stride_h, g.dilation_h) > 1 || std::min(g.stride_w, g.dilation_w) > 1) return false;
  const int64_t taps_h = ceil_div(g.kH, g.stride_h), taps_w = ceil_div(g.kW, g.stride_w);
  if (taps_h == 1 && taps_w == 1) return false;
  const WinogradAxes axes = taps_h == 1 ? kColumnsOnly : taps_w == 1 ? kRowsOnly : kBothAxes;
  int64_t least = 0;
  for (int points = 2; points <= kMaxWinogradPoints; ++points) {
    for (int taps = 2; taps <= kMaxWinogradTaps; ++taps) {
      if (!k.winograd[axes][points][taps].input) continue;
      const auto axis = [&](int64_t n) {
        return n == 1 ? WinogradAxis{1, 1, 1}
                      : WinogradAxis{points, taps, static_cast<int>(ceil_div(n, taps))};
      };
      const auto products = [](const WinogradAxis& a, int64_t results, int64_t dilation) {
        return a.points * a.blocks * tile_count(results, dilation, a.results());
      };
      const WinogradAxis axis_h = axis(taps_h), axis_w = axis(taps_w);
      const int64_t all = products(axis_h, h, g.dilation_h) * products(axis_w, w, g.dilation_w);
      if (least != 0 && all >= least) continue;
      plan.winograd_h = axis_h, plan.winograd_w = axis_w;
      least = all;
    }
  }
  return least > 0 && part_span(plan.winograd_h, g.stride_h) <= kMaxWinogradLines;
}

template <class scalar_t>
double plan_correlation(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry g = joined_geometry(plan);
  const bool is_forward = plan.contraction == Contraction::kForward;
  const int64_t channels = is_forward ? g.Co : g.Ci, summed = is_forward ? g.Ci : g.Co;
  const int64_t h = is_forward ? g.oH : residue_range(g.iH, g.stride_h, g.padding_h).count;
  const int64_t w = is_forward ? g.oW : residue_range(g.iW, g.stride_w, g.padding_w).count;
  if (summed == 0 || h <= 0 || w <= 0) return kNever;
  if (!choose_points(plan, k, h, w)) return kNever;
  const WinogradAxis &axis_h = plan.winograd_h, &axis_w = plan.winograd_w;
  const int64_t products = product_count(plan), L = k.lanes, es = plan.element_size;
  const int64_t tiles_w = tile_count(w, g.dilation_w, axis_w.results());
  // Residues of the source, and of the result: those of a row lie side by side in a panel.
  const int64_t source_h = is_forward ? g.stride_h : 1, source_w = is_forward ? g.stride_w : 1;
  const int64_t out_h = is_forward ? 1 : g.stride_h, out_w = is_forward ? 1 : g.stride_w;
  const int64_t tiles = g.dilation_h * tile_count(h, g.dilation_h, axis_h.results()) * g.dilation_w * tiles_w;
  const int64_t parts = part_count(plan);
  const int64_t groups = parts * ceil_div(summed, L);
  const double product_cycles = choose_tile(plan, k, tiles, channels, kNarrow, static_cast<int>(out_w));
  if (plan.nv == 0) return kNever;
  const int64_t lanes = plan.panel_lanes(), elements = g.kH * g.kW;

  plan.kh_block = g.kH;
  plan.kw_block = g.kW;
  plan.c_block =
      balanced(ceil_div(summed, L) * L, std::min(kChannels, kPackedBytes / (elements * lanes / out_w * es)));
  plan.c_block = ceil_div(plan.c_block, L) * L;
  const int64_t most = std::clamp<int64_t>(kTransformedBytes / (products * groups * L * es), 8, kTiles);
  plan.cols = balanced(tiles_w, most / g.dilation_w);
  plan.rows = std::max<int64_t>(1, most / (plan.cols * g.dilation_w));
  plan.panels = std::max<int64_t>(1, out_h * panel_count(plan, channels * out_w));

  const int64_t chunk = plan.rows * plan.cols * g.dilation_w;
  plan.source_bytes = scratch_bytes(products * plane_stride(groups * chunk * L, L), es);
  plan.weight_bytes = scratch_bytes(products * plane_stride(plan.c_block * lanes, L), es);
  plan.tile_bytes = scratch_bytes(products * plane_stride(chunk * lanes, L), es);
  plan.edge_bytes = scratch_bytes(
      std::max({packed_pixels(plan, source_h, source_w) * L, (plan.c_block * elements + 1) * lanes / out_w,
                (axis_h.results() * axis_w.results() * plan.cols * g.dilation_w + 1) * lanes}),
      es);
  plan.scratch_bytes = plan.source_bytes + plan.weight_bytes + plan.tile_bytes + plan.edge_bytes +
                       scratch_bytes(L, sizeof(KStep));

  const WinogradCycles cycles = winograd_cycles(plan);
  const double vectors = static_cast<double>(out_h * out_w * ceil_div(channels, L));
  const double t = static_cast<double>(tiles);
  const int64_t calls = products * ceil_div(tiles, plan.mr) * out_h * panel_count(plan, channels * out_w) *
                        parts * ceil_div(summed, plan.c_block);
  return product_cycles * static_cast<double>(out_h * products * groups * L) +
         static_cast<double>(calls) * kTile + t * static_cast<double>(groups) * cycles.input +
         static_cast<double>(parts * summed) * vectors * (is_forward ? cycles.kernel : cycles.kernel_turned) *
             std::max(1 / kSamples, t / static_cast<double>(chunk)) +
         t * vectors * cycles.output;
}

template <class scalar_t>
double plan_grad_weight(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry g = joined_geometry(plan);
  if (g.oH == 0 || g.oW == 0 || g.Ci == 0) return kNever;
  if (!choose_points(plan, k, g.oH, g.oW)) return kNever;
  const WinogradAxis &axis_h = plan.winograd_h, &axis_w = plan.winograd_w;
  const int64_t products = product_count(plan), L = k.lanes, es = plan.element_size;
  const int64_t tiles_h = tile_count(g.oH, g.dilation_h, axis_h.results());
  const int64_t tiles_w = tile_count(g.oW, g.dilation_w, axis_w.results());
  const int64_t parts = part_count(plan), groups = ceil_div(g.Ci, L);
  plan.kh_block = g.kH;
  plan.kw_block = g.kW;
  plan.c_block = balanced(groups * L, std::max<int64_t>(L, kItemChannels / parts));
  plan.c_block = ceil_div(plan.c_block, L) * L;
  const int64_t all = parts * plan.c_block;
  const double tile_cycles = choose_tile(plan, k, all, g.Co, kNarrow);
  const int64_t lanes = plan.panel_lanes();
  plan.cols = balanced(tiles_w, kSumTiles / g.dilation_w);
  plan.rows = std::max<int64_t>(1, kSumTiles / (plan.cols * g.dilation_w));
  const int64_t chunk = plan.rows * plan.cols * g.dilation_w;
  plan.panels = std::clamp<int64_t>(kSumBytes / (products * all * lanes * es), 1,
                                    std::max<int64_t>(1, panel_count(plan, g.Co)));

  plan.source_bytes = scratch_bytes(products * plane_stride(chunk * all, L), es);
  plan.weight_bytes = scratch_bytes(products * plane_stride(chunk * lanes, L), es);
  plan.tile_bytes = scratch_bytes(plan.panels * products * plane_stride(all * lanes, L), es);
  plan.edge_bytes = scratch_bytes(
      std::max({packed_pixels(plan, g.stride_h, g.stride_w) * L,
                (axis_h.results() * plan.rows + 1) * axis_w.results() * plan.cols * g.dilation_w * lanes,
                g.kH * g.kW * L * lanes}),
      es);
  plan.scratch_bytes = plan.source_bytes + plan.weight_bytes + plan.tile_bytes + plan.edge_bytes +
                       scratch_bytes(chunk, sizeof(KStep));

  const WinogradCycles cycles = winograd_cycles(plan);
  const double t = static_cast<double>(g.dilation_h * tiles_h * g.dilation_w * tiles_w),
               vectors = static_cast<double>(ceil_div(g.Co, L));
  const int64_t calls =
      products * ceil_div(all, plan.mr) * panel_count(plan, g.Co) * ceil_div(g.Ci, plan.c_block);
  const double chunks = std::max(1 / kSamples, t / static_cast<double>(chunk));
  return chunks * static_cast<double>(calls) * kTile +
         t * (static_cast<double>(products) * tile_cycles *
                  static_cast<double>(ceil_div(g.Ci, plan.c_block)) +
              static_cast<double>(parts * groups) * cycles.input + vectors * cycles.input) +
         static_cast<double>(parts * g.Ci) * vectors * cycles.kernel;
}

}  // namespace

template <class scalar_t>
double plan_winograd(Plan& plan, const Kernels<scalar_t>& kernels) {
  const ConvGeometry& g = plan.geometry;
  plan.joined = 1;
  for (int joined = 2; joined <= kernels.lanes / std::max<int64_t>(1, std::max(g.Ci, g.Co)); ++joined) {
    if (g.G % joined == 0) plan.joined = joined;
  }
  const double cycles = plan.contraction == Contraction::kGradWeight ? plan_grad_weight(plan, kernels)
                                                                     : plan_correlation(plan, kernels);
  // So few channels that the transforms' vectors are not full, and the products' sums short (measured).
  const bool few = std::min(g.Ci, g.Co) * plan.joined < kernels.lanes;
  // Groups of few channels with a stride have small parts, which are transposed one by one (measured).
  const bool strided = g.G > 1 && std::max(g.Ci, g.Co) <= 2 * kernels.lanes && g.stride_h * g.stride_w > 1 &&
                       !plan.layout.channels_inner && plan.contraction != Contraction::kGradWeight;
  return ((few ? 1.4 : 1.0) * (strided ? 1.3 : 1.0) * cycles +
          piece_cycles(plan, kWinogradLine, plan.joined)) /
         plan.joined;
}

template double plan_winograd<float>(Plan&, const Kernels<float>&);
template double plan_winograd<double>(Plan&, const Kernels<double>&);

}  // namespace tce
