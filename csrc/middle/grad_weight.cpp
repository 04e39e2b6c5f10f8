// grad_weight: dW[co, ci, kh, kw] = sum over n, oh, ow of  dY[n, co, oh, ow] * X[n, ci, ih, iw]
//     with ih = oh*stride_h - padding_h + kh*dilation_h,  iw = ow*stride_w - padding_w + kw*dilation_w
//
// Lanes are co (few co: Plan::turned), a tile's rows are neighbouring (kw, ci) or ci of the pixel-major source, the
// sum runs over pixels: the same microkernel as forward's, with the roles of sum and rows
// exchanged. No im2col: a pixel is an offset.
//
// Loops, outermost first, with what each holds:
//
//   item (group, panels, channels, kh, kw, segment)   one thread; its part of dW: [panel][kh][kw][ci][lanes]
//     chunk of pixels, in order              source packed: [slot][width][ci]                       L2
//                                            dY packed: [panel][pixel][lanes], or where it lies     L2
//       kh                                   steps: the chunk's pixels whose source row exists      L1
//         kw                                 steps again, where many columns miss the source
//           panel, tile (mr rows)            microkernel: sum over the chunk's pixels               registers
//   then: the item's part of dW to the tensor, or to the partial sums of its segment
//
// A small dW has few parts to share out among threads, and each of these would read all of X or of dY. Its chunks
// are then shared out, too: as segments (Plan::segments), whose sums are added up in order at the end.
//
// The chunks and segments are fixed by the geometry and the batch, and summed in order: the same bits for any
// number of threads.

#include <algorithm>
#include <memory>
#include <vector>

#include "contractions.h"
#include "cut.h"
#include "pack.h"
#include "parallel.h"
#include "planes.h"
#include "scratch.h"
#include "winograd.h"

namespace tce {

namespace {

// dY is read where it lies (channels_last) for few tiles, which would not repay its packing; not where a group
// has a small part of a pixel, and pixels lie a round number of lines apart, in few sets of L1.
constexpr int64_t kReads = 16, kSpread = 4;
// Pixels of X are read where they lie if L1 holds so many lines of theirs; each step fetches what a later one reads.
constexpr int64_t kPixelLines = 128, kPixelsAhead = 8;
// A chunk of dY up to this size leaves what is fetched for the next one in L2.
constexpr int64_t kStaysBytes = 256 * 1024;

struct Item {
  int64_t g;
  int64_t panel_first, panel_last;
  KRange ci, kh, kw;
  KRange rows;  // of dY, numbered over the batch
};

template <class scalar_t>
class Worker {
 public:
  // dw: dW, or partial sums that lie like it.
  Worker(const Plan& plan, const ConvGeometry& g, const Operands<scalar_t>& t,
         const Kernels<scalar_t>& kernels, const Item& item, scalar_t* dw)
      : dw_(dw),
        plan_(plan),
        g_(g),
        t_(t),
        kernels_(kernels),
        item_(item),
        scratch_(plan.scratch_bytes),
        lanes_(plan.panel_lanes()),
        channels_(item.ci.end - item.ci.begin),
        nh_(item.kh.end - item.kh.begin),
        nw_(item.kw.end - item.kw.begin),
        merged_(kernel_row_merges(plan)),
        pixel_(merged_ ? channels_ : line_stride(channels_, sizeof(scalar_t))),
        rows_(forward_axis(g.oH, g.iH, item.kh, g.stride_h, g.padding_h, g.dilation_h)),
        cols_(forward_axis(g.oW, g.iW, item.kw, g.stride_w, g.padding_w, g.dilation_w)) {
    source_ = scratch_.take_bytes<scalar_t>(plan.source_bytes);
    dy_ = scratch_.take_bytes<scalar_t>(plan.weight_bytes);
    tiles_ = scratch_.take_bytes<scalar_t>(plan.tile_bytes);
    steps_ = scratch_.take<KStep>(plan.rows * plan.cols);
  }

