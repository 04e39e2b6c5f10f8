// forward and grad_input with lanes over channels: depthwise convolution, where a group has one channel, and
// groups of a few channels. Nothing is broadcast and no lane is wasted, whatever the width of the image.
//
// Lanes are groups, or (Plan::spread) neighbouring result channels: where channels lie side by side, a pixel
// of X is then spread to the lanes of the groups that read it, and results go to the tensor as they are.
//
// Loops, outermost first, with what each holds:
//
//   item (blocks of a vector's lanes; chunks)    weights packed: [block][o][c][kh][kw][lanes]      L2
//     chunk (image, rows, columns)               disjoint results
//       depthwise, channels side by side: all blocks at once, where they lie (lanes_in_place in plan.h)
//       else block                               planes packed: [c][height][width][lanes]          L2
//         tile (rows mr, columns nv), block      lane kernel: sum over c and the row taps          registers
//                                                of kh_block; source rows and columns outside
//                                                the image are left out
//       where the tiles do not stand in the tensor itself: to it, transposed where its layout asks for it

#include <algorithm>
#include <vector>

#include "planes.h"
#include "rows_jobs.h"
#include "scratch.h"

namespace tce {

namespace {

// Neighbouring results of a phase, in a row.
struct ColumnTile {
  int64_t first, count;  // result column of the first
  int64_t x;             // the source of tap 0 without padding for the first
  bool all;              // every tap has a term in every column
  bool fetches;
  std::vector<LaneTap> taps;
};

// The same in a column, and the terms of each K block.
struct RowTile {
  int64_t first, count;
  bool fetches;  // what the next chunk reads; of tiles with the same sources one does
  int64_t w_row;
  std::vector<std::vector<RowSegment>> blocks;
};

// A part of an axis: its results, the sources that lie in the image, and its tiles.
template <class Tile>
struct Part {
  int64_t first, last;
  KRange source;
  std::vector<Tile> tiles;
};

// How a chunk's source lies, from the image's (maybe absent) first element on.
struct Strides {
  int64_t row, col, outer;
};

// The parts of an axis of at most `size` results, with add(phase, j, part) for the results j of a phase that make
// a tile: at most `most` of them.
template <class Tile, class F>
std::vector<Part<Tile>> make_parts(const Axis& axis, int64_t size, int64_t most, F&& add) {
  std::vector<Part<Tile>> parts;
  const int64_t count = ceil_div(axis.out_size, size);
  for (int64_t i = 0; i < count; ++i) {
    Part<Tile> part{part_start(axis.out_size, count, i), part_start(axis.out_size, count, i + 1), {}, {}};
    part.source = sources_of(axis, part.first, part.last);
    // Tiles of all phases side by side: they share their sources.
    const int64_t bands = ceil_div(part.last - part.first, most * axis.out_step);
    for (int64_t b = 0; b < bands; ++b) {
      const int64_t first = part.first + part_start(part.last - part.first, bands, b),
                    last = part.first + part_start(part.last - part.first, bands, b + 1);
      for (size_t f = 0; f < axis.phases.size(); ++f) {
        const KRange j = phase_range(static_cast<int64_t>(f), axis.out_step, first, last);
        if (j.begin < j.end) part.tiles.push_back(add(f, j));
      }
    }
    parts.push_back(std::move(part));
  }
  return parts;
}

// What all items share.
template <class scalar_t>
struct Job {
  const Correlation<scalar_t>& c;
  const Plan& plan;
  const Kernels<scalar_t>& kernels;
  const bool in_place;
  const int64_t lanes, blocks;
  const Axis row_axis, col_axis;
  Strides strides;
  std::vector<Part<RowTile>> rows;
  std::vector<Part<ColumnTile>> cols;

