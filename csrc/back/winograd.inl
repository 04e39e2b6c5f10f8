// The transforms of Winograd's F(m x m, r x r), r = 2 ... 5 and m = 7 - r, over vectors of channels: an m x m
// output tile of an r x r, stride-1 correlation from a 6x6 input tile with 36 products instead of m^2 r^2 (144
// of 3x3). In two dimensions, for a tile d and a kernel g,
//
//   Y = A^T [ (G g G^T) . (B^T d B) ] A            dg = G^T [ (A dY A^T) . (B^T d B) ] G
//
// (A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308, eq. 8; the second
// is its derivative in g.) A, B, G interpolate at the points 0, +-a, +-b, infinity (Toom-Cook): A and G evaluate
// polynomials of m and r coefficients there, B depends on the points alone. The textbook's a, b = 1, 2 lose
// several bits; a, b = 5/8, 3/2 keep the entries of the three matrices near 1 (B. Barabasz et al., Error
// Analysis and Improving the Accuracy of Winograd Convolution, arXiv:1803.10986; measured in docs/kernels.md).
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
  static constexpr scalar_t a_power[] = {1, a, a2, a3, a2 * a2}, b_power[] = {1, b, b2, b3, b2 * b2};
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

// The part of a polynomial's value at +-a (or +-b) that its even, or odd, coefficients make: sum of
// power[i] * x[i] over i = First, First + 2, ... < N.
template <class scalar_t, int N, int First>
TCE_INLINE Vec<scalar_t> half_value(const Vec<scalar_t>* x, const scalar_t (&power)[5]) {
  Vec<scalar_t> sum = First == 0 ? x[0] : power[First] * x[First];
  TCE_UNROLL
  for (int i = First + 2; i < N; i += 2) sum += power[i] * x[i];
  return sum;
}

// A y: the values at the six points of the polynomial with the coefficients y[0], ..., y[N - 1].
template <class scalar_t, int N>
TCE_INLINE void evaluate(const Vec<scalar_t>* y, Vec<scalar_t>* r) {
  using P = Points<scalar_t>;
  const Vec<scalar_t> even_a = half_value<scalar_t, N, 0>(y, P::a_power);
  const Vec<scalar_t> odd_a = half_value<scalar_t, N, 1>(y, P::a_power);
  const Vec<scalar_t> even_b = half_value<scalar_t, N, 0>(y, P::b_power);
  const Vec<scalar_t> odd_b = half_value<scalar_t, N, 1>(y, P::b_power);
  r[0] = y[0];
  r[1] = even_a + odd_a;
  r[2] = even_a - odd_a;
  r[3] = even_b + odd_b;
  r[4] = even_b - odd_b;
  r[5] = y[N - 1];
}

// A^T m, the transpose of `evaluate`: six products to N outputs.
template <class scalar_t, int N>
TCE_INLINE void interpolate(const Vec<scalar_t>* m, Vec<scalar_t>* y) {
  using P = Points<scalar_t>;
  const Vec<scalar_t> even_a = m[1] + m[2], odd_a = m[1] - m[2], even_b = m[3] + m[4], odd_b = m[3] - m[4];
  y[0] = m[0] + (even_a + even_b);
  TCE_UNROLL
  for (int i = 1; i < N; ++i) {
    y[i] = P::a_power[i] * (i % 2 ? odd_a : even_a) + P::b_power[i] * (i % 2 ? odd_b : even_b);
  }
  y[N - 1] += m[5];
}

// G g: `evaluate` with the weights of the points.
template <class scalar_t, int N>
TCE_INLINE void transform_kernel(const Vec<scalar_t>* g, Vec<scalar_t>* r) {
  using P = Points<scalar_t>;
  evaluate<scalar_t, N>(g, r);
  r[0] *= P::n0;
  r[1] *= P::na;
  r[2] *= P::na;
  r[3] *= P::nb;
  r[4] *= P::nb;
}

