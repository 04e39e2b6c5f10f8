// grad_input: dX[n, ci, ih, iw] = bias[ci] + sum over co, kh, kw of  W[co, ci, kh, kw] * dY[n, co, oh, ow]
//     for the oh, ow with ih = oh*stride_h - padding_h + kh*dilation_h,
//                         iw = ow*stride_w - padding_w + kw*dilation_w
//
// A correlation over dY with one phase per residue of the stride; W's channels exchange their roles. With a
// bias this is conv_transpose2d. The loops are in the algorithms' files (correlate.h lists them).

#include "contractions.h"
#include "correlate.h"

namespace tce {

namespace {

// The same contraction with the pixels that share their sources in the lanes (subpixel.h).
template <class scalar_t>
void as_subpixel(Correlation<scalar_t>& c, const ConvGeometry& g) {
  const SubpixelAxis h = subpixel_axis(g.iH, g.kH, g.stride_h, g.padding_h);
  const SubpixelAxis w = subpixel_axis(g.iW, g.kW, g.stride_w, g.padding_w);
  c.subpixel = {g.stride_h, g.stride_w, h.first, w.first, g.iH, g.iW};
  c.O *= c.subpixel.lanes();
  c.kH = h.taps, c.kW = w.taps, c.out_h = h.results, c.out_w = w.results;
  // Result j reads source j + first - q: the axis of a stride-1 grad_input with padding `first`.
  const int64_t o_h = g.oH, o_w = g.oW;
  c.rows = [h, o_h](KRange q) { return grad_input_axis(h.results, o_h, q, 1, h.source, 1); };
  c.cols = [w, o_w](KRange q) { return grad_input_axis(w.results, o_w, q, 1, w.source, 1); };
}

}  // namespace

template <class scalar_t>
void grad_input(const Plan& plan, const Plan& direct, const ConvGeometry& g, const Operands<scalar_t>& t,
                const Kernels<scalar_t>& kernels, int threads) {
  Correlation<scalar_t> c = {};
  c.N = g.N, c.G = g.G, c.C = g.Co, c.O = g.Ci, c.kH = g.kH, c.kW = g.kW;
  c.source = t.a, c.source_h = g.oH, c.source_w = g.oW, c.out_h = g.iH, c.out_w = g.iW, c.out = t.result,
  c.bias = t.bias;
  c.stream = g.N * g.G * g.Ci * g.iH * g.iW * static_cast<int64_t>(sizeof(scalar_t)) > kStreamBytes;
  c.weight = {t.b.data, t.b.stride[1], t.b.stride[0], t.b.stride[2], t.b.stride[3]};
  c.weight_group = g.Co * t.b.stride[0];
  c.rows = [&](KRange kh) { return grad_input_axis(g.iH, g.oH, kh, g.stride_h, g.padding_h, g.dilation_h); };
  c.cols = [&](KRange kw) { return grad_input_axis(g.iW, g.oW, kw, g.stride_w, g.padding_w, g.dilation_w); };
  if (plan.algorithm == Algorithm::kSubpixel) as_subpixel(c, g);
  correlate_as_planned(c, plan, direct, kernels, threads);
}

template void grad_input<float>(const Plan&, const Plan&, const ConvGeometry&, const Operands<float>&,
                                const Kernels<float>&, int);
template void grad_input<double>(const Plan&, const Plan&, const ConvGeometry&, const Operands<double>&,
                                 const Kernels<double>&, int);

}  // namespace tce
