// The border between the middle and the back: what one ISA offers, as a table of plain functions.
//
// The middle sees nothing of an ISA but this table; an ISA's translation unit sees nothing of a convolution
// but pointers, sizes and strides (all in elements). Each ISA is one `kernels_<isa>_<dtype>.cpp` per element
// type, compiled with that ISA's flags, and reachable only through its table.

#pragma once

#include <cstdint>

namespace tce {

// One step of a microkernel's inner sum: where its operands lie, relative to the outer step's base.
struct KStep {
  int32_t a;  // element offset of the mr broadcast values
  int32_t b;  // element offset of the nr vector values
};

// The contract of a microkernel of size mr x nr, with nr = nv * lanes:
//
//   c_tile[i * c_stride + j] = start[i * start_row + j] + sum over o < outer, s < inner of
//       a[o * a_outer + steps[s].a + i] * b[o * b_outer + steps[s].b + j]        0 <= i < mr, 0 <= j < nr
//
//        b (nr wide) ->
//      +------------------+    The tile stays in registers for the whole sum. Row i is one value of a,
//   a  | c_tile: mr rows  |    broadcast; the columns are lanes. The sum starts from zero, and `start` is
//      | of nv vectors    |    added to it once (blocked summation): the tile itself, or what begins it.
//      +------------------+
//
// Order of the sum: o outermost, then s. It depends on nothing else, so neither mr
// nor nv changes a bit of the result.
template <class scalar_t>
struct TileProblem {
  const scalar_t* a;
  const scalar_t* b;
  scalar_t* c_tile;
  const KStep* steps;
  int64_t a_outer;
  int64_t b_outer;
  int64_t c_stride;
  int64_t a_row;    // from row to row of a; microkernel_strided only
  int64_t a_ahead;  // each step fetches what lies so far beyond its a; 0: nothing new
  int64_t outer;
  int64_t inner;
  const scalar_t* start;  // null: 0
  int64_t start_row;
  bool stream;  // write past the caches, to aligned addresses; finish_streams is the caller's
};

template <class scalar_t>
using Microkernel = void (*)(const TileProblem<scalar_t>&);

// How the rows algorithm reads columns, and writes them:
//
//   kPlain    result column j reads x[tap + j]
//   kPairs    result column j reads x[tap + 2 j]: a convolution of stride 2. Neighbouring taps share loads.
//   kZipped   results 2 j and 2 j + 1 read x[tap + j], each with taps of its own: a gradient of stride 2
enum class RowMode { kPlain, kPairs, kZipped };
constexpr int kRowModes = 3;

// Kernel rows that read neighbouring rows of the source.
struct RowSegment {
  int64_t x;      // element offset of the first one's source row, for the tile's row 0
  int64_t w;      // element offset of the first one's weights
  int32_t rows;   // at least mr - 1 (sweeps: see there)
  int32_t begin;  // of the window's rows + mr - 1 rows, those outside [begin, end) are no terms
  int32_t end;
};

// A kernel column, or (kPairs) two of them.
struct RowTap {
  int64_t w;  // element offset of its weights
  int32_t x;  // element offset of the source that the tile's column 0 reads
  // The lanes of the tile's vectors that read inside the image; of the others nothing is read, and the source
  // is zero. kPairs: of loaded vectors, two for each of the tile's.
  uint16_t lanes[2 * 4];
};

// `planes` times `tiles` tiles of mr result rows, one below the other, and nv vectors of columns (the rows
// algorithm). For kPlain, with the plane p, the tile's plane of X and W:
//
//   result[r * result_row + j] = start[p] + sum over o < outer, segments s, k < s.rows, u < width of
//       w[o * w_outer + s.w + k * w_row + taps[u].w] * x[o * x_outer + s.x + (r + k) * x_row + taps[u].x + j]
//
// 0 <= r < tiles * mr, 0 <= j < cols, (nv - 1) * lanes < cols <= nv * lanes. A loaded row of x serves up to
// mr rows of the result. With accumulate the sum is added to the tile instead.
//
//   kPairs    the first `width` of taps are pairs: the second element of x lies beside the first, its weight
//             w_col further; then `second_width` single ones
//   kZipped   `width` taps of the even results, then `second_width` of the odd ones; nv is 2
//
// The same for a kernel of K x K elements whose weights follow each other: a sweep down the plane, which
// loads each source row once. `tiles` counts rows of the result, x_row is the way to the next row of the
// source, and there is one segment; w_row is K or -K.
//
//   kPlain, kPairs   window row i reaches result row r with kernel row i - r (kPairs: i - 2 r);
//                    tiles >= K - 1
//   kZipped          the segment's row i < rows reaches result row 2 i + k - skip with kernel row k
template <class scalar_t>
struct RowProblem {
  const scalar_t* x;
  const scalar_t* w;
  scalar_t* result;
  const scalar_t* start;  // of plane p: start[p * start_plane]; null: 0
  const RowSegment* segments;
  const RowTap* taps;
  int64_t x_row, w_row, result_row;
  int64_t x_outer, w_outer, w_col;
  int64_t x_plane, w_plane, result_plane, start_plane;
  int64_t outer, segment_count, width, second_width;
  int64_t planes, tiles, cols;
  int64_t skip;  // kZipped, sweeps only
  bool accumulate;
  bool stream;  // sweeps: write past the caches where all vectors are whole and aligned
};

// Kernel columns of the lanewise algorithm that read neighbouring columns of the source. With a tile of P columns
// they read P + count - 1 of these.
struct LaneRun {
  int64_t x;         // element offset of the source that the first one reads for the tile's column 0
  int32_t w;         // element offset of the first one's weights
  int32_t count;     // at most lane_run of the tile
  uint32_t sources;  // bit s: source column s is a term
};

// What the lanes of the lanewise algorithm read of a pixel:
//
//   kOwn       lane l its own channel, x[l]: depthwise
//   kPicked    lane l one of up to a vector of channels, x[pick[o * lanes + l]]: groups that share a vector
//   kShared    all lanes the same, x[0]: the results of one group
enum class LaneRead { kOwn, kPicked, kShared };
constexpr int kLaneReads = 3;

// Tiles of R x P neighbouring results, of `groups` times `channels` result channels: a vector of up to
// `result_block` of them at a time. For the channels 0 <= l < lanes of a vector, 0 <= r < R, 0 <= c < P, and
// x[...] read as LaneRead says:
//
//   result[r * result_row + c * result_col + l] =
//       start[l] + sum over segments s, k < s.rows, runs t, o < outer, u < t.count of
//           w[o * w_outer + s.w + k * w_row + t.w + u * w_col + l] *
//           x[o * x_outer + s.x + (r + k) * x_row + t.x + (c + u) * x_col + ...]
//
// without the window's rows that a segment leaves out and the columns that a run leaves out. Weights and start
// are whole vectors. A loaded vector of x serves up to R * t.count results. With accumulate the sum is added to
// the result instead.
template <class scalar_t>
struct LaneProblem {
  const scalar_t* x;
  const scalar_t* w;
  scalar_t* result;
  const scalar_t* start;  // null: 0
  const RowSegment* segments;
  const LaneRun* runs;
  int64_t x_row, x_col, w_row, w_col, result_row, result_col;
  int64_t x_outer, w_outer;
  int64_t x_block, w_block, result_block, start_block;  // from vector to vector
  int64_t x_group, result_group;                        // from group to group; w and start go on
  int64_t channels, x_channels;                         // of a group (x_channels: kPicked only)
  int64_t groups;
  const int32_t* pick;  // kPicked only
  int64_t outer, segment_count, run_count;
  bool accumulate;
  bool stream;  // whole vectors past the caches, to aligned addresses; finish_streams is the caller's
  // Fetched meanwhile: from each segment's last R rows as far below as x_ahead, ahead_cols pixels of a step
  // ahead_col; and the results as far below as result_ahead. 0: nothing.
  int64_t x_ahead, ahead_col, ahead_cols, result_ahead;
};

// A strip of R neighbouring result rows, `cols` wide, of `channels` channels that lie side by side, each with a
// kernel of KH x KW elements of its own; kernel_rows is KH. With a source step S (1 or 2), for
// 0 <= r < R, 0 <= j < cols, and the channels l of vector b:
//
//   result[r * result_row + j * result_col + b * lanes + l] = start[b * lanes + l] + sum over u < KW, k < KH of
//       w[b * w_block + k * w_row + u * w_col + l] *
//       x[(S * r + k) * x_row + (S * j + u) * x_col + b * lanes + l]
//
// without the source rows S * r + k whose bit is not set in `rows`, and the source columns S * j + u outside
// [col_begin, col_end). u is the outer sum. Weights and start are whole vectors.
template <class scalar_t>
struct LaneStrip {
  const scalar_t* x;
  const scalar_t* w;
  const scalar_t* start;  // null: 0
  scalar_t* result;
  int64_t x_row, x_col, w_row, w_col, w_block, result_row, result_col;
  int64_t cols, channels, kernel_rows;
  uint64_t rows;
  int64_t col_begin, col_end;
  bool stream;  // whole vectors past the caches, to aligned addresses; finish_streams is the caller's
  // Fetched meanwhile, from the first element on, in the order of the memory: S * R rows of x, S elements for
  // each of the result; and R rows of the result. null: nothing.
  const scalar_t *x_ahead, *result_ahead;
};

// The weight gradient of kh x kw kernel elements, of up to a vector of channels (the lanewise algorithm). For
// the channels l, 0 <= k < kh, 0 <= u < kw:
//
//   sums[k * sums_row + u * lanes + l] += sum over h < rows, w < cols of
//       dy[h * dy_row + w * dy_col + l] * x[h * x_row + w * x_col + k * x_kh + u * x_kw + l]
//
// without the k whose bit is not set in row_taps[h], and the u whose bit is not set in col_taps[w].
template <class scalar_t>
struct LaneWeightProblem {
  const scalar_t* x;
  const scalar_t* dy;
  scalar_t* sums;
  const uint32_t *row_taps, *col_taps;
  int64_t x_row, x_col, x_kh, x_kw, dy_row, dy_col, sums_row;
  int64_t rows, cols;
  int channels;  // at most a vector's lanes; the sums of the others are touched, too
  // Fetched meanwhile: dy as far below as dy_ahead, and as far below the last kernel row as x_ahead ahead_rows x
  // ahead_cols pixels of x for each of dy. 0: nothing.
  int64_t x_ahead, dy_ahead, ahead_row, ahead_col, ahead_rows, ahead_cols;
};

// The weight gradient of kh x kw kernel elements, one sum for each lane:
//
//   sums[k * sums_row + u * lanes + l] += sum over h < rows, and j = l, l + lanes, ... < cols, of
//       dy[h * dy_row + j] * x[(h + k) * x_row + taps[u] + j]       0 <= k < kh, 0 <= u < kw;  rows >= kh - 1
template <class scalar_t>
struct RowWeightProblem {
  const scalar_t* x;
  const scalar_t* dy;
  scalar_t* sums;
  const int32_t* taps;
  int64_t x_row, dy_row, sums_row;
  int64_t rows, cols;
};

// The weight gradient of `channels` result channels and `width` kernel elements of any source channels, one
// sum for each lane:
//
//   sums[i * sums_row + u * lanes + l] += sum over h < rows, and j = l, l + lanes, ... < cols, of
//       dy[i * dy_channel + h * dy_row + j] * x[taps[u] + h * x_row + j]   0 <= i < channels, 0 <= u < width
//
// A loaded vector of x serves all channels, one of dY all kernel elements.
template <class scalar_t>
struct ChannelWeightProblem {
  const scalar_t* x;
  const scalar_t* dy;
  const scalar_t* ahead;  // dy of a later problem, which is fetched meanwhile
  scalar_t* sums;
  const int32_t* taps;
  int64_t x_row, dy_row, dy_channel, sums_row;
  int64_t rows, cols;
};

// A 2-D copy between any two layouts:
//
//   dst[r * dst_row + j * dst_col] = src[r * src_row + j * src_col]        0 <= r < rows, 0 <= j < cols
//
// All packing and unpacking is this one function; it never reads or writes outside the rows x cols elements.
struct Copy2d {
  int64_t rows, cols;
  int64_t src_row, src_col;
  int64_t dst_row, dst_col;
  bool stream = false;  // write past the caches where whole aligned vectors allow it
  // What lies so far beyond src is read soon, what lies so far beyond dst written: fetched meanwhile.
  int64_t src_ahead = 0, dst_ahead = 0;  // by rows (src) and transposes only; 0: nothing
};

// Of the lanewise algorithm: rows and columns of a tile, kernel columns of a run.
constexpr int kMaxLaneRows = 3, kMaxLaneCols = 16, kMaxLaneRun = 4;
// Kernel columns of a run where lanes sum over channels.
constexpr int kLaneSumRun = 3;
// Of its strips: rows, step, kernel rows that are known to the compiler, kernel columns; window rows.
constexpr int kMaxStripRows = 4, kMaxStripStep = 2, kMaxStripKh = 5, kMaxStripKw = 9, kMaxStripWindow = 63;
// Of the same: kernel rows and columns of a weight gradient.
constexpr int kMaxLaneKh = 5, kMaxLaneKw = 7;
constexpr int kMaxVectors = 4;                               // largest nv of any ISA
constexpr int kMaxRows = 14;                                 // largest mr of any ISA
constexpr int kMaxWinogradPoints = 6, kMaxWinogradTaps = 5;  // largest P, r of F(m, r)
enum WinogradAxes { kBothAxes, kRowsOnly, kColumnsOnly };    // that are transformed
// Of the rows algorithm: rows of a tile, K of a sweep; kernel rows and columns of a weight gradient.
constexpr int kMaxTileRows = 7, kMaxSweep = 7, kMaxWeightRows = 3, kMaxWeightCols = 7;
// Of the same with several result channels: channels and kernel elements of a weight gradient.
constexpr int kMaxWeightChannels = 4, kMaxWeightTaps = 9;

// Winograd F(m, r) with P = m + r - 1 points, along one axis or both; P, m and r are 1 along an axis that is left
// alone. Every element below is a vector of channels. The P_h x P_w results (or sources) of a tile lie `plane`
// apart, row by row; tiles lie `tile_stride` apart.
template <class scalar_t>
struct WinogradKernels {
  // B^T d B of `tiles` neighbouring tiles: d[i][j] of tile t at rows[i] + t * step + j * pixel, i < P_h, j < P_w.
  void (*input)(const scalar_t* const* rows, int64_t pixel, int64_t step, int64_t tiles, scalar_t* dst,
                int64_t tile_stride, int64_t plane);
  // A dY A^T of `tiles` neighbouring tiles: dY[i][j] of tile t at rows[i] + (m_w t + j) * pixel.
  void (*output_grad)(const scalar_t* const* rows, int64_t pixel, int64_t tiles, scalar_t* dst,
                      int64_t tile_stride, int64_t plane);
  // G g G^T of `vectors` vectors: g[i][j] at src + taps[r_w i + j], or zero where that is negative.
  void (*kernel)(const scalar_t* src, const int64_t* taps, int64_t vectors, scalar_t* dst, int64_t plane);
  // G^T m G of `vectors` vectors: result (i, j) at dst + taps[r_w i + j], or nowhere. False if one is Inf or NaN.
  bool (*kernel_grad)(const scalar_t* src, int64_t plane, int64_t vectors, const int64_t* taps,
                      scalar_t* dst);
  // A^T m A + bias (may be null) of `vectors` vectors of `tiles` neighbouring tiles: pixel (i, j) of tile t
  // at dst + i * row_stride + (m_w t + j) * pixel. False if a result is Inf or NaN.
  bool (*output)(const scalar_t* src, int64_t plane, int64_t tiles, int64_t vectors, int64_t tile_stride,
                 const scalar_t* bias, scalar_t* dst, int64_t row_stride, int64_t pixel);
};

template <class scalar_t>
struct Kernels {
  int lanes;                      // scalars in a vector
  int max_rows[kMaxVectors + 1];  // [nv] largest mr with that nv; 0: no such kernel
  double fma_per_cycle;           // vector FMAs or multiply-add pairs a core starts in a cycle; for the plan
  Microkernel<scalar_t> microkernel[kMaxVectors + 1][kMaxRows + 1];  // [nv][mr]
  // The same with row i of the tile at a[... + i * a_row].
  Microkernel<scalar_t> microkernel_strided[kMaxVectors + 1][kMaxRows + 1];
  // The rows algorithm's, or null. `half`: of vectors of half the length, for narrow images.
  using RowKernel = void (*)(const RowProblem<scalar_t>&);
  RowKernel row_kernel[2][kRowModes][kMaxVectors + 1][kMaxTileRows + 1];  // [half][mode][nv][mr]
  RowKernel sweep_kernel[2][kRowModes][kMaxSweep + 1][kMaxVectors + 1];   // [half][mode][K][nv]
  void (*lane_kernel[kLaneReads][kMaxLaneRows + 1][kMaxLaneCols + 1])(
      const LaneProblem<scalar_t>&);                             // [read][R][P], or null
  int lane_run[kLaneReads][kMaxLaneRows + 1][kMaxLaneCols + 1];  // the same: kernel columns of a run, at most
  void (*strip_kernel[kMaxStripStep + 1][kMaxStripRows + 1][kMaxStripKh + 1][kMaxStripKw + 1])(
      const LaneStrip<scalar_t>&);  // [S][R][KH, 0: any][KW], or null
  void (*lane_weight_kernel[kMaxLaneKh + 1][kMaxLaneKw + 1])(
      const LaneWeightProblem<scalar_t>&);  // [kh][kw], or null
  void (*finish_streams)();                 // before others read what was written past the caches
  void (*row_weight_kernel[kMaxWeightRows + 1][kMaxWeightCols + 1])(
      const RowWeightProblem<scalar_t>&);  // [kh][kw], or null
  void (*channel_weight_kernel[kMaxWeightChannels + 1][kMaxWeightTaps + 1])(
      const ChannelWeightProblem<scalar_t>&);  // [channels][width], or null
  void (*copy_2d)(const Copy2d&, const scalar_t* src, scalar_t* dst);
  WinogradKernels<scalar_t> winograd[3][kMaxWinogradPoints + 1]
                                    [kMaxWinogradTaps + 1];  // [axes][P][r], or null
};

struct KernelTable {
  const char* isa;
  const Kernels<float>* f32;
  const Kernels<double>* f64;
};

template <class scalar_t>
const Kernels<scalar_t>& kernels_of(const KernelTable& table) {
  if constexpr (sizeof(scalar_t) == sizeof(float))
    return *table.f32;
  else
    return *table.f64;
}

// "Was it built": null where this build has no such ISA. Whether the CPU has it is isa.cpp's question.
template <class scalar_t>
const Kernels<scalar_t>* kernels_portable();
template <class scalar_t>
const Kernels<scalar_t>* kernels_avx2();
template <class scalar_t>
const Kernels<scalar_t>* kernels_avx512();

// Each is defined in a file of its own, kernels_<isa>_f32.cpp or kernels_<isa>_f64.cpp.
template <>
const Kernels<float>* kernels_portable();
template <>
const Kernels<double>* kernels_portable();
template <>
const Kernels<float>* kernels_avx2();
template <>
const Kernels<double>* kernels_avx2();
template <>
const Kernels<float>* kernels_avx512();
template <>
const Kernels<double>* kernels_avx512();

}  // namespace tce