// G^T m: six sums to N kernel gradients.
template <class scalar_t, int N>
TCE_INLINE void transform_kernel_grad(const Vec<scalar_t>* m, Vec<scalar_t>* g) {
  using P = Points<scalar_t>;
  const Vec<scalar_t> weighted[6] = {P::n0 * m[0], P::na * m[1], P::na * m[2],
                                     P::nb * m[3], P::nb * m[4], m[5]};
  interpolate<scalar_t, N>(weighted, g);
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
void winograd_input(const scalar_t* const* rows, int64_t pixel, int64_t step, int64_t tiles, scalar_t* dst,
                    int64_t tile_stride, int64_t plane) {
  for (int64_t t = 0; t < tiles; ++t) {
    transform_2d<scalar_t, 6, 6, transform_input<scalar_t>>(
        [&](int i, int j) { return load(rows[i] + t * step + j * pixel); },
        [&](int i, int j, Vec<scalar_t> v) { store(dst + (6 * i + j) * plane + t * tile_stride, v); });
  }
}

template <class scalar_t, int R>
struct Winograd {
  static constexpr int M = 7 - R;

  static void output_grad(const scalar_t* const* rows, int64_t pixel, int64_t tiles, scalar_t* dst,
                          int64_t tile_stride, int64_t plane) {
    for (int64_t t = 0; t < tiles; ++t) {
      transform_2d<scalar_t, M, 6, evaluate<scalar_t, M>>(
          [&](int i, int j) { return load(rows[i] + (M * t + j) * pixel); },
          [&](int i, int j, Vec<scalar_t> v) { store(dst + (6 * i + j) * plane + t * tile_stride, v); });
    }
  }

  static void kernel(const scalar_t* src, const int64_t* taps, int64_t vectors, scalar_t* dst,
                     int64_t plane) {
    for (int64_t v = 0; v < vectors; ++v, src += kLanes<scalar_t>, dst += kLanes<scalar_t>) {
      transform_2d<scalar_t, R, 6, transform_kernel<scalar_t, R>>(
          [&](int i, int j) {
            const int64_t tap = taps[R * i + j];
            return tap < 0 ? Vec<scalar_t>{} : load(src + tap);
          },
          [&](int i, int j, Vec<scalar_t> w) { store(dst + (6 * i + j) * plane, w); });
    }
  }

  static void kernel_grad(const scalar_t* src, int64_t plane, int64_t vectors, const int64_t* taps,
                          scalar_t* dst) {
    for (int64_t v = 0; v < vectors; ++v, src += kLanes<scalar_t>, dst += kLanes<scalar_t>) {
      transform_2d<scalar_t, 6, R, transform_kernel_grad<scalar_t, R>>(
          [&](int i, int j) { return load(src + (6 * i + j) * plane); },
          [&](int i, int j, Vec<scalar_t> g) {
            const int64_t tap = taps[R * i + j];
            if (tap >= 0) store(dst + tap, g);
          });
    }
  }

  static bool output(const scalar_t* src, int64_t plane, int64_t tiles, int64_t vectors, int64_t tile_stride,
                     const scalar_t* bias, scalar_t* dst, int64_t row_stride, int64_t pixel) {
    constexpr int L = kLanes<scalar_t>;
    Vec<scalar_t> sum = {};  // of y * 0: stays zero while every y is finite
    for (int64_t v = 0; v < vectors; ++v, src += L, dst += L) {
      const Vec<scalar_t> start = bias ? load(bias + v * L) : Vec<scalar_t>{};
      for (int64_t t = 0; t < tiles; ++t) {
        transform_2d<scalar_t, 6, M, interpolate<scalar_t, M>>(
            [&](int i, int j) { return load(src + (6 * i + j) * plane + t * tile_stride); },
            [&](int i, int j, Vec<scalar_t> y) {
              y += start;
              sum += y * scalar_t(0);
              store(dst + i * row_stride + (M * t + j) * pixel, y);
            });
      }
    }
    for (int l = 0; l < L; ++l) {
      if (sum[l] != 0) return false;
    }
    return true;
  }

  static constexpr WinogradKernels<scalar_t> table() { return {output_grad, kernel, kernel_grad, output}; }
};

}  // namespace
}  // namespace tce
