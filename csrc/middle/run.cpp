// Runs one contraction: plan, then the file of that name.

#include "contractions.h"
#include "plan_cache.h"

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

// The stride of the elements of (c, h, w) or of (h, w, c) taken as one index, or 0 where that is impossible.
int64_t joint_stride(const int64_t (&stride)[4], const ConvGeometry& g, bool channels_inner) {
  const int64_t size[4] = {0, g.Ci, g.iH, g.iW};
  const int order[2][3] = {{3, 2, 1}, {1, 3, 2}};  // innermost first
  int64_t joint = 0, next = 0;
  for (const int d : order[channels_inner]) {
    if (size[d] == 1) continue;
    if (joint == 0) joint = next = stride[d];
    if (stride[d] != next) return 0;
    next *= size[d];
  }
  return joint;
}

// Of a fully connected layer: the operands as those of a pointwise convolution, if elements of the image and
// of the kernel follow each other in the same order.
template <class scalar_t>
bool make_pointwise(Contraction contraction, const ConvGeometry& g, Operands<scalar_t>& t) {
  // One bias for all elements of a channel has no counterpart.
  if (!is_fully_connected(g) || (contraction == Contraction::kGradInput && t.bias)) return false;
  int64_t (&x)[4] = contraction == Contraction::kGradInput ? t.result.stride : t.a.stride;
  int64_t (&w)[4] = contraction == Contraction::kGradWeight ? t.result.stride : t.b.stride;
  for (const bool channels_inner : {false, true}) {
    const int64_t joint_x = joint_stride(x, g, channels_inner), joint_w = joint_stride(w, g, channels_inner);
    if (joint_x == 0 || joint_w == 0) continue;
    x[1] = joint_x, w[1] = joint_w;
    return true;
  }
  return false;
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
  if (const Cropped c = cropped(contraction, geometry);
      c.geometry.kH < geometry.kH || c.geometry.kW < geometry.kW) {
    Operands<scalar_t> t = operands;
    t.b.data += c.kh * t.b.stride[2] + c.kw * t.b.stride[3];
    return run(contraction, c.geometry, t, options, table, threads);
  }
  if (Operands<scalar_t> joined = operands; make_pointwise(contraction, geometry, joined))
    return run(contraction, as_pointwise(geometry), joined, options, table, threads);
  const bool weight = contraction == Contraction::kGradWeight;
  Operands<scalar_t> t = operands;
  int64_t (&second)[4] = weight ? t.b.stride : t.result.stride;
  // A single channel has any stride; it is taken for one of channels_last.
  const int64_t x_channels = geometry.G * geometry.Ci, y_channels = geometry.G * geometry.Co;
  const bool x_first = contraction != Contraction::kGradInput;
  if ((x_first ? x_channels : y_channels) == 1) t.a.stride[1] = 1;
  if ((x_first ? y_channels : x_channels) == 1) second[1] = 1;
  const Layout layout = layout_of(t.a.stride, second, geometry);
  const auto [plan, direct] = cached_plans<scalar_t>(contraction, geometry, layout, options, table);
  ConvGeometry g = plan.geometry;
  if (batch_is_row(geometry)) {
    g.N = 1;
    g.iW = g.oW = geometry.N;
    t.a.stride[3] = t.a.stride[0];
    second[3] = second[0];
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
  // algorithm. (A layer of few result channels has a small dW: looking through it costs nothing. A pointwise one
  // may have a large dW, but no padding.)
  const bool pads = geometry.kH * geometry.kW > 1 || geometry.padding_h != 0 || geometry.padding_w != 0;
  if (plan.algorithm == Algorithm::kExchanged && pads && !is_finite(operands.result, geometry)) {
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
