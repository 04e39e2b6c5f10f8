// The plan of the algorithm `pixels` (pixels.cpp).

#include <algorithm>

#include "plan_planes.h"
#include "scratch.h"

namespace tce {

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

#define TCE_INSTANTIATE(scalar_t) template double plan_pixels<scalar_t>(Plan&, const Kernels<scalar_t>&);
TCE_INSTANTIATE(float)
TCE_INSTANTIATE(double)
#undef TCE_INSTANTIATE

}  // namespace tce
