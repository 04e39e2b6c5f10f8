// forward and grad_input of the algorithm lanewise (lanewise.cpp): what all its items share, and the tiles or
// strips of its chunks.

#pragma once

#include <algorithm>
#include <vector>

#include "planes.h"
#include "rows_jobs.h"

namespace tce {

// The taps of a strip along one axis, in the order of their sources, which follow each other.
struct StripTaps {
  int64_t source;            // position of the first one for the strip's first result
  int64_t k, k_step, count;  // kernel elements
  KRange met;                // of all the sources those inside the image
};

// Neighbouring results of a phase, in a row.
struct ColumnTile {
  int64_t first, count;  // result column of the first
  bool fetches;
  int64_t x, w_col;  // the source of tap 0 without padding for the first result; from tap to tap of a run
  std::vector<LaneRun> runs;
  StripTaps strip;
  int64_t x_ahead, result_ahead;  // from which column on a strip fetches the next chunk's lines
};

// The same in a column, and the terms of each K block.
struct RowTile {
  int64_t first, count;
  bool fetches;  // what the next chunk reads; of tiles with the same sources one does
  int64_t w_row;
  std::vector<std::vector<RowSegment>> blocks;
  StripTaps strip;
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

// Of a strip along an axis, for the results j of phase f; the sources of its taps lie source_step / step apart.
inline StripTaps strip_taps(const Axis& axis, size_t f, const KRange& j, int64_t step) {
  const std::vector<RowChain> chains =
      make_row_chains(axis, f, 0, axis.phases[f].taps.size(), axis.source_step / step);
  if (chains.empty()) return {0, 0, 0, 0, {0, 0}};
  const RowChain& taps = chains.front();
  const int64_t source = taps.source + j.begin * axis.source_step;
  return {
      source, taps.k, taps.k_step, taps.count,
      inside(source, axis.source_step / step, step * (j.end - j.begin - 1) + taps.count, axis.source_size)};
}

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
  const int64_t step;   // of strips; 0: tiles
  std::vector<int32_t> pick;
  const int64_t row_phases, col_phases;  // with sources of their own
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
        step(in_strips(p) ? strip_step(p) : 0),
        row_phases(c.rows({0, 0}).out_step),
        col_phases(c.cols({0, 0}).out_step),
        row_axis(split_by_dilation(c.rows({0, c.kH}))),
        col_axis(step > 0 ? split_by_dilation(c.cols({0, c.kW})) : c.cols({0, c.kW})) {
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
    if (step > 0) {
      rows = make_parts<RowTile>(row_axis, p.rows, p.mr, [&](size_t f, const KRange& j) {
        RowTile tile = row_tile(f, j);
        tile.strip = strip_taps(row_axis, f, j, step);
        return tile;
      });
      cols = make_parts<ColumnTile>(col_axis, p.cols, p.cols,
                                    [&](size_t f, const KRange& j) { return strip_columns(f, j); });
      return;
    }
    const int64_t mr = most_rows();
    rows = make_parts<RowTile>(row_axis, p.rows, mr, [&](size_t f, const KRange& j) {
      RowTile tile = row_tile(f, j);
      each_block(
          f, [&](size_t t0, size_t t1) { tile.blocks.push_back(row_segments(f, t0, t1, j, tile.w_row)); });
      return tile;
    });
    cols = make_parts<ColumnTile>(col_axis, p.cols, p.nv, [&](size_t f, const KRange& j) {
      return column_tile(f, j, k.lane_run[static_cast<int>(unit.read)][mr][j.end - j.begin]);
    });
  }

  // A row tile without terms.
  RowTile row_tile(size_t f, const KRange& j) const {
    RowTile tile = {};
    tile.first = static_cast<int64_t>(f) + j.begin * row_axis.out_step;
    tile.count = j.end - j.begin;
    tile.fetches = static_cast<int64_t>(f) % row_phases == 0;
    return tile;
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
    const int64_t count = j.end - j.begin, distance = col_axis.source_step;
    ColumnTile tile = {};
    tile.first = static_cast<int64_t>(f) + j.begin * col_axis.out_step;
    tile.count = count;
    tile.x = j.begin * distance * strides.col;
    tile.fetches = f == 0;
    for (const RowChain& chain : make_row_chains(col_axis, f, 0, col_axis.phases[f].taps.size())) {
      if (chain.count > 1) tile.w_col = chain.k_step * lanes;
      // Sources inside the image, of those that the chain reads, and the taps that read these.
      const KRange met =
          inside(chain.source + j.begin * distance, distance, chain.count + count - 1, col_axis.source_size);
      const KRange taps{std::max<int64_t>(0, met.begin - count + 1), std::min(chain.count, met.end)};
      if (met.begin == met.end) continue;
      // Where lanes sum over channels, the order of a result's terms depends on where a run begins: at the same
      // taps in all tiles.
      const KRange cut = unit.read == LaneRead::kOwn ? taps : KRange{0, chain.count};
      const int64_t runs = ceil_div(cut.end - cut.begin, most_run);
      for (int64_t i = 0; i < runs; ++i) {
        const int64_t first = std::max(taps.begin, cut.begin + part_start(cut.end - cut.begin, runs, i)),
                      last = std::min(taps.end, cut.begin + part_start(cut.end - cut.begin, runs, i + 1));
        if (first >= last) continue;
        const KRange sources = intersection({first, last + count - 1}, met);
        tile.runs.push_back({(chain.source + first * distance) * strides.col,
                             static_cast<int32_t>((chain.k + first * chain.k_step) * lanes),
                             static_cast<int32_t>(last - first),
                             (1u << (sources.end - first)) - (1u << (sources.begin - first))});
      }
    }
    return tile;
  }

  ColumnTile strip_columns(size_t f, const KRange& j) const {
    const int64_t phase = static_cast<int64_t>(f);
    ColumnTile tile = {};
    tile.first = phase + j.begin * col_axis.out_step;
    tile.count = j.end - j.begin;
    tile.strip = strip_taps(col_axis, f, j, step);
    // Strips with the same sources fetch them once; all that write the same lines fetch these in equal parts.
    tile.fetches = phase % col_phases == 0;
    tile.x_ahead = phase / col_phases * tile.count * step;
    tile.result_ahead = phase * tile.count;
    return tile;
  }

  int64_t chunks() const { return c.N * static_cast<int64_t>(rows.size() * cols.size()); }
};

}  // namespace tce
