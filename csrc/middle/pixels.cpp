// forward and grad_input with lanes over pixels: a tile's rows are a group's result channels, its columns
// neighbouring pixels of the packed plane. The plane's pixels are taken as one long line, rows after rows:
// what is computed in the padding between two rows is thrown away, and narrow images waste no lanes.
//
// Loops, outermost first, with what each holds:
//
//   item (image, groups, rows, columns)   one thread; disjoint results
//     group
//       channel block (c_block)           planes packed: [c][height][width]      L2
//         result channels (mr)            weights packed: [c][kh][kw][mr]        L1
//           row and column phase          steps: offsets of the phase's taps     L1
//             pixels (nv vectors)         microkernel: sum over c and taps       registers
//           after the last block: the tiles [channel][pixel] to the tensor, row by row

#include <algorithm>
#include <vector>

#include "planes.h"
#include "scratch.h"

namespace tce {

namespace {

template <class scalar_t>
class Worker {
 public:
  Worker(const Correlation<scalar_t>& c, const Plan& plan, const Kernels<scalar_t>& kernels, const Axis& rows,
         const Axis& cols, const PlaneItem& item)
      : c_(c),
        plan_(plan),
        kernels_(kernels),
        row_axis_(rows),
        col_axis_(cols),
        item_(item),
        scratch_(plan.scratch_bytes),
        rows_(make_source_runs(rows, item.row_first, item.row_last, false)),
        cols_(make_source_runs(cols, item.col_first, item.col_last, false)),
        keep_tiles_(c.C > plan.c_block) {
    source_ = scratch_.take_bytes<scalar_t>(plan.source_bytes);
    weight_ = scratch_.take_bytes<scalar_t>(plan.weight_bytes);
    tiles_ = scratch_.take_bytes<scalar_t>(plan.tile_bytes);
    steps_ = scratch_.take<KStep>(c.kH * c.kW);
    line_ = 0;
    for (size_t fh = 0; fh < rows.phases.size(); ++fh) {
      for (size_t fw = 0; fw < cols.phases.size(); ++fw) {
        const Run run = run_of(fh, fw);
        if (run.height <= 0 || run.width <= 0) continue;
        runs_.push_back(run);
        line_ += run.vectors * kernels.lanes;
      }
    }
  }

  void run() {
    const auto [sn, sc, sh, sw] = c_.source.stride;
    const int64_t plane = rows_.length * cols_.length;
    // A vector may run over the end of the last plane.
    check_fits(plane * std::min(plan_.c_block, c_.C) + kernels_.lanes, sizeof(scalar_t), plan_.source_bytes);
    check_fits(line_ * (keep_tiles_ ? c_.O : std::min<int64_t>(plan_.mr, c_.O)), sizeof(scalar_t),
               plan_.tile_bytes);
    for (int64_t g = item_.first; g < item_.last; ++g) {
      int64_t c0 = 0;
      do {  // at least once: without channels the result is the bias
        const int64_t channels = std::min(plan_.c_block, c_.C - c0);
        const scalar_t* x = c_.source.data + item_.n * sn + (g * c_.C + c0) * sc;
        if (reads_in_place()) {
          planes_ = x + item_.row_first * sh + item_.col_first;
          plane_ = sc;
        } else {
          pack_planes(kernels_, x, {sc, sh, sw, plane, 1}, channels, c_.source_h, c_.source_w, rows_, cols_,
                      g == item_.first && c0 == 0, source_);
          planes_ = source_;
          plane_ = plane;
        }
        for (int64_t o = 0; o < c_.O; o += plan_.mr)
          run_channels(g, o, std::min<int64_t>(plan_.mr, c_.O - o), c0, channels);
        c0 += plan_.c_block;
      } while (c0 < c_.C);
    }
  }

 private:
  // The results of one pair of phases: `height` x `width` pixels, on a line of the plane.
  struct Run {
    size_t fh, fw;
    KRange jh, jw;
    int64_t height, width, vectors;
    int64_t line;  // where its tiles begin in a line of tiles
  };

  // A pointwise convolution whose pixels are read once, whole vectors of them, needs no packing.
  bool reads_in_place() const {
    return c_.kH * c_.kW == 1 && rows_.length == 1 && cols_.runs.size() == 1 && cols_.step == 1 &&
           c_.source.stride[3] == 1 && c_.O <= plan_.mr && cols_.length % kernels_.lanes == 0 &&
           cols_.runs[0].position == item_.col_first && rows_.runs[0].position == item_.row_first &&
           item_.row_last <= c_.source_h && item_.col_last <= c_.source_w;
  }