  Job(const Correlation<scalar_t>& correlation, const Plan& p, const Kernels<scalar_t>& k)
      : c(correlation),
        plan(p),
        kernels(k),
        in_place(lanes_in_place(p)),
        lanes(k.lanes),
        blocks(ceil_div(p.spread ? c.G * c.O : c.G, k.lanes)),
        row_axis(split_by_dilation(c.rows({0, c.kH}))),
        col_axis(c.cols({0, c.kW})) {
    int64_t height = 1, width = 1;
    for (int64_t i = 0, n = ceil_div(c.out_h, p.rows); i < n; ++i) {
      const KRange s = sources_of(row_axis, part_start(c.out_h, n, i), part_start(c.out_h, n, i + 1));
      height = std::max(height, s.end - s.begin);
    }
    for (int64_t i = 0, n = ceil_div(c.out_w, p.cols); i < n; ++i) {
      const KRange s = sources_of(col_axis, part_start(c.out_w, n, i), part_start(c.out_w, n, i + 1));
      width = std::max(width, s.end - s.begin);
    }
    strides = {width * lanes, lanes, height * width * lanes};
    if (in_place) strides = {c.source.stride[2], c.source.stride[3], 0};
    const int64_t phases = c.rows({0, 0}).out_step;  // with sources of their own
    rows = make_parts<RowTile>(row_axis, p.rows, most_rows(), [&](size_t f, const KRange& j) {
      RowTile tile{static_cast<int64_t>(f) + j.begin * row_axis.out_step,
                   j.end - j.begin,
                   static_cast<int64_t>(f) % phases == 0,
                   0,
                   {}};
      each_block(
          f, [&](size_t t0, size_t t1) { tile.blocks.push_back(row_segments(f, t0, t1, j, tile.w_row)); });
      return tile;
    });
    cols = make_parts<ColumnTile>(col_axis, p.cols, p.nv,
                                  [&](size_t f, const KRange& j) { return column_tile(f, j); });
  }

  // The K blocks of a phase: at least one, since without taps the result is the bias.
  template <class F>
  void each_block(size_t f, F&& visit) const {
    const size_t taps = row_axis.phases[f].taps.size();
    size_t t0 = 0;
    do {
      const size_t t1 = std::min(taps, t0 + static_cast<size_t>(plan.kh_block));
      visit(t0, t1);
      t0 = t1;
    } while (t0 < taps);
  }

  // Of a tile: no more than the kernel rows of a segment and one (RowSegment).
  int64_t most_rows() const {
    int64_t most = plan.mr;
    for (size_t f = 0; f < row_axis.phases.size(); ++f)
      each_block(f, [&](size_t t0, size_t t1) {
        for (const RowChain& chain : make_row_chains(row_axis, f, t0, t1))
          most = std::min(most, chain.count + 1);
      });
    return most;
  }

  std::vector<RowSegment> row_segments(size_t f, size_t t0, size_t t1, const KRange& j,
                                       int64_t& w_row) const {
    std::vector<RowSegment> segments;
    for (const RowChain& chain : make_row_chains(row_axis, f, t0, t1)) {
      const int64_t source = chain.source + j.begin * row_axis.source_step;
      const KRange window =
          inside(source, row_axis.source_step, chain.count + j.end - j.begin - 1, row_axis.source_size);
      if (chain.count > 1) w_row = chain.k_step * c.kW * lanes;
      if (window.begin == window.end) continue;
      segments.push_back({source * strides.row, chain.k * c.kW * lanes, static_cast<int32_t>(chain.count),
                          static_cast<int32_t>(window.begin), static_cast<int32_t>(window.end)});
    }
    return segments;
  }

  ColumnTile column_tile(size_t f, const KRange& j) const {
    const uint32_t every = (1u << (j.end - j.begin)) - 1;
    ColumnTile tile{static_cast<int64_t>(f) + j.begin * col_axis.out_step,
                    j.end - j.begin,
                    j.begin * col_axis.source_step * strides.col,
                    true,
                    f == 0,
                    {}};
    for (const Tap& tap : col_axis.phases[f].taps) {
      const int64_t source = tap.source + j.begin * col_axis.source_step;
      const KRange met = inside(source, col_axis.source_step, j.end - j.begin, col_axis.source_size);
      if (met.begin == met.end) continue;
      const uint32_t columns = (1u << met.end) - (1u << met.begin);
      tile.all = tile.all && columns == every;
      tile.taps.push_back({static_cast<int32_t>(tap.k * lanes), columns, tap.source * strides.col});
    }
    return tile;
  }

