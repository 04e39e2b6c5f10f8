// The kernels of the rows algorithm (contracts in kernels.h): lanes are neighbouring columns, so everything
// is read and written along memory. Included by kernels.inl.

#pragma once

#include <cstdint>
#include <utility>

#include "kernels.h"
#include "simd.h"

namespace tce {
namespace {

// One row of the window. It feeds the tile's rows Low ... High; row r with the kernel row `w - r * w_row`.
template <int Bytes, RowMode Mode, int Low, int High, int NV, class scalar_t>
TCE_INLINE void add_window_row(const RowProblem<scalar_t>& p, const scalar_t* x, const scalar_t* w,
                               Vec<scalar_t, Bytes> (*acc)[NV]) {
  using V = Vec<scalar_t, Bytes>;
  constexpr int L = kLanes<scalar_t, Bytes>;
  constexpr auto lanes = std::make_integer_sequence<int, L>();
  const int64_t w_row = p.w_row;
  const RowTap* tap = p.taps;
  const RowTap* const second = tap + p.width;
  const RowTap* const end = second + p.second_width;
  for (; tap != second; ++tap) {
    const scalar_t *xt = x + tap->x, *wt = w + tap->w;
    if constexpr (Mode == RowMode::kPlain) {
      V xv[NV];
      TCE_UNROLL
      for (int v = 0; v < NV; ++v) xv[v] = load_lanes<Bytes>(xt + v * L, tap->lanes[v]);
      TCE_UNROLL
      for (int r = Low; r <= High; ++r) {
        TCE_UNROLL
        for (int v = 0; v < NV; ++v) acc[r][v] += xv[v] * wt[-r * w_row];
      }
    } else if constexpr (Mode == RowMode::kPairs) {
      const scalar_t* const odd_wt = wt + p.w_col;
      TCE_UNROLL
      for (int v = 0; v < NV; ++v) {
        const V low = load_lanes<Bytes>(xt + 2 * v * L, tap->lanes[2 * v]);
        const V high = load_lanes<Bytes>(xt + (2 * v + 1) * L, tap->lanes[2 * v + 1]);
        const V even = even_lanes(low, high, lanes), odd = odd_lanes(low, high, lanes);
        TCE_UNROLL
        for (int r = Low; r <= High; ++r) acc[r][v] += even * wt[-r * w_row];
        TCE_UNROLL
        for (int r = Low; r <= High; ++r) acc[r][v] += odd * odd_wt[-r * w_row];
      }
    } else {
      const V xv = load_lanes<Bytes>(xt, tap->lanes[0]);
      TCE_UNROLL
      for (int r = Low; r <= High; ++r) acc[r][0] += xv * wt[-r * w_row];
    }
  }
  if constexpr (Mode == RowMode::kPlain) return;
  for (; tap != end; ++tap) {
    const scalar_t *xt = x + tap->x, *wt = w + tap->w;
    if constexpr (Mode == RowMode::kPairs) {
      TCE_UNROLL
      for (int v = 0; v < NV; ++v) {
        const V even = even_lanes(load_lanes<Bytes>(xt + 2 * v * L, tap->lanes[2 * v]),
                                  load_lanes<Bytes>(xt + (2 * v + 1) * L, tap->lanes[2 * v + 1]), lanes);
        TCE_UNROLL
        for (int r = Low; r <= High; ++r) acc[r][v] += even * wt[-r * w_row];
      }
    } else {
      const V xv = load_lanes<Bytes>(xt, tap->lanes[0]);
      TCE_UNROLL
      for (int r = Low; r <= High; ++r) acc[r][NV - 1] += xv * wt[-r * w_row];
    }
  }
}

// The first and the last rows of a window feed only some of the tile's rows: 0 ... I, and I + 1 ... MR - 1.
template <int Bytes, RowMode Mode, int MR, int NV, class scalar_t, int... I>
TCE_INLINE void add_segment(const RowProblem<scalar_t>& p, const RowSegment& s, const scalar_t* x,
                            const scalar_t* w, Vec<scalar_t, Bytes> (*acc)[NV],
                            std::integer_sequence<int, I...>) {
  const int begin = s.begin, end = s.end, rows = s.rows;
  ((begin <= I && I < end ? add_window_row<Bytes, Mode, 0, I, NV>(p, x + I * p.x_row, w + I * p.w_row, acc)
                          : void()),
   ...);
  for (int i = begin > MR - 1 ? begin : MR - 1; i < (end < rows ? end : rows); ++i)
    add_window_row<Bytes, Mode, 0, MR - 1, NV>(p, x + i * p.x_row, w + i * p.w_row, acc);
  ((begin <= rows + I && rows + I < end ? add_window_row<Bytes, Mode, I + 1, MR - 1, NV>(
                                              p, x + (rows + I) * p.x_row, w + (rows + I) * p.w_row, acc)
                                        : void()),
   ...);
}

template <int Bytes, RowMode Mode, int MR, int NV, class scalar_t>
TCE_INLINE void row_tile(const RowProblem<scalar_t>& p, const scalar_t* x, const scalar_t* w, scalar_t start,
                         scalar_t* result) {
  using V = Vec<scalar_t, Bytes>;
  constexpr int L = kLanes<scalar_t, Bytes>;
  V acc[MR][NV] = {};
  for (int64_t o = 0; o < p.outer; ++o) {
    for (int64_t s = 0; s < p.segment_count; ++s) {
      const RowSegment& segment = p.segments[s];
      add_segment<Bytes, Mode, MR, NV>(p, segment, x + o * p.x_outer + segment.x,
                                       w + o * p.w_outer + segment.w, acc,
                                       std::make_integer_sequence<int, MR - 1>());
    }
  }
  const int64_t stride = p.result_row;
  const bool accumulate = p.accumulate;
  int lanes[NV];  // of the results, in each vector
  TCE_UNROLL
  for (int v = 0; v < NV; ++v) {
    const int64_t left = p.cols - v * L;
    lanes[v] = static_cast<int>(left < 0 ? 0 : left < L ? left : L);
  }
  TCE_UNROLL
  for (int r = 0; r < MR; ++r) {
    if constexpr (Mode == RowMode::kZipped) {
      constexpr auto all = std::make_integer_sequence<int, L>();
      const V even = acc[r][0], odd = acc[r][NV - 1];
      acc[r][0] = zip_low(even, odd, all), acc[r][NV - 1] = zip_high(even, odd, all);
    }
    TCE_UNROLL
    for (int v = 0; v < NV; ++v) {
      scalar_t* at = result + r * stride + v * L;
      const V before = accumulate ? load_lanes<Bytes>(at, (1u << lanes[v]) - 1) : V{} + start;
      store_partial(at, acc[r][v] + before, lanes[v]);
    }
  }
}

template <class scalar_t, int Bytes, RowMode Mode, int MR, int NV>
__attribute__((noinline)) void row_kernel(const RowProblem<scalar_t>& p) {
  for (int64_t plane = 0; plane < p.planes; ++plane) {
    const scalar_t start = p.start ? p.start[plane * p.start_plane] : scalar_t(0);
    for (int64_t i = 0; i < p.tiles; ++i) {
      row_tile<Bytes, Mode, MR, NV>(p, p.x + plane * p.x_plane + i * MR * p.x_row, p.w + plane * p.w_plane,
                                    start, p.result + plane * p.result_plane + i * MR * p.result_row);
    }
  }
}

// A row of the source for all results that take it, each with a kernel row of its own: result q with row
// Phase + Step * q, Low <= q <= High.
template <int K, int Step, int Phase, int Low, int High, int Bytes, int NV, class scalar_t, class Weight>
TCE_INLINE void sweep_row(const scalar_t* x, const int64_t* taps, const uint16_t (*lanes)[Step * NV],
                          const Weight* w, Vec<scalar_t, Bytes> (*acc)[NV]) {
  using V = Vec<scalar_t, Bytes>;
  constexpr int L = kLanes<scalar_t, Bytes>;
  constexpr auto all = std::make_integer_sequence<int, L>();
  constexpr int last = (K - 1 - Phase) / Step, high = High < last ? High : last;
  const auto add = [&](const V* xv, int u) {
    TCE_UNROLL
    for (int q = Low; q <= high; ++q) {
      TCE_UNROLL
      for (int v = 0; v < NV; ++v) acc[q][v] += xv[v] * w[(Phase + Step * q) * K + u];
    }
  };
  TCE_UNROLL
  for (int t = 0; t < (K + Step - 1) / Step; ++t) {
    V even[NV], odd[NV];
    TCE_UNROLL
    for (int v = 0; v < NV; ++v) {
      even[v] = load_lanes<Bytes>(x + taps[t] + Step * v * L, lanes[t][Step * v]);
      if constexpr (Step == 2) {
        const V high_half = load_lanes<Bytes>(x + taps[t] + (2 * v + 1) * L, lanes[t][Step * v + 1]);
        odd[v] = odd_lanes(even[v], high_half, all);
        even[v] = even_lanes(even[v], high_half, all);
      }
    }
    add(even, Step * t);
    if (Step == 2 && 2 * t + 1 < K) add(odd, 2 * t + 1);
  }
}

// The weights [k][u] of a sweep. Those of a small kernel stay in registers, others are operands of the FMAs.
template <int K, class V, class scalar_t>
TCE_INLINE auto sweep_weights(const scalar_t* w, int64_t w_row, V* vectors, scalar_t* copy) {
  if constexpr (kVectorBytes == 64 && K == 3) {
    TCE_UNROLL
    for (int i = 0; i < K * K; ++i) vectors[i] = V{} + w[i / K * w_row + i % K];
    return static_cast<const V*>(vectors);
  } else {
    if (w_row == K) return w;
    TCE_UNROLL
    for (int k = 0; k < K; ++k) __builtin_memcpy(copy + k * K, w + k * w_row, K * sizeof(scalar_t));
    return static_cast<const scalar_t*>(copy);
  }
}

// Whether a sweep's results are whole aligned vectors, to be written past the caches.
template <int Bytes, class scalar_t>
TCE_INLINE bool sweep_streams(const RowProblem<scalar_t>& p) {
  constexpr int L = kLanes<scalar_t, Bytes>;
  return Bytes == kVectorBytes && p.stream && !p.accumulate &&
         (p.cols | p.result_row | p.result_plane) % L == 0 &&
         reinterpret_cast<uintptr_t>(p.result) % kVectorBytes == 0;
}

template <int Bytes, class scalar_t>
TCE_INLINE void store_result(scalar_t* at, Vec<scalar_t, Bytes> v, int n, bool streams) {
  if constexpr (Bytes == kVectorBytes) {
    if (streams && n > 0) return stream(at, v);
  }
  store_partial(at, v, n);
}

// Step: source rows, and columns, from a result to the next.
template <int K, int Step, int Bytes, int NV, class scalar_t, int... I>
TCE_INLINE void sweep_plane(const RowProblem<scalar_t>& p, const scalar_t* x, const scalar_t* weights,
                            scalar_t start, scalar_t* result, std::integer_sequence<int, I...>) {
  using V = Vec<scalar_t, Bytes>;
  constexpr int L = kLanes<scalar_t, Bytes>, T = (K + Step - 1) / Step;
  int64_t taps[T];
  uint16_t lanes[T][Step * NV];
  TCE_UNROLL
  for (int t = 0; t < T; ++t) {
    taps[t] = p.taps[t].x;
    TCE_UNROLL
    for (int v = 0; v < Step * NV; ++v) lanes[t][v] = p.taps[t].lanes[v];
  }
  V vectors[K * K];
  scalar_t copy[K * K];
  const auto* w = sweep_weights<K>(weights, p.w_row, vectors, copy);
  const int64_t begin = p.segments->begin, end = p.segments->end, rows = p.tiles;
  const int64_t x_row = p.x_row, result_row = p.result_row;
  const bool accumulate = p.accumulate;
  const bool streams = sweep_streams<Bytes>(p);
  const int last = static_cast<int>(p.cols - (NV - 1) * L);
  V acc[T][NV] = {};  // [q]: the result q rows above the one that begins
  const auto begin_row = [&] {
    TCE_UNROLL
    for (int q = T - 1; q > 0; --q) {
      TCE_UNROLL
      for (int v = 0; v < NV; ++v) acc[q][v] = acc[q - 1][v];
    }
    TCE_UNROLL
    for (int v = 0; v < NV; ++v) acc[0][v] = V{};
  };
  const auto finish_row = [&] {
    TCE_UNROLL
    for (int v = 0; v < NV; ++v) {
      const int n = v == NV - 1 ? last : L;
      const V before = accumulate ? load_lanes<Bytes>(result + v * L, (1u << n) - 1) : V{} + start;
      store_result<Bytes>(result + v * L, acc[T - 1][v] + before, n, streams);
    }
    result += result_row;
  };
  const auto add_rows = [&](int64_t m, auto low, auto high) {
    begin_row();
    const int64_t i = Step * m;
    if (begin <= i && i < end) sweep_row<K, Step, 0, low, high, Bytes, NV>(x, taps, lanes, w, acc);
    x += x_row;
    if constexpr (Step == 2) {
      if (begin <= i + 1 && i + 1 < end) sweep_row<K, Step, 1, low, high, Bytes, NV>(x, taps, lanes, w, acc);
      x += x_row;
    }
  };
  // Before the first result is complete, and after the last has begun.
  (add_rows(I, std::integral_constant<int, 0>(), std::integral_constant<int, I>()), ...);
  for (int64_t m = T - 1; m < rows; ++m) {
    add_rows(m, std::integral_constant<int, 0>(), std::integral_constant<int, T - 1>());
    finish_row();
  }
  ((add_rows(rows + I, std::integral_constant<int, I + 1>(), std::integral_constant<int, T - 1>()),
    finish_row()),
   ...);
}

// kZipped: a row of the source adds to K rows of the result; then the first two of them are complete.
template <int K, int Bytes, class scalar_t>
TCE_INLINE void zipped_sweep_plane(const RowProblem<scalar_t>& p, const scalar_t* x, const scalar_t* weights,
                                   scalar_t start, scalar_t* result) {
  using V = Vec<scalar_t, Bytes>;
  constexpr int L = kLanes<scalar_t, Bytes>;
  constexpr auto all = std::make_integer_sequence<int, L>();
  int64_t taps[K];
  uint16_t lanes[K];
  for (int t = 0; t < K; ++t) taps[p.taps[t].w] = p.taps[t].x, lanes[p.taps[t].w] = p.taps[t].lanes[0];
  V vectors[K * K];
  scalar_t copy[K * K];
  const auto* w = sweep_weights<K>(weights, p.w_row, vectors, copy);
  const bool odd_first = p.taps[0].w % 2 == 1;  // the even results read with odd kernel columns
  const bool accumulate = p.accumulate;
  const int low_lanes = static_cast<int>(p.cols < L ? p.cols : L),
            high_lanes = static_cast<int>(p.cols) - low_lanes;
  const bool streams = sweep_streams<Bytes>(p);
  int64_t row = -p.skip;
  result -= p.skip * p.result_row;
  V acc[K][2] = {};  // [k]: with the even, the odd kernel columns
  for (int64_t i = 0; i < p.segments->rows; ++i, x += p.x_row) {
    if (p.segments->begin <= i && i < p.segments->end) {
      TCE_UNROLL
      for (int u = 0; u < K; ++u) {
        const V xv = load_lanes<Bytes>(x + taps[u], lanes[u]);
        TCE_UNROLL
        for (int k = 0; k < K; ++k) acc[k][u % 2] += xv * w[k * K + u];
      }
    }
    TCE_UNROLL
    for (int k = 0; k < 2; ++k, ++row, result += p.result_row) {
      if (row < 0 || row >= p.tiles) continue;
      const V even = odd_first ? acc[k][1] : acc[k][0], odd = odd_first ? acc[k][0] : acc[k][1];
      V low = zip_low(even, odd, all), high = zip_high(even, odd, all);
      low += accumulate ? load_lanes<Bytes>(result, (1u << low_lanes) - 1) : V{} + start;
      store_result<Bytes>(result, low, low_lanes, streams);
      high += accumulate ? load_lanes<Bytes>(result + L, (1u << high_lanes) - 1) : V{} + start;
      store_result<Bytes>(result + L, high, high_lanes, streams);
    }
    TCE_UNROLL
    for (int k = 0; k < K; ++k) {
      acc[k][0] = k + 2 < K ? acc[k + 2 < K ? k + 2 : 0][0] : V{};
      acc[k][1] = k + 2 < K ? acc[k + 2 < K ? k + 2 : 0][1] : V{};
    }
  }
}

template <class scalar_t, int Bytes, RowMode Mode, int K, int NV>
__attribute__((noinline)) void sweep_kernel(const RowProblem<scalar_t>& p) {
  constexpr int step = Mode == RowMode::kPairs ? 2 : 1;
  for (int64_t plane = 0; plane < p.planes; ++plane) {
    const scalar_t* x = p.x + p.segments->x + plane * p.x_plane;
    const scalar_t* w = p.w + p.segments->w + plane * p.w_plane;
    const scalar_t start = p.start ? p.start[plane * p.start_plane] : scalar_t(0);
    scalar_t* result = p.result + plane * p.result_plane;
    if constexpr (Mode == RowMode::kZipped) {
      zipped_sweep_plane<K, Bytes>(p, x, w, start, result);
    } else {
      sweep_plane<K, step, Bytes, NV>(p, x, w, start, result,
                                      std::make_integer_sequence<int, (K + step - 1) / step - 1>());
    }
  }
  if (sweep_streams<Bytes>(p)) finish_streams();
}

// sums[r][c] += acc[r][c]: rows `stride` apart, vectors side by side.
template <int Rows, int Cols, class scalar_t>
TCE_INLINE void add_to_sums(const Vec<scalar_t> (*acc)[Cols], scalar_t* sums, int64_t stride) {
  TCE_UNROLL
  for (int r = 0; r < Rows; ++r) {
    TCE_UNROLL
    for (int c = 0; c < Cols; ++c) {
      scalar_t* at = sums + r * stride + c * kLanes<scalar_t>;
      store(at, load(at) + acc[r][c]);
    }
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
  Vec<scalar_t> acc[KH][KW] = {};
  add_rows<KH, KW>(p, acc, std::make_integer_sequence<int, KH - 1>());
  add_to_sums<KH, KW, scalar_t>(acc, p.sums, p.sums_row);
}

// A vector of columns of all channels and kernel elements.
template <int MR, int NT, bool Whole, class scalar_t>
TCE_INLINE void add_channels(const scalar_t* x, const scalar_t* dy, int64_t dy_channel, const int32_t* taps,
                             int n, Vec<scalar_t> (*acc)[NT]) {
  const auto read = [n](const scalar_t* p) { return Whole ? load(p) : load_partial(p, n); };
  Vec<scalar_t> g[MR];
  TCE_UNROLL
  for (int i = 0; i < MR; ++i) g[i] = read(dy + i * dy_channel);
  TCE_UNROLL
  for (int u = 0; u < NT; ++u) {
    Vec<scalar_t> xv = read(x + taps[u]);
    keep(xv);
    TCE_UNROLL
    for (int i = 0; i < MR; ++i) acc[i][u] += g[i] * xv;
  }
}

template <class scalar_t, int MR, int NT>
__attribute__((noinline)) void channel_weight_kernel(const ChannelWeightProblem<scalar_t>& p) {
  constexpr int L = kLanes<scalar_t>;
  Vec<scalar_t> acc[MR][NT] = {};
  const int64_t whole = p.cols / L * L;
  const int tail = static_cast<int>(p.cols - whole);
  const scalar_t *x = p.x, *dy = p.dy;
  const int64_t ahead = p.ahead - p.dy;
  for (int64_t h = p.rows; h > 0; --h) {
    for (const scalar_t* const end = dy + whole; dy != end; x += L, dy += L) {
      TCE_UNROLL
      for (int i = 0; i < MR; ++i) __builtin_prefetch(dy + ahead + i * p.dy_channel, 0, 3);
      add_channels<MR, NT, true>(x, dy, p.dy_channel, p.taps, L, acc);
    }
    if (tail) add_channels<MR, NT, false>(x, dy, p.dy_channel, p.taps, tail, acc);
    x += p.x_row - whole;
    dy += p.dy_row - whole;
  }
  add_to_sums<MR, NT, scalar_t>(acc, p.sums, p.sums_row);
}

}  // namespace
}  // namespace tce