  void run() {
    const int64_t sums = plan_.turned
                             ? nh_ * g_.Co * row_lanes()
                             : (item_.panel_last - item_.panel_first) * nh_ * nw_ * channels_ * lanes_;
    std::fill(tiles_, tiles_ + sums, scalar_t(0));
    for (int64_t row = item_.rows.begin; row < item_.rows.end; row += plan_.rows) {
      const int64_t row_last = std::min(item_.rows.end, row + plan_.rows);
      const RowSlots rows = make_row_slots(rows_, row, row_last);
      for (int64_t col = 0; col < g_.oW; col += plan_.cols)
        sum_chunk(rows, row, row_last, col, std::min(g_.oW, col + plan_.cols));
    }
    store();
  }

 private:
  // The sources of a chunk, packed or where they lie: channel c of result column j, kernel column w, is at
  //
  //   data + slot[of the row] + (columns.start[0][w] + j * columns.out_step) * pixel + c * channel
  struct Source {
    const scalar_t* data;
    SourceRuns columns;
    int64_t pixel, channel;
    std::vector<int64_t> slot;
    int64_t ahead = 0;  // what a step fetches lies so far beyond what it reads
  };

  Source make_source(const RowSlots& rows, int64_t col_first, int64_t col_last) const {
    TensorView<const scalar_t> x = t_.a;
    x.data += (item_.g * g_.Ci + item_.ci.begin) * x.stride[1];
    if (reads_source_in_place(rows, col_first, col_last))
      return {x.data,
              columns_in_place(cols_),
              x.stride[3],
              x.stride[1],
              slots_in_place(rows, x.stride[0], x.stride[2]),
              x.stride[1] == 1 ? kPixelsAhead * g_.stride_w * x.stride[3] : 0};
    SourceRuns columns = make_source_runs(cols_, col_first, col_last, merged_);
    const int64_t slot = columns.length * pixel_;
    check_fits(static_cast<int64_t>(rows.source.size()) * slot, sizeof(scalar_t), plan_.source_bytes);
    pack_pixel_major(kernels_, x, channels_, pixel_, g_.iW, rows, columns, source_, true);
    return {source_, std::move(columns), pixel_, 1, packed_slots(rows, slot), 0};
  }

  // Whether the chunk's sources are read where they lie: planes, or without padding pixels and merged kernel rows.
  bool reads_source_in_place(const RowSlots& rows, int64_t col_first, int64_t col_last) const {
    const auto [sn, sc, sh, sw] = t_.a.stride;
    if (plan_.turned || rows.source.empty()) return false;  // turned, vectors would reach beyond the tensor
    if (g_.N * sn + g_.iH * sh + g_.iW * sw > INT32_MAX) return false;
    if (sc != 1) return !merged_ && planes_in_place(plan_);
    if (merged_ ? sw != channels_ : sets_hold(sw, sizeof(scalar_t)) < kPixelLines) return false;
    return all_inside(cols_, {{Band{{0, g_.oW}, {0, nw_}}}}, col_first, col_last);
  }

  void sum_chunk(const RowSlots& rows, int64_t row_first, int64_t row_last, int64_t col_first,
                 int64_t col_last) {
    const Source source = make_source(rows, col_first, col_last);
    const int64_t cols = col_last - col_first, pixels = (row_last - row_first) * cols;
    // The runs count columns from the image's first; steps count from the chunk's.
    const int64_t shift = col_first * source.columns.out_step;
    const bool in_place = reads_in_place(row_first, row_last, col_last);
    if (!in_place) pack_dy(row_first, row_last, col_first, col_last);
    for (int64_t h = 0; h < nh_; ++h) {
      KRange made{0, 0};
      int64_t inner = 0;
      for (int64_t w = 0; w < (merged_ ? 1 : nw_); ++w) {
        const KRange met = columns_that_meet(w, col_first, cols);
        if (w == 0 || met.begin != made.begin || met.end != made.end)
          inner = make_steps(rows, source, h, row_first, row_last, cols, met, in_place);
        made = met;
        const scalar_t* first =
            source.data + first_slot(source) + (source.columns.start[0][w] + shift) * source.pixel;
        for (int64_t p = item_.panel_first; p < item_.panel_last; ++p) {
          const int64_t run = ((p - item_.panel_first) * nh_ + h) * nw_ + w;
          const scalar_t* dy = in_place ? dy_row(row_first) + p * lanes_ + col_first * t_.b.stride[3]
                                        : dy_ + (p - item_.panel_first) * pixels * lanes_;
          if (plan_.turned) {
            sum_turned(first, dy, inner, tiles_ + h * g_.Co * row_lanes());
            continue;
          }
          sum_tiles(p, first, source, dy, inner, merged_ ? nw_ * channels_ : channels_,
                    tiles_ + run * channels_ * lanes_);
        }
      }
    }
  }

