// The kernels of the rows algorithm (contracts in kernels.h): lanes are neighbouring columns, so everything
// is read and written along memory. Included by kernels.inl.

#pragma once

#include <cstdint>
#include <utility>

#include "kernels.h"
#include "simd.h"

namespace tce {
namespace {

// One row of the window. It feeds the tile's rows Low ... High; row r with the kernel row `w - r * width`.
template <int Low, int High, int NV, class scalar_t>
TCE_INLINE void add_window_row(const scalar_t* x, const scalar_t* w, const int32_t* taps, int64_t width,
                               Vec<scalar_t> (*acc)[NV]) {
  constexpr int L = kLanes<scalar_t>;
  for (int64_t u = 0; u < width; ++u) {
    Vec<scalar_t> xv[NV];
    TCE_UNROLL
    for (int v = 0; v < NV; ++v) xv[v] = load(x + taps[u] + v * L);
    TCE_UNROLL
    for (int r = Low; r <= High; ++r) {
      TCE_UNROLL
      for (int v = 0; v < NV; ++v) acc[r][v] += xv[v] * w[u - r * width];
    }
  }
}

// The first and the last rows of a window feed only some of the tile's rows: 0 ... I, and I + 1 ... MR - 1.
template <int MR, int NV, class scalar_t, int... I>
TCE_INLINE void add_segment(const RowProblem<scalar_t>& p, const scalar_t* x, const scalar_t* w, int64_t rows,
                            Vec<scalar_t> (*acc)[NV], std::integer_sequence<int, I...>) {
  (add_window_row<0, I, NV>(x + I * p.x_row, w + I * p.width, p.taps, p.width, acc), ...);
  for (int64_t i = MR - 1; i < rows; ++i)
    add_window_row<0, MR - 1, NV>(x + i * p.x_row, w + i * p.width, p.taps, p.width, acc);
  (add_window_row<I + 1, MR - 1, NV>(x + (rows + I) * p.x_row, w + (rows + I) * p.width, p.taps, p.width,
                                     acc),
   ...);
}

template <class scalar_t, int MR, int NV>
TCE_INLINE void row_tile(const RowProblem<scalar_t>& p, const scalar_t* x, scalar_t* result) {
  constexpr int L = kLanes<scalar_t>;
  Vec<scalar_t> acc[MR][NV] = {};
  for (int64_t o = 0; o < p.outer; ++o) {
    for (int64_t s = 0; s < p.segment_count; ++s) {
      const RowSegment& segment = p.segments[s];
      add_segment<MR, NV>(p, x + o * p.x_outer + segment.x, p.w + o * p.w_outer + segment.w, segment.rows,
                          acc, std::make_integer_sequence<int, MR - 1>());
    }
  }
  const int last = static_cast<int>(p.cols - (NV - 1) * L);  // columns of the last vector
  const int64_t stride = p.result_row;
  const bool accumulate = p.accumulate;
  const Vec<scalar_t> start = Vec<scalar_t>{} + p.start;
  TCE_UNROLL
  for (int r = 0; r < MR; ++r) {
    TCE_UNROLL
    for (int v = 0; v < NV; ++v) {
      scalar_t* at = result + r * stride + v * L;
      const bool whole = v < NV - 1 || last == L;
      if (accumulate) {
        acc[r][v] += whole ? load(at) : load_partial(at, last);
      } else {
        acc[r][v] += start;
      }
      if (whole) {
        store(at, acc[r][v]);
      } else {
        store_partial(at, acc[r][v], last);
      }
    }
  }
}

template <class scalar_t, int MR, int NV>
__attribute__((noinline)) void row_kernel(const RowProblem<scalar_t>& p) {
  for (int64_t i = 0; i < p.tiles; ++i) {
    row_tile<scalar_t, MR, NV>(p, p.x + i * MR * p.x_row, p.result + i * MR * p.result_row);
  }
}

// One row of X with the rows of dY that it meets: row Low ... High kernel rows before it.
template <int Low, int High, int KW, bool Whole, class scalar_t>
TCE_INLINE void add_products(const scalar_t* x, const scalar_t* dy, int64_t dy_row, const int32_t* taps,
                             int n, Vec<scalar_t> (*acc)[KW]) {
  const auto read = [n](const scalar_t* p) { return Whole ? load(p) : load_partial(p, n); };
  Vec<scalar_t> xv[KW];
  TCE_UNROLL
  for (int u = 0; u < KW; ++u) xv[u] = read(x + taps[u]);
  TCE_UNROLL
  for (int k = Low; k <= High; ++k) {
    const Vec<scalar_t> g = read(dy - k * dy_row);
    TCE_UNROLL
    for (int u = 0; u < KW; ++u) acc[k][u] += xv[u] * g;
  }
}

template <int Low, int High, int KW, class scalar_t>
TCE_INLINE void add_row(const RowWeightProblem<scalar_t>& p, int64_t row, Vec<scalar_t> (*acc)[KW]) {
  constexpr int L = kLanes<scalar_t>;
  const scalar_t *x = p.x + row * p.x_row, *dy = p.dy + row * p.dy_row;
  int64_t j = 0;
  for (; j + L <= p.cols; j += L) add_products<Low, High, KW, true>(x + j, dy + j, p.dy_row, p.taps, L, acc);
  if (j < p.cols) {
    add_products<Low, High, KW, false>(x + j, dy + j, p.dy_row, p.taps, static_cast<int>(p.cols - j), acc);
  }
}

template <int KH, int KW, class scalar_t, int... I>
TCE_INLINE void add_rows(const RowWeightProblem<scalar_t>& p, Vec<scalar_t> (*acc)[KW],
                         std::integer_sequence<int, I...>) {
  (add_row<0, I, KW>(p, I, acc), ...);
  for (int64_t i = KH - 1; i < p.rows; ++i) add_row<0, KH - 1, KW>(p, i, acc);
  (add_row<I + 1, KH - 1, KW>(p, p.rows + I, acc), ...);
}

template <class scalar_t, int KH, int KW>
__attribute__((noinline)) void row_weight_kernel(const RowWeightProblem<scalar_t>& p) {
  constexpr int L = kLanes<scalar_t>;
  Vec<scalar_t> acc[KH][KW] = {};
  add_rows<KH, KW>(p, acc, std::make_integer_sequence<int, KH - 1>());
  scalar_t* const sums = p.sums;
  const int64_t stride = p.sums_row;
  TCE_UNROLL
  for (int k = 0; k < KH; ++k) {
    TCE_UNROLL
    for (int u = 0; u < KW; ++u) {
      scalar_t* at = sums + k * stride + u * L;
      store(at, load(at) + acc[k][u]);
    }
  }
}

}  // namespace
}  // namespace tce
