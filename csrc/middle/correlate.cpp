// The direct correlation: lanes are result channels, a tile's rows are neighbouring result pixels whose
// sources are broadcast from packed rows. No im2col: a tap is an offset into the packed rows.
//
// Loops, outermost first, with what each holds:
//
//   item (group, rows, columns, panels)   one thread; disjoint results
//     kernel block (kh_block x kw_block)
//       channel block (c_block)           source rows of the chunk packed: [slot][c][width]   L2
//         panel (nv * lanes channels)     weights packed: [c][kh][kw][lanes]                  L2
//           row, column phase, band       steps: offsets of the taps that exist               L1
//             tile (mr pixels)            microkernel: sum over c and taps                    registers, L1
//           after the last block: the row of tiles to its tensor, transposed where the layout asks for it
//
// Between K blocks the tiles stay in scratch: [panel][row][column][lanes]. Bias is their initial value.
//
// Few channels (kThinChannels) are not the microkernel's outer loop: the steps count them, innermost, in the order
// in which channels_last has them.
//
// Sources without padding between their columns are read where they lie: planes by kernels of one column, each
// step of a tile fetching the same one of the next tile; or channels_last, where nothing is transposed either. What
// has padding is read from copies of its rows there, [slot][width][c]; and a full panel's tiles stand in the result
// itself. The order of the sums is the same everywhere, and so are the bits.

#include "correlate.h"

#include <algorithm>
#include <array>
#include <vector>

#include "correlate_source.h"
#include "cut.h"
#include "parallel.h"
#include "planes.h"
#include "scratch.h"
#include "winograd.h"

namespace tce {

namespace {

// Tables of steps that are kept: for the phases and bands of neighbouring rows.
constexpr int64_t kStepTables = 16;

template <class scalar_t>
std::vector<KernelBlock> make_blocks(const Correlation<scalar_t>& c, const Plan& plan) {
  std::vector<KernelBlock> blocks;
  for (int64_t h = 0; h < std::max<int64_t>(c.kH, 1); h += plan.kh_block) {
    const KRange kh{h, std::min(c.kH, h + plan.kh_block)};
    for (int64_t w = 0; w < std::max<int64_t>(c.kW, 1); w += plan.kw_block) {
      const KRange kw{w, std::min(c.kW, w + plan.kw_block)};
      blocks.push_back({kh, kw, c.rows(kh), c.cols(kw), {}});
      blocks.back().bands = make_bands(blocks.back().cols, kFewestRows);
    }
  }
  return blocks;
}

template <class scalar_t>
class Worker {
 public:
  Worker(const Correlation<scalar_t>& c, const Plan& plan, const Kernels<scalar_t>& kernels,
         const std::vector<KernelBlock>& blocks, const CorrelationItem& item)
      : c_(c),
        plan_(plan),
        kernels_(kernels),
        blocks_(blocks),
        item_(item),
        scratch_(plan.scratch_bytes),
        lanes_(plan.panel_lanes()),
        cols_(item.col_last - item.col_first),
        joined_(c.C <= kThinChannels),
        streams_(c.stream && is_aligned(c.out)) {
    source_ = scratch_.take_bytes<scalar_t>(plan.source_bytes);
    weight_ = scratch_.take_bytes<scalar_t>(plan.weight_bytes);
    tiles_ = scratch_.take_bytes<scalar_t>(plan.tile_bytes);
    // One K block: nothing to keep, every row of tiles is built and stored in the same place.
    const int64_t channel_blocks = std::max<int64_t>(1, ceil_div(c.C, plan.c_block));
    keep_tiles_ = static_cast<int64_t>(blocks.size()) * channel_blocks > 1;
  }