  // The chunk's columns that read the image with kernel column w: all of them, unless that leaves out many.
  KRange columns_that_meet(int64_t w, int64_t col_first, int64_t cols) const {
    if (merged_) return {0, cols};
    const int64_t source = cols_.phases[0].taps[w].source + col_first * g_.stride_w;
    const KRange met = inside(source, g_.stride_w, cols, g_.iW);
    return 8 * (met.end - met.begin) > 7 * cols ? KRange{0, cols} : met;
  }

  // Where a row of dY begins, in the group's first channel.
  const scalar_t* dy_row(int64_t row) const {
    const auto [sn, sc, sh, sw] = t_.b.stride;
    return t_.b.data + row / g_.oH * sn + item_.g * g_.Co * sc + row % g_.oH * sh;
  }

  // Steps count from the chunk's first source row.
  static int64_t first_slot(const Source& source) { return source.slot.empty() ? 0 : source.slot[0]; }

  // Whether the chunk's pixels are read where they lie. The lanes of a panel that have no channel then read
  // what follows in memory, for sums that nobody looks at; so it has to be dY's, too.
  bool reads_in_place(int64_t row_first, int64_t row_last, int64_t col_last) const {
    const auto [sn, sc, sh, sw] = t_.b.stride;
    const int64_t runs = nh_ * (merged_ ? 1 : nw_), rows = merged_ ? nw_ * channels_ : channels_;
    if (sc != 1 || runs * ceil_div(rows, plan_.mr) > kReads || sw > kSpread * g_.Co) return false;
    const int64_t vectors = ceil_div(std::min(item_.panel_last * lanes_, g_.Co), kernels_.lanes);
    const scalar_t* end = t_.b.data + (g_.N - 1) * sn + g_.G * g_.Co + (g_.oH - 1) * sh + (g_.oW - 1) * sw;
    const scalar_t* first = dy_row(row_first);
    for (int64_t row = row_first; row < row_last; ++row) {
      const scalar_t* last = dy_row(row) + (col_last - 1) * sw;
      if (last - first > INT32_MAX || last + vectors * kernels_.lanes > end) return false;
    }
    return true;
  }

  // dy_[panel][pixel][lanes].
  void pack_dy(int64_t row_first, int64_t row_last, int64_t col_first, int64_t col_last) {
    const int64_t pixels = (row_last - row_first) * (col_last - col_first);
    int64_t p = item_.panel_first;
    // Where channels lie side by side, those of a pixel's whole panels are read at once.
    const int64_t whole = std::min(item_.panel_last, g_.Co / lanes_) - p;
    if (t_.b.stride[1] == 1 && whole > 1) {
      scalar_t* dst = dy_;
      for (int64_t row = row_first; row < row_last; ++row) {
        const scalar_t* src = dy_row(row) + p * lanes_ + col_first * t_.b.stride[3];
        for (int64_t col = col_first; col < col_last; ++col, src += t_.b.stride[3], dst += lanes_)
          kernels_.copy_2d({whole, lanes_, lanes_, 1, pixels * lanes_, 1}, src, dst);
      }
      p += whole;
    }
    for (; p < item_.panel_last; ++p)
      pack_panel(p, row_first, row_last, col_first, col_last,
                 dy_ + (p - item_.panel_first) * pixels * lanes_);
  }