  Run run_of(size_t fh, size_t fw) const {
    Run run = {};
    run.fh = fh, run.fw = fw;
    run.jh = phase_range(static_cast<int64_t>(fh), row_axis_.out_step, item_.row_first, item_.row_last);
    run.jw = phase_range(static_cast<int64_t>(fw), col_axis_.out_step, item_.col_first, item_.col_last);
    run.height = run.jh.end - run.jh.begin, run.width = run.jw.end - run.jw.begin;
    run.vectors = ceil_div((run.height - 1) * cols_.length + run.width, kernels_.lanes);
    run.line = line_;
    return run;
  }

  // mr result channels from o on, for one block of summed channels.
  void run_channels(int64_t g, int64_t o, int64_t mr, int64_t c0, int64_t channels) {
    WeightView<scalar_t> w = c_.weight;
    w.data += g * c_.weight_group + o * w.lane + c0 * w.channel;
    pack_weight(kernels_, w, mr, mr, channels, {0, c_.kH}, {0, c_.kW}, weight_);
    scalar_t* tiles = tiles_ + (keep_tiles_ ? o * line_ : 0);
    const bool first = c0 == 0, last = c0 + channels >= c_.C;
    for (int64_t i = 0; first && c_.bias && i < mr; ++i) {
      std::fill_n(tiles + i * line_, line_, c_.bias[g * c_.O + o + i]);
    }
    for (const Run& run : runs_) {
      sum(run, mr, channels, !first || c_.bias, tiles + run.line);
      if (last) store(run, g * c_.O + o, mr, tiles + run.line);
    }
  }

  void sum(const Run& run, int64_t mr, int64_t channels, bool accumulate, scalar_t* tiles) {
    const std::vector<Tap>&row_taps = row_axis_.phases[run.fh].taps,
          &col_taps = col_axis_.phases[run.fw].taps;
    KStep* step = steps_;
    for (size_t t = 0; t < row_taps.size(); ++t) {
      for (size_t u = 0; u < col_taps.size(); ++u, ++step) {
        step->a = static_cast<int32_t>((row_taps[t].k * c_.kW + col_taps[u].k) * mr);
        step->b = static_cast<int32_t>((rows_.start[run.fh][t] + run.jh.begin) * cols_.length +
                                       cols_.start[run.fw][u] + run.jw.begin);
      }
    }
    TileProblem<scalar_t> tile = {};
    tile.a = weight_;
    tile.steps = steps_;
    tile.inner = step - steps_;
    tile.outer = channels;
    tile.a_outer = c_.kH * c_.kW * mr;
    tile.b_outer = plane_;
    tile.c_stride = line_;
    tile.start_row = line_;
    const int64_t parts = ceil_div(run.vectors, plan_.nv);
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t begin = part_start(run.vectors, parts, i), end = part_start(run.vectors, parts, i + 1);
      tile.b = planes_ + begin * kernels_.lanes;
      tile.c_tile = tiles + begin * kernels_.lanes;
      tile.start = accumulate ? tile.c_tile : nullptr;
      kernels_.microkernel[end - begin][mr](tile);
    }
  }

  void store(const Run& run, int64_t channel, int64_t mr, const scalar_t* tiles) {
    const auto [sn, sc, sh, sw] = c_.out.stride;
    const int64_t h = static_cast<int64_t>(run.fh) + run.jh.begin * row_axis_.out_step;
    const int64_t w = static_cast<int64_t>(run.fw) + run.jw.begin * col_axis_.out_step;
    scalar_t* out = c_.out.data + item_.n * sn + channel * sc + h * sh + w * sw;
    for (int64_t i = 0; i < run.height; ++i) {
      kernels_.copy_2d({mr, run.width, line_, 1, sc, sw * col_axis_.out_step, c_.stream},
                       tiles + i * cols_.length, out + i * row_axis_.out_step * sh);
    }
  }

  const Correlation<scalar_t>& c_;
  const Plan& plan_;
  const Kernels<scalar_t>& kernels_;
  const Axis &row_axis_, &col_axis_;
  const PlaneItem item_;
  Scratch scratch_;
  const SourceRuns rows_, cols_;
  const bool keep_tiles_;
  std::vector<Run> runs_;
  const scalar_t* planes_ = nullptr;  // of the channel block, packed or where they lie
  int64_t plane_ = 0;                 // from channel to channel
  int64_t line_;                      // tile elements of one result channel
  scalar_t *source_, *weight_, *tiles_;
  KStep* steps_;
};

}  // namespace

template <class scalar_t>
void pixels_correlate(const Correlation<scalar_t>& c, const Plan& plan, const Kernels<scalar_t>& kernels,
                      int threads) {
  const Axis rows = c.rows({0, c.kH}), cols = c.cols({0, c.kW});
  for_each_plane_item(c, plan, c.G, threads, [&](const PlaneItem& item) {
    Worker<scalar_t>(c, plan, kernels, rows, cols, item).run();
  });
}

template void pixels_correlate<float>(const Correlation<float>&, const Plan&, const Kernels<float>&, int);
template void pixels_correlate<double>(const Correlation<double>&, const Plan&, const Kernels<double>&, int);

}  // namespace tce