  void run() {
    const SourceMaker<scalar_t> sources(c_, plan_, kernels_, item_, source_);
    for (const KernelBlock& block : blocks_) {
      for (Steps& steps : steps_) steps.panel = 0;
      make_spans(block);
      const RowSlots rows = make_row_slots(block.rows, item_.row_first, item_.row_last);
      int64_t c0 = 0;
      do {  // at least once: without channels the result is the bias
        const int64_t channels = std::min(plan_.c_block, c_.C - c0);
        Source<scalar_t> source = sources.make(block, rows, c0, channels);
        const bool first = &block == &blocks_.front() && c0 == 0;
        const bool last = &block == &blocks_.back() && c0 + channels >= c_.C;
        for (int64_t p = item_.panel_first; p < item_.panel_last; ++p) {
          run_panel(block, rows, source, p, c0, channels, first, last);
          source.fetch = false;
        }
        c0 += plan_.c_block;
      } while (c0 < c_.C);
    }
    if (streams_) kernels_.finish_streams();
  }

 private:
  // Where the pixels of a row lie, in scratch or in the result; or what begins them: the bias, with stride 0,
  // or nothing.
  template <class T>
  struct Line {
    T* data;
    int64_t stride;
  };
  using Tiles = Line<scalar_t>;
  using Start = Line<const scalar_t>;

  // The item's part of a band of a column phase.
  struct Span {
    size_t phase, band;
    KRange j;
    int64_t column;               // of j.begin, from the item's first
    int64_t tiles, longer, rows;  // its tiles: so many of rows + 1 pixels, the others of `rows`
  };

  void make_spans(const KernelBlock& block) {
    spans_.clear();
    for (size_t phase = 0; phase < block.bands.size(); ++phase) {
      const int64_t first = static_cast<int64_t>(phase), step = block.cols.out_step;
      const KRange columns = phase_range(first, step, item_.col_first, item_.col_last);
      for (size_t band = 0; band < block.bands[phase].size(); ++band) {
        const KRange j = intersection(block.bands[phase][band].j, columns);
        if (j.begin < j.end)
          spans_.push_back({phase, band, j, first + j.begin * step - item_.col_first, 0, 0, 0});
      }
    }
  }

  // The steps of a row and a band of a column phase, and what they depend on.
  struct Steps {
    std::vector<KStep> step;
    int64_t first;                // offset of the row's first source row
    int64_t panel = 0;            // lanes; 0: none
    std::array<int64_t, 4> kind;  // row phase, column phase, band, distance of pixels
    std::vector<int64_t> row;     // [row tap] offset of its source row from the first, or kAbsent
  };
  static constexpr int64_t kAbsent = INT64_MIN;

  // Whether any kernel row reaches a row: those of a gradient between the strides of a small kernel have none.
  bool has_terms(int64_t row) const {
    const Axis& axis = blocks_.front().rows;
    if (axis.out_step == 1) return true;
    const size_t phase = static_cast<size_t>(row % axis.out_size % axis.out_step);
    return std::any_of(blocks_.begin(), blocks_.end(),
                       [&](const KernelBlock& block) { return !block.rows.phases[phase].taps.empty(); });
  }

