// The kernels, written once over Vec and compiled once per ISA: the microkernel and the 2-D copy here,
// Winograd's transforms in winograd.inl (contracts in kernels.h). Included by kernels_<isa>.inl only. What an
// ISA chooses is its vector width and its tile sizes.

#pragma once

#include "kernels.h"
#include "lanes.inl"
#include "rows.inl"
#include "simd.h"
#include "strips.inl"
#include "winograd.inl"

namespace tce {
namespace {

// How row i of the tile reads a:
//
//   kBroadcast   one value for all lanes, 1 element after row i - 1
//   kStrided     one value for all lanes, `a_row` elements after row i - 1
enum class Rows { kBroadcast, kStrided };

template <class scalar_t, int MR, int NV, Rows Kind>
__attribute__((noinline)) void microkernel(const TileProblem<scalar_t>& p) {
  constexpr int L = kLanes<scalar_t>;
  const int64_t a_row = Kind == Rows::kBroadcast ? 1 : p.a_row, a_ahead = p.a_ahead;
  Vec<scalar_t> acc[MR][NV] = {};
  const scalar_t* a_base = p.a;
  const scalar_t* b_base = p.b;
  const KStep* const steps_end = p.steps + p.inner;
  // The tile's lines arrive while the sum is made.
  TCE_UNROLL
  for (int i = 0; i < MR; ++i) {
    TCE_UNROLL
    for (int v = 0; v < NV; ++v) __builtin_prefetch(p.c_tile + i * p.c_stride + v * L, 1);
  }
  for (int64_t o = 0; o < p.outer; ++o) {
    for (const KStep* s = p.steps; s != steps_end; ++s) {
      const scalar_t* a = a_base + s->a;
      const scalar_t* b = b_base + s->b;
      __builtin_prefetch(a + a_ahead);
      Vec<scalar_t> bv[NV];
      TCE_UNROLL
      for (int v = 0; v < NV; ++v) bv[v] = load(b + v * L);
      TCE_UNROLL
      for (int i = 0; i < MR; ++i) {
        TCE_UNROLL
        for (int v = 0; v < NV; ++v) acc[i][v] += bv[v] * a[i * a_row];
      }
    }
    a_base += p.a_outer;
    b_base += p.b_outer;
  }
  // Copies: a store through c_tile could change p, for all the compiler knows.
  scalar_t* const c_tile = p.c_tile;
  const int64_t c_stride = p.c_stride;
  if (const scalar_t* const start = p.start) {
    const int64_t start_row = p.start_row;
    TCE_UNROLL
    for (int i = 0; i < MR; ++i) {
      TCE_UNROLL
      for (int v = 0; v < NV; ++v) acc[i][v] += load(start + i * start_row + v * L);
    }
  }
  if (p.stream) {
    TCE_UNROLL
    for (int i = 0; i < MR; ++i) {
      TCE_UNROLL
      for (int v = 0; v < NV; ++v) stream(c_tile + i * c_stride + v * L, acc[i][v]);
    }
    return;
  }
  TCE_UNROLL
  for (int i = 0; i < MR; ++i) {
    TCE_UNROLL
    for (int v = 0; v < NV; ++v) store(c_tile + i * c_stride + v * L, acc[i][v]);
  }
}

// Whether all vectors of the rows of dst are aligned.
template <class scalar_t>
bool streams_to(const Copy2d& c, const scalar_t* dst) {
  return reinterpret_cast<uintptr_t>(dst) % kVectorBytes == 0 &&
         (c.rows == 1 || c.dst_row % kLanes<scalar_t> == 0);
}

// dst rows and src rows are both contiguous.
template <class scalar_t>
void copy_rows(const Copy2d& c, const scalar_t* src, scalar_t* dst) {
  constexpr int L = kLanes<scalar_t>;
  const int64_t whole = c.cols / L * L;
  const int tail = static_cast<int>(c.cols - whole);
  const bool streams = c.stream && streams_to(c, dst);
  for (int64_t r = 0; r < c.rows; ++r, src += c.src_row, dst += c.dst_row) {
    if (c.src_ahead)
      for (int64_t j = 0; j < c.cols; j += L) __builtin_prefetch(src + c.src_ahead + j);
    if (streams) {
      for (int64_t j = 0; j < whole; j += L) stream(dst + j, load(src + j));
    } else {
      for (int64_t j = 0; j < whole; j += L) store(dst + j, load(src + j));
    }
    if (tail) store_partial(dst + whole, load_partial(src + whole, tail), tail);
  }
  if (streams) finish_streams();
}

// Elements p[0], p[Step], ... for n lanes; the others are zero. Touches nothing beyond the last of them.
template <int Step, class scalar_t>
TCE_INLINE Vec<scalar_t> load_every(const scalar_t* p, int n) {
  constexpr int L = kLanes<scalar_t>;
  if constexpr (Step == 1) {
    return n == L ? load(p) : load_partial(p, n);
  } else {
    const int wanted = 2 * n - 1;
    const Vec<scalar_t> low = load_partial(p, wanted < L ? wanted : L);
    const Vec<scalar_t> high = wanted > L ? load_partial(p + L, wanted - L) : Vec<scalar_t>{};
    return even_lanes(low, high, std::make_integer_sequence<int, L>());
  }
}

// A block of up to lanes x lanes elements through registers.
template <int Step, class scalar_t>
TCE_INLINE void transpose_block(const Copy2d& c, const scalar_t* src, scalar_t* dst, int64_t rows_left,
                                int64_t cols_left, bool streams) {
  constexpr int L = kLanes<scalar_t>;
  Vec<scalar_t> block[L];
  if (rows_left >= L && cols_left >= L) {
    TCE_UNROLL
    for (int i = 0; i < L; ++i) block[i] = load_every<Step>(src + i * c.src_col, L);
    transpose<scalar_t>(block);
    if (streams) {
      TCE_UNROLL
      for (int i = 0; i < L; ++i) stream(dst + i * c.dst_row, block[i]);
    } else {
      TCE_UNROLL
      for (int i = 0; i < L; ++i) store(dst + i * c.dst_row, block[i]);
    }
    return;
  }
  const int rows = static_cast<int>(rows_left < L ? rows_left : L);
  const int cols = static_cast<int>(cols_left < L ? cols_left : L);
  TCE_UNROLL
  for (int i = 0; i < L; ++i)
    block[i] = i < cols ? load_every<Step>(src + i * c.src_col, rows) : Vec<scalar_t>{};
  transpose<scalar_t>(block);
  TCE_UNROLL
  for (int i = 0; i < L; ++i) {
    if (i < rows) store_partial(dst + i * c.dst_row, block[i], cols);
  }
}

// dst rows are contiguous; in src it is the columns that have a step of Step elements (1 or 2).
template <int Step, class scalar_t>
void copy_transposed(const Copy2d& c, const scalar_t* src, scalar_t* dst) {
  constexpr int L = kLanes<scalar_t>;
  const bool streams = c.stream && streams_to(c, dst);
  const auto block = [&](int64_t r, int64_t j) {
    // To L2: of many lines a power of two apart L1 would keep few.
    const int64_t rows = c.rows - r < L ? c.rows - r : L, cols = c.cols - j < L ? c.cols - j : L;
    if (c.src_ahead) {
      const scalar_t* next = src + c.src_ahead + r * Step + j * c.src_col;
      for (int64_t i = 0; i < cols; ++i) __builtin_prefetch(next + i * c.src_col, 0, 2);
    }
    if (c.dst_ahead && !streams) {
      const scalar_t* next = dst + c.dst_ahead + r * c.dst_row + j;
      for (int64_t i = 0; i < rows; ++i) __builtin_prefetch(next + i * c.dst_row, 1, 2);
    }
    transpose_block<Step>(c, src + r * Step + j * c.src_col, dst + r * c.dst_row + j, c.rows - r, c.cols - j,
                          streams);
  };
  // Along the lines that lie furthest apart: few of them at a time, as many as the processor can fetch ahead.
  if (c.src_col > c.dst_row) {
    for (int64_t j = 0; j < c.cols; j += L)
      for (int64_t r = 0; r < c.rows; r += L) block(r, j);
  } else {
    for (int64_t r = 0; r < c.rows; r += L)
      for (int64_t j = 0; j < c.cols; j += L) block(r, j);
  }
  if (streams) finish_streams();
}

// dst rows are contiguous, src rows have every second element.
template <class scalar_t>
void copy_every_second(const Copy2d& c, const scalar_t* src, scalar_t* dst) {
  constexpr int L = kLanes<scalar_t>;
  constexpr auto lanes = std::make_integer_sequence<int, L>();
  for (int64_t r = 0; r < c.rows; ++r, src += c.src_row, dst += c.dst_row) {
    int64_t j = 0;
    for (; j + L < c.cols; j += L)
      store(dst + j, even_lanes(load(src + 2 * j), load(src + 2 * j + L), lanes));
    const int left = static_cast<int>(c.cols - j);
    store_partial(dst + j, load_every<2>(src + 2 * j, left), left);
  }
}

// Row k of dst has the elements k, k + K, k + 2 K, ... of one line of src; K is 2 or 4.
template <int K, class scalar_t>
void copy_unzipped(const Copy2d& c, const scalar_t* src, scalar_t* dst) {
  constexpr int L = kLanes<scalar_t>;
  constexpr auto lanes = std::make_integer_sequence<int, L>();
  for (int64_t j = 0; j < c.cols; j += L) {
    const int n = static_cast<int>(c.cols - j < L ? c.cols - j : L);
    Vec<scalar_t> v[K], row[K];
    if (c.src_ahead) {
      TCE_UNROLL
      for (int k = 0; k < K; ++k) __builtin_prefetch(src + c.src_ahead + K * j + k * L);
    }
    TCE_UNROLL
    for (int k = 0; k < K; ++k) {
      const int left = K * n - k * L;
      v[k] = left >= L  ? load(src + K * j + k * L)
             : left > 0 ? load_partial(src + K * j + k * L, left)
                        : Vec<scalar_t>{};
    }
    // Even elements first, then the even ones of these, ...
    if constexpr (K == 2) {
      row[0] = even_lanes(v[0], v[1], lanes), row[1] = odd_lanes(v[0], v[1], lanes);
    } else {
      const Vec<scalar_t> even[2] = {even_lanes(v[0], v[1], lanes), even_lanes(v[2], v[3], lanes)};
      const Vec<scalar_t> odd[2] = {odd_lanes(v[0], v[1], lanes), odd_lanes(v[2], v[3], lanes)};
      row[0] = even_lanes(even[0], even[1], lanes), row[2] = odd_lanes(even[0], even[1], lanes);
      row[1] = even_lanes(odd[0], odd[1], lanes), row[3] = odd_lanes(odd[0], odd[1], lanes);
    }
    TCE_UNROLL
    for (int k = 0; k < K; ++k) {
      if (n == L) {
        store(dst + k * c.dst_row + j, row[k]);
      } else {
        store_partial(dst + k * c.dst_row + j, row[k], n);
      }
    }
  }
}

// Two rows of src become the even and the odd elements of one line of dst.
template <class scalar_t>
void copy_zipped(const Copy2d& c, const scalar_t* src, scalar_t* dst) {
  constexpr int L = kLanes<scalar_t>;
  constexpr auto lanes = std::make_integer_sequence<int, L>();
  int64_t j = 0;
  for (; j + L <= c.cols; j += L) {
    const Vec<scalar_t> even = load(src + j), odd = load(src + c.src_row + j);
    store(dst + 2 * j, zip_low(even, odd, lanes));
    store(dst + 2 * j + L, zip_high(even, odd, lanes));
  }
  for (; j < c.cols; ++j) {
    dst[2 * j] = src[j];
    dst[2 * j + 1] = src[c.src_row + j];
  }
}

template <class scalar_t>
void copy_elements(const Copy2d& c, const scalar_t* src, scalar_t* dst) {
  for (int64_t r = 0; r < c.rows; ++r, src += c.src_row, dst += c.dst_row) {
    for (int64_t j = 0; j < c.cols; ++j) dst[j * c.dst_col] = src[j * c.src_col];
  }
}

template <class scalar_t>
void copy_2d(const Copy2d& given, const scalar_t* src, scalar_t* dst) {
  if (given.rows <= 0 || given.cols <= 0) return;
  Copy2d c = given;
  if (c.rows == 2 && c.dst_row == 1 && c.dst_col == 2 && c.src_col == 1) return copy_zipped(c, src, dst);
  // A copy and its transpose are one job: let the columns be what is contiguous in dst.
  if (c.dst_row == 1 && c.dst_col != 1) {
    c.rows = given.cols, c.cols = given.rows;
    c.src_row = given.src_col, c.src_col = given.src_row;
    c.dst_row = given.dst_col, c.dst_col = given.dst_row;
  }
  if (c.dst_col != 1) return copy_elements(c, src, dst);
  if (c.src_col == 1) {
    if (c.src_row == c.cols && c.dst_row == c.cols) c.cols *= c.rows, c.rows = 1;  // without a gap: one row
    return copy_rows(c, src, dst);
  }
  if (c.src_row == 1 && c.src_col == c.rows && c.rows == 2) return copy_unzipped<2>(c, src, dst);
  if (c.src_row == 1 && c.src_col == c.rows && c.rows == 4) return copy_unzipped<4>(c, src, dst);
  if (c.src_row == 1 && c.rows > 1) return copy_transposed<1>(c, src, dst);
  if (c.src_row == 2 && c.rows > 1) return copy_transposed<2>(c, src, dst);
  if (c.src_col == 2) return copy_every_second(c, src, dst);
  copy_elements(c, src, dst);
}

template <class scalar_t, int NV, int... I>
constexpr void fill_rows(Kernels<scalar_t>& k, std::integer_sequence<int, I...>) {
  k.max_rows[NV] = sizeof...(I);
  ((k.microkernel[NV][I + 1] = microkernel<scalar_t, I + 1, NV, Rows::kBroadcast>), ...);
  ((k.microkernel_strided[NV][I + 1] = microkernel<scalar_t, I + 1, NV, Rows::kStrided>), ...);
}

// Every tile whose accumulators, with a vector of x for each nv (a vector of dY) and one broadcast, find room
// in `Registers`. With a stride tiles have no more than two vectors and four rows; vectors of half the length
// come alone.
template <class scalar_t, int Bytes, int Registers, RowMode Mode, int NV, int MR>
constexpr auto row_tile_kernel() {
  constexpr int most = Mode != RowMode::kPlain ? 2 : Bytes < kVectorBytes ? 1 : kMaxVectors;
  using Kernel = void (*)(const RowProblem<scalar_t>&);
  constexpr int most_rows = Mode != RowMode::kPlain ? 4 : kMaxTileRows;
  if constexpr ((MR + 1) * NV < Registers && NV <= most && MR <= most_rows &&
                (Mode != RowMode::kZipped || NV == 2))
    return static_cast<Kernel>(row_kernel<scalar_t, Bytes, Mode, MR, NV>);
  return static_cast<Kernel>(nullptr);
}
template <class scalar_t, int Bytes, int Registers, RowMode Mode, int NV, int K>
constexpr auto row_sweep_kernel() {
  constexpr int rows = Mode == RowMode::kPairs ? (K + 1) / 2 + 1 : K;
  using Kernel = void (*)(const RowProblem<scalar_t>&);
  constexpr bool fits = (rows + 1) * NV + 2 <= Registers && (Mode != RowMode::kZipped || NV == 2) &&
                        (Mode != RowMode::kPairs || NV <= 2) &&
                        (Bytes == kVectorBytes || NV == (Mode == RowMode::kZipped ? 2 : 1));
  if constexpr (K % 2 == 1 && K > 1 && fits)
    return static_cast<Kernel>(sweep_kernel<scalar_t, Bytes, Mode, K, NV>);
  return static_cast<Kernel>(nullptr);
}
template <class scalar_t, int Bytes, int Registers, int NV, int... I>
constexpr void fill_row_tiles(Kernels<scalar_t>& k, std::integer_sequence<int, I...>) {
  constexpr int half = Bytes < kVectorBytes;
  constexpr RowMode modes[] = {RowMode::kPlain, RowMode::kPairs, RowMode::kZipped};
  auto& tiles = k.row_kernel[half];
  auto& sweeps = k.sweep_kernel[half];
  ((tiles[0][NV][I + 1] = row_tile_kernel<scalar_t, Bytes, Registers, modes[0], NV, I + 1>()), ...);
  ((tiles[1][NV][I + 1] = row_tile_kernel<scalar_t, Bytes, Registers, modes[1], NV, I + 1>()), ...);
  ((tiles[2][NV][I + 1] = row_tile_kernel<scalar_t, Bytes, Registers, modes[2], NV, I + 1>()), ...);
  ((sweeps[0][I + 1][NV] = row_sweep_kernel<scalar_t, Bytes, Registers, modes[0], NV, I + 1>()), ...);
  ((sweeps[1][I + 1][NV] = row_sweep_kernel<scalar_t, Bytes, Registers, modes[1], NV, I + 1>()), ...);
  ((sweeps[2][I + 1][NV] = row_sweep_kernel<scalar_t, Bytes, Registers, modes[2], NV, I + 1>()), ...);
}
template <class scalar_t, int Registers, int KH, int... I>
constexpr void fill_row_weights(Kernels<scalar_t>& k, std::integer_sequence<int, I...>) {
  ((k.row_weight_kernel[KH][I + 1] = (KH + 1) * (I + 1) < Registers ? row_weight_kernel < scalar_t, KH,
    (KH + 1) * (I + 1) < Registers ? I + 1 : 1 >                    : nullptr),
   ...);
}
// With a vector of dY for each channel and one of x.
template <class scalar_t, int Registers, int MR, int... I>
constexpr void fill_channel_weights(Kernels<scalar_t>& k, std::integer_sequence<int, I...>) {
  ((k.channel_weight_kernel[MR][I + 1] = MR * (I + 2) < Registers ? channel_weight_kernel < scalar_t, MR,
    MR * (I + 2) < Registers ? I + 1 : 1 >                        : nullptr),
   ...);
}
// Of the lanewise algorithm, with a vector of weights for each row and kernel column of a run, and one of x. Where
// lanes sum over channels, runs are the same in all tiles: the order of a result's terms depends on them.
template <class scalar_t, int Registers, LaneRead Read, int R, int P>
constexpr void fill_lane_tile(Kernels<scalar_t>& k) {
  constexpr int free = (Registers - 2 - R * P) / R, most = free < kMaxLaneRun ? free : kMaxLaneRun;
  constexpr int run = Read == LaneRead::kOwn ? most : free < kLaneSumRun ? 0 : kLaneSumRun;
  if constexpr (run > 0) {
    k.lane_kernel[static_cast<int>(Read)][R][P] = lane_kernel<scalar_t, Read, R, P, run>;
    k.lane_run[static_cast<int>(Read)][R][P] = run;
  }
}
template <class scalar_t, int Registers, LaneRead Read, int R, int... I>
constexpr void fill_lane_rows(Kernels<scalar_t>& k, std::integer_sequence<int, I...>) {
  (fill_lane_tile<scalar_t, Registers, Read, R, I + 1>(k), ...);
}
// With a vector of dY and one of x.
template <class scalar_t, int Registers, int KH, int... I>
constexpr void fill_lane_weights(Kernels<scalar_t>& k, std::integer_sequence<int, I...>) {
  ((k.lane_weight_kernel[KH][I + 1] = KH * (I + 1) + 3 < Registers ? lane_weight_kernel < scalar_t, KH,
    KH * (I + 1) + 3 < Registers ? I + 1 : 1 >                     : nullptr),
   ...);
}
template <class scalar_t, int Registers, int... I>
constexpr void fill_lane_weight_kernels(Kernels<scalar_t>& k, std::integer_sequence<int, I...>) {
  (fill_lane_weights<scalar_t, Registers, I + 1>(k, std::make_integer_sequence<int, kMaxLaneKw>()), ...);
}
template <class scalar_t, int Registers, int... I>
constexpr void fill_lane_kernels(Kernels<scalar_t>& k, std::integer_sequence<int, I...>) {
  constexpr auto cols = std::make_integer_sequence<int, kMaxLaneCols>();
  (fill_lane_rows<scalar_t, Registers, LaneRead::kOwn, I + 1>(k, cols), ...);
  (fill_lane_rows<scalar_t, Registers, LaneRead::kPicked, I + 1>(k, cols), ...);
  (fill_lane_rows<scalar_t, Registers, LaneRead::kShared, I + 1>(k, cols), ...);
}
// Of depthwise strips. Small kernels stay in the registers.
template <class scalar_t, int Registers, int S, int R, int KH, int KW>
constexpr void fill_strip(Kernels<scalar_t>& k) {
  constexpr bool made = KH < 2 || KH == KW || (KH <= 3 && KW <= 3);
  if constexpr (made && kStripRegisters<R, KH, KW, S> <= Registers)
    k.strip_kernel[S][R][KH][KW] = lane_strip<scalar_t, R, KH, KW, S>;
}
template <class scalar_t, int Registers, int S, int R, int KH, int... I>
constexpr void fill_strip_columns(Kernels<scalar_t>& k, std::integer_sequence<int, I...>) {
  (fill_strip<scalar_t, Registers, S, R, KH, I + 1>(k), ...);
}
template <class scalar_t, int Registers, int S, int R, int... KH>
constexpr void fill_strip_rows(Kernels<scalar_t>& k, std::integer_sequence<int, KH...>) {
  (fill_strip_columns<scalar_t, Registers, S, R, KH>(k, std::make_integer_sequence<int, kMaxStripKw>()), ...);
}
template <class scalar_t, int Registers, int... I>
constexpr void fill_strips(Kernels<scalar_t>& k, std::integer_sequence<int, I...>) {
  constexpr auto kernel_rows = std::make_integer_sequence<int, kMaxStripKh + 1>();
  (fill_strip_rows<scalar_t, Registers, 1, I + 1>(k, kernel_rows), ...);
  (fill_strip_rows<scalar_t, Registers, 2, I / 2 + 1>(k, kernel_rows), ...);
}
template <class scalar_t, int Registers, int... I>
constexpr void fill_row_kernels(Kernels<scalar_t>& k, std::integer_sequence<int, I...>) {
  static_assert(kMaxSweep == kMaxTileRows);
  constexpr auto rows = std::make_integer_sequence<int, kMaxTileRows>();
  (fill_row_tiles<scalar_t, kVectorBytes, Registers, I + 1>(k, rows), ...);
  if constexpr (kVectorBytes == 64) (fill_row_tiles<scalar_t, 32, Registers, I + 1>(k, rows), ...);
  (fill_row_weights<scalar_t, Registers, (I < kMaxWeightRows ? I + 1 : 1)>(
       k, std::make_integer_sequence<int, kMaxWeightCols>()),
   ...);
  (fill_channel_weights<scalar_t, Registers, (I < kMaxWeightChannels ? I + 1 : 1)>(
       k, std::make_integer_sequence<int, kMaxWeightTaps>()),
   ...);
}

// Registers: vector registers of the ISA. MaxRows: the largest mr for nv = 1, 2, ...
template <class scalar_t, int Registers, int... MaxRows>
constexpr Kernels<scalar_t> make_kernels(double fma_per_cycle) {
  Kernels<scalar_t> k = {};
  k.lanes = kLanes<scalar_t>;
  k.fma_per_cycle = fma_per_cycle;
  k.copy_2d = copy_2d<scalar_t>;
  k.finish_streams = finish_streams;
  set_winograd<scalar_t, 5, 2>(k);
  set_winograd<scalar_t, 6, 2>(k);
  set_winograd<scalar_t, 6, 3>(k);
  set_winograd<scalar_t, 6, 4>(k);
  set_winograd<scalar_t, 6, 5>(k);
  fill_row_kernels<scalar_t, Registers>(k, std::make_integer_sequence<int, kMaxVectors>());
  fill_lane_kernels<scalar_t, Registers>(k, std::make_integer_sequence<int, kMaxLaneRows>());
  fill_strips<scalar_t, Registers>(k, std::make_integer_sequence<int, kMaxStripRows>());
  fill_lane_weight_kernels<scalar_t, Registers>(k, std::make_integer_sequence<int, kMaxLaneKh>());
  constexpr int max_rows[] = {MaxRows...};
  fill_rows<scalar_t, 1>(k, std::make_integer_sequence<int, max_rows[0]>());
  fill_rows<scalar_t, 2>(k, std::make_integer_sequence<int, max_rows[1]>());
  if constexpr (sizeof...(MaxRows) > 2)
    fill_rows<scalar_t, 3>(k, std::make_integer_sequence<int, max_rows[2]>());
  if constexpr (sizeof...(MaxRows) > 3)
    fill_rows<scalar_t, 4>(k, std::make_integer_sequence<int, max_rows[3]>());
  return k;
}

}  // namespace
}  // namespace tce
