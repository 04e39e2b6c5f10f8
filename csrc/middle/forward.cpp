// forward: Y[n, co, oh, ow] = bias[co] + sum over ci, kh, kw of  W[co, ci, kh, kw] * X[n, ci, ih, iw]
//     with ih = oh*stride_h - padding_h + kh*dilation_h,  iw = ow*stride_w - padding_w + kw*dilation_w
//
// A correlation over X with one phase per axis. Groups are the correlation's; the loops are in the
// algorithms' files (correlate.h lists them).

#include "contractions.h"
#include "correlate.h"

namespace tce {

template <class scalar_t>
void forward(const Plan& plan, const Plan& direct, const ConvGeometry& g, const Operands<scalar_t>& t,
             const Kernels<scalar_t>& kernels, int threads) {
  Correlation<scalar_t> c = {};
  c.N = g.N, c.G = g.G, c.C = g.Ci, c.O = g.Co, c.kH = g.kH, c.kW = g.kW;
  c.source = t.a, c.source_h = g.iH, c.source_w = g.iW, c.out_h = g.oH, c.out_w = g.oW, c.out = t.result,
  c.bias = t.bias;
  c.stream = g.N * g.G * g.Co * g.oH * g.oW * static_cast<int64_t>(sizeof(scalar_t)) > kStreamBytes;
  c.weight = {t.b.data, t.b.stride[0], t.b.stride[1], t.b.stride[2], t.b.stride[3]};
  c.weight_group = g.Co * t.b.stride[0];
  c.rows = [&](KRange kh) { return forward_axis(g.oH, g.iH, kh, g.stride_h, g.padding_h, g.dilation_h); };
  c.cols = [&](KRange kw) { return forward_axis(g.oW, g.iW, kw, g.stride_w, g.padding_w, g.dilation_w); };
  correlate_as_planned(c, plan, direct, kernels, threads);
}

template void forward<float>(const Plan&, const Plan&, const ConvGeometry&, const Operands<float>&,
                             const Kernels<float>&, int);
template void forward<double>(const Plan&, const Plan&, const ConvGeometry&, const Operands<double>&,
                              const Kernels<double>&, int);

}  // namespace tce
