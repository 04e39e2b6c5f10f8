// The plan of Winograd F(4x4, 3x3) (winograd.cpp, winograd_weight.cpp). Rows and
// columns count tiles of 4x4 pixels.

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
// grad_weight: tiles summed in registers, channels of an item, bytes of its sums.
constexpr int64_t kSumTiles = 64;
constexpr int64_t kItemChannels = 128;
constexpr int64_t kSumBytes = 5 * 256 * 1024;

// Of equal tiles the narrowest panel: its 36 planes of weights and of products then stay in L2.
constexpr double kNarrow = 0;

template <class scalar_t>
double plan_correlation(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry& g = plan.geometry;
  const bool is_forward = plan.contraction == Contraction::kForward;
  const int64_t channels = is_forward ? g.Co : g.Ci, summed = is_forward ? g.Ci : g.Co;
  const int64_t tiles_h = ceil_div(is_forward ? g.oH : g.iH, 4),
                tiles_w = ceil_div(is_forward ? g.oW : g.iW, 4);
  if (summed == 0 || tiles_h == 0 || tiles_w == 0) return kNever;
  const int64_t tiles = tiles_h * tiles_w, L = k.lanes, groups = ceil_div(summed, L), es = plan.element_size;
  const double product_cycles = choose_tile(plan, k, tiles, channels, kNarrow);
  const int64_t lanes = plan.panel_lanes();

  plan.kh_block = plan.kw_block = 3;
  plan.c_block = balanced(groups * L, kChannels);
  plan.c_block = ceil_div(plan.c_block, L) * L;
  const int64_t most =
      std::clamp<int64_t>(kTransformedBytes / (36 * std::max<int64_t>(1, groups) * L * es), 8, kTiles);
  plan.cols = balanced(tiles_w, most);
  plan.rows = std::max<int64_t>(1, most / plan.cols);
  plan.panels = std::max<int64_t>(1, panel_count(plan, channels));

  const int64_t chunk = plan.rows * plan.cols;
  plan.source_bytes = scratch_bytes(36 * plane_stride(groups * chunk * L, L), es);
  plan.weight_bytes = scratch_bytes(36 * plane_stride(plan.c_block * lanes, L), es);
  plan.tile_bytes = scratch_bytes(36 * plane_stride(chunk * lanes, L), es);
  plan.edge_bytes = scratch_bytes(std::max({(6 * plan.rows + 1) * (4 * plan.cols + 2) * L,
                                            plan.c_block * 9 * lanes, (16 * plan.cols + 1) * lanes}),
                                  es);
  plan.scratch_bytes = plan.source_bytes + plan.weight_bytes + plan.tile_bytes + plan.edge_bytes +
                       scratch_bytes(L, sizeof(KStep));

  const double vectors = static_cast<double>(ceil_div(channels, L)), t = static_cast<double>(tiles);
  return product_cycles * static_cast<double>(36 * groups * L) +
         t * static_cast<double>(groups) * kWinogradInput +
         static_cast<double>(summed) * vectors * kWinogradKernel *
             std::max(1.0, t / static_cast<double>(chunk)) +
         t * vectors * kWinogradOutput;
}

template <class scalar_t>
double plan_grad_weight(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry& g = plan.geometry;
  const int64_t tiles_h = ceil_div(g.oH, 4), tiles_w = ceil_div(g.oW, 4), L = k.lanes, es = plan.element_size;
  if (tiles_h == 0 || tiles_w == 0 || g.Ci == 0) return kNever;
  const int64_t groups = ceil_div(g.Ci, L);
  plan.kh_block = plan.kw_block = 3;
  plan.c_block = ceil_div(balanced(groups * L, kItemChannels), L) * L;
  const double tile_cycles = choose_tile(plan, k, plan.c_block, g.Co, kNarrow);
  const int64_t lanes = plan.panel_lanes();
  plan.cols = balanced(tiles_w, kSumTiles);
  plan.rows = std::max<int64_t>(1, kSumTiles / plan.cols);
  const int64_t chunk = plan.rows * plan.cols;
  plan.panels = std::clamp<int64_t>(kSumBytes / (36 * plan.c_block * lanes * es), 1,
                                    std::max<int64_t>(1, panel_count(plan, g.Co)));

  plan.source_bytes = scratch_bytes(36 * plane_stride(chunk * plan.c_block, L), es);
  plan.weight_bytes = scratch_bytes(36 * plane_stride(chunk * lanes, L), es);
  plan.tile_bytes = scratch_bytes(plan.panels * 36 * plane_stride(plan.c_block * lanes, L), es);
  plan.edge_bytes = scratch_bytes(std::max({(6 * plan.rows + 1) * (4 * plan.cols + 2) * L,
                                            (4 * plan.rows + 1) * 4 * plan.cols * lanes, 9 * lanes}),
                                  es);
  plan.scratch_bytes = plan.source_bytes + plan.weight_bytes + plan.tile_bytes + plan.edge_bytes +
                       scratch_bytes(chunk, sizeof(KStep));

  const double t = static_cast<double>(tiles_h * tiles_w), vectors = static_cast<double>(ceil_div(g.Co, L));
  return t * (36 * tile_cycles * static_cast<double>(ceil_div(g.Ci, plan.c_block)) +
              static_cast<double>(groups) * kWinogradInput + vectors * kWinogradInput) +
         static_cast<double>(g.Ci) * vectors * kWinogradKernel;
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
