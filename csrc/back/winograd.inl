// The transforms of Winograd's F(m x m, r x r) over vectors of channels: an m x m output tile of an r x r,
// stride-1 correlation from a P x P input tile, P = m + r - 1, with P^2 products instead of m^2 r^2 (3x3: 36
// instead of 144); and those of one axis alone, with P instead of m r. In two dimensions, for a tile d and a
// kernel g,
//
//   Y = A^T [ (G g G^T) . (B^T d B) ] A            dg = G^T [ (A dY A^T) . (B^T d B) ] G
//
// (A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308, eq. 8; the second
// is its derivative in g.) A, B, G interpolate at P points (Toom-Cook): A and G evaluate polynomials of m and r
// coefficients there, B depends on the points alone. They are 0, +-a, +-b, infinity, or without -b. The
// textbook's a, b = 1, 2 lose several bits; 5/8, 3/2 and 3/4, 7/4 keep the entries of the three matrices near 1
// (B. Barabasz et al., Error Analysis and Improving the Accuracy of Winograd Convolution, arXiv:1803.10986;
// measured in docs/kernels.md).
//
// Contracts in kernels.h. A "plane" is the distance between the products of one tile.

#pragma once

#include "kernels.h"
#include "simd.h"

namespace tce {
namespace {

// All are exact but the weights of the points, which are rounded once.
template <class scalar_t, int P>
struct Points {
  static constexpr scalar_t a = scalar_t(P == 6 ? 0.625 : 0.75), b = scalar_t(P == 6 ? 1.5 : 1.75);
  static constexpr scalar_t a2 = a * a, b2 = b * b;
  static constexpr scalar_t a_power[] = {1, a, a2, a2 * a, a2 * a2}, b_power[] = {1, b, b2, b2 * b, b2 * b2};
  // One over the product of a point's distances from the other finite points; 1 for infinity.
  static constexpr scalar_t weight6[] = {1 / (a2 * b2),
                                         1 / (2 * a2 * (a2 - b2)),
                                         1 / (2 * a2 * (a2 - b2)),
                                         1 / (2 * b2 * (b2 - a2)),
                                         1 / (2 * b2 * (b2 - a2)),
                                         1};
  static constexpr scalar_t weight5[] = {1 / (a2 * b), 1 / (2 * a2 * (a - b)), -1 / (2 * a2 * (a + b)),
                                         1 / (b * (b2 - a2)), 1};
  static constexpr scalar_t weight(int i) { return P == 6 ? weight6[i] : weight5[i < 5 ? i : 0]; }
};

// B^T d: P elements of an input row or column to P. Row i of B^T has the coefficients of the product of
// (x - point) over the other finite points.
template <class scalar_t, int P>
TCE_INLINE void transform_input(const Vec<scalar_t>* d, Vec<scalar_t>* r) {
  using C = Points<scalar_t, P>;
  if constexpr (P == 6) {
    constexpr scalar_t p = C::a2 * C::b2, q = C::a2 + C::b2;
    const Vec<scalar_t> even_a = d[4] - C::b2 * d[2], odd_a = d[3] - C::b2 * d[1];
    const Vec<scalar_t> even_b = d[4] - C::a2 * d[2], odd_b = d[3] - C::a2 * d[1];
    r[0] = p * d[0] + (d[4] - q * d[2]);
    r[1] = even_a + C::a * odd_a;
    r[2] = even_a - C::a * odd_a;
    r[3] = even_b + C::b * odd_b;
    r[4] = even_b - C::b * odd_b;
    r[5] = p * d[1] + (d[5] - q * d[3]);
  } else {
    const Vec<scalar_t> high = d[3] - C::b * d[2], low = d[2] - C::b * d[1], at_b = d[3] - C::a2 * d[1];
    r[0] = high - C::a2 * (d[1] - C::b * d[0]);
    r[1] = high + C::a * low;
    r[2] = high - C::a * low;
    r[3] = at_b;
    r[4] = (d[4] - C::a2 * d[2]) - C::b * at_b;
  }
}

// The part of a polynomial's value at +-x that its even, or odd, coefficients make: sum of power[i] * y[i] over
// i = First, First + Step, ... < N.
template <class scalar_t, int N, int First, int Step>
TCE_INLINE Vec<scalar_t> part_value(const Vec<scalar_t>* y, const scalar_t (&power)[5]) {
  Vec<scalar_t> sum = First == 0 ? y[0] : power[First] * y[First];
  TCE_UNROLL
  for (int i = First + Step; i < N; i += Step) sum += power[i] * y[i];
  return sum;
}

// A y: the values at the points of the polynomial with the coefficients y[0], ..., y[N - 1].
template <class scalar_t, int P, int N>
TCE_INLINE void evaluate(const Vec<scalar_t>* y, Vec<scalar_t>* r) {
  using C = Points<scalar_t, P>;
  const Vec<scalar_t> even_a = part_value<scalar_t, N, 0, 2>(y, C::a_power);
  const Vec<scalar_t> odd_a = part_value<scalar_t, N, 1, 2>(y, C::a_power);
  r[0] = y[0];
  r[1] = even_a + odd_a;
  r[2] = even_a - odd_a;
  if constexpr (P == 6) {
    const Vec<scalar_t> even_b = part_value<scalar_t, N, 0, 2>(y, C::b_power);
    const Vec<scalar_t> odd_b = part_value<scalar_t, N, 1, 2>(y, C::b_power);
    r[3] = even_b + odd_b;
    r[4] = even_b - odd_b;
  } else {
    r[3] = part_value<scalar_t, N, 0, 1>(y, C::b_power);
  }
  r[P - 1] = y[N - 1];
}

// A^T m, the transpose of `evaluate`: P products to N outputs.
template <class scalar_t, int P, int N>
TCE_INLINE void interpolate(const Vec<scalar_t>* m, Vec<scalar_t>* y) {
  using C = Points<scalar_t, P>;
  const Vec<scalar_t> even_a = m[1] + m[2], odd_a = m[1] - m[2];
  const Vec<scalar_t> even_b = P == 6 ? m[3] + m[4] : m[3], odd_b = P == 6 ? m[3] - m[4] : m[3];
  y[0] = m[0] + (even_a + even_b);
  TCE_UNROLL
  for (int i = 1; i < N; ++i) {
    y[i] = C::a_power[i] * (i % 2 ? odd_a : even_a) + C::b_power[i] * (i % 2 ? odd_b : even_b);
  }
  y[N - 1] += m[P - 1];
}

// G g: `evaluate` with the weights of the points.
template <class scalar_t, int P, int N>
TCE_INLINE void transform_kernel(const Vec<scalar_t>* g, Vec<scalar_t>* r) {
  evaluate<scalar_t, P, N>(g, r);
  TCE_UNROLL
  for (int i = 0; i < P - 1; ++i) r[i] *= Points<scalar_t, P>::weight(i);
}

// G^T m: P sums to N kernel gradients.
template <class scalar_t, int P, int N>
TCE_INLINE void transform_kernel_grad(const Vec<scalar_t>* m, Vec<scalar_t>* g) {
  Vec<scalar_t> weighted[P];
  TCE_UNROLL
  for (int i = 0; i < P; ++i) weighted[i] = Points<scalar_t, P>::weight(i) * m[i];
  interpolate<scalar_t, P, N>(weighted, g);
}

// The transforms of one axis, and of an axis that is left alone.
template <class scalar_t, int P_, int R_>
struct Transforms {
  static constexpr int P = P_, R = R_, M = P + 1 - R;
  using V = Vec<scalar_t>;
  static TCE_INLINE void input(const V* d, V* r) { transform_input<scalar_t, P>(d, r); }
  static TCE_INLINE void output_grad(const V* y, V* r) { evaluate<scalar_t, P, M>(y, r); }
  static TCE_INLINE void kernel(const V* g, V* r) { transform_kernel<scalar_t, P, R>(g, r); }
  static TCE_INLINE void kernel_grad(const V* m, V* g) { transform_kernel_grad<scalar_t, P, R>(m, g); }
  static TCE_INLINE void output(const V* m, V* y) { interpolate<scalar_t, P, M>(m, y); }
};
template <class scalar_t>
struct Transforms<scalar_t, 1, 1> {
  static constexpr int P = 1, R = 1, M = 1;
  using V = Vec<scalar_t>;
  static TCE_INLINE void input(const V* d, V* r) { *r = *d; }
  static TCE_INLINE void output_grad(const V* y, V* r) { *r = *y; }
  static TCE_INLINE void kernel(const V* g, V* r) { *r = *g; }
  static TCE_INLINE void kernel_grad(const V* m, V* g) { *g = *m; }
  static TCE_INLINE void output(const V* m, V* y) { *y = *m; }
};

// T_h applied to the columns, then T_w to the rows, of a block of sources: Out_h x Out_w results.
template <class scalar_t, int In_h, int In_w, int Out_h, int Out_w,
          void (*T_h)(const Vec<scalar_t>*, Vec<scalar_t>*),
          void (*T_w)(const Vec<scalar_t>*, Vec<scalar_t>*), class Load, class Store>
TCE_INLINE void transform_2d(Load&& load_at, Store&& store_at) {
  Vec<scalar_t> half[Out_h][In_w];
  TCE_UNROLL
  for (int j = 0; j < In_w; ++j) {
    Vec<scalar_t> column[In_h], r[Out_h];
    TCE_UNROLL
    for (int i = 0; i < In_h; ++i) column[i] = load_at(i, j);
    T_h(column, r);
    TCE_UNROLL
    for (int i = 0; i < Out_h; ++i) half[i][j] = r[i];
  }
  TCE_UNROLL
  for (int i = 0; i < Out_h; ++i) {
    Vec<scalar_t> r[Out_w];
    T_w(half[i], r);
    TCE_UNROLL
    for (int j = 0; j < Out_w; ++j) store_at(i, j, r[j]);
  }
}

// False if a lane is NaN.
template <class scalar_t>
TCE_INLINE bool is_zero(Vec<scalar_t> v) {
  for (int l = 0; l < kLanes<scalar_t>; ++l) {
    if (v[l] != 0) return false;
  }
  return true;
}

// H, W: the Transforms of the two axes.
template <class scalar_t, class H, class W>
struct Winograd {
  static void input(const scalar_t* const* rows, int64_t pixel, int64_t step, int64_t tiles, scalar_t* dst,
                    int64_t tile_stride, int64_t plane) {
    for (int64_t t = 0; t < tiles; ++t) {
      transform_2d<scalar_t, H::P, W::P, H::P, W::P, H::input, W::input>(
          [&](int i, int j) { return load(rows[i] + t * step + j * pixel); },
          [&](int i, int j, Vec<scalar_t> v) { store(dst + (W::P * i + j) * plane + t * tile_stride, v); });
    }
  }

