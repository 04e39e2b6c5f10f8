// The plan of the algorithm `rows` (rows.cpp and rows_weight.cpp).

#include <algorithm>
#include <cmath>

#include "plan_planes.h"
#include "scratch.h"

namespace tce {

namespace {

// Cycles that masked loads cost beside others: AVX-512 has masks for nothing.
template <class scalar_t>
double mask_cycles(const Plan& plan, const Kernels<scalar_t>& k) {
  return k.lanes * plan.element_size < 64 ? 1.0 : 0.0;
}

// A sweep: an FMA for each kernel element and vector of columns, but for kernel rows outside the image
// (measured on Zen 4, for vectors of half the length, too).
template <class scalar_t>
double sweep_cycles(const Plan& plan, const Kernels<scalar_t>& k, RowMode mode, int64_t vectors) {
  const ConvGeometry& g = plan.geometry;
  int64_t terms = 0;  // pairs of a kernel row and a row of Y that meet inside the image
  for (int64_t kh = 0; kh < g.kH; ++kh) {
    const int64_t source = kh * g.dilation_h - g.padding_h;
    const int64_t first = std::clamp<int64_t>(ceil_div(-source, g.stride_h), 0, g.oH);
    terms += std::clamp(ceil_div(g.iH - source, g.stride_h), first, g.oH) - first;
  }
  const double length = plan.lanes < k.lanes ? 0.7 : 1.0, v = static_cast<double>(vectors);
  const double rows = static_cast<double>(g.iH), kw = static_cast<double>(g.kW);
  double sums = 1.22 / k.fma_per_cycle * static_cast<double>(terms) * kw;
  sums += mask_cycles(plan, k) * rows * kw;
  if (mode == RowMode::kPairs) sums += 0.8 * rows * kw;
  if (mode == RowMode::kZipped) sums = sums / 2 + 6 * rows;
  return static_cast<double>(g.Ci * g.Co) * (length * v * (sums + rows) + 15) +
         plane_cycles(plan, kRead, kRead);
}

template <class scalar_t>
double plan_rows_correlation(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry& g = plan.geometry;
  const Sizes s = sizes_of(plan);
  const int64_t es = plan.element_size;
  plan.lanes = k.lanes;
  plan.panels = 1, plan.kw_block = g.kW;
  plan.c_block = balanced(s.C, kTerms / std::max<int64_t>(1, s.h.taps * s.w.taps));
  plan.kh_block = balanced(g.kH, kTerms / std::max<int64_t>(1, plan.c_block * g.kW));
  const bool in_place = rows_in_place(plan);
  plan.cols = in_place ? std::max<int64_t>(1, s.out_w) : balanced(s.out_w, kChunkCols);
  const RowMode mode = !in_place             ? RowMode::kPlain
                       : s.w.source_step > 1 ? RowMode::kPairs
                       : s.w.out_step > 1    ? RowMode::kZipped
                                             : RowMode::kPlain;
  const int64_t columns = mode == RowMode::kZipped ? plan.cols : ceil_div(plan.cols, s.w.out_step);
  // Vectors of half the length, where they have fewer lanes too many.
  const auto count = [&](int64_t lanes) { return std::max<int64_t>(1, ceil_div(columns, lanes)); };
  const auto& kernels = k.row_kernel[0][static_cast<int>(mode)];
  const auto& half_kernels = k.row_kernel[1][static_cast<int>(mode)];
  const bool half = count(k.lanes / 2) <= 2 && count(k.lanes / 2) < 2 * count(k.lanes) &&
                    half_kernels[mode == RowMode::kZipped ? 2 : count(k.lanes / 2)][1];
  if (half) plan.lanes = k.lanes / 2;
  const int64_t vectors = count(plan.lanes);
  const auto& row_kernel = half ? half_kernels : kernels;
  for (plan.nv = kMaxVectors; !row_kernel[plan.nv][3];) --plan.nv;
  if (mode != RowMode::kZipped) plan.nv = static_cast<int>(balanced(vectors, plan.nv));
  const auto& sweeps =
      k.sweep_kernel[half][static_cast<int>(mode)][g.kH == g.kW && g.kH <= kMaxSweep ? g.kH : 0];
  const bool sweep = in_place && s.C == 1 && sweeps[mode == RowMode::kZipped ? 2 : 1] &&
                     g.stride_h == (mode == RowMode::kPlain ? 1 : 2) &&
                     (mode == RowMode::kPlain || (g.dilation_h == 1 && g.dilation_w == 1));
  if (sweep)
    while (!sweeps[plan.nv]) --plan.nv;
  for (plan.mr = kMaxTileRows; !row_kernel[plan.nv][plan.mr];) --plan.mr;
  const int64_t width = width_bound(s.w, plan.cols), slack = kMaxVectors * k.lanes;
  const auto source = [&](int64_t rows) {
    return (plan.c_block * width_bound(s.h, rows) * width + slack) * es;
  };
  const auto tiles = [&](int64_t rows) {
    return in_place ? 0 : s.w.out_step * rows * (columns + 1) * (s.C > plan.c_block ? s.O : 1) * es;
  };
  choose_rows_and_channels(plan, s.out_h, s.out_h, s.C, s.h.taps, [&](int64_t rows) {
    return source(rows) <= kSourceBytes && tiles(rows) <= kTileBytes;
  });
  plan.source_bytes = in_place ? 0 : scratch_bytes(source(plan.rows), 1);
  plan.weight_bytes = 0;
  plan.tile_bytes = scratch_bytes(tiles(plan.rows), 1);
  plan.scratch_bytes = plan.source_bytes + plan.tile_bytes;
  if (plan.source_bytes > 4 * kSourceBytes || plan.tile_bytes > 4 * kTileBytes) return kNever;

  if (sweep) return sweep_cycles(plan, k, mode, vectors);
  // A tile: every row of its window is loaded once for each kernel column, and feeds as many rows as it has
  // taps on.
  const double chains = static_cast<double>(std::clamp<int64_t>(s.h.taps, 1, s.h.source_step));
  const double taps_h = static_cast<double>(std::max<int64_t>(1, s.h.taps)),
               taps_w = static_cast<double>(s.w.taps);
  const int64_t rows = std::max<int64_t>(1, ceil_div(std::min(plan.rows, s.out_h), s.h.out_step));
  const double mr = std::min({static_cast<double>(plan.mr), static_cast<double>(rows), taps_h / chains + 1});
  const double nv = static_cast<double>(vectors);
  const double window = taps_h + chains * (mr - 1);
  const double row = std::max({taps_h * mr * nv / window / k.fma_per_cycle,
                               nv * load_cycles(plan, false) + taps_h * mr / window / 2, 4.0}) +
                     nv * mask_cycles(plan, k);
  // Measured: with a stride sources are split into even and odd columns, or results are two vectors.
  const double factor = mode == RowMode::kPairs ? 1.5 : mode == RowMode::kZipped ? 0.8 : 1.1;
  const double tile = factor * taps_w * window * row + 12 * nv + 8;
  const double phases = static_cast<double>(std::clamp<int64_t>(s.out_h, 1, s.h.out_step) *
                                            std::clamp<int64_t>(s.out_w, 1, s.w.out_step));
  const double sums = chunks(plan, s.out_h, s.out_w) * phases * static_cast<double>(s.C * s.O) *
                      std::ceil(static_cast<double>(rows) / mr) * tile;
  const bool inner = plan.layout.columns_inner;
  if (in_place) return sums + plane_cycles(plan, kRead, kRead);
  return sums + piece_cycles(plan, kPlanesLine) +
         plane_cycles(plan,
                      !inner                 ? dealt(plan, s.C)
                      : s.w.source_step == 1 ? kCopied
                                             : kZipped,
                      !inner              ? kGathered
                      : s.w.out_step == 1 ? kInPlace
                                          : kZipped);
}

// Cycles of a step of a tile of mr values of one side with nt of the other, which lies anywhere.
template <class scalar_t>
double product_cycles(const Plan& plan, const Kernels<scalar_t>& k, double mr, double nt) {
  return std::max(
      {mr * nt / k.fma_per_cycle, mr * load_cycles(plan, true) + nt * load_cycles(plan, false), 4.0});
}

// The tile of several result channels with the fewest cycles for a vector of pixels, which are returned.
template <class scalar_t>
double choose_weight_tile(Plan& plan, const Kernels<scalar_t>& k, int64_t taps, double steps) {
  const int64_t Co = plan.geometry.Co;
  // Neighbouring kernel columns share lines of L1; those of a pointwise layer come from L2 (measured).
  const double fetch = plan.geometry.kW > 1 ? 1.1 : 1.4;
  double best = kNever;
  for (int64_t mr = 1; mr <= std::min<int64_t>(Co, kMaxWeightChannels); ++mr) {
    int64_t nt = kMaxWeightTaps;
    while (!k.channel_weight_kernel[mr][nt]) --nt;
    const double tiles = static_cast<double>(ceil_div(Co, mr) * ceil_div(taps, nt));
    const double rows = static_cast<double>(Co) / static_cast<double>(ceil_div(Co, mr));
    const double width = static_cast<double>(taps) / static_cast<double>(ceil_div(taps, nt));
    const double cycles =
        tiles * (fetch * product_cycles(plan, k, rows, width) + (kTile + 2 * rows * width) / steps);
    if (cycles < best) {
      best = cycles;
      plan.mr = static_cast<int>(mr);
    }
  }
  return best;
}

template <class scalar_t>
double plan_rows_weight(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry& g = plan.geometry;
  const int64_t es = plan.element_size, L = k.lanes;
  const bool one = g.Co <= 1;  // result channel
  plan.lanes = k.lanes;
  plan.nv = 1, plan.mr = kMaxWeightRows;
  plan.kw_block = g.kW;
  const int64_t kernel_row = g.Ci * g.kW * L * es;  // bytes of the sums of a result channel
  plan.kh_block = balanced(g.kH, kTileBytes / std::max<int64_t>(1, kernel_row));
  plan.cols = balanced(g.oW, kSumPixels);
  const AxisBound h = axis_bound(true, g.oH, g.iH, plan.kh_block, g.stride_h, g.dilation_h);
  const AxisBound w = axis_bound(true, g.oW, g.iW, g.kW, g.stride_w, g.dilation_w);
  plan.c_block = one ? 1 : std::max<int64_t>(1, g.Ci);
  const auto source = [&](int64_t rows) {
    return plan.c_block * width_bound(h, rows) * width_bound(w, plan.cols) * es;
  };
  // A lane sums a vector's share of a chunk.
  choose_rows_and_channels(plan, g.oH, kSumPixels * L / 4 / std::max<int64_t>(1, plan.cols), g.Ci, h.taps,
                           [&](int64_t rows) { return source(rows) <= kSourceBytes; });
  const double steps = static_cast<double>(std::min(plan.rows, g.oH) * ceil_div(plan.cols, L));
  const double tiles =
      one ? 0 : choose_weight_tile(plan, k, plan.c_block * plan.kh_block * g.kW, std::max(steps, 1.0));
  const int64_t mr = one ? 1 : plan.mr;
  const int64_t tile = mr * plan.kh_block * kernel_row;
  plan.panels = std::clamp<int64_t>(kTileBytes / std::max<int64_t>(1, tile), 1,
                                    ceil_div(std::max<int64_t>(1, g.Co), mr));
  plan.source_bytes = scratch_bytes(source(plan.rows), 1);
  plan.tile_bytes = scratch_bytes(plan.panels * tile, 1);
  plan.scratch_bytes = plan.source_bytes + plan.tile_bytes;
  if (plan.source_bytes > 4 * kSourceBytes || plan.tile_bytes > 2 * kTileBytes) return kNever;

  const double vectors = static_cast<double>(ceil_div(g.oW, L));
  const double planes = plane_cycles(plan,
                                     g.G == 1 && g.Ci * g.Co > 1 ? kFarCopied
                                     : g.stride_w == 1           ? kCopied
                                                                 : kZipped,
                                     kInPlace);
  if (!one) {
    const double blocks = static_cast<double>(ceil_div(g.Ci, plan.c_block) * ceil_div(g.kH, plan.kh_block));
    return tiles * blocks * static_cast<double>(g.oH) * vectors + planes;
  }
  int64_t kw = kMaxWeightCols;
  while (!k.row_weight_kernel[kMaxWeightRows][kw]) --kw;
  const double chains =
      static_cast<double>(std::min(g.kH, g.stride_h % g.dilation_h == 0 ? g.stride_h / g.dilation_h : g.kH));
  const double rows = std::min<double>(kMaxWeightRows, static_cast<double>(g.kH) / chains);
  const double nc = static_cast<double>(balanced(g.kW, kw));
  const double step = 1.8 * product_cycles(plan, k, rows, nc) / (rows * nc);
  const double calls = static_cast<double>(g.kH * g.kW) / (rows * nc) * 40;
  return static_cast<double>(g.Ci * g.Co) *
             (step * static_cast<double>(g.kH * g.kW * g.oH) * vectors + calls) +
         planes;
}

}  // namespace

template <class scalar_t>
double plan_rows(Plan& plan, const Kernels<scalar_t>& k) {
  return plan.contraction == Contraction::kGradWeight ? plan_rows_weight(plan, k)
                                                      : plan_rows_correlation(plan, k);
}

#define TCE_INSTANTIATE(scalar_t) template double plan_rows<scalar_t>(Plan&, const Kernels<scalar_t>&);
TCE_INSTANTIATE(float)
TCE_INSTANTIATE(double)
#undef TCE_INSTANTIATE

}  // namespace tce
