// grad_input: dX[n, ci, ih, iw] = bias[ci] + sum over co, kh, kw, oh, ow of  W[co, ci, kh, kw] * dY[n, co,
// oh, ow]
//                 for the oh, ow with  ih = oh*stride_h - padding_h + kh*dilation_h,  iw likewise
//
// A correlation over dY with one phase per residue of the stride; W's channels exchange their roles. With a
// bias this is conv_transpose2d. The loops are in the algorithms' files (correlate.h).

#include "contractions.h"
#include "correlate.h"

namespace tce {

template <class scalar_t>
void grad_input(const Plan& plan, const Plan& direct, const ConvGeometry& g, const Operands<scalar_t>& t,
                const Kernels<scalar_t>& kernels, int threads) {
  Correlation<scalar_t> c = {};
  c.N = g.N, c.G = g.G, c.C = g.Co, c.O = g.Ci, c.kH = g.kH, c.kW = g.kW;
  c.source = t.a, c.source_h = g.oH, c.source_w = g.oW, c.out_h = g.iH, c.out_w = g.iW, c.out = t.result,
  c.bias = t.bias;
  c.weight = {t.b.data, t.b.stride[1], t.b.stride[0], t.b.stride[2], t.b.stride[3]};
  c.weight_group = g.Co * t.b.stride[0];
  c.rows = [&](KRange kh) { return grad_input_axis(g.iH, g.oH, kh, g.stride_h, g.padding_h, g.dilation_h); };
  c.cols = [&](KRange kw) { return grad_input_axis(g.iW, g.oW, kw, g.stride_w, g.padding_w, g.dilation_w); };
  correlate_as_planned(c, plan, direct, kernels, threads);
}

template void grad_input<float>(const Plan&, const Plan&, const ConvGeometry&, const Operands<float>&,
                                const Kernels<float>&, int);
template void grad_input<double>(const Plan&, const Plan&, const ConvGeometry&, const Operands<double>&,
                                 const Kernels<double>&, int);

}  // namespace tce
