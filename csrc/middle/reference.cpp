// The definition of the three contractions, in loops (geometry.h has the formula). Slow by design: what is
// compared with must be plain enough to be believed.

#include "contractions.h"

namespace tce {

namespace {

template <class scalar_t>
double at(const TensorView<const scalar_t>& t, int64_t n, int64_t c, int64_t h, int64_t w) {
  return static_cast<double>(t.data[n * t.stride[0] + c * t.stride[1] + h * t.stride[2] + w * t.stride[3]]);
}

template <class scalar_t>
scalar_t& element(const TensorView<scalar_t>& t, int64_t n, int64_t c, int64_t h, int64_t w) {
  return t.data[n * t.stride[0] + c * t.stride[1] + h * t.stride[2] + w * t.stride[3]];
}

// Y[n, co, oh, ow]
template <class scalar_t>
void reference_forward(const ConvGeometry& q, const Operands<scalar_t>& t) {
  for (int64_t n = 0; n < q.N; ++n)
    for (int64_t c = 0; c < q.G * q.Co; ++c)
      for (int64_t oh = 0; oh < q.oH; ++oh)
        for (int64_t ow = 0; ow < q.oW; ++ow) {
          double sum = t.bias ? static_cast<double>(t.bias[c]) : 0.0;
          for (int64_t ci = 0; ci < q.Ci; ++ci)
            for (int64_t kh = 0; kh < q.kH; ++kh)
              for (int64_t kw = 0; kw < q.kW; ++kw) {
                const int64_t ih = oh * q.stride_h - q.padding_h + kh * q.dilation_h;
                const int64_t iw = ow * q.stride_w - q.padding_w + kw * q.dilation_w;
                if (ih < 0 || ih >= q.iH || iw < 0 || iw >= q.iW) continue;
                sum += at(t.b, c, ci, kh, kw) * at(t.a, n, c / q.Co * q.Ci + ci, ih, iw);
              }
          element(t.result, n, c, oh, ow) = static_cast<scalar_t>(sum);
        }
}

// dX[n, ci, ih, iw]
template <class scalar_t>
void reference_grad_input(const ConvGeometry& q, const Operands<scalar_t>& t) {
  for (int64_t n = 0; n < q.N; ++n)
    for (int64_t c = 0; c < q.G * q.Ci; ++c)
      for (int64_t ih = 0; ih < q.iH; ++ih)
        for (int64_t iw = 0; iw < q.iW; ++iw) {
          double sum = t.bias ? static_cast<double>(t.bias[c]) : 0.0;
          for (int64_t co = 0; co < q.Co; ++co)
            for (int64_t kh = 0; kh < q.kH; ++kh)
              for (int64_t kw = 0; kw < q.kW; ++kw) {
                const int64_t h = ih + q.padding_h - kh * q.dilation_h,
                              w = iw + q.padding_w - kw * q.dilation_w;
                if (h % q.stride_h != 0 || w % q.stride_w != 0) continue;
                const int64_t oh = h / q.stride_h, ow = w / q.stride_w;
                if (oh < 0 || oh >= q.oH || ow < 0 || ow >= q.oW) continue;
                const int64_t g_co = c / q.Ci * q.Co + co;
                sum += at(t.b, g_co, c % q.Ci, kh, kw) * at(t.a, n, g_co, oh, ow);
              }
          element(t.result, n, c, ih, iw) = static_cast<scalar_t>(sum);
        }
}

// dW[co, ci, kh, kw]
template <class scalar_t>
void reference_grad_weight(const ConvGeometry& q, const Operands<scalar_t>& t) {
  for (int64_t c = 0; c < q.G * q.Co; ++c)
    for (int64_t ci = 0; ci < q.Ci; ++ci)
      for (int64_t kh = 0; kh < q.kH; ++kh)
        for (int64_t kw = 0; kw < q.kW; ++kw) {
          double sum = 0.0;
          for (int64_t n = 0; n < q.N; ++n)
            for (int64_t oh = 0; oh < q.oH; ++oh)
              for (int64_t ow = 0; ow < q.oW; ++ow) {
                const int64_t ih = oh * q.stride_h - q.padding_h + kh * q.dilation_h;
                const int64_t iw = ow * q.stride_w - q.padding_w + kw * q.dilation_w;
                if (ih < 0 || ih >= q.iH || iw < 0 || iw >= q.iW) continue;
                sum += at(t.b, n, c, oh, ow) * at(t.a, n, c / q.Co * q.Ci + ci, ih, iw);
              }
          element(t.result, c, ci, kh, kw) = static_cast<scalar_t>(sum);
        }
}

}  // namespace

template <class scalar_t>
void run_reference(Contraction contraction, const ConvGeometry& geometry,
                   const Operands<scalar_t>& operands) {
  switch (contraction) {
    case Contraction::kForward:
      return reference_forward(geometry, operands);
    case Contraction::kGradInput:
      return reference_grad_input(geometry, operands);
    case Contraction::kGradWeight:
      return reference_grad_weight(geometry, operands);
  }
}

template void run_reference<float>(Contraction, const ConvGeometry&, const Operands<float>&);
template void run_reference<double>(Contraction, const ConvGeometry&, const Operands<double>&);

}  // namespace tce
