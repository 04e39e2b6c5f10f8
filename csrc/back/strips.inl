// The kernels of depthwise strips (contract in kernels.h: LaneStrip), of the lanewise algorithm. Included by
// kernels.inl.
//
// A strip is R neighbouring result rows over the whole width. The kernel walks along it, source column by source
// column; each source vector of the strip is loaded once from wherever it lies, and each result is written once:
//
//   source columns ->      i - 1     i
//   window rows    .   .     .       x   one column of sources, loaded now
//        |         .   .     .       x
//        v         .   .     .       x
//
//   acc[r][0] begins column i of the results, acc[r][1] goes on with column i - 1, ..., the last one is complete
//   and leaves; then all move on by one.

#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels.h"
#include "simd.h"

namespace tce {
namespace {

// Result columns with terms of one source column; with step S the taps u, u + S, ... read the same.
template <int KW, int S>
constexpr int kLive = (KW + S - 1) / S;

// Registers of a strip: its sums, a source, and the weights of the kernel or (KH 0) of a row of it.
template <int R, int KH, int KW, int S>
constexpr int kStripRegisters = R * kLive<KW, S> + 2 + (KH > 0 ? KH * KW : kLive<KW, S>);

// The terms of one source column, which lies at x: `Phase` columns after the first of its step.
template <int R, int KH, int KW, int S, int Phase, class scalar_t, class Read>
TCE_INLINE void add_held_column(const scalar_t* x, int64_t x_row, uint64_t rows, const Read& read,
                                const Vec<scalar_t> (*w)[KW], Vec<scalar_t> (*acc)[kLive<KW, S>]) {
  TCE_UNROLL
  for (int h = 0; h < S * (R - 1) + KH; ++h, x += x_row) {
    if (!(rows >> h & 1)) continue;
    Vec<scalar_t> xv = read(x);
    keep(xv);
    TCE_UNROLL
    for (int a = 0; Phase + a * S < KW; ++a) {
      TCE_UNROLL
      for (int r = 0; r < R; ++r)
        if (h >= S * r && h - S * r < KH) acc[r][a] += xv * w[h - S * r][Phase + a * S];
    }
  }
}

// The same with weights that are loaded again for each column, and kernel rows that are counted at run time.
template <int R, int KW, int S, int Phase, class scalar_t, class Read>
TCE_INLINE void add_column(const LaneStrip<scalar_t>& p, const scalar_t* x, const scalar_t* w, uint64_t rows,
                           const Read& read, Vec<scalar_t> (*acc)[kLive<KW, S>]) {
  const int64_t x_row = p.x_row, w_row = p.w_row, w_col = p.w_col;
  for (int64_t k = 0; k < p.kernel_rows; ++k, x += x_row, w += w_row, rows >>= 1) {
    Vec<scalar_t> wv[kLive<KW, S>];
    TCE_UNROLL
    for (int a = 0; Phase + a * S < KW; ++a) wv[a] = load(w + (Phase + a * S) * w_col);
    TCE_UNROLL
    for (int r = 0; r < R; ++r) {
      if (!(rows >> S * r & 1)) continue;
      Vec<scalar_t> xv = read(x + S * r * x_row);
      keep(xv);
      TCE_UNROLL
      for (int a = 0; Phase + a * S < KW; ++a) acc[r][a] += xv * wv[a];
    }
  }
}

template <class F, int... Phase>
TCE_INLINE void each_phase(const F& visit, std::integer_sequence<int, Phase...>) {
  (visit(std::integral_constant<int, Phase>()), ...);
}

// One vector of channels; `fetched`: elements of a row that were fetched meanwhile for the vectors before it.
template <int R, int KH, int KW, int S, bool Held, bool Whole, class scalar_t>
TCE_INLINE void strip_vector(const LaneStrip<scalar_t>& p, const scalar_t* x, const scalar_t* w,
                             const scalar_t* start, scalar_t* result, int lanes, int64_t fetched) {
  using V = Vec<scalar_t>;
  constexpr int live = kLive<KW, S>, L = kLanes<scalar_t>;
  const auto read = [lanes](const scalar_t* at) { return Whole ? load(at) : load_partial(at, lanes); };
  const int64_t x_row = p.x_row, x_col = p.x_col, result_row = p.result_row, result_col = p.result_col;
  const int64_t steps = p.cols + live - 1, begin = p.col_begin, end = p.col_end;
  const uint64_t rows = p.rows;
  const bool streams = p.stream && lanes == L;
  V held[Held ? KH : 1][KW];
  if constexpr (Held) {
    TCE_UNROLL
    for (int k = 0; k < KH; ++k) {
      TCE_UNROLL
      for (int u = 0; u < KW; ++u) {
        held[k][u] = load(w + k * p.w_row + u * p.w_col);
        keep(held[k][u]);
      }
    }
  }
  const scalar_t* x_ahead = p.x_ahead ? p.x_ahead + fetched * S : nullptr;
  const scalar_t* result_ahead = p.result_ahead ? p.result_ahead + fetched : nullptr;
  V acc[R][live] = {};
  int64_t column = 0;
  // Inlined early, or the arrays that it refers to would live in memory.
  const auto add = [&](auto phase) __attribute__((always_inline)) {
    if (phase() < KW && begin <= column && column < end) {
      if constexpr (Held) {
        add_held_column<R, KH, KW, S, phase()>(x, x_row, rows, read, held, acc);
      } else {
        add_column<R, KW, S, phase()>(p, x, w, rows, read, acc);
      }
    }
    ++column, x += x_col;
  };
  for (int64_t i = 0; i < steps; ++i) {
    each_phase(add, std::make_integer_sequence<int, S>());
    if (i >= live - 1) {
      scalar_t* at = result;
      TCE_UNROLL
      for (int r = 0; r < R; ++r, at += result_row) {
        V v = acc[r][live - 1];
        if (start) v += load(start);
        if (streams) {
          stream(at, v);
        } else if constexpr (Whole) {
          store(at, v);
        } else {
          store_partial(at, v, lanes);
        }
      }
      result += result_col;
      if (x_ahead) {
        TCE_UNROLL
        for (int r = 0; r < R * S; ++r) {
          TCE_UNROLL
          for (int l = 0; l < S; ++l) __builtin_prefetch(x_ahead + r * x_row + l * L, 0, 2);
        }
        x_ahead += S * L;
      }
      if (result_ahead) {
        TCE_UNROLL
        for (int r = 0; r < R; ++r) __builtin_prefetch(result_ahead + r * result_row, 1, 2);
        result_ahead += L;
      }
    }
    TCE_UNROLL
    for (int r = 0; r < R; ++r) {
      TCE_UNROLL
      for (int a = live - 1; a > 0; --a) acc[r][a] = acc[r][a - 1];
      acc[r][0] = V{};
    }
  }
}

// A vector that is not whole: one function for all kernels of KW columns, which adds the terms in the same order.
template <int R, int KW, int S, class scalar_t>
__attribute__((noinline)) void strip_part(const LaneStrip<scalar_t>& p, const scalar_t* x, const scalar_t* w,
                                          const scalar_t* start, scalar_t* result, int lanes,
                                          int64_t fetched) {
  strip_vector<R, 0, KW, S, false, false>(p, x, w, start, result, lanes, fetched);
}

// KH 0: any number of kernel rows.
template <class scalar_t, int R, int KH, int KW, int S>
__attribute__((noinline)) void lane_strip(const LaneStrip<scalar_t>& p) {
  constexpr int L = kLanes<scalar_t>;
  const scalar_t *x = p.x, *w = p.w, *start = p.start;
  scalar_t* result = p.result;
  int64_t left = p.channels, fetched = 0;
  for (; left >= L; left -= L) {
    strip_vector<R, KH, KW, S, (KH > 0), true>(p, x, w, start, result, L, fetched);
    x += L, w += p.w_block, result += L, fetched += p.cols * L;
    if (start) start += L;
  }
  if (left > 0) strip_part<R, KW, S>(p, x, w, start, result, static_cast<int>(left), fetched);
}

}  // namespace
}  // namespace tce
