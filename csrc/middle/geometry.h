// The sizes of one convolution, and views of its tensors. Vocabulary of the whole core:
//
//   N batch    G groups    Ci, Co channels per group, on the input and on the output side of conv2d
//   iH iW      spatial size of X and dX        oH oW   of Y and dY        kH kW   of W and dW
//
// The sizes are free: no kernel assumes a formula between (iH, iW), (oH, oW) and (kH, kW). The trilinear form
//
//   T(X, W, dY) = sum over n, g, co, ci, oh, ow, kh, kw of
//       dY[n, g*Co + co, oh, ow] * W[g*Co + co, ci, kh, kw] * X[n, g*Ci + ci, ih, iw]
//       with ih = oh*stride_h - padding_h + kh*dilation_h,  iw = ow*stride_w - padding_w + kw*dilation_w
//
// has no term where (ih, iw) lies outside X; a result element without any term is zero (plus bias).

#pragma once

#include <cstdint>

namespace tce {

struct ConvGeometry {
  int64_t N, G, Ci, Co;
  int64_t iH, iW, oH, oW, kH, kW;
  int64_t stride_h, stride_w;
  int64_t padding_h, padding_w;
  int64_t dilation_h, dilation_w;
};

// A 4-D tensor as it lies in memory; strides in elements, in the order (N, C, H, W),
// or (Co, Ci, kH, kW) of a weight.
template <class scalar_t>
struct TensorView {
  scalar_t* data;
  int64_t stride[4];
};

inline int64_t floor_div(int64_t a, int64_t b) {
  return a >= 0 ? a / b : -((-a + b - 1) / b);
}
inline int64_t floor_mod(int64_t a, int64_t b) {
  return a - floor_div(a, b) * b;
}
inline int64_t ceil_div(int64_t a, int64_t b) {
  return -floor_div(-a, b);
}

// Part i of n parts of [0, size) that differ by one at most starts here.
inline int64_t part_start(int64_t size, int64_t n, int64_t i) {
  return size * i / n;
}

}  // namespace tce