  // All tiles of one panel for one K block.
  void run_panel(const KernelBlock& block, const RowSlots& rows, const Source<scalar_t>& source,
                 int64_t panel, int64_t c0, int64_t channels, bool first, bool last) {
    const int64_t o0 = panel * lanes_, valid = std::min(lanes_, c_.O - o0);
    // The last panel of a group may need fewer vectors.
    const int nv = static_cast<int>(ceil_div(valid, kernels_.lanes));
    pack_panel_weight(block, o0, valid, nv * kernels_.lanes, c0, channels);

    // Results that are not to be read again stand in scratch until their last sum.
    const bool whole = c_.out.stride[1] == 1 && valid == nv * kernels_.lanes && c_.subpixel.lanes() == 1;
    const bool in_place = whole && (last || !streams_);
    if (first && c_.bias) load_bias(o0, valid);
    for (Span& span : spans_) {
      const int64_t count = span.j.end - span.j.begin;
      span.tiles = ceil_div(count, std::min<int64_t>(source.rows, kernels_.max_rows[nv]));
      span.longer = count % span.tiles, span.rows = count / span.tiles;
    }
    for (int64_t row = item_.row_first; row < item_.row_last; ++row) {
      if (!has_terms(row)) {
        if (last) fill_row(row, o0, valid);
        continue;
      }
      const int64_t kept = keep_tiles_ ? (panel - item_.panel_first) * (item_.row_last - item_.row_first) +
                                             row - item_.row_first
                                       : 0;
      Tiles tiles{tiles_ + kept * cols_ * lanes_, lanes_};
      Start start{tiles.data, tiles.stride};
      if (in_place) tiles = {result_row(row) + o0, c_.out.stride[3]};
      if (whole && !streams_) start = {tiles.data, tiles.stride};
      if (first) start = {c_.bias ? bias_.data() : nullptr, 0};
      for (const Span& span : spans_)
        run_span(block, rows, source, row, span, nv, channels, start, tiles, in_place);
      if (last && !in_place) store_row(tiles.data, row, o0, valid);
    }
  }

  // The tiles of one row and one span.
  void run_span(const KernelBlock& block, const RowSlots& rows, const Source<scalar_t>& source, int64_t row,
                const Span& span, int nv, int64_t channels, const Start& start, const Tiles& tiles,
                bool in_place) {
    const Axis& axis = block.cols;
    const int64_t panel = nv * kernels_.lanes;
    const Steps& steps = make_steps(block, rows, source, row, span, panel, channels);
    const scalar_t* data = source.data + steps.first;

    if (steps.step.empty() && start.data == tiles.data) return;  // no term here (strided grad_input)

    TileProblem<scalar_t> tile = {};
    tile.steps = steps.step.data();
    tile.inner = static_cast<int64_t>(steps.step.size());
    tile.outer = joined_ ? 1 : channels;
    tile.b = weight_;
    tile.a_row = source.columns.out_step * source.pixel;
    tile.a_outer = source.channel;
    tile.b_outer = packed_.channel;
    tile.c_stride = axis.out_step * tiles.stride;
    tile.start_row = axis.out_step * start.stride;
    tile.stream = in_place && streams_;
    const auto& microkernel = tile.a_row == 1 ? kernels_.microkernel[nv] : kernels_.microkernel_strided[nv];
    tile.a = data + span.j.begin * tile.a_row;
    tile.c_tile = tiles.data + span.column * tiles.stride;
    tile.start = start.data ? start.data + span.column * start.stride : nullptr;
    // Few channels do not hide that the result's lines come from memory.
    const bool fetch = joined_ && in_place && !streams_;
    for (int64_t i = 0; i < span.tiles; ++i) {
      const int64_t mr = span.rows + (i < span.longer);
      const int64_t next = i + 1 < span.tiles ? span.rows + (i + 1 < span.longer) : 0;
      if (source.planes) tile.a_ahead = (mr + next - 1) * tile.a_row;
      if (source.fetch) fetch_ahead<0>(tile.a + mr * tile.a_row, tile.a_row, tile.outer, next);
      if (fetch && next) fetch_ahead<1>(tile.c_tile + mr * tile.c_stride, tile.c_stride, panel, next);
      if (fetch && !next) {
        const scalar_t* below = tiles.data + span.column * tiles.stride + c_.out.stride[2];
        fetch_ahead<1>(below, tile.c_stride, panel, span.rows + (span.longer > 0));
      }
      microkernel[mr](tile);
      tile.a += mr * tile.a_row;
      tile.c_tile += mr * tile.c_stride;
      if (tile.start) tile.start += mr * tile.start_row;
    }
  }