  int64_t chunks() const { return c.N * static_cast<int64_t>(rows.size() * cols.size()); }
};

template <class scalar_t>
class Worker {
 public:
  // Of the blocks [first, last).
  Worker(const Job<scalar_t>& job, int64_t first, int64_t last)
      : job_(job),
        c_(job.c),
        plan_(job.plan),
        kernels_(job.kernels),
        first_(first),
        last_(last),
        scratch_(plan_.scratch_bytes),
        lanes_(job.lanes),
        sets_(plan_.spread ? 1 : c_.O),
        kernel_(c_.C * c_.kH * c_.kW * lanes_) {
    source_ = scratch_.take_bytes<scalar_t>(plan_.source_bytes);
    weight_ = scratch_.take_bytes<scalar_t>(plan_.weight_bytes);
    tiles_ = scratch_.take_bytes<scalar_t>(plan_.tile_bytes);
    check_fits((last - first) * sets_ * (kernel_ + lanes_), sizeof(scalar_t), plan_.weight_bytes);
    bias_ = weight_ + (last - first) * sets_ * kernel_;
    for (int64_t b = first; b < last; ++b) pack_block_weights(b);
  }

  void run(int64_t chunk_first, int64_t chunk_last) {
    for (int64_t i = chunk_first; i < chunk_last; ++i) {
      const Chunk chunk = chunk_at(i);
      if (job_.in_place) {
        const auto [sn, sc, sh, sw] = c_.source.stride;
        Chunk next = i + 1 < chunk_last ? chunk_at(i + 1) : chunk;
        if (next.cols != chunk.cols) next = chunk;
        compute(chunk, next, c_.source.data + chunk.n * sn + first_ * lanes_, first_, last_, 0,
                c_.out.data + chunk.n * c_.out.stride[0] + first_ * lanes_, c_.out.stride[2],
                c_.out.stride[3]);
      } else {
        for (int64_t b = first_; b < last_; ++b) run_block(chunk, b);
      }
    }
    if (streams()) kernels_.finish_streams();
  }

 private:
  struct Chunk {
    int64_t n;
    const Part<RowTile>* rows;
    const Part<ColumnTile>* cols;
  };

  Chunk chunk_at(int64_t i) const {
    const int64_t rows = static_cast<int64_t>(job_.rows.size()),
                  cols = static_cast<int64_t>(job_.cols.size());
    return {i / rows / cols, &job_.rows[static_cast<size_t>(i % rows)],
            &job_.cols[static_cast<size_t>(i / rows % cols)]};
  }

  int64_t units() const { return plan_.spread ? c_.G * c_.O : c_.G; }
  int64_t valid(int64_t block) const { return std::min(lanes_, units() - block * lanes_); }
  scalar_t* weight_of(int64_t block, int64_t o) const {
    return weight_ + ((block - first_) * sets_ + o) * kernel_;
  }
  scalar_t* bias_of(int64_t block, int64_t o) const {
    return bias_ + ((block - first_) * sets_ + o) * lanes_;
  }
  int64_t channel_of(int64_t block, int64_t o) const {
    return plan_.spread ? block * lanes_ : block * lanes_ * c_.O + o;
  }

  bool streams() const {
    const auto [sn, sc, sh, sw] = c_.out.stride;
    return job_.in_place && c_.stream && (sn | sh | sw) % lanes_ == 0 &&
           reinterpret_cast<uintptr_t>(c_.out.data) % 64 == 0;
  }

  void pack_block_weights(int64_t block) {
    for (int64_t o = 0; o < sets_; ++o) {
      if (c_.bias) {
        scalar_t* const bias = bias_of(block, o);
        for (int64_t l = 0; l < lanes_; ++l)
          bias[l] = l < valid(block) ? c_.bias[channel_of(block, o) + l * sets_] : scalar_t(0);
      }
      if (plan_.spread) {
        pack_spread_weights(block);
        continue;
      }
      WeightView<scalar_t> w = c_.weight;
      w.data += block * lanes_ * c_.weight_group + o * w.lane;
      w.lane = c_.weight_group;
      pack_weight(kernels_, w, valid(block), lanes_, c_.C, {0, c_.kH}, {0, c_.kW}, weight_of(block, o));
    }
  }

