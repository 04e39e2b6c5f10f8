// forward and grad_input with lanes over neighbouring result channels, whatever the width of the image:
// depthwise convolution, and groups of few channels. A unit (LaneUnits in plan.h) is the groups that share a
// vector, or a group of one or more vectors of results.
//
// Loops, outermost first, with what each holds:
//
//   item (units; chunks)                         weights packed: [vector][c][kh][kw][lanes]        L2
//     chunk (image, rows, columns)               disjoint results
//       channels side by side: all units at once, where they lie (lanes_in_place in plan.h)
//       else unit                                its channels packed: [height][width][c]           L2
//         tile (rows mr, columns nv), vector     lane kernel: sum over c and the row taps          registers
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
  bool fetches;
  int64_t w_col;
  std::vector<LaneRun> runs;
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
  int64_t row, col, outer, size;
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
  const int64_t lanes;
  const LaneUnits unit;
  const int64_t units;
  const int64_t pixel;  // of packed sources
  std::vector<int32_t> pick;
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
        unit(lane_units(p)),
        units(ceil_div(c.G, unit.groups)),
        pixel(lane_pixel(p)),
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
    strides = {width * pixel, pixel, 0, height * width * pixel};
    if (in_place) strides = {c.source.stride[2], c.source.stride[3], 0, 0};
    if (unit.read == LaneRead::kShared) strides.outer = 1;
    if (unit.read == LaneRead::kPicked) {
      pick.assign(static_cast<size_t>(c.C * lanes), 0);
      for (int64_t i = 0; i < c.C; ++i)
        for (int64_t l = 0; l < unit.results; ++l)
          pick[static_cast<size_t>(i * lanes + l)] = static_cast<int32_t>(l / c.O * c.C + i);
    }
    const int64_t phases = c.rows({0, 0}).out_step;  // with sources of their own
    const int64_t mr = most_rows();
    rows = make_parts<RowTile>(row_axis, p.rows, mr, [&](size_t f, const KRange& j) {
      RowTile tile{static_cast<int64_t>(f) + j.begin * row_axis.out_step,
                   j.end - j.begin,
                   static_cast<int64_t>(f) % phases == 0,
                   0,
                   {}};
      each_block(
          f, [&](size_t t0, size_t t1) { tile.blocks.push_back(row_segments(f, t0, t1, j, tile.w_row)); });
      return tile;
    });
    cols = make_parts<ColumnTile>(col_axis, p.cols, p.nv, [&](size_t f, const KRange& j) {
      return column_tile(f, j, k.lane_run[static_cast<int>(unit.read)][mr][j.end - j.begin]);
    });
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

  ColumnTile column_tile(size_t f, const KRange& j, int64_t most_run) const {
    const int64_t count = j.end - j.begin, step = col_axis.source_step;
    ColumnTile tile{static_cast<int64_t>(f) + j.begin * col_axis.out_step,
                    count,
                    j.begin * step * strides.col,
                    f == 0,
                    0,
                    {}};
    for (const RowChain& chain : make_row_chains(col_axis, f, 0, col_axis.phases[f].taps.size())) {
      if (chain.count > 1) tile.w_col = chain.k_step * lanes;
      // Sources inside the image, of those that the chain reads, and the taps that read these.
      const KRange met =
          inside(chain.source + j.begin * step, step, chain.count + count - 1, col_axis.source_size);
      const KRange taps{std::max<int64_t>(0, met.begin - count + 1), std::min(chain.count, met.end)};
      if (met.begin == met.end) continue;
      const int64_t runs = ceil_div(taps.end - taps.begin, most_run);
      for (int64_t i = 0; i < runs; ++i) {
        const int64_t first = taps.begin + part_start(taps.end - taps.begin, runs, i),
                      last = taps.begin + part_start(taps.end - taps.begin, runs, i + 1);
        const KRange sources = intersection({first, last + count - 1}, met);
        tile.runs.push_back({(chain.source + first * step) * strides.col,
                             static_cast<int32_t>((chain.k + first * chain.k_step) * lanes),
                             static_cast<int32_t>(last - first),
                             (1u << (sources.end - first)) - (1u << (sources.begin - first))});
      }
    }
    return tile;
  }

  int64_t chunks() const { return c.N * static_cast<int64_t>(rows.size() * cols.size()); }
};

