// The transforms of Winograd's F(4x4, 3x3) over vectors of channels: a 4x4 output tile of a
// 3x3, stride-1 correlation from a 6x6 input tile with 36 products instead of 144. In two
// dimensions, for a tile d and a kernel g,
//
//   Y = A^T [ (G g G^T) . (B^T d B) ] A            dg = G^T [ (A dY A^T) . (B^T d B) ] G
//
// (A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308, eq. 8; the second
// is its derivative in g.) A, B, G interpolate at the points 0, +-a, +-b, infinity (Toom-Cook). The
// textbook's a, b = 1, 2 lose several bits; a, b = 5/8, 3/2 keep the entries of the three matrices near 1
// (B. Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution, arXiv:1803.10986;
// measured in docs/kernels.md).
//
// Contracts in kernels.h. A "plane" is the distance between the 36 products of one tile.

#pragma once

#include "kernels.h"
#include "simd.h"

namespace tce {
namespace {

template <class scalar_t>
struct Points {
  static constexpr scalar_t a = scalar_t(0.625), b = scalar_t(1.5);  // exact, and so are their powers
  static constexpr scalar_t a2 = a * a, b2 = b * b, a3 = a2 * a, b3 = b2 * b;
  static constexpr scalar_t p = a2 * b2, q = a2 + b2;
  static constexpr scalar_t n0 = 1 / p, na = 1 / (2 * a2 * (a2 - b2)), nb = 1 / (2 * b2 * (b2 - a2));
};

// B^T d: six elements of an input row or column to six.
template <class scalar_t>
TCE_INLINE void transform_input(const Vec<scalar_t>* d, Vec<scalar_t>* r) {
  using P = Points<scalar_t>;
  const Vec<scalar_t> even_a = d[4] - P::b2 * d[2], odd_a = d[3] - P::b2 * d[1];
  const Vec<scalar_t> even_b = d[4] - P::a2 * d[2], odd_b = d[3] - P::a2 * d[1];
  r[0] = P::p * d[0] + (d[4] - P::q * d[2]);
  r[1] = even_a + P::a * odd_a;
  r[2] = even_a - P::a * odd_a;
  r[3] = even_b + P::b * odd_b;
  r[4] = even_b - P::b * odd_b;
  r[5] = P::p * d[1] + (d[5] - P::q * d[3]);
}

// G g: three elements of a kernel row or column to six.
template <class scalar_t>
TCE_INLINE void transform_kernel(const Vec<scalar_t>* g, Vec<scalar_t>* r) {
  using P = Points<scalar_t>;
  const Vec<scalar_t> even_a = P::na * (g[0] + P::a2 * g[2]), odd_a = (P::na * P::a) * g[1];
  const Vec<scalar_t> even_b = P::nb * (g[0] + P::b2 * g[2]), odd_b = (P::nb * P::b) * g[1];
  r[0] = P::n0 * g[0];
  r[1] = even_a + odd_a;
  r[2] = even_a - odd_a;
  r[3] = even_b + odd_b;
  r[4] = even_b - odd_b;
  r[5] = g[2];
}

// A^T m: six products to four outputs.
template <class scalar_t>
TCE_INLINE void transform_output(const Vec<scalar_t>* m, Vec<scalar_t>* y) {
  using P = Points<scalar_t>;
  const Vec<scalar_t> even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
  y[0] = m[0] + (even_a + even_b);
  y[1] = P::a * odd_a + P::b * odd_b;
  y[2] = P::a2 * even_a + P::b2 * even_b;
  y[3] = P::a3 * odd_a + (P::b3 * odd_b + m[5]);
}

// A y: four elements of an output gradient to six.
template <class scalar_t>
TCE_INLINE void transform_output_grad(const Vec<scalar_t>* y, Vec<scalar_t>* r) {
  using P = Points<scalar_t>;
  const Vec<scalar_t> even_a = y[0] + P::a2 * y[2], odd_a = P::a * y[1] + P::a3 * y[3];
  const Vec<scalar_t> even_b = y[0] + P::b2 * y[2], odd_b = P::b * y[1] + P::b3 * y[3];
  r[0] = y[0];
  r[1] = even_a + odd_a;
  r[2] = even_a - odd_a;
  r[3] = even_b + odd_b;
  r[4] = even_b - odd_b;
  r[5] = y[3];
}

// G^T m: six sums to three kernel gradients.
template <class scalar_t>
TCE_INLINE void transform_kernel_grad(const Vec<scalar_t>* m, Vec<scalar_t>* g) {
  using P = Points<scalar_t>;
  const Vec<scalar_t> even_a = P::na * (m[1] + m[2]), odd_a = (P::na * P::a) * (m[1] - m[2]);
  const Vec<scalar_t> even_b = P::nb * (m[3] + m[4]), odd_b = (P::nb * P::b) * (m[3] - m[4]);
  g[0] = P::n0 * m[0] + (even_a + even_b);
  g[1] = odd_a + odd_b;
  g[2] = P::a2 * even_a + (P::b2 * even_b + m[5]);
}

// T applied to the columns, then to the rows, of an In x In block: Out x Out.
template <class scalar_t, int In, int Out, void (*T)(const Vec<scalar_t>*, Vec<scalar_t>*), class Load,
          class Store>
TCE_INLINE void transform_2d(Load&& load_at, Store&& store_at) {
  Vec<scalar_t> half[Out][In];
  TCE_UNROLL
  for (int j = 0; j < In; ++j) {
    Vec<scalar_t> column[In], r[Out];
    TCE_UNROLL
    for (int i = 0; i < In; ++i) column[i] = load_at(i, j);
    T(column, r);
    TCE_UNROLL
    for (int i = 0; i < Out; ++i) half[i][j] = r[i];
  }
  TCE_UNROLL
  for (int i = 0; i < Out; ++i) {
    Vec<scalar_t> r[Out];
    T(half[i], r);
    TCE_UNROLL
    for (int j = 0; j < Out; ++j) store_at(i, j, r[j]);
  }
}

template <class scalar_t>
void winograd_input(const scalar_t* const* rows, int64_t pixel, int64_t tiles, scalar_t* dst,
                    int64_t tile_stride, int64_t plane) {
  for (int64_t t = 0; t < tiles; ++t) {
    transform_2d<scalar_t, 6, 6, transform_input<scalar_t>>(
        [&](int i, int j) { return load(rows[i] + (4 * t + j) * pixel); },
        [&](int i, int j, Vec<scalar_t> v) { store(dst + (6 * i + j) * plane + t * tile_stride, v); });
  }
}

template <class scalar_t>
void winograd_output_grad(const scalar_t* const* rows, int64_t pixel, int64_t tiles, scalar_t* dst,
                          int64_t tile_stride, int64_t plane) {
  for (int64_t t = 0; t < tiles; ++t) {
    transform_2d<scalar_t, 4, 6, transform_output_grad<scalar_t>>(
        [&](int i, int j) { return load(rows[i] + (4 * t + j) * pixel); },
        [&](int i, int j, Vec<scalar_t> v) { store(dst + (6 * i + j) * plane + t * tile_stride, v); });
  }
}

template <class scalar_t>
void winograd_kernel(const scalar_t* src, const int64_t* taps, int64_t vectors, scalar_t* dst,
                     int64_t plane) {
  for (int64_t v = 0; v < vectors; ++v, src += kLanes<scalar_t>, dst += kLanes<scalar_t>) {
    transform_2d<scalar_t, 3, 6, transform_kernel<scalar_t>>(
        [&](int i, int j) { return load(src + taps[3 * i + j]); },
        [&](int i, int j, Vec<scalar_t> w) { store(dst + (6 * i + j) * plane, w); });
  }
}

template <class scalar_t>
void winograd_kernel_grad(const scalar_t* src, int64_t plane, int64_t vectors, scalar_t* dst,
                          int64_t tap_stride) {
  for (int64_t v = 0; v < vectors; ++v, src += kLanes<scalar_t>, dst += kLanes<scalar_t>) {
    transform_2d<scalar_t, 6, 3, transform_kernel_grad<scalar_t>>(
        [&](int i, int j) { return load(src + (6 * i + j) * plane); },
        [&](int i, int j, Vec<scalar_t> g) { store(dst + (3 * i + j) * tap_stride, g); });
  }
}

template <class scalar_t>
bool winograd_output(const scalar_t* src, int64_t plane, int64_t tiles, int64_t vectors, int64_t tile_stride,
                     const scalar_t* bias, scalar_t* dst, int64_t row_stride) {
  constexpr int L = kLanes<scalar_t>;
  Vec<scalar_t> sum = {};  // of y * 0: stays zero while every y is finite
  for (int64_t v = 0; v < vectors; ++v, src += L, dst += L) {
    const Vec<scalar_t> start = bias ? load(bias + v * L) : Vec<scalar_t>{};
    for (int64_t t = 0; t < tiles; ++t) {
      transform_2d<scalar_t, 6, 4, transform_output<scalar_t>>(
          [&](int i, int j) { return load(src + (6 * i + j) * plane + t * tile_stride); },
          [&](int i, int j, Vec<scalar_t> y) {
            y += start;
            sum += y * scalar_t(0);
            store(dst + i * row_stride + (4 * t + j) * tile_stride, y);
          });
    }
  }
  for (int l = 0; l < L; ++l) {
    if (sum[l] != 0) return false;
  }
  return true;
}

}  // namespace
}  // namespace tce
