// The plan of the direct algorithm (correlate.cpp, grad_weight.cpp).

#include <algorithm>

#include "pack.h"
#include "plan_tiles.h"
#include "scratch.h"

namespace tce {

namespace {

// Pixels of a chunk: enough to amortise packing the weights for them.
constexpr int64_t kChunkPixels = 784;
// grad_weight: pixels that one call sums; longer than kTerms because dW is small and its error is that of
// many sums.
constexpr int64_t kSumPixels = 512;
// forward and grad_input, seen as the correlation of correlate.h.
template <class scalar_t>
double plan_correlation(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry& g = plan.geometry;
  const bool is_forward = plan.contraction == Contraction::kForward;
  const int64_t channels = is_forward ? g.Co : g.Ci, summed = is_forward ? g.Ci : g.Co;
  const int64_t out_h = is_forward ? g.oH : g.iH, out_w = is_forward ? g.oW : g.iW;
  const int es = plan.element_size;

  plan.cols = balanced(out_w, kChunkCols);
  const double row_cycles = choose_tile(plan, k, ceil_div(plan.cols, is_forward ? 1 : g.stride_w), channels);
  const int64_t lanes = plan.panel_lanes();

  plan.kw_block = balanced(g.kW, kKernelElements);
  plan.kh_block = balanced(g.kH, kKernelElements / plan.kw_block);
  const AxisBound h = axis_bound(is_forward, g.oH, g.iH, plan.kh_block, g.stride_h, g.dilation_h);
  const AxisBound w = axis_bound(is_forward, g.oW, g.iW, plan.kw_block, g.stride_w, g.dilation_w);
  const int64_t taps = plan.kh_block * plan.kw_block;
  plan.c_block = balanced(
      summed, std::min(kTerms / std::max<int64_t>(1, h.taps * w.taps), kWeightBytes / (taps * lanes * es)));

  const auto source_elements = [&](int64_t rows) {
    return slots_bound(h, rows) * width_bound(w, plan.cols) * plan.c_block;
  };
  plan.rows = std::max<int64_t>(1, kChunkPixels / std::max<int64_t>(1, plan.cols));
  // A chunk larger than an image only pays where images are small; rows of one image share their sources.
  if (out_h > 0 && plan.rows < out_h) plan.rows = balanced(out_h, plan.rows);
  while (plan.rows > 1 && source_elements(plan.rows) * es > kSourceBytes) plan.rows = ceil_div(plan.rows, 2);

  const int64_t pixels = plan.rows * plan.cols;
  plan.panels = std::clamp<int64_t>(kTileBytes / (pixels * lanes * es), 1,
                                    std::max<int64_t>(1, panel_count(plan, channels)));
  plan.source_bytes = scratch_bytes(source_elements(plan.rows), es);
  plan.weight_bytes = scratch_bytes(plan.c_block * taps * lanes, es);
  plan.tile_bytes = scratch_bytes(pixels * lanes * plan.panels, es);
  plan.scratch_bytes =
      plan.source_bytes + plan.weight_bytes + plan.tile_bytes + scratch_bytes(h.taps * w.taps, sizeof(KStep));
  return row_cycles * static_cast<double>(out_h * ceil_div(out_w, plan.cols)) *
         static_cast<double>(summed * g.kH * g.kW) / static_cast<double>(is_forward ? 1 : g.stride_h);
}

template <class scalar_t>
double plan_grad_weight(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry& g = plan.geometry;
  const int es = plan.element_size;
  const bool merged = kernel_row_merges(g);
  plan.cols = balanced(g.oW, kSumPixels);
  plan.rows = std::max<int64_t>(1, kSumPixels / std::max<int64_t>(1, plan.cols));
  if (g.oH > 0 && plan.rows < g.oH) plan.rows = balanced(g.oH, plan.rows);
  plan.kw_block = balanced(g.kW, kKernelElements);
  plan.kh_block = balanced(g.kH, kKernelElements / plan.kw_block);
  const double pixel_cycles = choose_tile(plan, k, merged ? plan.kw_block * g.Ci : g.Ci, g.Co);

  const int64_t lanes = plan.panel_lanes(), taps = plan.kh_block * plan.kw_block;
  const auto source_pixels = [&](int64_t rows) {
    const AxisBound h = axis_bound(true, g.oH, g.iH, plan.kh_block, g.stride_h, g.dilation_h);
    AxisBound w = axis_bound(true, g.oW, g.iW, plan.kw_block, g.stride_w, g.dilation_w);
    const int64_t width =
        merged ? (plan.cols - 1) * g.stride_w + plan.kw_block + 1 : width_bound(w, plan.cols);
    return slots_bound(h, rows) * width;
  };
  while (plan.rows > 1 && source_pixels(plan.rows) * es > kSourceBytes) plan.rows = ceil_div(plan.rows, 2);
  const int64_t pixels = plan.rows * plan.cols;
  plan.c_block = balanced(
      g.Ci, std::min(kSourceBytes / (source_pixels(plan.rows) * es), kTileBytes / (taps * lanes * es)));
  plan.panels = std::clamp<int64_t>(
      std::min(kTileBytes / (taps * plan.c_block * lanes * es), kWeightBytes / (pixels * lanes * es)), 1,
      std::max<int64_t>(1, panel_count(plan, g.Co)));

  plan.source_bytes = scratch_bytes(source_pixels(plan.rows) * plan.c_block, es);
  plan.weight_bytes = scratch_bytes(pixels * lanes * plan.panels, es);
  plan.tile_bytes = scratch_bytes(taps * plan.c_block * lanes * plan.panels, es);
  plan.scratch_bytes =
      plan.source_bytes + plan.weight_bytes + plan.tile_bytes + scratch_bytes(pixels, sizeof(KStep));
  // A kernel row of all channels, or one kernel element of them, is one run of tile rows.
  const int64_t runs = g.kH * (merged ? ceil_div(g.kW, plan.kw_block) : g.kW);
  return pixel_cycles * static_cast<double>(g.oH * g.oW) * static_cast<double>(runs);
}

}  // namespace

template <class scalar_t>
double plan_direct(Plan& plan, const Kernels<scalar_t>& kernels) {
  return plan.contraction == Contraction::kGradWeight ? plan_grad_weight(plan, kernels)
                                                      : plan_correlation(plan, kernels);
}

template double plan_direct<float>(Plan&, const Kernels<float>&);
template double plan_direct<double>(Plan&, const Kernels<double>&);

}  // namespace tce
