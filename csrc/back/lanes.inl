// The kernels of the lanewise algorithm (contracts in kernels.h): lanes are channels, each with a kernel of
// its own, and pixels are read and written wherever they lie. Included by kernels.inl.

#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels.h"
#include "simd.h"

namespace tce {
namespace {

// How a lane reads x, and of a vector that is not whole: how many channels and, kPicked, sources.
template <class scalar_t, LaneRead Read, bool Whole>
struct LaneReader {
  static constexpr bool kPicks = Read == LaneRead::kPicked;
  int lanes, sources;
  Index<scalar_t> pick;  // kPicked only

  TCE_INLINE Vec<scalar_t> operator()(const scalar_t* x) const {
    if constexpr (Read == LaneRead::kShared) {
      return *x - Vec<scalar_t>{};
    } else if constexpr (kPicks) {
      return pick_lanes(Whole ? load(x) : load_partial(x, sources), pick);
    } else {
      return Whole ? load(x) : load_partial(x, lanes);
    }
  }
};

// U neighbouring kernel columns and one row of the window. It feeds the tile's rows Low ... High; row r with the
// kernel row `w - r * w_row`. `All`: every source is a term.
template <int Low, int High, int P, int U, bool All, class scalar_t, class Reader>
TCE_INLINE void add_lane_run(const LaneProblem<scalar_t>& p, const scalar_t* x, const scalar_t* w,
                             uint32_t sources, const Reader& read, Vec<scalar_t> (*acc)[P]) {
  constexpr int rows = High - Low + 1;
  const int64_t x_col = p.x_col, w_col = p.w_col, w_row = p.w_row;
  Vec<scalar_t> wv[rows][U];
  TCE_UNROLL
  for (int r = 0; r < rows; ++r) {
    TCE_UNROLL
    for (int u = 0; u < U; ++u) wv[r][u] = load(w - (Low + r) * w_row + u * w_col);
  }
  // One pointer and one register of bits: P offsets, or P bits, computed ahead would be spilled.
  opaque(sources);
  TCE_UNROLL
  for (int s = 0; s < P + U - 1; ++s, x += x_col) {
    opaque(x);
    if (!All && !(sources >> s & 1)) continue;
    Vec<scalar_t> xv = read(x);
    if constexpr (rows * U > 1) keep(xv);
    TCE_UNROLL
    for (int u = 0; u < U; ++u) {
      if (s < u || s - u >= P) continue;
      TCE_UNROLL
      for (int r = 0; r < rows; ++r) acc[Low + r][s - u] += xv * wv[r][u];
    }
  }
}

// The same for one summed channel after the other.
template <int Low, int High, int P, int U, bool All, class scalar_t, class Reader>
TCE_INLINE void add_lane_channels(const LaneProblem<scalar_t>& p, const scalar_t* x, const scalar_t* w,
                                  uint32_t sources, Reader read, Vec<scalar_t> (*acc)[P]) {
  for (int64_t o = 0; o < p.outer; ++o, x += p.x_outer, w += p.w_outer) {
    if constexpr (Reader::kPicks) read.pick = lane_index<scalar_t>(p.pick + o * kLanes<scalar_t>);
    add_lane_run<Low, High, P, U, All>(p, x, w, sources, read, acc);
  }
}

// One row of the window. Where a source has few sums, a test of each would weigh as much.
template <int Low, int High, int P, class scalar_t, class Reader, int... U>
TCE_INLINE void add_lane_row(const LaneProblem<scalar_t>& p, const scalar_t* x, const scalar_t* w,
                             const Reader& read, Vec<scalar_t> (*acc)[P], std::integer_sequence<int, U...>) {
  for (const LaneRun *run = p.runs, *const end = run + p.run_count; run != end; ++run) {
    const scalar_t *xr = x + run->x, *wr = w + run->w;
    const uint32_t sources = run->sources;
    if (run->count == 1 && sources == (1u << P) - 1) {
      add_lane_channels<Low, High, P, 1, true>(p, xr, wr, sources, read, acc);
    } else {
      ((run->count == U + 1 ? add_lane_channels<Low, High, P, U + 1, false>(p, xr, wr, sources, read, acc)
                            : void()),
       ...);
    }
  }
}

// The first and the last rows of a window feed only some of the tile's rows: 0 ... I, and I + 1 ... R - 1.
template <int R, int P, class scalar_t, class Reader, class Counts, int... I>
TCE_INLINE void add_lane_segment(const LaneProblem<scalar_t>& p, const RowSegment& s, const scalar_t* x,
                                 const scalar_t* w, const Reader& read, Vec<scalar_t> (*acc)[P],
                                 Counts counts, std::integer_sequence<int, I...>) {
  const int begin = s.begin, end = s.end, rows = s.rows;
  ((begin <= I && I < end ? add_lane_row<0, I, P>(p, x + I * p.x_row, w + I * p.w_row, read, acc, counts)
                          : void()),
   ...);
  for (int i = begin > R - 1 ? begin : R - 1; i < (end < rows ? end : rows); ++i)
    add_lane_row<0, R - 1, P>(p, x + i * p.x_row, w + i * p.w_row, read, acc, counts);
  ((begin <= rows + I && rows + I < end
        ? add_lane_row<I + 1, R - 1, P>(p, x + (rows + I) * p.x_row, w + (rows + I) * p.w_row, read, acc,
                                        counts)
        : void()),
   ...);
}

template <int R, int P, int Most, bool Whole, class scalar_t, class Reader>
TCE_INLINE void lane_tile(const LaneProblem<scalar_t>& p, const scalar_t* x, const scalar_t* w,
                          const scalar_t* start, scalar_t* result, const scalar_t* fetched, Reader read,
                          bool streams) {
  using V = Vec<scalar_t>;
  const int lanes = read.lanes;
  V acc[R][P] = {};
  for (int64_t i = 0; i < p.segment_count; ++i) {
    const RowSegment& s = p.segments[i];
    if (p.x_ahead) {
      const scalar_t* next = fetched + s.x + (s.rows - 1) * p.x_row + p.x_ahead;
      for (int r = 0; r < R; ++r, next += p.x_row)
        for (int64_t c = 0; c < p.ahead_cols; ++c) __builtin_prefetch(next + c * p.ahead_col, 0, 2);
    }
    add_lane_segment<R, P>(p, s, x + s.x, w + s.w, read, acc, std::make_integer_sequence<int, Most>(),
                           std::make_integer_sequence<int, R - 1>());
  }
  const V first = start ? load(start) : V{};
  const bool accumulate = p.accumulate;
  const int64_t row = p.result_row, col = p.result_col, ahead = p.result_ahead;
  TCE_UNROLL
  for (int r = 0; r < R; ++r) {
    TCE_UNROLL
    for (int c = 0; c < P; ++c) {
      scalar_t* at = result + r * row + c * col;
      if (ahead) __builtin_prefetch(at + ahead, 1, 2);
      V v = acc[r][c] + first;
      if (accumulate) v = acc[r][c] + (Whole ? load(at) : load_partial(at, lanes));
      if (streams) {
        stream(at, v);
      } else if constexpr (Whole) {
        store(at, v);
      } else {
        store_partial(at, v, lanes);
      }
    }
  }
}

// Most: kernel columns at a time.
template <class scalar_t, LaneRead Read, int R, int P, int Most>
__attribute__((noinline)) void lane_kernel(const LaneProblem<scalar_t>& p) {
  constexpr int L = kLanes<scalar_t>;
  constexpr bool masks_cost = kVectorBytes < 64;
  const scalar_t *w = p.w, *start = p.start;
  for (int64_t g = 0; g < p.groups; ++g) {
    const scalar_t *x = p.x + g * p.x_group, *fetched = x;
    scalar_t* result = p.result + g * p.result_group;
    for (int64_t left = p.channels, x_left = p.x_channels; left > 0; left -= p.result_block) {
      const int lanes = static_cast<int>(left < p.result_block ? left : p.result_block);
      const int sources = static_cast<int>(x_left < p.x_block ? x_left : p.x_block);
      const bool whole = lanes == L && (Read != LaneRead::kPicked || sources == L),
                 streams = lanes == L && p.stream;
      const auto tile = [&](auto whole_vectors) {
        const LaneReader<scalar_t, Read, whole_vectors> read{lanes, sources, {}};
        lane_tile<R, P, Most, whole_vectors>(p, x, w, start, result, fetched, read, streams);
      };
      masks_cost&& whole ? tile(std::true_type()) : tile(std::false_type());
      // The vectors of a group read the same sources, and fetch their lines in turn.
      fetched += Read == LaneRead::kShared ? L : p.x_block;
      x += p.x_block, x_left -= p.x_block, w += p.w_block, result += p.result_block;
      if (start) start += p.start_block;
    }
  }
}

// One pixel of dY. `All`: every kernel element has a term.
template <int KH, int KW, bool Whole, bool All, class scalar_t>
TCE_INLINE void add_lane_pixel(const scalar_t* x, const scalar_t* dy, int64_t x_kh, int64_t x_kw, int lanes,
                               uint32_t row_taps, uint32_t col_taps, Vec<scalar_t> (*acc)[KW]) {
  const auto read = [lanes](const scalar_t* p) { return Whole ? load(p) : load_partial(p, lanes); };
  const Vec<scalar_t> g = read(dy);
  TCE_UNROLL
  for (int u = 0; u < KW; ++u) {
    if (!All && !(col_taps >> u & 1)) continue;
    TCE_UNROLL
    for (int k = 0; k < KH; ++k)
      if (All || row_taps >> k & 1) acc[k][u] += g * read(x + k * x_kh + u * x_kw);
  }
}

template <int KH, int KW, bool Whole, class scalar_t>
TCE_INLINE void lane_weights(const LaneWeightProblem<scalar_t>& p) {
  constexpr uint32_t all_rows = (1u << KH) - 1, all_cols = (1u << KW) - 1;
  constexpr int L = kLanes<scalar_t>;
  const int64_t x_kh = p.x_kh, x_kw = p.x_kw, x_col = p.x_col, dy_col = p.dy_col, cols = p.cols;
  const int lanes = p.channels;
  Vec<scalar_t> acc[KH][KW] = {};
  for (int64_t h = 0; h < p.rows; ++h) {
    const uint32_t row_taps = p.row_taps[h];
    const scalar_t *x = p.x + h * p.x_row, *dy = p.dy + h * p.dy_row;
    if (p.dy_ahead) {
      const scalar_t* next = x + (KH - 1) * x_kh + p.x_ahead;
      for (int64_t r = 0; r < p.ahead_rows; ++r, next += p.ahead_row)
        for (int64_t c = 0; c < cols * p.ahead_cols; ++c) __builtin_prefetch(next + c * p.ahead_col, 0, 2);
      for (int64_t w = 0; w < cols; ++w) __builtin_prefetch(dy + p.dy_ahead + w * dy_col, 0, 2);
    }
    if (!row_taps) continue;
    for (int64_t w = 0; w < cols; ++w, x += x_col, dy += dy_col) {
      const uint32_t col_taps = p.col_taps[w];
      if (row_taps == all_rows && col_taps == all_cols) {
        add_lane_pixel<KH, KW, Whole, true>(x, dy, x_kh, x_kw, lanes, row_taps, col_taps, acc);
      } else {
        add_lane_pixel<KH, KW, Whole, false>(x, dy, x_kh, x_kw, lanes, row_taps, col_taps, acc);
      }
    }
  }
  TCE_UNROLL
  for (int k = 0; k < KH; ++k) {
    TCE_UNROLL
    for (int u = 0; u < KW; ++u) {
      scalar_t* at = p.sums + k * p.sums_row + u * L;
      store(at, load(at) + acc[k][u]);
    }
  }
}

template <class scalar_t, int KH, int KW>
__attribute__((noinline)) void lane_weight_kernel(const LaneWeightProblem<scalar_t>& p) {
  p.channels == kLanes<scalar_t> ? lane_weights<KH, KW, true>(p) : lane_weights<KH, KW, false>(p);
}

}  // namespace
}  // namespace tce
