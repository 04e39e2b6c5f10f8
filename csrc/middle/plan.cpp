// Chooses block and tile sizes. Each rule is a small function with its provenance.
//
// Tuned constants were chosen on a 2-core AMD EPYC (Zen 4, 32 KiB L1, 1 MiB L2 per core), 2026-11, with the
// layers of `benchmarks/layers.py`; they are sizes of caches and of sums, not of single layers.

#include "plan.h"

#include <algorithm>
#include <numeric>
#include <sstream>

#include "scratch.h"

namespace tce {

namespace {

// Terms summed in registers before the sum goes to memory. Short sums keep the rounding error low (error
// grows with the length of a run: blocked summation, Higham, Accuracy and Stability of Numerical Algorithms,
// 2nd ed., 4.2); long ones amortise the tile's load and store.
constexpr int64_t kTerms = 320;
// Kernel elements in a block at most, whatever their number of channels.
constexpr int64_t kTaps = 256;
// Pixels of a chunk: enough to amortise packing the weights for them.
constexpr int64_t kChunkPixels = 784;
constexpr int64_t kChunkCols = 512;
// grad_weight: pixels that one call sums; longer than kTerms because dW is small and its error is that of
// many sums.
constexpr int64_t kSumPixels = 512;
// Bytes of each part of the scratch; their sum is what a thread holds.
constexpr int64_t kSourceBytes = 512 * 1024;
constexpr int64_t kWeightBytes = 512 * 1024;
constexpr int64_t kTileBytes = 1024 * 1024;

// The largest part of total cut into equal parts of at most `limit`.
int64_t balanced(int64_t total, int64_t limit) {
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

// Cycles for one step over a result of `count` rows and `vectors` vectors of channels, cut into tiles of nv
// vectors.
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

template <class scalar_t>
void choose_tile(Plan& plan, const Kernels<scalar_t>& k, int64_t count, int64_t channels) {
  const int64_t vectors = std::max<int64_t>(1, ceil_div(channels, k.lanes));
  count = std::max<int64_t>(1, count);
  double best = 0;
  for (int nv = 1; nv <= kMaxVectors && nv <= vectors; ++nv) {
    if (!k.max_rows[nv]) continue;
    const double cycles = tiling_cycles(k, count, vectors, nv);
    // On a tie the wider panel: it reads the source fewer times.
    if (plan.nv == 0 || cycles <= best) {
      best = cycles;
      plan.nv = nv;
    }
  }
  plan.mr = k.max_rows[plan.nv];
  plan.lanes = k.lanes;
}

// How far apart the sources of an axis lie (bounds of what make_row_slots and make_column_runs in pack.h lay
// out).
struct AxisBound {
  int64_t out_size, source_size, out_step, source_step;
  int64_t taps;       // of a phase, at most
  int64_t taps_span;  // distance of the first and the last source that an output position can read, at most
  int64_t classes;    // different residues of a source modulo source_step
};

AxisBound axis_bound(bool is_forward, int64_t o, int64_t i, int64_t k, int64_t stride, int64_t dilation) {
  const int64_t residues = stride / std::gcd(stride, dilation);
  if (is_forward) return {o, i, 1, stride, k, (k - 1) * dilation, std::min(k, residues)};
  return {i, o, stride, 1, ceil_div(k, residues), ((k - 1) * dilation + stride) / stride + 1, 1};
}

// Source rows that `rows` consecutive result rows read; consecutive over the images, so some may be the next
// image's.
int64_t slots_bound(const AxisBound& a, int64_t rows) {
  const int64_t images = a.out_size > 0 ? (rows - 1) / a.out_size + (rows > 1 ? 2 : 1) : 1;
  const int64_t dense = ceil_div(rows * a.source_step, a.out_step) + images * (a.taps_span + 2);
  return std::max<int64_t>(1, std::min({rows * a.taps, images * a.source_size, dense}));
}

int64_t width_bound(const AxisBound& a, int64_t cols) {
  return a.classes * (ceil_div(cols, a.out_step) + a.taps_span / a.source_step + 2);
}

// forward and grad_input, seen as the correlation of correlate.h.
template <class scalar_t>
void plan_correlation(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry& g = plan.geometry;
  const bool is_forward = plan.contraction == Contraction::kForward;
  const int64_t channels = is_forward ? g.Co : g.Ci, summed = is_forward ? g.Ci : g.Co;
  const int64_t out_h = is_forward ? g.oH : g.iH, out_w = is_forward ? g.oW : g.iW;
  const int es = plan.element_size;

  plan.cols = balanced(out_w, kChunkCols);
  choose_tile(plan, k, ceil_div(plan.cols, is_forward ? 1 : g.stride_w), channels);
  const int64_t lanes = plan.panel_lanes();

  plan.kw_block = balanced(g.kW, kTaps);
  plan.kh_block = balanced(g.kH, kTaps / plan.kw_block);
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
}

template <class scalar_t>
void plan_grad_weight(Plan& plan, const Kernels<scalar_t>& k) {
  const ConvGeometry& g = plan.geometry;
  const int es = plan.element_size;
  const bool merged = kernel_row_merges(g);
  plan.cols = balanced(g.oW, kSumPixels);
  plan.rows = std::max<int64_t>(1, kSumPixels / std::max<int64_t>(1, plan.cols));
  if (g.oH > 0 && plan.rows < g.oH) plan.rows = balanced(g.oH, plan.rows);
  plan.kw_block = balanced(g.kW, kTaps);
  plan.kh_block = balanced(g.kH, kTaps / plan.kw_block);
  choose_tile(plan, k, merged ? plan.kw_block * g.Ci : g.Ci, g.Co);

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
}

// A pointwise convolution (1x1, stride 1, no padding) knows no rows: its image is one long row.
ConvGeometry flattened(ConvGeometry g) {
  g.iW = g.oW = g.iH * g.iW;
  g.iH = g.oH = 1;
  return g;
}

bool is_pointwise(const ConvGeometry& g) {
  return g.kH == 1 && g.kW == 1 && g.stride_h == 1 && g.stride_w == 1 && g.padding_h == 0 &&
         g.padding_w == 0 && g.iH == g.oH && g.iW == g.oW;
}

}  // namespace

bool kernel_row_merges(const ConvGeometry& g) {
  return g.kW > 1 && g.dilation_w == 1 && g.stride_w <= g.kW;
}

const char* name_of(Contraction contraction) {
  switch (contraction) {
    case Contraction::kForward:
      return "forward";
    case Contraction::kGradInput:
      return "grad_input";
    default:
      return "grad_weight";
  }
}

template <class scalar_t>
Plan make_plan(Contraction contraction, const ConvGeometry& geometry, bool pixels_merge,
               const KernelTable& table) {
  Plan plan = {};
  plan.contraction = contraction;
  plan.algorithm = contraction == Contraction::kGradWeight ? "direct sum over pixels" : "direct correlation";
  plan.reason = "the general algorithm: any geometry, dtype and layout";
  plan.isa = table.isa;
  plan.element_size = sizeof(scalar_t);
  plan.geometry = pixels_merge && is_pointwise(geometry) ? flattened(geometry) : geometry;
  plan.geometry.N = 0;
  const Kernels<scalar_t>& k = kernels_of<scalar_t>(table);
  if (contraction == Contraction::kGradWeight) {
    plan_grad_weight(plan, k);
  } else {
    plan_correlation(plan, k);
  }
  return plan;
}

template Plan make_plan<float>(Contraction, const ConvGeometry&, bool, const KernelTable&);
template Plan make_plan<double>(Contraction, const ConvGeometry&, bool, const KernelTable&);

std::string describe(const Plan& p) {
  const ConvGeometry& g = p.geometry;
  const bool weight = p.contraction == Contraction::kGradWeight;
  std::ostringstream s;
  s << name_of(p.contraction) << ": " << p.algorithm << ", " << (p.element_size == 4 ? "float32" : "float64")
    << " on " << p.isa << " (" << p.lanes << " lanes)\n"
    << "  reason     " << p.reason << "\n"
    << "  geometry   G=" << g.G << " Ci=" << g.Ci << " Co=" << g.Co << " i=" << g.iH << "x" << g.iW
    << " o=" << g.oH << "x" << g.oW << " k=" << g.kH << "x" << g.kW << " stride=" << g.stride_h << ","
    << g.stride_w << " padding=" << g.padding_h << "," << g.padding_w << " dilation=" << g.dilation_h << ","
    << g.dilation_w << "\n"
    << "  tile       " << p.mr << " x " << p.nv << " vectors: "
    << (weight ? "rows are (kw, ci), lanes are co" : "rows are pixels, lanes are result channels") << "\n"
    << "  K block    " << (weight ? "pixels " : "channels ") << (weight ? p.rows * p.cols : p.c_block)
    << ", kernel " << p.kh_block << "x" << p.kw_block << "\n"
    << "  chunk      " << p.rows << " rows x " << p.cols << " columns, up to " << p.panels << " panels of "
    << p.panel_lanes() << " channels" << (weight ? ", " + std::to_string(p.c_block) + " input channels" : "")
    << "\n"
    << "  scratch    " << p.scratch_bytes << " bytes per thread (source " << p.source_bytes << ", "
    << (weight ? "dY " : "weights ") << p.weight_bytes << ", tiles " << p.tile_bytes << ")\n";
  return s.str();
}

}  // namespace tce