  static void output_grad(const scalar_t* const* rows, int64_t pixel, int64_t tiles, scalar_t* dst,
                          int64_t tile_stride, int64_t plane) {
    for (int64_t t = 0; t < tiles; ++t) {
      transform_2d<scalar_t, H::M, W::M, H::P, W::P, H::output_grad, W::output_grad>(
          [&](int i, int j) { return load(rows[i] + (W::M * t + j) * pixel); },
          [&](int i, int j, Vec<scalar_t> v) { store(dst + (W::P * i + j) * plane + t * tile_stride, v); });
    }
  }

  static void kernel(const scalar_t* src, const int64_t* taps, int64_t vectors, scalar_t* dst,
                     int64_t plane) {
    for (int64_t v = 0; v < vectors; ++v, src += kLanes<scalar_t>, dst += kLanes<scalar_t>) {
      transform_2d<scalar_t, H::R, W::R, H::P, W::P, H::kernel, W::kernel>(
          [&](int i, int j) {
            const int64_t tap = taps[W::R * i + j];
            return tap < 0 ? Vec<scalar_t>{} : load(src + tap);
          },
          [&](int i, int j, Vec<scalar_t> w) { store(dst + (W::P * i + j) * plane, w); });
    }
  }

  static bool kernel_grad(const scalar_t* src, int64_t plane, int64_t vectors, const int64_t* taps,
                          scalar_t* dst) {
    Vec<scalar_t> sum = {};  // of g * 0: stays zero while every g is finite
    for (int64_t v = 0; v < vectors; ++v, src += kLanes<scalar_t>, dst += kLanes<scalar_t>) {
      transform_2d<scalar_t, H::P, W::P, H::R, W::R, H::kernel_grad, W::kernel_grad>(
          [&](int i, int j) { return load(src + (W::P * i + j) * plane); },
          [&](int i, int j, Vec<scalar_t> g) {
            sum += g * scalar_t(0);
            const int64_t tap = taps[W::R * i + j];
            if (tap >= 0) store(dst + tap, g);
          });
    }
    return is_zero<scalar_t>(sum);
  }

