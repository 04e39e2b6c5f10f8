// Runs one contraction: plan, then the file of that name.

#include "contractions.h"

namespace tce {

namespace {

// Rows follow each other without a gap: element (h, w) lies at (h * W + w) * stride_w.
template <class T>
bool rows_merge(const TensorView<T>& t, int64_t w) {
  return t.stride[2] == w * t.stride[3];
}

// The operands of plan_exchanged (plan_direct.cpp): X and dY change places, dW its channels, and its kernel
// is turned round.
template <class scalar_t>
Operands<scalar_t> exchanged(const Operands<scalar_t>& t, const ConvGeometry& g) {
  const auto [so, si, sh, sw] = t.result.stride;
  return {t.b, t.a, nullptr, {t.result.data + (g.kH - 1) * sh + (g.kW - 1) * sw, {si, so, -sh, -sw}}};
}

template <class scalar_t>
bool is_finite(const TensorView<scalar_t>& w, const ConvGeometry& g) {
  scalar_t sum = 0;  // of zeros while all elements are finite
  for (int64_t co = 0; co < g.G * g.Co; ++co)
    for (int64_t ci = 0; ci < g.Ci; ++ci)
      for (int64_t kh = 0; kh < g.kH; ++kh)
        for (int64_t kw = 0; kw < g.kW; ++kw)
          sum +=
              w.data[co * w.stride[0] + ci * w.stride[1] + kh * w.stride[2] + kw * w.stride[3]] * scalar_t(0);
  return sum == 0;
}

}  // namespace

template <class scalar_t>
void run(Contraction contraction, const ConvGeometry& geometry, const Operands<scalar_t>& operands,
         const PlanOptions& options, const KernelTable& table, int threads) {
  const bool weight = contraction == Contraction::kGradWeight;
  // forward and grad_input read a and write the result, grad_weight reads a and b; a 1x1 kernel has iW == oW.
  const bool merge =
      rows_merge(operands.a, geometry.iW) &&
      (weight ? rows_merge(operands.b, geometry.iW) : rows_merge(operands.result, geometry.iW));
  const Plan plan = make_plan<scalar_t>(contraction, geometry, merge, options, table);
  // Winograd leaves what is not finite to the direct algorithm.
  const Plan direct = plan.algorithm == Algorithm::kWinograd ? make_direct_plan<scalar_t>(plan, table) : plan;
  ConvGeometry g = plan.geometry;
  Operands<scalar_t> t = operands;
  if (batch_is_row(geometry)) {
    g.N = 1;
    g.iW = g.oW = geometry.N;
    t.a.stride[3] = t.a.stride[0];
    (weight ? t.b.stride : t.result.stride)[3] = (weight ? t.b.stride : t.result.stride)[0];
  } else {
    g.N = geometry.N;
  }
  if (plan.algorithm == Algorithm::kExchanged) t = exchanged(t, g);
  const Kernels<scalar_t>& kernels = kernels_of<scalar_t>(table);
  switch (contraction) {
    case Contraction::kForward:
      return forward(plan, direct, g, t, kernels, threads);
    case Contraction::kGradInput:
      return grad_input(plan, direct, g, t, kernels, threads);
    case Contraction::kGradWeight:
      grad_weight(plan, direct, g, t, kernels, threads);
  }
  // Exchanged, an Inf or NaN of X meets the zeros of dY's padding, and spreads; then once more, by the direct
  // algorithm. (A layer of few result channels has a small dW: looking through it costs nothing.)
  if (plan.algorithm == Algorithm::kExchanged && !is_finite(operands.result, geometry)) {
    PlanOptions only_direct = options;
    only_direct.only = static_cast<int>(Algorithm::kDirect);
    run(contraction, geometry, operands, only_direct, table, threads);
  }
}

template void run<float>(Contraction, const ConvGeometry&, const Operands<float>&, const PlanOptions&,
                         const KernelTable&, int);
template void run<double>(Contraction, const ConvGeometry&, const Operands<double>&, const PlanOptions&,
                          const KernelTable&, int);

}  // namespace tce