  void pack_spread_weights(int64_t block) {
    const WeightView<scalar_t>& w = c_.weight;
    scalar_t* const dst = weight_of(block, 0);
    std::fill_n(dst, kernel_, scalar_t(0));
    for (int64_t l = 0; l < valid(block); ++l) {
      const int64_t channel = block * lanes_ + l;
      const scalar_t* src = w.data + channel / c_.O * c_.weight_group + channel % c_.O * w.lane;
      for (int64_t c = 0; c < c_.C; ++c)
        for (int64_t kh = 0; kh < c_.kH; ++kh)
          for (int64_t kw = 0; kw < c_.kW; ++kw)
            dst[((c * c_.kH + kh) * c_.kW + kw) * lanes_ + l] = src[c * w.channel + kh * w.kh + kw * w.kw];
    }
  }

  // Packs the planes of a block, computes it, and stores what does not stand in the tensor.
  void run_block(const Chunk& chunk, int64_t block) {
    const auto [sn, sc, sh, sw] = c_.source.stride;
    const KRange h = chunk.rows->source, w = chunk.cols->source;
    const Strides& s = job_.strides;
    check_fits(s.outer * c_.C, sizeof(scalar_t), plan_.source_bytes);
    const SourceRuns rows = make_box(h, h.end - h.begin), cols = make_box(w, s.row / lanes_);
    if (plan_.spread) {
      spread_planes(chunk.n, block, rows, cols);
    } else {
      for (int64_t c = 0; c < c_.C; ++c) {
        pack_planes(kernels_, c_.source.data + chunk.n * sn + (block * lanes_ * c_.C + c) * sc,
                    {c_.C * sc, sh, sw, 1, lanes_}, valid(block), c_.source_h, c_.source_w, rows, cols, false,
                    source_ + c * s.outer, tiles_, plan_.rows * plan_.cols);
      }
    }
    const scalar_t* source = source_ - h.begin * s.row - w.begin * s.col;
    for (int64_t o = 0; o < sets_; ++o) {
      const auto [tn, tc, th, tw] = c_.out.stride;
      scalar_t* out = c_.out.data + chunk.n * tn + channel_of(block, o) * tc;
      if (plan_.spread) {
        compute(chunk, chunk, source, block, block + 1, o, out, th, tw);
        continue;
      }
      const int64_t height = chunk.rows->last - chunk.rows->first,
                    width = chunk.cols->last - chunk.cols->first;
      check_fits(height * width * lanes_, sizeof(scalar_t), plan_.tile_bytes);
      compute(chunk, chunk, source, block, block + 1, o,
              tiles_ - (chunk.rows->first * width + chunk.cols->first) * lanes_, width * lanes_, lanes_);
      out += chunk.rows->first * th + chunk.cols->first * tw;
      // Rows that follow each other in the tensor without a gap are one long row.
      const bool merge = th == width * tw;
      const int64_t lines = merge ? 1 : height, length = merge ? height * width : width;
      for (int64_t i = 0; i < lines; ++i) {
        kernels_.copy_2d({valid(block), length, 1, lanes_, c_.O * tc, tw, c_.stream},
                         tiles_ + i * length * lanes_, out + i * th);
      }
    }
  }

  void spread_planes(int64_t n, int64_t block, const SourceRuns& rows, const SourceRuns& cols) {
    const auto [sn, sc, sh, sw] = c_.source.stride;
    const int64_t first = block * lanes_, count = valid(block);
    const int64_t g_first = first / c_.O, groups = (first + count - 1) / c_.O - g_first + 1;
    std::vector<int32_t> channel(static_cast<size_t>(lanes_), 0);
    for (int64_t c = 0; c < c_.C; ++c) {
      for (int64_t l = 0; l < count; ++l)
        channel[static_cast<size_t>(l)] = static_cast<int32_t>(((first + l) / c_.O - g_first) * c_.C + c);
      spread_plane(kernels_, c_.source.data + n * sn + g_first * c_.C * sc, sh, sw, groups * c_.C,
                   channel.data(), c_.source_h, c_.source_w, rows, cols, false,
                   source_ + c * job_.strides.outer);
    }
  }