  static bool output(const scalar_t* src, int64_t plane, int64_t tiles, int64_t vectors, int64_t tile_stride,
                     const scalar_t* bias, scalar_t* dst, int64_t row_stride, int64_t pixel) {
    constexpr int L = kLanes<scalar_t>;
    Vec<scalar_t> sum = {};  // of y * 0: stays zero while every y is finite
    for (int64_t v = 0; v < vectors; ++v, src += L, dst += L) {
      const Vec<scalar_t> start = bias ? load(bias + v * L) : Vec<scalar_t>{};
      for (int64_t t = 0; t < tiles; ++t) {
        transform_2d<scalar_t, H::P, W::P, H::M, W::M, H::output, W::output>(
            [&](int i, int j) { return load(src + (W::P * i + j) * plane + t * tile_stride); },
            [&](int i, int j, Vec<scalar_t> y) {
              y += start;
              sum += y * scalar_t(0);
              store(dst + i * row_stride + (W::M * t + j) * pixel, y);
            });
      }
    }
    return is_zero<scalar_t>(sum);
  }

  static constexpr WinogradKernels<scalar_t> table() {
    return {input, output_grad, kernel, kernel_grad, output};
  }
};

template <class scalar_t, int P, int R>
constexpr void set_winograd(Kernels<scalar_t>& k) {
  using Axis = Transforms<scalar_t, P, R>;
  using None = Transforms<scalar_t, 1, 1>;
  k.winograd[kBothAxes][P][R] = Winograd<scalar_t, Axis, Axis>::table();
  k.winograd[kRowsOnly][P][R] = Winograd<scalar_t, Axis, None>::table();
  k.winograd[kColumnsOnly][P][R] = Winograd<scalar_t, None, Axis>::table();
}

}  // namespace
}  // namespace tce
