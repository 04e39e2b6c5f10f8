// The plan of Winograd F(m x m, r x r) (winograd.cpp, winograd_weight.cpp). Rows and
// columns count tiles of m x m pixels.

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
// The plan does not know the batch: so many samples are taken to share a chunk, and the transforms of weights.
constexpr double kSamples = 4;
// grad_weight: tiles summed in registers, channels of an item, bytes of its sums.
constexpr int64_t kSumTiles = 64;
constexpr int64_t kItemChannels = 128;
constexpr int64_t kSumBytes = 5 * 256 * 1024;

// Of equal tiles the narrowest panel: its 36 planes of weights and of products then stay in L2.
constexpr double kNarrow = 0;

// Elements of the packed rows of a chunk of tiles, and of a row of zeros, for one vector of channels.
int64_t packed_pixels(const Plan& plan, int64_t stride_h, int64_t stride_w) {
  return (plan.points * stride_h * plan.rows + 1) * stride_w * plan.geometry.dilation_w *
         (winograd_results(plan) * (plan.cols - 1) + plan.points);
}

// The number of points with the fewest products for a result of h x w pixels.
template <class scalar_t>
void choose_points(Plan& plan, const Kernels<scalar_t>& k, int64_t h, int64_t w) {
  const int64_t taps = winograd_taps(plan.geometry.kH, plan.geometry.stride_h);
  int64_t least = 0;
  for (int points = 2; points <= kMaxWinogradPoints; ++points) {
    if (!k.winograd[points][taps].input) continue;
    const int64_t m = points + 1 - taps;
    const int64_t products = points * points * tile_count(h, plan.geometry.dilation_h, m) *
                             tile_count(w, plan.geometry.dilation_w, m);
    if (plan.points != 0 && products >= least) continue;
    plan.points = points;
    least = products;
  }
}

template <class scalar_t>
double plan_correlation(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry& g = plan.geometry;
  const bool is_forward = plan.contraction == Contraction::kForward;
  const int64_t channels = is_forward ? g.Co : g.Ci, summed = is_forward ? g.Ci : g.Co;
  const int64_t h = is_forward ? g.oH : residue_range(g.iH, g.stride_h, g.padding_h).count;
  const int64_t w = is_forward ? g.oW : residue_range(g.iW, g.stride_w, g.padding_w).count;
  if (summed == 0 || h <= 0 || w <= 0) return kNever;
  choose_points(plan, k, h, w);
  const int64_t m = winograd_results(plan), products = plan.points * plan.points;
  const int64_t tiles_w = tile_count(w, g.dilation_w, m), L = k.lanes, es = plan.element_size;
  // Residues of the source, and of the result: those of a row lie side by side in a panel.
  const int64_t source_h = is_forward ? g.stride_h : 1, source_w = is_forward ? g.stride_w : 1;
  const int64_t out_h = is_forward ? 1 : g.stride_h, out_w = is_forward ? 1 : g.stride_w;
  const int64_t tiles = g.dilation_h * tile_count(h, g.dilation_h, m) * g.dilation_w * tiles_w,
                groups = source_h * source_w * ceil_div(summed, L);
  const double product_cycles = choose_tile(plan, k, tiles, channels, kNarrow, static_cast<int>(out_w));
  if (plan.nv == 0) return kNever;
  const int64_t lanes = plan.panel_lanes(), elements = g.kH * g.kW;

  plan.kh_block = g.kH;
  plan.kw_block = g.kW;
  plan.c_block = balanced(ceil_div(summed, L) * L, kChannels);
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
      std::max({packed_pixels(plan, source_h, source_w) * L, plan.c_block * elements * lanes / out_w,
                (m * m * plan.cols * g.dilation_w + 1) * lanes}),
      es);
  plan.scratch_bytes = plan.source_bytes + plan.weight_bytes + plan.tile_bytes + plan.edge_bytes +
                       scratch_bytes(L, sizeof(KStep));

  const double vectors = static_cast<double>(out_h * out_w * ceil_div(channels, L));
  const double t = static_cast<double>(tiles);
  return product_cycles * static_cast<double>(out_h * products * groups * L) +
         t * static_cast<double>(groups) * kWinogradInput +
         static_cast<double>(source_h * source_w * summed) * vectors *
             (is_forward ? kWinogradKernel : kWinogradKernelTurned) *
             std::max(1 / kSamples, t / static_cast<double>(chunk)) +
         t * vectors * kWinogradOutput;
}

template <class scalar_t>
double plan_grad_weight(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry& g = plan.geometry;
  if (g.oH == 0 || g.oW == 0 || g.Ci == 0) return kNever;
  choose_points(plan, k, g.oH, g.oW);
  const int64_t m = winograd_results(plan), products = plan.points * plan.points;
  const int64_t tiles_h = tile_count(g.oH, g.dilation_h, m), tiles_w = tile_count(g.oW, g.dilation_w, m);
  const int64_t L = k.lanes, es = plan.element_size;
  const int64_t residues = g.stride_h * g.stride_w, groups = ceil_div(g.Ci, L);
  plan.kh_block = g.kH;
  plan.kw_block = g.kW;
  plan.c_block = balanced(groups * L, std::max<int64_t>(L, kItemChannels / residues));
  plan.c_block = ceil_div(plan.c_block, L) * L;
  const int64_t all = residues * plan.c_block;
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
                (m * plan.rows + 1) * m * plan.cols * g.dilation_w * lanes, g.kH * g.kW * lanes}),
      es);
  plan.scratch_bytes = plan.source_bytes + plan.weight_bytes + plan.tile_bytes + plan.edge_bytes +
                       scratch_bytes(chunk, sizeof(KStep));

  const double t = static_cast<double>(g.dilation_h * tiles_h * g.dilation_w * tiles_w),
               vectors = static_cast<double>(ceil_div(g.Co, L));
  return t * (static_cast<double>(products) * tile_cycles *
                  static_cast<double>(ceil_div(g.Ci, plan.c_block)) +
              static_cast<double>(residues * groups) * kWinogradInput + vectors * kWinogradInput) +
         static_cast<double>(residues * g.Ci) * vectors * kWinogradKernel;
}

}  // namespace

template <class scalar_t>
double plan_winograd(Plan& plan, const Kernels<scalar_t>& kernels) {
  const double cycles = plan.contraction == Contraction::kGradWeight ? plan_grad_weight(plan, kernels)
                                                                     : plan_correlation(plan, kernels);
  // So few channels that the transforms' vectors are not full, and the products' sums short (measured).
  const bool few = std::min(plan.geometry.Ci, plan.geometry.Co) < kernels.lanes;
  return few ? 1.4 * cycles : cycles;
}

template double plan_winograd<float>(Plan&, const Kernels<float>&);
template double plan_winograd<double>(Plan&, const Kernels<double>&);

}  // namespace tce