  // dst[pixel][lanes] of one panel.
  void pack_panel(int64_t panel, int64_t row_first, int64_t row_last, int64_t col_first, int64_t col_last,
                  scalar_t* dst) {
    const auto [sn, sc, sh, sw] = t_.b.stride;
    const int64_t o0 = panel * lanes_, valid = std::min(lanes_, g_.Co - o0), cols = col_last - col_first;
    const int64_t pixels = (row_last - row_first) * cols;
    // Fetched meanwhile: the next chunk, or if that would not stay in L2, the next panel.
    int64_t ahead = cols < g_.oW ? plan_.cols * sw : plan_.rows * sh;
    if ((item_.panel_last - item_.panel_first) * pixels * lanes_ * static_cast<int64_t>(sizeof(scalar_t)) >
        kStaysBytes)
      ahead = panel + 1 < item_.panel_last ? lanes_ * sc : 0;
    if (valid < lanes_) std::fill(dst, dst + pixels * lanes_, scalar_t(0));
    for (int64_t row = row_first; row < row_last; ++row, dst += cols * lanes_) {
      kernels_.copy_2d({cols, valid, sw, sc, lanes_, 1, false, ahead}, dy_row(row) + o0 * sc + col_first * sw,
                       dst);
    }
  }

  // The chunk's pixels in the columns `met` that have a term for kernel row h, in order; returns how many.
  int64_t make_steps(const RowSlots& rows, const Source& source, int64_t h, int64_t row_first,
                     int64_t row_last, int64_t cols, KRange met, bool in_place) {
    KStep* step = steps_;
    const int64_t pixel = in_place ? t_.b.stride[3] : lanes_;
    for (int64_t r = 0; r < row_last - row_first; ++r) {
      const int32_t slot = rows.slot[r * rows.max_taps + h];
      if (slot < 0) continue;
      const int64_t first = in_place ? dy_row(row_first + r) - dy_row(row_first) : r * cols * lanes_;
      const int64_t line = source.slot[static_cast<size_t>(slot)] - first_slot(source);
      for (int64_t i = met.begin; i < met.end; ++i, ++step) {
        step->a = static_cast<int32_t>(line + i * source.columns.out_step * source.pixel);
        step->b = static_cast<int32_t>(first + i * pixel);
        if (plan_.turned) std::swap(step->a, step->b);
      }
    }
    return step - steps_;
  }

  // Adds the steps' sum to sums whose rows lie `row` apart.
  TileProblem<scalar_t> tile_of_steps(int64_t inner, int64_t row) const {
    TileProblem<scalar_t> tile = {};
    tile.steps = steps_;
    tile.inner = inner;
    tile.outer = 1;
    tile.c_stride = tile.start_row = row;
    return tile;
  }

  void sum_tiles(int64_t panel, const scalar_t* first, const Source& source, const scalar_t* dy,
                 int64_t inner, int64_t count, scalar_t* tiles) {
    const int nv = static_cast<int>(ceil_div(std::min(lanes_, g_.Co - panel * lanes_), kernels_.lanes));
    TileProblem<scalar_t> tile = tile_of_steps(inner, lanes_);
    tile.a_row = source.channel;
    tile.a_ahead = source.ahead;
    tile.b = dy;
    const auto& microkernel =
        source.channel == 1 ? kernels_.microkernel[nv] : kernels_.microkernel_strided[nv];
    const int64_t parts = ceil_div(count, kernels_.max_rows[nv]);
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t begin = part_start(count, parts, i), end = part_start(count, parts, i + 1);
      tile.a = first + begin * source.channel;
      tile.start = tile.c_tile = tiles + begin * lanes_;
      microkernel[end - begin](tile);
    }
  }

  // Lanes of a kernel row's elements (kw, ci), in whole vectors.
  int64_t row_lanes() const { return ceil_div(nw_ * channels_, kernels_.lanes) * kernels_.lanes; }

  // A kernel row: tile[co][(kw, ci)].
  void sum_turned(const scalar_t* source, const scalar_t* dy, int64_t inner, scalar_t* sums) {
    TileProblem<scalar_t> tile = tile_of_steps(inner, row_lanes());
    tile.a = dy;
    tile.b = source;
    tile.start = tile.c_tile = sums;
    kernels_.microkernel[row_lanes() / kernels_.lanes][g_.Co](tile);
  }

  void store_turned() {
    const auto [so, si, sh, sw] = t_.result.stride;
    scalar_t* dw =
        dw_ + item_.g * g_.Co * so + item_.ci.begin * si + item_.kh.begin * sh + item_.kw.begin * sw;
    const scalar_t* sums = tiles_;
    for (int64_t h = 0; h < nh_; ++h) {
      for (int64_t o = 0; o < g_.Co; ++o, sums += row_lanes())
        kernels_.copy_2d({nw_, channels_, channels_, 1, sw, si}, sums, dw + o * so + h * sh);
    }
  }

