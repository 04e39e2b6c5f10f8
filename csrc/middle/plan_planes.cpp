// The plans of the algorithms on packed planes (planes.h).

#include <algorithm>
#include <cmath>
#include <numeric>

#include "plan_tiles.h"
#include "scratch.h"

namespace tce {

namespace {

// Pixels of a chunk, and of a sum (plan_tiles.h has what all plans share).
constexpr int64_t kChunkPixels = 2048;
constexpr int64_t kSumPixels = 1024;
// Lines that are read side by side, and their length, where reading is all there is to do.
constexpr int64_t kStreams = 8, kLine = 4096;

// Sizes of a correlation, whichever of forward and grad_input it is.
struct Sizes {
  int64_t C, O, out_h, out_w;
  AxisBound h, w;
};

Sizes sizes_of(const Plan& plan) {
  const ConvGeometry& g = plan.geometry;
  const bool f = plan.contraction == Contraction::kForward;
  return {f ? g.Ci : g.Co,
          f ? g.Co : g.Ci,
          f ? g.oH : g.iH,
          f ? g.oW : g.iW,
          axis_bound(f, g.oH, g.iH, g.kH, g.stride_h, g.dilation_h),
          axis_bound(f, g.oW, g.iW, g.kW, g.stride_w, g.dilation_w)};
}

// Cycles to load a vector that lies anywhere: two loads a cycle up to 32 bytes, one of 64; crossing a cache
// line costs a second one.
double load_cycles(const Plan& plan, bool aligned) {
  const int64_t bytes = static_cast<int64_t>(plan.lanes) * plan.element_size;
  return (bytes > 32 ? 1.0 : 0.5) * (aligned ? 1.0 : 1.0 + static_cast<double>(bytes) / 64);
}

// Planes of a tensor whose columns do not lie side by side.
const Move& dealt(const Plan& plan, int64_t channels) {
  return plan.layout.channels_inner && channels >= 8 ? kDealt : kGathered;
}

// Sources from the first to the last that `count` neighbouring results read.
int64_t box_bound(const AxisBound& a, int64_t count) {
  const int64_t results = ceil_div(count, a.out_step) + 1;
  return std::clamp<int64_t>(a.source_size, 1, results * a.source_step + a.taps_span + 1);
}

// Chunks of the result: as many rows as fit, in equal parts.
template <class F>
void choose_rows(Plan& plan, int64_t out_h, int64_t most, F&& fits) {
  plan.rows = balanced(out_h, std::max<int64_t>(1, most));
  while (plan.rows > 1 && !fits(plan.rows)) plan.rows = ceil_div(plan.rows, 2);
}

// The same, with fewer channels at a time rather than so few rows that each source row is packed again and
// again.
template <class F>
void choose_rows_and_channels(Plan& plan, int64_t out_h, int64_t most, int64_t channels, int64_t taps,
                              F&& fits) {
  choose_rows(plan, out_h, most, fits);
  while (plan.rows < std::min({out_h, most, 4 * taps}) && plan.c_block > 8) {
    plan.c_block = balanced(channels, plan.c_block / 2);
    choose_rows(plan, out_h, most, fits);
  }
}

double chunks(const Plan& plan, int64_t out_h, int64_t out_w) {
  return static_cast<double>(ceil_div(out_h, plan.rows) * ceil_div(out_w, plan.cols));
}

}  // namespace

template <class scalar_t>
double plan_pixels(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry& g = plan.geometry;
  if (plan.contraction == Contraction::kGradWeight || g.kH * g.kW > kKernelElements) return kNever;
  const Sizes s = sizes_of(plan);
  const int64_t es = plan.element_size, taps = g.kH * g.kW;
  // An image smaller than the stride has fewer phases.
  const int64_t phases =
      std::clamp<int64_t>(s.out_h, 1, s.h.out_step) * std::clamp<int64_t>(s.out_w, 1, s.w.out_step);
  plan.lanes = k.lanes;
  plan.kh_block = g.kH, plan.kw_block = g.kW;
  plan.c_block = balanced(s.C, kTerms / std::max<int64_t>(1, s.h.taps * s.w.taps));
  plan.cols = balanced(s.out_w, kChunkCols);
  // A pointwise layer of very few results is bound by reading: few channels at a time, along long lines of
  // each.
  if (taps == 1 && s.h.out_step * s.h.source_step * s.w.out_step * s.w.source_step == 1 && s.O <= 4) {
    plan.c_block = balanced(s.C, kStreams);
    plan.cols = balanced(s.out_w, kLine);
  }
  const int64_t width = width_bound(s.w, plan.cols), slack = kMaxVectors * k.lanes;
  const auto source = [&](int64_t rows) {
    return (width_bound(s.h, rows) * width * plan.c_block + slack) * es;
  };
  const auto line = [&](int64_t rows) { return phases * (ceil_div(rows, s.h.out_step) * width + k.lanes); };
  const auto kept_channels = [&] { return s.C > plan.c_block ? s.O : std::min<int64_t>(s.O, kMaxRows); };
  choose_rows_and_channels(
      plan, s.out_h, kChunkPixels / std::max<int64_t>(1, plan.cols), s.C, s.h.taps, [&](int64_t rows) {
        return source(rows) <= kSourceBytes && line(rows) * kept_channels() * es <= kTileBytes;
      });
  const int64_t kept = kept_channels();
  if (source(plan.rows) > 2 * kSourceBytes || line(plan.rows) * kept * es > 2 * kTileBytes) return kNever;

  // The pixels of a phase, on one line with the padding between rows: as long as it is for most layers, whose
  // taps all meet the image, not as long as it may be.
  const int64_t rows = std::min(plan.rows, s.out_h), results = ceil_div(plan.cols, s.w.out_step);
  const int64_t line_width =
      s.w.classes * (results + std::min(s.w.taps_span, s.w.source_size) / s.w.source_step);
  const int64_t pixels = (ceil_div(rows, s.h.out_step) - 1) * line_width + results;
  const int64_t vectors = std::max<int64_t>(1, ceil_div(pixels, k.lanes));
  double best = kNever;
  for (int nv = 1; nv <= kMaxVectors; ++nv) {
    if (!k.max_rows[nv]) continue;
    const int64_t tiles_o = ceil_div(std::max<int64_t>(1, s.O), k.max_rows[nv]),
                  tiles_px = ceil_div(vectors, nv);
    const double mr = static_cast<double>(s.O) / static_cast<double>(tiles_o);
    const double width_nv = static_cast<double>(vectors) / static_cast<double>(tiles_px);
    const double step =
        std::max({mr * width_nv / k.fma_per_cycle, width_nv * load_cycles(plan, false) + mr / 2, 4.0});
    // Each phase has its own pixels, and its share of the kernel's elements.
    const double terms = static_cast<double>(s.C * taps) / static_cast<double>(phases);
    const double cycles = (step * terms + kTile) * static_cast<double>(phases * tiles_o * tiles_px);
    if (cycles < best) {
      best = cycles;
      plan.nv = nv;
    }
  }
  plan.mr = static_cast<int>(balanced(s.O, k.max_rows[plan.nv]));
  plan.panels = 1;
  plan.source_bytes = scratch_bytes(source(plan.rows), 1);
  plan.weight_bytes = scratch_bytes(plan.c_block * taps * plan.mr, es);
  plan.tile_bytes = scratch_bytes(line(plan.rows) * std::max<int64_t>(kept, plan.mr), es);
  if (plan.weight_bytes > kWeightBytes) return kNever;
  plan.scratch_bytes =
      plan.source_bytes + plan.weight_bytes + plan.tile_bytes + scratch_bytes(taps, sizeof(KStep));
  const bool inner = plan.layout.columns_inner;
  const bool in_place =
      inner && taps == 1 && rows == 1 && s.O <= plan.mr && plan.cols % k.lanes == 0 && s.out_w % k.lanes == 0;
  // A tile of a pointwise layer has short sums, and all of its source is read again for every tile of results
  // (measured beside the direct algorithm).
  if (taps == 1 && s.O > plan.mr) best *= 1.5;
  const double pieces =
      s.C >= 8 ? piece_cycles(plan, kPlanesLine) : 0;  // gathered ones cost more in any case
  return chunks(plan, s.out_h, s.out_w) * best + pieces +
         plane_cycles(plan,
                      in_place ? kInPlace
                      : inner  ? kCopied
                               : dealt(plan, s.C),
                      inner && s.w.out_step == 1 ? kCopied
                      : inner                    ? kGathered
                                                 : dealt(plan, s.O));
}

namespace {

// The tile with the fewest cycles for all results of an image and a vector of channels, which are returned:
// window rows load their columns once for all rows that have a term with them.
template <class scalar_t>
double choose_lane_tile(Plan& plan, const Kernels<scalar_t>& k, const Sizes& s, int64_t split) {
  const auto phases = [](const AxisBound& a) { return std::clamp<int64_t>(a.out_size, 1, a.out_step); };
  const int64_t rows = std::max<int64_t>(1, ceil_div(s.out_h, phases(s.h) * split)),
                cols = std::max<int64_t>(1, ceil_div(s.out_w, phases(s.w)));
  const double taps_h = static_cast<double>(std::max<int64_t>(1, s.h.taps)),
               taps_w = static_cast<double>(std::max<int64_t>(1, s.w.taps)),
               chains = static_cast<double>(std::clamp<int64_t>(s.h.taps, 1, s.h.source_step));
  const bool aligned = s.C * s.O > 1 || !plan.layout.channels_inner || plan.geometry.G % k.lanes == 0;
  double best = kNever;
  // Kernel rows of a chain, at least: a tile has no more rows than these and one.
  const int64_t chain = std::min(plan.kh_block, plan.geometry.kH / s.h.out_step) /
                        std::max<int64_t>(1, std::min(s.h.taps, s.h.source_step));
  for (int r = 1; r <= std::min<int64_t>(kMaxLaneRows, std::max<int64_t>(chain, 1) + 1); ++r) {
    for (int p = 1; p <= kMaxLaneCols; ++p) {
      if (!k.lane_kernel[r][p]) continue;
      const int64_t tiles = ceil_div(rows, r) * ceil_div(cols, p);
      const double mr = static_cast<double>(rows) / static_cast<double>(ceil_div(rows, r)),
                   nc = static_cast<double>(cols) / static_cast<double>(ceil_div(cols, p));
      const double window = taps_h + chains * (mr - 1);
      const double loads = window * nc * load_cycles(plan, aligned) + taps_h * mr * load_cycles(plan, true);
      const double step = std::max({taps_h * mr * nc / k.fma_per_cycle, loads, 4 * window});
      const double cycles = static_cast<double>(tiles * split * phases(s.h) * phases(s.w)) *
                            (taps_w * (step + 2 * window) + 4 * mr * nc + 30);
      if (cycles < best) {
        best = cycles;
        plan.mr = r, plan.nv = p;
      }
    }
  }
  return best;
}

template <class scalar_t>
double plan_lanewise_correlation(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry& g = plan.geometry;
  const Sizes s = sizes_of(plan);
  const int64_t es = plan.element_size, L = k.lanes, taps = g.kH * g.kW;
  const bool in_place = lanes_in_place(plan);
  plan.lanes = k.lanes;
  plan.c_block = s.C, plan.kw_block = g.kW;
  plan.kh_block = balanced(g.kH, kTerms / std::max<int64_t>(1, s.C * g.kW));
  // Groups, or result channels where these lie side by side: a block then reads no more than two vectors of
  // channels.
  const int64_t groups = s.O > 0 ? ceil_div(L, s.O) + (L % s.O == 0 ? 0 : 1) : 0;
  plan.spread = plan.layout.channels_inner && (s.C > 1 || s.O > 1) && groups * s.C <= 2 * L;
  const int64_t split = g.dilation_h / std::gcd(g.dilation_h, g.stride_h);
  const double sums = choose_lane_tile(plan, k, s, split);
  // The lines of a band that all blocks read should stay in L2, until the band below has read them.
  const int64_t line = std::max<int64_t>(1, g.G * s.C * s.w.source_step * es);
  const int64_t window = (s.h.taps_span + s.h.source_step * plan.mr * split) * line / s.w.out_step;
  plan.cols = balanced(
      s.out_w, in_place ? std::max<int64_t>(kSourceBytes / std::max<int64_t>(1, window), 32) : kChunkCols);
  const int64_t width = box_bound(s.w, plan.cols);
  const auto source = [&](int64_t rows) { return s.C * box_bound(s.h, rows) * width * L * es; };
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
  const int64_t sets = plan.spread ? 1 : s.O, units = plan.spread ? g.G * s.O : g.G;
  const int64_t block = sets * (s.C * taps + 1) * L * es;
  plan.panels = std::clamp<int64_t>(kWeightBytes / 4 / std::max<int64_t>(1, block), 1,
                                    std::max<int64_t>(1, ceil_div(units, L)));
  plan.weight_bytes = scratch_bytes(plan.panels * block, 1);
  if (plan.source_bytes > 4 * kSourceBytes || block > kWeightBytes) return kNever;
  plan.scratch_bytes = plan.source_bytes + plan.weight_bytes + plan.tile_bytes;
  const double lane_use = static_cast<double>(ceil_div(units, L) * sets) / static_cast<double>(g.G);
  // Planes of several channels come from L2, if they fit there (measured).
  const double several = s.C == 1 ? 1.0 : plan.spread ? 1.4 : 1.7;
  const Move move = plan.layout.channels_inner ? (in_place ? kInPlace : kGathered) : kTransposed;
  const double cycles = several * sums * static_cast<double>(s.C) * lane_use;
  // Planes are transposed in blocks, row by row; what a block costs by itself counts for small images
  // (measured).
  const double fixed = plan.layout.channels_inner ? 0 : 40 * static_cast<double>(s.O);
  if (!plan.spread) return cycles + fixed + plane_cycles(plan, move, move);
  // Each source channel is spread for every result channel of its group.
  return cycles + static_cast<double>(s.O) * plane_cycles(plan, kCopied, kInPlace);
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

#define TCE_INSTANTIATE(scalar_t)                                         \
  template double plan_rows<scalar_t>(Plan&, const Kernels<scalar_t>&);   \
  template double plan_pixels<scalar_t>(Plan&, const Kernels<scalar_t>&); \
  template double plan_lanewise<scalar_t>(Plan&, const Kernels<scalar_t>&);
TCE_INSTANTIATE(float)
TCE_INSTANTIATE(double)
#undef TCE_INSTANTIATE

}  // namespace tce