  // Fetches `length` elements of each of the next `pixels` pixels, whose lines lie too far apart for the processor to
  // know; Write: into L1, to be written.
  template <int Write>
  static void fetch_ahead(const scalar_t* pixel, int64_t step, int64_t length, int64_t pixels) {
    for (int64_t i = 0; i < pixels; ++i, pixel += step) {
      for (int64_t l = 0; l < length; l += 64 / static_cast<int64_t>(sizeof(scalar_t)))
        __builtin_prefetch(pixel + l, Write, Write ? 3 : 2);
    }
  }

  // The steps of one row and one band. Rows of one phase mostly have the same ones.
  const Steps& make_steps(const KernelBlock& block, const RowSlots& rows, const Source<scalar_t>& source,
                          int64_t row, const Span& span, int64_t panel, int64_t channels) {
    const int64_t row_phase = (row % block.rows.out_size) % block.rows.out_step;
    const std::vector<Tap>& row_taps = block.rows.phases[static_cast<size_t>(row_phase)].taps;
    const int32_t* slots = &rows.slot[(row - item_.row_first) * rows.max_taps];
    const std::array<int64_t, 4> kind{row_phase, static_cast<int64_t>(span.phase),
                                      static_cast<int64_t>(span.band), source.pixel};
    Steps& steps = steps_[static_cast<size_t>((2 * row_phase + kind[1]) * 3 + kind[2]) % steps_.size()];
    bool same = steps.panel == panel && steps.kind == kind;
    steps.row.resize(row_taps.size());
    steps.first = -1;
    for (size_t t = 0; t < row_taps.size(); ++t) {
      int64_t at = kAbsent;
      if (slots[t] >= 0) {
        at = source.slot[static_cast<size_t>(slots[t])];
        if (steps.first < 0) steps.first = at;
        at -= steps.first;
      }
      same = same && steps.row[t] == at;
      steps.row[t] = at;
    }
    steps.first = std::max<int64_t>(steps.first, 0);  // without a row: no steps
    if (same) return steps;
    steps.panel = panel;
    steps.kind = kind;
    steps.step.clear();
    const std::vector<Tap>& taps = block.cols.phases[span.phase].taps;
    const int64_t nw = block.kw.end - block.kw.begin;
    const KRange live = block.bands[span.phase][span.band].taps;
    for (size_t t = 0; t < row_taps.size(); ++t) {
      if (slots[t] < 0) continue;
      for (size_t u = static_cast<size_t>(live.begin); u < static_cast<size_t>(live.end); ++u) {
        const int64_t tap = (row_taps[t].k - block.kh.begin) * nw + taps[u].k - block.kw.begin;
        const int64_t a = steps.row[t] + source.columns.start[span.phase][u] * source.pixel;
        for (int64_t c = 0; c < (joined_ ? channels : 1); ++c)
          steps.step.push_back({static_cast<int32_t>(a + c * source.channel),
                                static_cast<int32_t>(tap * packed_.tap + c * packed_.channel)});
      }
    }
    return steps;
  }

  void pack_panel_weight(const KernelBlock& block, int64_t o0, int64_t valid, int64_t panel, int64_t c0,
                         int64_t channels) {
    WeightView<scalar_t> w = c_.weight;
    w.data += item_.g * c_.weight_group + c0 * w.channel;
    packed_ = {panel, block.taps() * panel};
    if (c_.subpixel.lanes() > 1) {
      pack_subpixel_weight(kernels_, w, c_.subpixel, o0, valid, panel, channels, block.kh, block.kw, weight_);
    } else if (joined_) {
      // The next panel's, if there is one.
      const int64_t ahead = o0 + valid < c_.O ? valid * w.lane : 0;
      w.data += o0 * w.lane;
      pack_few(kernels_, w, valid, panel, channels, block.kh, block.kw, weight_, ahead);
      packed_ = {channels * panel, panel};
    } else {
      w.data += o0 * w.lane;
      pack_weight(kernels_, w, valid, panel, channels, block.kh, block.kw, weight_);
    }
  }

