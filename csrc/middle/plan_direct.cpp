// The plan of the direct algorithm (correlate.cpp, grad_weight.cpp).

#include <algorithm>

#include "pack.h"
#include "plan_tiles.h"
#include "scratch.h"
#include "subpixel.h"

namespace tce {

namespace {

// Pixels of a chunk: enough to amortise packing the weights for them.
constexpr int64_t kChunkPixels = 784;
// Terms of few channels: a block more would pack the rows that its kernel rows share once more.
constexpr int64_t kFewTerms = 400;
// Cost of a byte that chooses the widest of tiles with equal cycles.
constexpr double kWide = -1e-6;
// Of a pointwise layer, whose image is one row: long runs of every channel, which the processor fetches
// ahead.
constexpr int64_t kPointwiseCols = 2048;
// Or, with channels side by side, what stays in L2 for one panel after the other.
constexpr int64_t kSharedBytes = 256 * 1024;
// grad_weight: pixels that one call sums: their two packed operands have to stay in L1 and L2.
constexpr int64_t kSumPixels = 256;
// grad_weight: segments of its pixels, and bytes of their partial sums, at most.
constexpr int64_t kSegments = 8, kPartialBytes = 2 * 1024 * 1024;

// What a plan has to know of a correlation (correlate.h).
struct AxisShape {
  int64_t out, source, kernel, stride, dilation, padding;
};
struct CorrelationShape {
  bool is_forward;
  int64_t channels, summed;  // of a group: result's (or lanes, with subpixel), and summed
  AxisShape h, w;
};

// Of an axis cut into bands of at least `fewest` results: the share of its pairs of result and kernel element
// that meet the image, the most elements of a band, and the length of a packed row.
struct Met {
  double share;
  int64_t most, length;
};

// Results of a phase for which one and the same kernel element misses the image, to the left or to the right of it,
// at most.
int64_t results_outside(bool is_forward, const AxisShape& s) {
  const int64_t last = (s.kernel - 1) * s.dilation - s.padding;  // offset of the last element
  if (is_forward)
    return std::max<int64_t>({0, ceil_div(s.padding, s.stride), s.out - ceil_div(s.source - last, s.stride)});
  const int64_t results = ceil_div(s.out, s.stride);
  return std::max<int64_t>(
      {0, ceil_div(last, s.stride), results + floor_div(s.stride - 1 + s.padding, s.stride) - s.source});
}

Met met_of(bool is_forward, const AxisShape& s, int64_t fewest) {
  // Nearly all meet it; or there are so many that looking at each takes long.
  if (results_outside(is_forward, s) < kFewestRows || std::max(s.kernel, s.stride) > kKernelElements)
    return {1, s.kernel, INT64_MAX};
  const Axis axis = (is_forward ? forward_axis : grad_input_axis)(s.out, s.source, {0, s.kernel}, s.stride,
                                                                  s.padding, s.dilation);
  const Bands bands = make_bands(axis, fewest);
  const auto length = [&](bool dense) { return make_source_runs(axis, 0, s.out, dense, &bands).length; };
  Met met{0, 1, std::max<int64_t>({1, length(false), reads_all_columns(axis) ? length(true) : 0})};
  int64_t all = 0;
  for (size_t f = 0; f < axis.phases.size(); ++f) {
    all += axis.phases[f].count * static_cast<int64_t>(axis.phases[f].taps.size());
    for (const Band& band : bands[f]) {
      const int64_t taps = band.taps.end - band.taps.begin;
      met.share += static_cast<double>((band.j.end - band.j.begin) * taps);
      met.most = std::max(met.most, taps);
    }
  }
  met.share /= static_cast<double>(std::max<int64_t>(1, all));
  return met;
}

int64_t residues_of(const AxisShape& s) {
  return s.stride / std::gcd(s.stride, s.dilation);
}

// The most that line_stride makes of up to so many elements.
int64_t longest_line(int64_t elements, int64_t element_size) {
  return elements * element_size < 256 ? elements : elements + 64 / element_size;
}

// Whole vectors of channels: those of a channels_last source lie in whole lines; not where that would make sums
// much longer.
int64_t whole_vectors(int64_t block, int64_t channels, int64_t lanes) {
  const int64_t whole = ceil_div(block, lanes) * lanes;
  return block < channels && 3 * whole <= 4 * block ? whole : block;
}

template <class scalar_t>
double plan_correlation(Plan& plan, const Kernels<scalar_t>& k, const CorrelationShape& s) {
  const int es = plan.element_size;
  const int64_t out_h = s.h.out, out_w = s.w.out, channels = s.channels, summed = s.summed;
  // Of a kernel block of an axis.
  const auto bound = [&](const AxisShape& a, int64_t block) {
    const int64_t o = s.is_forward ? a.out : a.source, i = s.is_forward ? a.source : a.out;
    return axis_bound(s.is_forward, o, i, block, a.stride, a.dilation);
  };

  const bool pointwise = s.h.kernel * s.w.kernel == 1 && s.h.stride * s.w.stride == 1;
  plan.cols = balanced(out_w, !pointwise                   ? kChunkCols
                              : plan.layout.channels_inner ? kSharedBytes / (balanced(summed, kTerms) * es)
                                                           : kPointwiseCols);
  // Weights that stay in L1 cost little to read; wide tiles then write whole pixels of channels_last.
  const int64_t sum = std::min(kTerms, summed * s.h.kernel * s.w.kernel);
  const bool wide =
      summed <= kThinChannels && plan.layout.channels_inner && sum * kMaxVectors * k.lanes * es <= kL1Bytes;
  const double row_cycles = choose_tile(plan, k, ceil_div(plan.cols, s.is_forward ? 1 : s.w.stride), channels,
                                        wide ? kWide : 0.002);
  const int64_t lanes = plan.panel_lanes();

  // Few channels stay together: then a long sum is cut between kernel rows. (A phase has a part of the elements.)
  int64_t elements = kKernelElements, phases_h = 1, phases_w = 1;
  if (summed <= kThinChannels && summed > 0) {
    elements = kFewTerms / summed;
    if (!s.is_forward) phases_h = residues_of(s.h), phases_w = residues_of(s.w);
  }
  plan.kw_block = balanced(s.w.kernel, std::min(kKernelElements, elements * phases_w));
  plan.kh_block =
      balanced(s.h.kernel, std::min(kKernelElements, elements * phases_w * phases_h) / plan.kw_block);
  const AxisBound h = bound(s.h, plan.kh_block), w = bound(s.w, plan.kw_block);
  const Met met_h = met_of(s.is_forward, s.h, 1), met_w = met_of(s.is_forward, s.w, kFewestRows);
  const int64_t most_h = std::min(met_h.most, h.taps), most = most_h * std::min(met_w.most, w.taps);
  const int64_t taps = plan.kh_block * plan.kw_block;
  // With one kernel element every term reads a line of its own. A tile much shorter than that leaves most of it
  // to the next ones, in L1.
  const int64_t terms =
      taps == 1 && 2 * plan.mr * es <= 48 ? std::min(kTerms, kL1Bytes / (64 + lanes * es)) : kTerms;
  plan.c_block = whole_vectors(
      balanced(summed, std::min(terms / std::max<int64_t>(1, most), kWeightBytes / (taps * lanes * es))),
      summed, k.lanes);
  if (summed <= kThinChannels) plan.c_block = std::max<int64_t>(1, summed);
  // The columns that a chunk packs are no more than those of all results.
  const int64_t width =
      std::min(width_bound(w, plan.cols, true), plan.kw_block == s.w.kernel ? met_w.length : INT64_MAX);
  const auto source_elements = [&](int64_t rows) {
    return std::min(slots_bound(h, rows), rows * most_h) * longest_line(width, es) *
           longest_line(plan.c_block, es);
  };
  // A chunk larger than an image only pays where images are small; rows of one image share their sources. Those
  // between the strides of a small kernel have no terms.
  const int64_t step = s.is_forward ? 1 : s.h.stride, with_terms = std::min(step, s.h.kernel);
  int64_t wanted = std::max<int64_t>(1, kChunkPixels * step / std::max<int64_t>(1, plan.cols * with_terms));
  if (out_h > 0 && wanted < out_h) wanted = balanced(out_h, wanted);
  const auto fit_rows = [&] {
    plan.rows = wanted;
    while (plan.rows > 1 && source_elements(plan.rows) * es > kSourceBytes)
      plan.rows -= ceil_div(plan.rows, 8);
  };
  fit_rows();
  // Fewer channels at a time rather than few rows, for which the weights would be packed again and again.
  while (2 * plan.rows < wanted && plan.c_block > 64) {
    plan.c_block = whole_vectors(balanced(summed, plan.c_block / 2), summed, k.lanes);
    fit_rows();
  }

  const int64_t pixels = plan.rows * plan.cols;
  plan.panels = std::clamp<int64_t>(kTileBytes / (pixels * lanes * es), 1,
                                    std::max<int64_t>(1, panel_count(plan, channels)));
  plan.source_bytes = scratch_bytes(source_elements(plan.rows), es);
  plan.weight_bytes = scratch_bytes(plan.c_block * taps * lanes, es);
  plan.tile_bytes = scratch_bytes(pixels * lanes * plan.panels, es);
  plan.scratch_bytes = plan.source_bytes + plan.weight_bytes + plan.tile_bytes;
  const double rows = static_cast<double>(out_h * ceil_div(out_w, plan.cols));
  const int64_t blocks = std::max<int64_t>(1, ceil_div(summed, plan.c_block)) *
                         ceil_div(s.h.kernel, plan.kh_block) * ceil_div(s.w.kernel, plan.kw_block);
  const int64_t tiles = ceil_div(std::min(plan.cols, out_w), plan.mr) * panel_count(plan, channels) * blocks;
  return row_cycles * rows * met_h.share * met_w.share *
             static_cast<double>(summed * s.h.kernel * s.w.kernel) /
             static_cast<double>(s.is_forward ? 1 : s.h.stride) +
         rows * static_cast<double>(tiles) * kTile;
}

CorrelationShape shape_of(const Plan& plan) {
  const ConvGeometry& g = plan.geometry;
  const bool f = plan.contraction == Contraction::kForward;
  return {f,
          f ? g.Co : g.Ci,
          f ? g.Ci : g.Co,
          {f ? g.oH : g.iH, f ? g.iH : g.oH, g.kH, g.stride_h, g.dilation_h, g.padding_h},
          {f ? g.oW : g.iW, f ? g.iW : g.oW, g.kW, g.stride_w, g.dilation_w, g.padding_w}};
}

template <class scalar_t>
double plan_grad_weight(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry& g = plan.geometry;
  const int es = plan.element_size;
  const bool merged = kernel_row_merges(plan);
  plan.cols = balanced(g.oW, kSumPixels);
  plan.rows = std::max<int64_t>(1, kSumPixels / std::max<int64_t>(1, plan.cols));
  if (g.oH > 0 && plan.rows < g.oH) plan.rows = balanced(g.oH, plan.rows);
  plan.kw_block = balanced(g.kW, kKernelElements);
  plan.kh_block = balanced(g.kH, kKernelElements / plan.kw_block);
  double pixel_cycles = choose_tile(plan, k, merged ? plan.kw_block * g.Ci : g.Ci, g.Co);
  // Few result channels leave most lanes empty: then rather a kernel row's elements are lanes, loaded unaligned.
  const int64_t vectors = ceil_div(plan.kw_block * g.Ci, k.lanes);
  const bool one_tile =
      merged && plan.kw_block == g.kW && vectors <= kMaxVectors && k.max_rows[vectors] >= g.Co;
  if (one_tile && g.G == 1 && g.Co >= 1 && g.Co <= std::min(kThinChannels, plan.panel_lanes())) {
    const double cycles =
        std::max(step_cycles(k, g.Co, vectors), static_cast<double>(2 * vectors + g.Co) / 2);
    plan.turned = cycles < pixel_cycles;
    pixel_cycles = std::min(pixel_cycles, cycles);
  }

  const int64_t lanes = plan.panel_lanes();
  const auto source_pixels = [&](int64_t rows) {
    const AxisBound h = axis_bound(true, g.oH, g.iH, plan.kh_block, g.stride_h, g.dilation_h);
    AxisBound w = axis_bound(true, g.oW, g.iW, plan.kw_block, g.stride_w, g.dilation_w);
    const int64_t width =
        merged ? (plan.cols - 1) * g.stride_w + plan.kw_block + 1 : width_bound(w, plan.cols);
    return slots_bound(h, rows) * width;
  };
  // Few channels stay together, as they lie: rather somewhat fewer rows, or fewer kernel rows, at a time.
  const int64_t together = g.Ci <= kThinChannels ? std::max<int64_t>(1, g.Ci) : 1, wanted = plan.rows;
  const auto fit_rows = [&](int64_t fewest) {
    const auto fits = [&] { return source_pixels(plan.rows) * together * es <= kSourceBytes; };
    for (plan.rows = wanted; plan.rows > fewest && !fits();) plan.rows -= ceil_div(plan.rows, 8);
    return fits();
  };
  while (together > 1 && plan.kh_block > 1 && !fit_rows(ceil_div(3 * wanted, 4)))
    plan.kh_block = balanced(g.kH, plan.kh_block / 2);
  fit_rows(1);
  const int64_t pixels = plan.rows * plan.cols;
  const int64_t taps = plan.kh_block * plan.kw_block;
  plan.c_block = balanced(
      g.Ci, std::min(kSourceBytes / (source_pixels(plan.rows) * es), kTileBytes / (taps * lanes * es)));
  plan.panels = std::clamp<int64_t>(
      std::min(kTileBytes / (taps * plan.c_block * lanes * es), kWeightBytes / (pixels * lanes * es)), 1,
      std::max<int64_t>(1, panel_count(plan, g.Co)));

  const int64_t pixel = merged ? plan.c_block : plan.c_block + 64 / es;
  // Turned, vectors reach beyond the last row.
  const int64_t row = plan.turned ? vectors * k.lanes : 0;
  plan.source_bytes = scratch_bytes(source_pixels(plan.rows) * pixel + row, es);
  plan.weight_bytes = scratch_bytes(pixels * lanes * plan.panels, es);
  plan.tile_bytes =
      scratch_bytes(std::max(taps * plan.c_block * lanes * plan.panels, plan.kh_block * g.Co * row), es);
  plan.scratch_bytes =
      plan.source_bytes + plan.weight_bytes + plan.tile_bytes + scratch_bytes(pixels, sizeof(KStep));
  // What one item can hold has to be shared out by its pixels.
  const int64_t items = g.G * ceil_div(panel_count(plan, g.Co), plan.panels) * ceil_div(g.Ci, plan.c_block) *
                        ceil_div(g.kH, plan.kh_block) * ceil_div(g.kW, plan.kw_block);
  const int64_t bytes = std::max<int64_t>(1, g.G * g.Co * g.Ci * g.kH * g.kW * es);
  plan.segments = std::clamp<int64_t>(
      std::min(kSegments / std::max<int64_t>(1, items), 1 + kPartialBytes / bytes), 1, kSegments);
  // A kernel row of all channels, or one kernel element of them, is one run of tile rows.
  const int64_t runs = g.kH * (merged ? ceil_div(g.kW, plan.kw_block) : g.kW);
  const Move& move = plan.layout.channels_inner ? kCopied : g.G > 1 ? kTransposed : kFarTransposed;
  const AxisShape h{g.oH, g.iH, g.kH, g.stride_h, g.dilation_h, g.padding_h};
  const AxisShape w{g.oW, g.iW, g.kW, g.stride_w, g.dilation_w, g.padding_w};
  const double met = met_of(true, h, 1).share * (merged ? 1.0 : met_of(true, w, 1).share);
  return pixel_cycles * met * static_cast<double>(g.oH * g.oW) * static_cast<double>(runs) +
         plane_cycles(plan, !merged && planes_in_place(plan) ? kRead : move, move) +
         piece_cycles(plan, kDirectLine);
}

}  // namespace

template <class scalar_t>
double plan_direct(Plan& plan, const Kernels<scalar_t>& kernels) {
  if (plan.contraction == Contraction::kGradWeight) return plan_grad_weight(plan, kernels);
  const bool pixels = plan.layout.channels_inner;
  const bool in_place = pixels || (plan.geometry.kW == 1 && plan.geometry.padding_w == 0);
  return plan_correlation(plan, kernels, shape_of(plan)) +
         plane_cycles(plan, in_place ? kRead : kCopied, pixels ? kInPlace : kFarStored) +
         piece_cycles(plan, kDirectLine);
}

template <class scalar_t>
double plan_subpixel(Plan& plan, const Kernels<scalar_t>& kernels) {
  const ConvGeometry& g = plan.geometry;
  const SubpixelAxis h = subpixel_axis(g.iH, g.kH, g.stride_h, g.padding_h);
  const SubpixelAxis w = subpixel_axis(g.iW, g.kW, g.stride_w, g.padding_w);
  // Longer strides have empty lanes or long gaps in any case, and the products below stay small.
  if (g.stride_h > 1024 || g.stride_w > 1024) return kNever;
  const int64_t lanes = g.Ci * g.stride_h * g.stride_w;
  const CorrelationShape shape{false,
                               lanes,
                               g.Co,
                               {h.results, g.oH, h.taps, 1, 1, h.source},
                               {w.results, g.oW, w.taps, 1, 1, w.source}};
  const double cycles = plan_correlation(plan, kernels, shape);
  // Storing a row of tiles copies pieces of stride_w pixels: about four cycles each, and one for a vector.
  const double pieces = static_cast<double>(h.results * w.results) * static_cast<double>(g.Ci * g.stride_h);
  // In channels_last every element of a piece is stored by itself.
  const double piece = plan.layout.channels_inner ? kGathered.element * static_cast<double>(g.stride_w)
                                                  : 4 + static_cast<double>(g.stride_w) / kernels.lanes;
  return cycles + pieces * piece;
}

// With stride 1, X and dY may exchange their roles in grad_weight: over the pixels i of X,
//     dW[co, ci, k] = sum of X[ci, i] * dY[co, i + padding - k*dilation],
// which is the weight gradient [ci, co] of the kernel turned round, k' = kernel - 1 - k, with another
// padding. Lanes are then ci, which pays where there are few co.
template <class scalar_t>
double plan_exchanged(Plan& plan, const Kernels<scalar_t>& kernels) {
  const ConvGeometry g = plan.geometry;
  ConvGeometry& e = plan.geometry;
  e.Ci = g.Co, e.Co = g.Ci;
  e.iH = g.oH, e.iW = g.oW, e.oH = g.iH, e.oW = g.iW;
  e.padding_h = (g.kH - 1) * g.dilation_h - g.padding_h;
  e.padding_w = (g.kW - 1) * g.dilation_w - g.padding_w;
  return plan_grad_weight(plan, kernels);
}

#define TCE_INSTANTIATE(scalar_t)                                            \
  template double plan_direct<scalar_t>(Plan&, const Kernels<scalar_t>&);    \
  template double plan_exchanged<scalar_t>(Plan&, const Kernels<scalar_t>&); \
  template double plan_subpixel<scalar_t>(Plan&, const Kernels<scalar_t>&);
TCE_INSTANTIATE(float)
TCE_INSTANTIATE(double)
#undef TCE_INSTANTIATE

}  // namespace tce
