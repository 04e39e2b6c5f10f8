// The plan of the algorithm `lanewise` (lanewise.cpp and lanewise_weight.cpp).

#include <algorithm>
#include <numeric>

#include "plan_planes.h"
#include "scratch.h"

namespace tce {

namespace {

// Residues of the results that a dilation keeps apart (split_by_dilation).
int64_t dilation_split(int64_t dilation, int64_t stride) {
  return dilation / std::gcd(dilation, stride);
}

// Kernel columns that read neighbouring columns of the source, one result column after the other.
int64_t columns_of_chain(const Plan& plan, const Sizes& s) {
  const ConvGeometry& g = plan.geometry;
  return dilation_split(g.dilation_w, g.stride_w) > 1
             ? 1
             : std::max<int64_t>(1, ceil_div(s.w.taps, std::max<int64_t>(1, s.w.classes)));
}

// The tile with the fewest cycles for all results of an image and a vector of channels, which are returned: a
// source is loaded once for all rows, and all kernel columns of a run, that have a term with it; a vector for each
// of the summed channels.
template <class scalar_t>
double choose_lane_tile(Plan& plan, const Kernels<scalar_t>& k, const Sizes& s, LaneRead read,
                        int64_t split) {
  const auto phases = [](const AxisBound& a) { return std::clamp<int64_t>(a.out_size, 1, a.out_step); };
  const int64_t rows = std::max<int64_t>(1, ceil_div(s.out_h, phases(s.h) * split)),
                cols = std::max<int64_t>(1, ceil_div(s.out_w, phases(s.w)));
  // Of a phase, on average.
  const ConvGeometry& g = plan.geometry;
  const double taps_h = std::max(1.0, static_cast<double>(g.kH) / static_cast<double>(phases(s.h))),
               taps_w = std::max(1.0, static_cast<double>(g.kW) / static_cast<double>(phases(s.w))),
               chains = static_cast<double>(std::clamp<int64_t>(s.h.taps, 1, s.h.source_step));
  const bool aligned =
      read != LaneRead::kOwn || !plan.layout.channels_inner || plan.geometry.G % k.lanes == 0;
  const double x_load = read == LaneRead::kShared ? 0.5 : load_cycles(plan, aligned);
  // Kernel columns that read neighbouring sources.
  const int64_t chain_w = columns_of_chain(plan, s);
  const auto& most_run = k.lane_run[static_cast<int>(read)];
  double best = kNever;
  // Kernel rows of a chain, at least: a tile has no more rows than these and one.
  const int64_t chain = std::min(plan.kh_block, plan.geometry.kH / s.h.out_step) /
                        std::max<int64_t>(1, std::min(s.h.taps, s.h.source_step));
  for (int r = 1; r <= std::min<int64_t>(kMaxLaneRows, std::max<int64_t>(chain, 1) + 1); ++r) {
    for (int p = 1; p <= kMaxLaneCols; ++p) {
      if (!k.lane_kernel[static_cast<int>(read)][r][p]) continue;
      const int64_t tiles = ceil_div(rows, r) * ceil_div(cols, p);
      const double mr = static_cast<double>(rows) / static_cast<double>(ceil_div(rows, r)),
                   nc = static_cast<double>(cols) / static_cast<double>(ceil_div(cols, p));
      const double window = taps_h + chains * (mr - 1);
      const double runs = std::max(1.0, taps_w / static_cast<double>(balanced(chain_w, most_run[r][p])));
      const double columns = runs * (nc - 1) + taps_w;  // that are loaded
      const double loads = window * columns * x_load + taps_w * taps_h * mr * load_cycles(plan, true);
      // A permutation takes about a third as long from the units of the FMAs (measured).
      const double picks = read == LaneRead::kPicked ? window * columns / 3 : 0;
      // An accumulator takes an FMA each four cycles.
      const double step =
          std::max({(taps_w * taps_h * mr * nc + picks) / k.fma_per_cycle, loads, 4 * taps_w * taps_h,
                    4 * runs * window / static_cast<double>(std::max<int64_t>(1, s.C))});
      const double cycles = static_cast<double>(tiles * split * phases(s.h) * phases(s.w)) *
                            (static_cast<double>(s.C) * step + 2 * runs * window + 4 * mr * nc + 30);
      if (cycles < best) {
        best = cycles;
        plan.mr = r, plan.nv = p;
      }
    }
  }
  return best;
}

// The strip with the fewest cycles, which are returned, for all results of an image and a vector of channels: its
// rows become the plan's mr. A column of sources at a time; kernels that do not stay in the registers are loaded
// for each.
template <class scalar_t>
double choose_lane_strip(Plan& plan, const Kernels<scalar_t>& k, const Sizes& s) {
  const ConvGeometry& g = plan.geometry;
  const int64_t step = strip_step(plan);
  if (step == 0 || plan.kh_block < g.kH) return kNever;
  const int64_t kh = s.h.taps, kw = s.w.taps;
  if (kw == 0 || kw > kMaxStripKw) return kNever;
  const int64_t split_h = dilation_split(g.dilation_h, g.stride_h),
                split_w = dilation_split(g.dilation_w, g.stride_w);
  const int64_t phases_h = std::clamp<int64_t>(s.out_h, 1, s.h.out_step * split_h),
                phases_w = std::clamp<int64_t>(s.out_w, 1, s.w.out_step * split_w);
  const int64_t rows = std::max<int64_t>(1, ceil_div(s.out_h, phases_h)),
                cols = std::max<int64_t>(1, ceil_div(s.out_w, phases_w));
  // Of a phase, on average. Kernel rows that meet padding, and columns of padding, take no time.
  int64_t terms = 0;
  for (int64_t i = 0; i < g.kH; ++i) {
    const KRange met = inside(i * g.dilation_h - g.padding_h, g.stride_h, g.oH, g.iH);
    terms += met.end - met.begin;
  }
  const double taps_h = static_cast<double>(terms) / static_cast<double>(std::max<int64_t>(1, s.out_h)),
               taps_w = static_cast<double>(g.kW) / static_cast<double>(s.w.out_step);
  const int64_t steps = cols + ceil_div(kw, step) - 1;
  const double columns = std::min(static_cast<double>(steps),
                                  static_cast<double>(s.w.source_size) / static_cast<double>(step * split_w));
  const bool aligned = !plan.layout.channels_inner || g.G % k.lanes == 0;
  const double load = load_cycles(plan, aligned);
  double best = kNever;
  for (int r = 1; r <= kMaxStripRows; ++r) {
    if (!k.strip_kernel[step][r][0][kw] || step * (r - 1) + kh > kMaxStripWindow) continue;
    const bool held = kh <= kMaxStripKh && k.strip_kernel[step][r][kh][kw];
    const int64_t strips = ceil_div(rows, r);
    const double mr = static_cast<double>(rows) / static_cast<double>(strips), d = static_cast<double>(step);
    const double fma = mr * taps_h * taps_w / k.fma_per_cycle;
    // What the loop over kernel rows costs by itself was measured.
    const double column = held ? std::max(fma, d * (taps_h + d * (mr - 1)) * load) + 1
                               : std::max(fma + 1.5 * d * taps_h, taps_h * (taps_w + d * mr) * load);
    const double fixed =
        static_cast<double>(steps) * 2 * mr * load + static_cast<double>(held ? kh * kw : 0) + 30;
    const double cycles = static_cast<double>(phases_h * phases_w * strips) * (columns * column + fixed);
    if (cycles < best) best = cycles, plan.mr = r, plan.nv = 0;
  }
  return best;
}

template <class scalar_t>
double plan_lanewise_correlation(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry& g = plan.geometry;
  const Sizes s = sizes_of(plan);
  const int64_t es = plan.element_size, L = k.lanes, taps = g.kH * g.kW;
  plan.lanes = k.lanes;
  plan.c_block = s.C, plan.kw_block = g.kW;
  plan.kh_block = balanced(g.kH, kTerms / std::max<int64_t>(1, s.C * g.kW));
  if (s.C * g.kW > 2 * kTerms) return kNever;  // longer sums than others have
  const LaneUnits unit = lane_units(plan);
  const int64_t split = dilation_split(g.dilation_h, g.stride_h);
  // Where there are strips, no tile was faster (measured).
  double sums = choose_lane_strip(plan, k, s);
  if (sums == kNever) sums = choose_lane_tile(plan, k, s, unit.read, split);
  const bool in_place = lanes_in_place(plan);
  // The lines of a band that all units read should stay in L2, until the band below has read them.
  const int64_t line = std::max<int64_t>(1, g.G * s.C * s.w.source_step * es);
  const int64_t window = (s.h.taps_span + s.h.source_step * plan.mr * split) * line / s.w.out_step;
  plan.cols = balanced(
      s.out_w, in_place ? std::max<int64_t>(kSourceBytes / std::max<int64_t>(1, window), 32) : kChunkCols);
  const int64_t width = box_bound(s.w, plan.cols);
  const auto source = [&](int64_t rows) { return box_bound(s.h, rows) * width * lane_pixel(plan) * es; };
  if (in_place) {
    plan.rows = std::min(s.out_h, plan.mr * split * s.h.out_step);
    plan.source_bytes = plan.tile_bytes = 0;
  } else {
    choose_rows(plan, s.out_h, s.out_h, [&](int64_t rows) {
      return source(rows) <= kSourceBytes && rows * plan.cols * L * es <= kSourceBytes;
    });
    plan.source_bytes = scratch_bytes(source(plan.rows), 1);
    plan.tile_bytes = scratch_bytes(plan.rows * plan.cols * L, es);
  }
  plan.rows = std::max<int64_t>(1, plan.rows);
  const int64_t bytes = unit.vectors * (s.C * taps + 1) * L * es, units = ceil_div(g.G, unit.groups);
  plan.panels =
      std::clamp<int64_t>(kWeightBytes / 2 / std::max<int64_t>(1, bytes), 1, std::max<int64_t>(1, units));
  plan.weight_bytes = scratch_bytes(plan.panels * bytes, 1);
  if (plan.source_bytes > 4 * kSourceBytes || bytes > kWeightBytes) return kNever;
  plan.scratch_bytes = plan.source_bytes + plan.weight_bytes + plan.tile_bytes;
  const double lane_use = static_cast<double>(units * unit.vectors) / static_cast<double>(g.G);
  // Planes are transposed in blocks, row by row; what a block costs by itself counts for small images
  // (measured).
  const double fixed = in_place ? 0 : 40 * static_cast<double>(s.O);
  const Move move = in_place ? kInPlace : kTransposed;
  return sums * lane_use + fixed + plane_cycles(plan, move, move);
}

// The tile of kernel elements with the fewest cycles for a pixel, which are returned: a load for each element.
template <class scalar_t>
double choose_lane_weight_tile(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry& g = plan.geometry;
  const bool aligned = !lanes_in_place(plan) || g.G % k.lanes == 0;
  double best = kNever;
  for (int kh = 1; kh <= kMaxLaneKh; ++kh) {
    for (int kw = 1; kw <= kMaxLaneKw; ++kw) {
      if (!k.lane_weight_kernel[kh][kw]) continue;
      const double tiles = static_cast<double>(ceil_div(plan.kh_block, kh) * ceil_div(g.kW, kw)) *
                           static_cast<double>(g.kH) / static_cast<double>(plan.kh_block);
      const double terms = static_cast<double>(g.kH * g.kW) / tiles;
      const double cycles = tiles * std::max({terms / k.fma_per_cycle,
                                              (terms + 1) * load_cycles(plan, aligned), 4.0, terms + 2});
      if (cycles < best) {
        best = cycles;
        plan.mr = kh, plan.nv = kw;
      }
    }
  }
  return best;
}

template <class scalar_t>
double plan_lanewise_weight(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry& g = plan.geometry;
  const int64_t es = plan.element_size, L = k.lanes;
  const bool in_place = lanes_in_place(plan);
  plan.lanes = k.lanes;
  plan.c_block = g.Ci, plan.kw_block = g.kW;
  plan.kh_block = balanced(g.kH, kTileBytes / std::max<int64_t>(1, g.Co * g.Ci * g.kW * L * es));
  const double pixel = choose_lane_weight_tile(plan, k);
  const AxisBound h = axis_bound(true, g.oH, g.iH, plan.kh_block, g.stride_h, g.dilation_h),
                  w = axis_bound(true, g.oW, g.iW, g.kW, g.stride_w, g.dilation_w);
  plan.cols = balanced(g.oW, kSumPixels);
  const auto source = [&](int64_t rows) {
    return g.Ci * box_bound(h, rows) * box_bound(w, plan.cols) * L * es;
  };
  // Where they lie, the pixels of a chunk are read by all blocks: they and the next ones should stay in L2.
  const int64_t line = g.G * es * plan.cols;
  const auto fits = [&](int64_t rows) {
    if (!in_place) return source(rows) <= kSourceBytes;
    return (h.taps_span + rows * g.stride_h) * line * g.stride_w + rows * line <= kSourceBytes ||
           rows * plan.cols <= 32;
  };
  choose_rows(plan, g.oH, kSumPixels / std::max<int64_t>(1, plan.cols), fits);
  const int64_t pixels = plan.rows * plan.cols;
  plan.source_bytes = in_place ? 0 : scratch_bytes(source(plan.rows), 1);
  plan.weight_bytes = in_place ? 0 : scratch_bytes(g.Co * pixels * L, es);
  // Where channels lie side by side, blocks share lines or pages, which come from memory together.
  const int64_t sums = g.Co * g.Ci * plan.kh_block * g.kW * L * es;
  plan.panels = plan.layout.channels_inner
                    ? std::clamp<int64_t>(kTileBytes / std::max<int64_t>(1, sums), 1,
                                          in_place ? std::max<int64_t>(1, ceil_div(g.G, L)) : 8)
                    : 1;
  plan.tile_bytes = scratch_bytes(plan.panels * sums, 1);
  if (plan.source_bytes > 4 * kSourceBytes || plan.weight_bytes > 2 * kWeightBytes ||
      plan.tile_bytes > 2 * kTileBytes) {
    return kNever;
  }
  plan.scratch_bytes = plan.source_bytes + plan.weight_bytes + plan.tile_bytes;
  const double several = g.Ci > 1 ? 1.4 : 1.0;  // as above
  const double lane_use = static_cast<double>(ceil_div(g.G, L)) / static_cast<double>(g.G);
  const Move move = plan.layout.channels_inner ? (in_place ? kInPlace : kGathered) : kTransposed;
  return several * pixel * lane_use * static_cast<double>(g.Ci * g.Co) * static_cast<double>(g.oH * g.oW) +
         plane_cycles(plan, move, move);
}

}  // namespace

template <class scalar_t>
double plan_lanewise(Plan& plan, const Kernels<scalar_t>& k) {
  return plan.contraction == Contraction::kGradWeight ? plan_lanewise_weight(plan, k)
                                                      : plan_lanewise_correlation(plan, k);
}

#define TCE_INSTANTIATE(scalar_t) template double plan_lanewise<scalar_t>(Plan&, const Kernels<scalar_t>&);
TCE_INSTANTIATE(float)
TCE_INSTANTIATE(double)
#undef TCE_INSTANTIATE

}  // namespace tce