  scalar_t bias_of(int64_t o) const {
    return c_.bias ? c_.bias[(item_.g * c_.O + o) / c_.subpixel.lanes()] : scalar_t(0);
  }

  void load_bias(int64_t o0, int64_t valid) {
    bias_.assign(lanes_, scalar_t(0));
    for (int64_t l = 0; l < valid; ++l) bias_[l] = bias_of(o0 + l);
  }

  // Whether all vectors of the result's panels are aligned.
  bool is_aligned(const TensorView<scalar_t>& out) const {
    const auto [sn, sc, sh, sw] = out.stride;
    const int64_t lanes = kernels_.lanes;
    const uintptr_t first = reinterpret_cast<uintptr_t>(out.data + item_.g * c_.O * sc);
    return sc == 1 && sw % lanes == 0 && sh % lanes == 0 && sn % lanes == 0 &&
           first % (lanes * sizeof(scalar_t)) == 0;
  }

  // A row without terms: bias, or zero.
  void fill_row(int64_t row, int64_t o0, int64_t valid) {
    const auto [sn, sc, sh, sw] = c_.out.stride;
    scalar_t* result = result_row(row) + o0 * sc;
    for (int64_t i = 0; i < (sc == 1 ? cols_ : 0); ++i, result += sw) {
      for (int64_t o = 0; o < valid; ++o) result[o] = bias_of(o0 + o);
    }
    for (int64_t o = 0; o < (sc == 1 ? 0 : valid); ++o, result += sc) {
      for (int64_t i = 0; i < cols_; ++i) result[i * sw] = bias_of(o0 + o);
    }
  }

  // Where the item's part of a row begins, in the group's first channel.
  scalar_t* result_row(int64_t row) const {
    const auto [sn, sc, sh, sw] = c_.out.stride;
    return c_.out.data + row / c_.out_h * sn + item_.g * c_.O * sc + row % c_.out_h * sh +
           item_.col_first * sw;
  }

  void store_row(const scalar_t* tiles, int64_t row, int64_t o0, int64_t valid) {
    const auto [sn, sc, sh, sw] = c_.out.stride;
    if (const int64_t lanes = c_.subpixel.lanes(); lanes > 1) {
      TensorView<scalar_t> out = c_.out;
      out.data += row / c_.out_h * sn + item_.g * (c_.O / lanes) * sc;
      return store_subpixel_row(kernels_, tiles, lanes_, c_.subpixel, o0, valid, row % c_.out_h,
                                item_.col_first, cols_, out);
    }
    // Meanwhile the lines of the next row, one in each channel, are fetched.
    const int64_t ahead = c_.out_h > 1 ? sh : 0;
    kernels_.copy_2d({valid, cols_, 1, lanes_, sc, sw, c_.stream, 0, ahead}, tiles,
                     result_row(row) + o0 * sc);
  }