  void store() {
    if (plan_.turned) return store_turned();
    const auto [so, si, sh, sw] = t_.result.stride;
    for (int64_t p = item_.panel_first; p < item_.panel_last; ++p) {
      const int64_t o0 = p * lanes_, valid = std::min(lanes_, g_.Co - o0);
      const scalar_t* tiles = tiles_ + (p - item_.panel_first) * nh_ * nw_ * channels_ * lanes_;
      scalar_t* dw =
          dw_ + (item_.g * g_.Co + o0) * so + item_.ci.begin * si + item_.kh.begin * sh + item_.kw.begin * sw;
      const bool whole = sh == nw_;  // the rows of a kernel follow each other
      const int64_t lines = whole ? 1 : nh_, length = whole ? nh_ * nw_ : nw_;
      if (length > 1 && sw == 1) {  // written along memory
        for (int64_t i = 0; i < lines * channels_; ++i) {
          const int64_t h = i / channels_, c = i % channels_;
          kernels_.copy_2d({valid, length, 1, channels_ * lanes_, so, 1},
                           tiles + (h * length * channels_ + c) * lanes_, dw + h * sh + c * si);
        }
        continue;
      }
      for (int64_t k = 0; k < nh_ * nw_; ++k) {
        kernels_.copy_2d({valid, channels_, 1, lanes_, so, si}, tiles + k * channels_ * lanes_,
                         dw + k / nw_ * sh + k % nw_ * sw);
      }
    }
  }

  scalar_t* const dw_;
  const Plan& plan_;
  const ConvGeometry& g_;
  const Operands<scalar_t>& t_;
  const Kernels<scalar_t>& kernels_;
  const Item item_;
  Scratch scratch_;
  const int64_t lanes_, channels_, nh_, nw_;
  const bool merged_;
  const int64_t pixel_;  // from pixel to pixel of the packed source; merged kernel rows leave no gap
  const Axis rows_, cols_;
  scalar_t *source_, *dy_, *tiles_;
  KStep* steps_;
};

KRange part(int64_t size, int64_t parts, int64_t index) {
  return {part_start(size, parts, index), part_start(size, parts, index + 1)};
}

// How dW lies in memory: its elements, the distance of the first and the last of them, and how far the first in
// memory lies before element 0 (exchanged, the kernel lies the other way round).
struct Extent {
  int64_t elements, reach, before;