template <class scalar_t>
class Worker {
 public:
  // Of the units [first, last).
  Worker(const Job<scalar_t>& job, int64_t first, int64_t last)
      : job_(job),
        c_(job.c),
        plan_(job.plan),
        kernels_(job.kernels),
        first_(first),
        last_(last),
        scratch_(plan_.scratch_bytes),
        lanes_(job.lanes),
        unit_(job.unit),
        kernel_(c_.C * c_.kH * c_.kW * lanes_) {
    source_ = scratch_.take_bytes<scalar_t>(plan_.source_bytes);
    weight_ = scratch_.take_bytes<scalar_t>(plan_.weight_bytes);
    tiles_ = scratch_.take_bytes<scalar_t>(plan_.tile_bytes);
    const int64_t vectors = (last - first) * unit_.vectors;
    check_fits(vectors * (kernel_ + lanes_), sizeof(scalar_t), plan_.weight_bytes);
    bias_ = weight_ + vectors * kernel_;
    for (int64_t u = first; u < last; ++u)
      for (int64_t v = 0; v < unit_.vectors; ++v) pack_vector_weights(u, v);
  }

  void run(int64_t chunk_first, int64_t chunk_last) {
    for (int64_t i = chunk_first; i < chunk_last; ++i) {
      const Chunk chunk = chunk_at(i);
      if (job_.in_place) {
        const auto [sn, sc, sh, sw] = c_.source.stride;
        Chunk next = i + 1 < chunk_last ? chunk_at(i + 1) : chunk;
        if (next.cols != chunk.cols) next = chunk;
        compute(chunk, next, c_.source.data + chunk.n * sn + first_ * unit_.sources, first_, last_, 0,
                unit_.vectors, result_of(chunk.n, first_, 0), c_.out.stride[2], c_.out.stride[3]);
      } else {
        for (int64_t u = first_; u < last_; ++u) run_unit(chunk, u);
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

  // Groups of the units [first, last).
  int64_t groups(int64_t first, int64_t last) const {
    return std::min(last * unit_.groups, c_.G) - first * unit_.groups;
  }
  // Results of a unit's vector.
  int64_t valid(int64_t unit, int64_t vector) const {
    return std::min(groups(unit, unit + 1) * c_.O - vector * lanes_, unit_.results);
  }
  scalar_t* weight_of(int64_t unit, int64_t vector) const {
    return weight_ + ((unit - first_) * unit_.vectors + vector) * kernel_;
  }
  scalar_t* bias_of(int64_t unit, int64_t vector) const {
    return bias_ + ((unit - first_) * unit_.vectors + vector) * lanes_;
  }
  int64_t channel_of(int64_t unit, int64_t vector) const { return unit * unit_.channels + vector * lanes_; }
  // Of the image n.
  scalar_t* result_of(int64_t n, int64_t unit, int64_t vector) const {
    return c_.out.data + n * c_.out.stride[0] + channel_of(unit, vector) * c_.out.stride[1];
  }

  bool streams() const {
    const auto [sn, sc, sh, sw] = c_.out.stride;
    return job_.in_place && c_.stream && unit_.channels % lanes_ == 0 && (sn | sh | sw) % lanes_ == 0 &&
           reinterpret_cast<uintptr_t>(c_.out.data) % 64 == 0;
  }

  void pack_vector_weights(int64_t unit, int64_t vector) {
    const int64_t count = valid(unit, vector), channel = channel_of(unit, vector);
    scalar_t *const dst = weight_of(unit, vector), *const bias = bias_of(unit, vector);
    for (int64_t l = 0; c_.bias && l < lanes_; ++l) bias[l] = l < count ? c_.bias[channel + l] : scalar_t(0);
    WeightView<scalar_t> w = c_.weight;
    w.data += unit * unit_.groups * c_.weight_group + vector * lanes_ * w.lane;
    const auto pack = [&](int64_t count, int64_t lane) {
      pack_weight_lanes(kernels_, w, count, lanes_, c_.C, {0, c_.kH}, {0, c_.kW}, dst + lane);
    };
    if (count < lanes_) std::fill_n(dst, kernel_, scalar_t(0));
    if (c_.O == 1) w.lane = c_.weight_group;
    if (unit_.groups == 1 || w.lane * c_.O == c_.weight_group) return pack(count, 0);
    for (int64_t g = 0; g < count / c_.O; ++g, w.data += c_.weight_group) pack(c_.O, g * c_.O);
  }

  // Packs a unit's channels, computes its results, and stores them.
  void run_unit(const Chunk& chunk, int64_t unit) {
    const auto [sn, sc, sh, sw] = c_.source.stride;
    const KRange h = chunk.rows->source, w = chunk.cols->source;
    const Strides& s = job_.strides;
    check_fits(s.size, sizeof(scalar_t), plan_.source_bytes);
    const SourceRuns rows = make_box(h, h.end - h.begin), cols = make_box(w, s.row / job_.pixel);
    const int64_t height = chunk.rows->last - chunk.rows->first, width = chunk.cols->last - chunk.cols->first;
    pack_planes(kernels_, c_.source.data + chunk.n * sn + unit * unit_.sources * sc,
                {sc, sh, sw, 1, job_.pixel}, groups(unit, unit + 1) * c_.C, c_.source_h, c_.source_w, rows,
                cols, false, source_, tiles_,
                plan_.tile_bytes / job_.pixel / static_cast<int64_t>(sizeof(scalar_t)));
    const scalar_t* source = source_ - h.begin * s.row - w.begin * s.col;
    const auto [tn, tc, th, tw] = c_.out.stride;
    check_fits(height * width * lanes_, sizeof(scalar_t), plan_.tile_bytes);
    for (int64_t v = 0; v < unit_.vectors; ++v) {
      compute(chunk, chunk, source, unit, unit + 1, v, v + 1,
              tiles_ - (chunk.rows->first * width + chunk.cols->first) * lanes_, width * lanes_, lanes_);
      scalar_t* const out = result_of(chunk.n, unit, v) + chunk.rows->first * th + chunk.cols->first * tw;
      // Rows that follow each other in the tensor without a gap are one long row.
      const bool merge = th == width * tw;
      const int64_t lines = merge ? 1 : height, length = merge ? height * width : width;
      for (int64_t i = 0; i < lines; ++i) {
        kernels_.copy_2d({valid(unit, v), length, 1, lanes_, tc, tw, c_.stream}, tiles_ + i * length * lanes_,
                         out + i * th);
      }
    }
  }

  // The vectors [v_first, v_last) of the units [first, last), of a chunk. `source` and `result` point at their
  // first channels in the image's first element.
  void compute(const Chunk& chunk, const Chunk& next, const scalar_t* source, int64_t first, int64_t last,
               int64_t v_first, int64_t v_last, scalar_t* result, int64_t row, int64_t col) const {
    LaneProblem<scalar_t> tile = {};
    tile.w = weight_of(first, v_first);
    tile.start = c_.bias ? bias_of(first, v_first) : nullptr;
    tile.x_row = job_.row_axis.source_step * job_.strides.row;
    tile.x_col = job_.col_axis.source_step * job_.strides.col;
    tile.result_row = job_.row_axis.out_step * row;
    tile.result_col = job_.col_axis.out_step * col;
    tile.outer = c_.C;
    tile.x_outer = job_.strides.outer;
    tile.w_outer = c_.kH * c_.kW * lanes_;
    tile.result_block = unit_.results;
    tile.w_block = kernel_;
    tile.start_block = lanes_;
    tile.groups = 1;
    if (unit_.read == LaneRead::kShared) {
      tile.groups = last - first;
      tile.x_group = c_.C;
      tile.result_group = c_.O;
      tile.channels = std::min(c_.O, v_last * lanes_) - v_first * lanes_;
    } else {
      tile.x_block = unit_.sources;
      tile.channels = groups(first, last) * c_.O;
      tile.x_channels = groups(first, last) * c_.C;
    }
    if (unit_.read == LaneRead::kPicked) tile.pick = job_.pick.data();
    const auto& lane_kernel = kernels_.lane_kernel[static_cast<int>(unit_.read)];
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
        tile.runs = cols.runs.data();
        tile.run_count = static_cast<int64_t>(cols.runs.size());
        tile.w_col = cols.w_col;
        tile.x = source + cols.x;
        tile.result = result + rows.first * row + cols.first * col;
        tile.accumulate = false;
        for (const std::vector<RowSegment>& segments : rows.blocks) {
          tile.segments = segments.data();
          tile.segment_count = static_cast<int64_t>(segments.size());
          lane_kernel[rows.count][cols.count](tile);
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
  const int64_t lanes_;
  const LaneUnits& unit_;
  const int64_t kernel_;  // elements of a vector's weights
  scalar_t *source_, *weight_, *tiles_, *bias_;
};

}  // namespace

template <class scalar_t>
void lanewise_correlate(const Correlation<scalar_t>& c, const Plan& plan, const Kernels<scalar_t>& kernels,
                        int threads) {
  if (c.O == 0) return;  // no results
  const Job<scalar_t> job(c, plan, kernels);
  const LaneCut cut = cut_lanes(plan, job.units, job.chunks(), threads);
  parallel_for(cut.blocks * cut.chunks, threads, [&](int64_t i) {
    const int64_t b = i / cut.chunks, part = i % cut.chunks;
    Worker<scalar_t>(job, part_start(job.units, cut.blocks, b), part_start(job.units, cut.blocks, b + 1))
        .run(part_start(job.chunks(), cut.chunks, part), part_start(job.chunks(), cut.chunks, part + 1));
  });
}

template void lanewise_correlate<float>(const Correlation<float>&, const Plan&, const Kernels<float>&, int);
template void lanewise_correlate<double>(const Correlation<double>&, const Plan&, const Kernels<double>&,
                                         int);

}  // namespace tce