  // The blocks [first, last) of a chunk. `source` and `result` point at the image's first element.
  void compute(const Chunk& chunk, const Chunk& next, const scalar_t* source, int64_t first, int64_t last,
               int64_t o, scalar_t* result, int64_t row, int64_t col) const {
    LaneProblem<scalar_t> tile = {};
    tile.w = weight_of(first, o);
    tile.start = c_.bias ? bias_of(first, o) : nullptr;
    tile.x_row = job_.row_axis.source_step * job_.strides.row;
    tile.x_col = job_.col_axis.source_step * job_.strides.col;
    tile.result_row = job_.row_axis.out_step * row;
    tile.result_col = job_.col_axis.out_step * col;
    tile.outer = c_.C;
    tile.x_outer = job_.strides.outer;
    tile.w_outer = c_.kH * c_.kW * lanes_;
    tile.x_block = tile.result_block = lanes_;
    tile.w_block = sets_ * kernel_;
    tile.start_block = sets_ * lanes_;
    tile.channels = std::min(last * lanes_, units()) - first * lanes_;
    tile.stream = streams();
    // A chunk of tensors where they lie is one row of tiles of each phase.
    const int64_t image = next.n - chunk.n, down = next.rows->first - chunk.rows->first;
    const int64_t x_ahead = image * c_.source.stride[0] +
                            down / job_.row_axis.out_step * job_.row_axis.source_step * job_.strides.row;
    if (!tile.stream) tile.result_ahead = image * c_.out.stride[0] + down * row;
    tile.ahead_col = job_.strides.col;
    for (const RowTile& rows : chunk.rows->tiles) {
      tile.w_row = rows.w_row;
      for (const ColumnTile& cols : chunk.cols->tiles) {
        tile.x_ahead = rows.fetches && cols.fetches ? x_ahead : 0;
        tile.ahead_cols = cols.count * job_.col_axis.source_step;
        tile.taps = cols.taps.data();
        tile.width = static_cast<int64_t>(cols.taps.size());
        tile.all_columns = cols.all;
        tile.x = source + cols.x;
        tile.result = result + rows.first * row + cols.first * col;
        tile.accumulate = false;
        for (const std::vector<RowSegment>& segments : rows.blocks) {
          tile.segments = segments.data();
          tile.segment_count = static_cast<int64_t>(segments.size());
          kernels_.lane_kernel[rows.count][cols.count](tile);
          tile.accumulate = true;
        }
      }
    }
  }

  const Job<scalar_t>& job_;
  const Correlation<scalar_t>& c_;
  const Plan& plan_;
  const Kernels<scalar_t>& kernels_;
  const int64_t first_, last_;
  Scratch scratch_;
  const int64_t lanes_, sets_;  // sets: of weights of a block, one for each result channel of a group
  const int64_t kernel_;        // elements of a set
  scalar_t *source_, *weight_, *tiles_, *bias_;
};

}  // namespace

template <class scalar_t>
void lanewise_correlate(const Correlation<scalar_t>& c, const Plan& plan, const Kernels<scalar_t>& kernels,
                        int threads) {
  const Job<scalar_t> job(c, plan, kernels);
  const LaneCut cut = cut_lanes(plan, job.blocks, job.chunks(), threads);
  parallel_for(cut.blocks * cut.chunks, threads, [&](int64_t i) {
    const int64_t b = i / cut.chunks, part = i % cut.chunks;
    Worker<scalar_t>(job, part_start(job.blocks, cut.blocks, b), part_start(job.blocks, cut.blocks, b + 1))
        .run(part_start(job.chunks(), cut.chunks, part), part_start(job.chunks(), cut.chunks, part + 1));
  });
}

template void lanewise_correlate<float>(const Correlation<float>&, const Plan&, const Kernels<float>&, int);
template void lanewise_correlate<double>(const Correlation<double>&, const Plan&, const Kernels<double>&,
                                         int);

}  // namespace tce