  bool dense() const { return elements == reach + 1; }
};

template <class scalar_t>
Extent extent_of(const TensorView<scalar_t>& dw, const ConvGeometry& g) {
  const int64_t size[4] = {g.G * g.Co, g.Ci, g.kH, g.kW};
  Extent extent{1, 0, 0};
  for (int d = 0; d < 4; ++d) {
    const int64_t last = (size[d] - 1) * dw.stride[d];
    extent.elements *= size[d];
    extent.reach += std::abs(last);
    extent.before -= std::min<int64_t>(0, last);
  }
  return extent;
}

// first[i] += the sums of all further segments, in order.
template <class scalar_t>
void add_segments(scalar_t* first, const scalar_t* others, int64_t segments, int64_t elements, int threads) {
  constexpr int64_t kBlock = 4096;
  parallel_for(ceil_div(elements, kBlock), threads, [&](int64_t block) {
    const int64_t begin = block * kBlock, end = std::min(elements, begin + kBlock);
    for (int64_t s = 0; s + 1 < segments; ++s) {
      for (int64_t i = begin; i < end; ++i) first[i] += others[s * elements + i];
    }
  });
}

template <class scalar_t>
void direct_grad_weight(const Plan& plan, const ConvGeometry& g, const Operands<scalar_t>& t,
                        const Kernels<scalar_t>& kernels, int threads) {
  const int64_t total_rows = g.N * g.oH, chunks = ceil_div(total_rows, plan.rows);
  const Extent dw = extent_of(t.result, g);
  const int64_t elements = dw.elements;
  const int64_t segments = elements > 0 && dw.dense() ? std::clamp<int64_t>(chunks, 1, plan.segments) : 1;
  const std::unique_ptr<scalar_t[]> partial(segments > 1 ? new scalar_t[(segments - 1) * elements] : nullptr);
  const auto dw_of = [&](int64_t segment) {
    return segment == 0 ? t.result.data : partial.get() + (segment - 1) * elements + dw.before;
  };
  const WeightCut cut = cut_grad_weight(plan, g.N * g.oH * g.oW, segments, threads);
  const int64_t panels = panel_count(plan, g.Co), panel_parts = ceil_div(panels, cut.panels);
  const int64_t ci_parts = ceil_div(g.Ci, cut.channels), kh_parts = ceil_div(g.kH, cut.kh);
  const int64_t kw_parts = ceil_div(g.kW, plan.kw_block);
  parallel_for(segments * g.G * panel_parts * ci_parts * kh_parts * kw_parts, threads, [&](int64_t i) {
    const int64_t segment = i % segments;
    i /= segments;
    Item item;
    item.rows = {part_start(chunks, segments, segment) * plan.rows,
                 std::min(total_rows, part_start(chunks, segments, segment + 1) * plan.rows)};
    item.kw = part(g.kW, kw_parts, i % kw_parts);
    i /= kw_parts;
    item.kh = part(g.kH, kh_parts, i % kh_parts);
    i /= kh_parts;
    item.ci = part(g.Ci, ci_parts, i % ci_parts);
    i /= ci_parts;
    item.panel_first = part_start(panels, panel_parts, i % panel_parts);
    item.panel_last = part_start(panels, panel_parts, i % panel_parts + 1);
    item.g = i / panel_parts;
    Worker<scalar_t>(plan, g, t, kernels, item, dw_of(segment)).run();
  });
  if (segments > 1) add_segments(t.result.data - dw.before, partial.get(), segments, elements, threads);
}

}  // namespace

template <class scalar_t>
void grad_weight(const Plan& plan, const Plan& direct, const ConvGeometry& g, const Operands<scalar_t>& t,
                 const Kernels<scalar_t>& kernels, int threads) {
  if (plan.algorithm == Algorithm::kWinograd)
    return winograd_grad_weight(plan, direct, g, t, kernels, threads);
  if (plan.algorithm == Algorithm::kLanewise) return lanewise_grad_weight(plan, g, t, kernels, threads);
  if (plan.algorithm == Algorithm::kRows) return rows_grad_weight(plan, g, t, kernels, threads);
  direct_grad_weight(plan, g, t, kernels, threads);
}

template <class scalar_t>
void grad_weight_region(const Plan& plan, const ConvGeometry& g, const Operands<scalar_t>& t,
                        const Kernels<scalar_t>& kernels, const WeightRegion& region) {
  const int64_t panel_last = ceil_div(region.o_last, plan.panel_lanes());
  const int64_t kh_parts = ceil_div(g.kH, plan.kh_block), kw_parts = ceil_div(g.kW, plan.kw_block);
  for (int64_t p = region.o_first / plan.panel_lanes(); p < panel_last; p += plan.panels) {
    for (int64_t c = region.ci.begin; c < region.ci.end; c += plan.c_block) {
      for (int64_t k = 0; k < kh_parts * kw_parts; ++k) {
        const Item item{region.g,
                        p,
                        std::min(panel_last, p + plan.panels),
                        {c, std::min(region.ci.end, c + plan.c_block)},
                        part(g.kH, kh_parts, k / kw_parts),
                        part(g.kW, kw_parts, k % kw_parts),
                        {0, g.N * g.oH}};
        Worker<scalar_t>(plan, g, t, kernels, item, t.result.data).run();
      }
    }
  }
}

#define TCE_INSTANTIATE(scalar_t)                                                                         \
  template void grad_weight<scalar_t>(const Plan&, const Plan&, const ConvGeometry&,                      \
                                      const Operands<scalar_t>&, const Kernels<scalar_t>&, int);          \
  template void grad_weight_region<scalar_t>(const Plan&, const ConvGeometry&, const Operands<scalar_t>&, \
                                             const Kernels<scalar_t>&, const WeightRegion&);
TCE_INSTANTIATE(float)
TCE_INSTANTIATE(double)
#undef TCE_INSTANTIATE

}  // namespace tce