  const Correlation<scalar_t>& c_;
  const Plan& plan_;
  const Kernels<scalar_t>& kernels_;
  const std::vector<KernelBlock>& blocks_;
  const CorrelationItem item_;
  Scratch scratch_;
  const int64_t lanes_;  // of a panel
  const int64_t cols_;
  const bool joined_;   // a tile's steps count the channels, too
  const bool streams_;  // tiles of full panels are written past the caches
  scalar_t *source_, *weight_, *tiles_;
  struct {
    int64_t tap, channel;
  } packed_;  // distances of kernel elements, counted row by row, and of channels in weight_
  std::vector<scalar_t> bias_;  // of the panel
  std::vector<Span> spans_;     // of the kernel block
  std::array<Steps, kStepTables> steps_;
  bool keep_tiles_;
};

}  // namespace

template <class scalar_t>
void correlate(const Correlation<scalar_t>& c, const Plan& plan, const Kernels<scalar_t>& kernels,
               int threads) {
  const std::vector<KernelBlock> blocks = make_blocks(c, plan);
  const Axis &rows = blocks.front().rows, &cols = blocks.front().cols;
  const int64_t total_rows = c.N * rows.out_size;
  const PanelCut cut = cut_correlation(plan, {c.G, total_rows, cols.out_size, panel_count(plan, c.O)}, c.C,
                                       c.kH * c.kW, rows.out_step * cols.out_step, threads);
  const int64_t row_parts = ceil_div(total_rows, cut.rows), col_parts = ceil_div(cols.out_size, plan.cols);
  const int64_t panels = panel_count(plan, c.O), panel_parts = ceil_div(panels, cut.panels);
  parallel_for(c.G * row_parts * col_parts * panel_parts, threads, [&](int64_t i) {
    CorrelationItem item;
    const int64_t p = i % panel_parts, w = i / panel_parts % col_parts,
                  r = i / panel_parts / col_parts % row_parts;
    item.g = i / panel_parts / col_parts / row_parts;
    item.row_first = part_start(total_rows, row_parts, r);
    item.row_last = part_start(total_rows, row_parts, r + 1);
    item.col_first = w * plan.cols;
    item.col_last = std::min(cols.out_size, item.col_first + plan.cols);
    item.panel_first = part_start(panels, panel_parts, p);
    item.panel_last = part_start(panels, panel_parts, p + 1);
    Worker<scalar_t>(c, plan, kernels, blocks, item).run();
  });
}

template <class scalar_t>
void correlate_region(const Correlation<scalar_t>& c, const Plan& plan, const Kernels<scalar_t>& kernels,
                      const Region& region) {
  const std::vector<KernelBlock> blocks = make_blocks(c, plan);
  const int64_t panel_last = ceil_div(region.o_last, plan.panel_lanes());
  for (int64_t p = region.o_first / plan.panel_lanes(); p < panel_last; p += plan.panels) {
    for (int64_t row = region.row_first; row < region.row_last; row += plan.rows) {
      for (int64_t col = region.col_first; col < region.col_last; col += plan.cols) {
        const CorrelationItem item{region.g,
                                   row,
                                   std::min(region.row_last, row + plan.rows),
                                   col,
                                   std::min(region.col_last, col + plan.cols),
                                   p,
                                   std::min(panel_last, p + plan.panels)};
        Worker<scalar_t>(c, plan, kernels, blocks, item).run();
      }
    }
  }
}

template <class scalar_t>
void correlate_as_planned(const Correlation<scalar_t>& c, const Plan& plan, const Plan& direct,
                          const Kernels<scalar_t>& kernels, int threads) {
  switch (plan.algorithm) {
    case Algorithm::kExchanged:  // of grad_weight only
    case Algorithm::kDirect:
    case Algorithm::kSubpixel:  // direct, of another view of the result: grad_input.cpp
      return correlate(c, plan, kernels, threads);
    case Algorithm::kWinograd:
      return winograd_correlate(c, plan, direct, kernels, threads);
    case Algorithm::kPixels:
      return pixels_correlate(c, plan, kernels, threads);
    case Algorithm::kLanewise:
      return lanewise_correlate(c, plan, kernels, threads);
    case Algorithm::kRows:
      return rows_correlate(c, plan, kernels, threads);
  }
}

#define TCE_INSTANTIATE(scalar_t)                                                                        \
  template void correlate<scalar_t>(const Correlation<scalar_t>&, const Plan&, const Kernels<scalar_t>&, \
                                    int);                                                                \
  template void correlate_as_planned<scalar_t>(const Correlation<scalar_t>&, const Plan&, const Plan&,   \
                                               const Kernels<scalar_t>&, int);                           \
  template void correlate_region<scalar_t>(const Correlation<scalar_t>&, const Plan&,                    \
                                           const Kernels<scalar_t>&, const Region&);
TCE_INSTANTIATE(float)
TCE_INSTANTIATE(double)
#undef TCE_INSTANTIATE

}  // namespace tce
