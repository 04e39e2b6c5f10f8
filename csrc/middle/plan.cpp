// Chooses the algorithm, by the least estimate of cycles; the algorithms' sizes and estimates are made in
// plan_direct.cpp, plan_winograd.cpp, plan_pixels.cpp, plan_lanewise.cpp and plan_rows.cpp.

#include "plan.h"

#include <algorithm>
#include <numeric>
#include <sstream>
#include <string>

#include "plan_tiles.h"
#include "winograd.h"

namespace tce {

namespace {

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

// Fewest pixels of a result whose kernels are cropped.
constexpr int64_t kCroppedPixels = 64;

}  // namespace

Cropped cropped(Contraction contraction, const ConvGeometry& g) {
  Cropped c{g, 0, 0};
  if (contraction == Contraction::kGradWeight || g.oH * g.oW < kCroppedPixels) return c;
  const auto crop = [](int64_t i, int64_t o, int64_t& k, int64_t stride, int64_t& padding, int64_t dilation,
                       int64_t& first) {
    const auto meets = [&](int64_t element) {
      const int64_t offset = element * dilation - padding,
                    o_first = std::max<int64_t>(0, ceil_div(-offset, stride));
      return o_first < o && o_first * stride + offset < i;
    };
    int64_t begin = 0, end = k;
    while (begin < end && !meets(begin)) ++begin;
    while (begin < end && !meets(end - 1)) --end;
    if (begin == end) return;  // no term at all: left as it is
    first = begin;
    k = end - begin;
    padding -= begin * dilation;
  };
  crop(g.iH, g.oH, c.geometry.kH, g.stride_h, c.geometry.padding_h, g.dilation_h, c.kh);
  crop(g.iW, g.oW, c.geometry.kW, g.stride_w, c.geometry.padding_w, g.dilation_w, c.kw);
  return c;
}

bool is_fully_connected(const ConvGeometry& g) {
  return g.G == 1 && g.oH == 1 && g.oW == 1 && g.kH == g.iH && g.kW == g.iW && g.kH * g.kW > 1 &&
         g.padding_h == 0 && g.padding_w == 0 && g.dilation_h == 1 && g.dilation_w == 1;
}

ConvGeometry as_pointwise(const ConvGeometry& g) {
  ConvGeometry p = g;
  p.Ci = g.Ci * g.iH * g.iW;
  p.iH = p.iW = p.kH = p.kW = p.stride_h = p.stride_w = 1;
  return p;
}

bool batch_is_row(const ConvGeometry& g) {
  return is_pointwise(g) && g.iH == 1 && g.iW == 1;
}

LaneUnits lane_units(const Plan& plan) {
  const ConvGeometry& g = plan.geometry;
  const bool forward = plan.contraction == Contraction::kForward;
  const int64_t C = forward ? g.Ci : g.Co, O = forward ? g.Co : g.Ci, L = plan.lanes;
  if (C == 1 && O == 1) return {LaneRead::kOwn, L, 1, L, L, L};
  const int64_t groups = std::min(L / std::max<int64_t>(1, C), L / std::max<int64_t>(1, O));
  if (groups > 1) return {LaneRead::kPicked, groups, 1, groups * C, groups * O, groups * O};
  return {LaneRead::kShared, 1, ceil_div(O, L), C, std::min(O, L), O};
}

int64_t strip_step(const Plan& plan) {
  const ConvGeometry& g = plan.geometry;
  if (lane_units(plan).read != LaneRead::kOwn) return 0;
  if (plan.contraction == Contraction::kGradInput) return 1;
  // A single tap leaves the step open, up to a part of the stride.
  const int64_t h = g.stride_h / std::gcd(g.stride_h, g.dilation_h),
                w = g.stride_w / std::gcd(g.stride_w, g.dilation_w);
  const int64_t step = g.kH > 1 ? h : g.kW > 1 ? w : 1;
  const bool rows = g.kH > 1 || g.stride_h % step == 0, cols = g.kW > 1 ? w == step : g.stride_w % step == 0;
  return rows && cols && step <= kMaxStripStep ? step : 0;
}

bool planes_in_place(const Plan& plan) {
  const ConvGeometry& g = plan.geometry;
  const int64_t last = (g.oW - 1) * g.stride_w + (g.kW - 1) * g.dilation_w;
  return plan.layout.columns_inner && g.padding_w == 0 && last < g.iW &&
         sets_hold(g.iH * g.iW, plan.element_size) >= std::min<int64_t>(kMaxRows, g.Ci);
}

bool kernel_row_merges(const Plan& plan) {
  const ConvGeometry& g = plan.geometry;
  return g.kW > 1 && g.dilation_w == 1 && g.stride_w <= std::min<int64_t>(g.kW, kKernelElements) &&
         !(g.Ci >= kMaxRows && planes_in_place(plan));
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

const char* name_of(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kDirect:
      return "direct";
    case Algorithm::kWinograd:
      return "winograd";
    case Algorithm::kPixels:
      return "pixels";
    case Algorithm::kRows:
      return "rows";
    case Algorithm::kSubpixel:
      return "subpixel";
    case Algorithm::kExchanged:
      return "exchanged";
    default:
      return "lanewise";
  }
}

template <class scalar_t>
Candidates make_candidates(Contraction contraction, const ConvGeometry& geometry, const Layout& layout,
                           const PlanOptions& options, const KernelTable& table) {
  Plan common = {};
  common.contraction = contraction;
  common.isa = table.isa;
  common.element_size = sizeof(scalar_t);
  common.layout = layout;
  common.geometry = layout.rows_merge && is_pointwise(geometry) ? flattened(geometry) : geometry;
  if (batch_is_row(geometry)) common.geometry.iW = common.geometry.oW = kBatchRow;
  common.geometry.N = 0;
  const Kernels<scalar_t>& kernels = kernels_of<scalar_t>(table);

  Candidates candidates;
  const auto plan = [&](Algorithm algorithm, double (*plan_algorithm)(Plan&, const Kernels<scalar_t>&),
                        const char* declined) {
    Plan& p = candidates.plan[static_cast<int>(algorithm)] = common;
    p.algorithm = algorithm;
    p.declined = declined;
    p.cycles = declined ? kNever : plan_algorithm(p, kernels);
    // The direct algorithm computes everything: its own bounds have to hold, tests/test_plan.py checks them.
    if (algorithm != Algorithm::kDirect && p.scratch_bytes > kScratchBytes) p.cycles = kNever;
    if (!declined && p.cycles == kNever) p.declined = "it does not apply, or not within its scratch";
  };
  plan(Algorithm::kDirect, plan_direct<scalar_t>, nullptr);
  plan(Algorithm::kWinograd, plan_winograd<scalar_t>,
       common.geometry.kH * common.geometry.kW == 1 ? "it needs more than one kernel element"
       : !options.winograd                          ? "it is switched off"
                                                    : nullptr);
  plan(Algorithm::kPixels, plan_pixels<scalar_t>,
       contraction == Contraction::kGradWeight ? "it computes forward and grad_input only" : nullptr);
  plan(Algorithm::kLanewise, plan_lanewise<scalar_t>, geometry.G == 1 ? "it needs groups" : nullptr);
  plan(Algorithm::kRows, plan_rows<scalar_t>,
       contraction == Contraction::kGradWeight && !layout.columns_inner
           ? "it needs columns that lie side by side"
           : nullptr);
  plan(Algorithm::kSubpixel, plan_subpixel<scalar_t>,
       contraction != Contraction::kGradInput           ? "it computes grad_input only"
       : geometry.stride_h * geometry.stride_w == 1     ? "it needs a stride"
       : geometry.dilation_h * geometry.dilation_w != 1 ? "it needs dilation 1"
       // Taps that only some of the pixels have would be multiplied as zeros, and spread what is not finite.
       : geometry.kH % geometry.stride_h + geometry.kW % geometry.stride_w != 0
           ? "it needs a kernel that is a multiple of the stride"
           : nullptr);
  plan(Algorithm::kExchanged, plan_exchanged<scalar_t>,
       contraction != Contraction::kGradWeight                         ? "it computes grad_weight only"
       : geometry.stride_h * geometry.stride_w != 1 || geometry.G != 1 ? "it needs stride 1 and one group"
                                                                       : nullptr);
  return candidates;
}

template <class scalar_t>
Plan make_plan(Contraction contraction, const ConvGeometry& geometry, const Layout& layout,
               const PlanOptions& options, const KernelTable& table) {
  const Candidates candidates = make_candidates<scalar_t>(contraction, geometry, layout, options, table);
  if (options.only >= 0 && !candidates.plan[options.only].declined) return candidates.plan[options.only];
  const Plan* best = &candidates.plan[0];
  for (const Plan& plan : candidates.plan) {
    if (plan.cycles < best->cycles) best = &plan;
  }
  Plan plan = *best;
  // What comes out not finite is computed again by the direct algorithm.
  if (plan.algorithm == Algorithm::kWinograd || plan.algorithm == Algorithm::kExchanged) {
    plan.scratch_bytes = std::max(plan.scratch_bytes, candidates.plan[0].scratch_bytes);
  }
  return plan;
}

template <class scalar_t>
Plan make_direct_plan(const Plan& plan, const KernelTable& table) {
  Plan direct = {};
  direct.contraction = plan.contraction;
  direct.algorithm = Algorithm::kDirect;
  direct.isa = plan.isa;
  direct.element_size = plan.element_size;
  direct.layout = plan.layout;
  direct.geometry = plan.geometry;
  direct.cycles = plan_direct(direct, kernels_of<scalar_t>(table));
  return direct;
}

template Plan make_direct_plan<float>(const Plan&, const KernelTable&);
template Plan make_direct_plan<double>(const Plan&, const KernelTable&);
template Candidates make_candidates<float>(Contraction, const ConvGeometry&, const Layout&,
                                           const PlanOptions&, const KernelTable&);
template Candidates make_candidates<double>(Contraction, const ConvGeometry&, const Layout&,
                                            const PlanOptions&, const KernelTable&);
template Plan make_plan<float>(Contraction, const ConvGeometry&, const Layout&, const PlanOptions&,
                               const KernelTable&);
template Plan make_plan<double>(Contraction, const ConvGeometry&, const Layout&, const PlanOptions&,
                                const KernelTable&);

namespace {

std::string size_text(int64_t h, int64_t w) {
  return std::to_string(h) + "x" + std::to_string(w);
}

// What the rows and the lanes of a tile are.
const char* tile_text(const Plan& p) {
  const bool weight = p.contraction == Contraction::kGradWeight;
  switch (p.algorithm) {
    case Algorithm::kDirect:
      if (!weight) return "rows are pixels, lanes are result channels";
      return p.turned               ? "rows are co, lanes are (kw, ci)"
             : kernel_row_merges(p) ? "rows are (kw, ci), lanes are co"
                                    : "rows are ci, lanes are co";
    case Algorithm::kWinograd:
      return weight ? "rows are ci, lanes are co" : "rows are tiles of pixels, lanes are result channels";
    case Algorithm::kExchanged:
      return p.turned               ? "rows are ci, lanes are (kw, co)"
             : kernel_row_merges(p) ? "rows are (kw, co), lanes are ci"
                                    : "rows are co, lanes are ci";
    case Algorithm::kSubpixel:
      return "rows are results of stride 1, lanes are (channel, pixel of the stride)";
    case Algorithm::kPixels:
      return "rows are a group's result channels, lanes are pixels";
    case Algorithm::kRows:
      return weight ? "rows are kernel elements, lanes are columns" : "rows are rows, lanes are columns";
    default:
      if (in_strips(p)) return "a strip's rows over the whole width, lanes are result channels";
      return weight ? "rows are kh, vectors are kw, lanes are groups"
                    : "rows are rows, vectors are columns, lanes are result channels";
  }
}

// What is summed before a tile goes to memory.
std::string block_text(const Plan& p) {
  const std::string kernel = ", kernel " + size_text(p.kh_block, p.kw_block);
  const bool weight = p.contraction == Contraction::kGradWeight;
  if (p.algorithm == Algorithm::kWinograd) {
    return (weight ? std::to_string(p.rows * p.cols) + " tiles" : std::to_string(p.c_block) + " channels") +
           ", for each of " + std::to_string(product_count(p)) + " products";
  }
  return weight ? std::to_string(p.rows * p.cols) + " pixels"
                : std::to_string(p.c_block) + " channels" + kernel;
}

// What an item holds at a time.
std::string chunk_text(const Plan& p) {
  const bool weight = p.contraction == Contraction::kGradWeight;
  std::string text = size_text(p.rows, p.cols);
  if (p.algorithm == Algorithm::kWinograd) {
    text += " tiles of " + size_text(p.winograd_h.results(), p.winograd_w.results());
  }
  text += " pixels";
  if (p.algorithm == Algorithm::kPixels || p.algorithm == Algorithm::kRows)
    return text + ", one group at a time";
  if (p.algorithm == Algorithm::kLanewise)
    return text + ", up to " + std::to_string(p.panels * (weight ? 1 : lane_units(p).vectors)) +
           " vectors of " + (weight ? "groups" : "result channels");
  text +=
      ", up to " + std::to_string(p.panels) + " panels of " + std::to_string(p.panel_lanes()) + " channels";
  if (weight) text += ", " + std::to_string(p.c_block) + " input channels";
  return text;
}

}  // namespace

std::string describe(const Plan& p) {
  const ConvGeometry& g = p.geometry;
  const bool weight = p.contraction == Contraction::kGradWeight;
  const int64_t parts = p.source_bytes + p.weight_bytes + p.tile_bytes;
  std::ostringstream s;
  s << name_of(p.contraction) << ": " << name_of(p.algorithm) << ", "
    << (p.element_size == 4 ? "float32" : "float64") << " on " << p.isa << " (" << p.lanes << " lanes)\n"
    << "  estimate   " << p.cycles << " cycles per sample and group on one core\n"
    << "  geometry   G=" << g.G << " Ci=" << g.Ci << " Co=" << g.Co << " i=" << size_text(g.iH, g.iW)
    << " o=" << size_text(g.oH, g.oW) << " k=" << size_text(g.kH, g.kW) << " stride=" << g.stride_h << ","
    << g.stride_w << " padding=" << g.padding_h << "," << g.padding_w << " dilation=" << g.dilation_h << ","
    << g.dilation_w << "\n"
    << "  tile       " << p.mr << (in_strips(p) ? " rows: " : " x " + std::to_string(p.nv) + " vectors: ")
    << tile_text(p) << "\n"
    << "  K block    " << block_text(p) << "\n"
    << "  chunk      " << chunk_text(p) << "\n"
    << "  scratch    " << p.scratch_bytes << " bytes per thread (source " << p.source_bytes << ", "
    << (weight ? "dY " : "weights ") << p.weight_bytes << ", tiles " << p.tile_bytes << ", other "
    << p.scratch_bytes - parts << ")\n";
  return s.str();
}

}  // namespace tce
