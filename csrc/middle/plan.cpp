// Chooses the algorithm; plan_direct.cpp and plan_winograd.cpp choose their own sizes.

#include "plan.h"

#include <sstream>
#include <string>

#include "plan_tiles.h"

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

// What Winograd F(4x4, 3x3) can compute, whatever it would cost.
bool winograd_applies(const ConvGeometry& g) {
  return g.kH == 3 && g.kW == 3 && g.stride_h == 1 && g.stride_w == 1 && g.dilation_h == 1 &&
         g.dilation_w == 1;
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

const char* name_of(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kDirect:
      return "direct";
    case Algorithm::kWinograd:
      return "winograd";
    case Algorithm::kPixels:
      return "pixels";
    default:
      return "lanewise";
  }
}

template <class scalar_t>
Candidates make_candidates(Contraction contraction, const ConvGeometry& geometry, bool pixels_merge,
                           const PlanOptions& options, const KernelTable& table) {
  Plan common = {};
  common.contraction = contraction;
  common.isa = table.isa;
  common.element_size = sizeof(scalar_t);
  common.geometry = pixels_merge && is_pointwise(geometry) ? flattened(geometry) : geometry;
  common.geometry.N = 0;
  const Kernels<scalar_t>& kernels = kernels_of<scalar_t>(table);

  Candidates candidates;
  const auto plan = [&](Algorithm algorithm, double (*plan_algorithm)(Plan&, const Kernels<scalar_t>&),
                        const char* declined) {
    Plan& p = candidates.plan[static_cast<int>(algorithm)] = common;
    p.algorithm = algorithm;
    p.declined = declined;
    p.cycles = declined ? kNever : plan_algorithm(p, kernels);
    if (!declined && p.cycles == kNever) p.declined = "it would need more scratch than it may have";
    if (options.only == static_cast<int>(algorithm) && !p.declined) p.cycles = 0;
  };
  plan(Algorithm::kDirect, plan_direct<scalar_t>, nullptr);
  plan(Algorithm::kWinograd, plan_winograd<scalar_t>,
       !winograd_applies(common.geometry) ? "it needs a 3x3 kernel, stride 1 and dilation 1"
       : !options.winograd                ? "it is switched off"
                                          : nullptr);
  plan(Algorithm::kPixels, plan_pixels<scalar_t>,
       contraction == Contraction::kGradWeight ? "it computes forward and grad_input only" : nullptr);
  plan(Algorithm::kLanewise, plan_lanewise<scalar_t>, geometry.G == 1 ? "it needs groups" : nullptr);
  return candidates;
}

template <class scalar_t>
Plan make_plan(Contraction contraction, const ConvGeometry& geometry, bool pixels_merge,
               const PlanOptions& options, const KernelTable& table) {
  const Candidates candidates =
      make_candidates<scalar_t>(contraction, geometry, pixels_merge, options, table);
  const Plan* best = &candidates.plan[0];
  for (const Plan& plan : candidates.plan) {
    if (plan.cycles < best->cycles) best = &plan;
  }
  return *best;
}

template <class scalar_t>
Plan make_direct_plan(const Plan& plan, const KernelTable& table) {
  Plan direct = {};
  direct.contraction = plan.contraction;
  direct.algorithm = Algorithm::kDirect;
  direct.isa = plan.isa;
  direct.element_size = plan.element_size;
  direct.geometry = plan.geometry;
  direct.cycles = plan_direct(direct, kernels_of<scalar_t>(table));
  return direct;
}

template Plan make_direct_plan<float>(const Plan&, const KernelTable&);
template Plan make_direct_plan<double>(const Plan&, const KernelTable&);
template Candidates make_candidates<float>(Contraction, const ConvGeometry&, bool, const PlanOptions&,
                                           const KernelTable&);
template Candidates make_candidates<double>(Contraction, const ConvGeometry&, bool, const PlanOptions&,
                                            const KernelTable&);
template Plan make_plan<float>(Contraction, const ConvGeometry&, bool, const PlanOptions&,
                               const KernelTable&);
template Plan make_plan<double>(Contraction, const ConvGeometry&, bool, const PlanOptions&,
                                const KernelTable&);

std::string describe(const Plan& p) {
  const ConvGeometry& g = p.geometry;
  const bool weight = p.contraction == Contraction::kGradWeight;
  std::ostringstream s;
  s << name_of(p.contraction) << ": " << name_of(p.algorithm) << ", "
    << (p.element_size == 4 ? "float32" : "float64") << " on " << p.isa << " (" << p.lanes << " lanes)\n"
    << "  estimate   " << p.cycles
    << " cycles per sample and group on one core, the least of the algorithms that apply\n"
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
