// Runs one contraction: plan, then the file of that name.

#include "contractions.h"

namespace tce {

namespace {

// The strides are those of the two tensors with pixels: forward and grad_input read a and write the result,
// grad_weight reads a and b.
Layout layout_of(const int64_t (&a)[4], const int64_t (&b)[4], const ConvGeometry& g) {
  Layout layout = {};
  // Element (h, w) lies at (h * W + w) * stride_w. Asked for pointwise convolutions, which have iW == oW.
  layout.rows_merge = a[2] == g.iW * a[3] && b[2] == g.iW * b[3];
  layout.columns_inner = a[3] == 1 && b[3] == 1 && !batch_is_row(g);
  layout.channels_inner = a[1] == 1 && b[1] == 1;
  return layout;
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
  const Layout layout =
      layout_of(operands.a.stride, weight ? operands.b.stride : operands.result.stride, geometry);
  const Plan plan = make_plan<scalar_t>(contraction, geometry, layout, options, table);
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
