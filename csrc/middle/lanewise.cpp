// forward and grad_input with lanes over channels: depthwise convolution, where a group has one channel, and
// groups of a few channels. Nothing is broadcast and no lane is wasted, whatever the width of the image.
//
// Lanes are groups, or (Plan::spread) neighbouring result channels: where channels lie side by side, a pixel
// of X is then spread to the lanes of the groups that read it, and results go to the tensor as they are.
//
// Loops, outermost first, with what each holds:
//
//   item (image, blocks, rows, columns)       one thread; disjoint results
//     block (a vector's lanes)                summed planes packed: [c][height][width][lanes]   L2
//       result channel of a group             weights packed: [c][kh][kw][lanes]                L1
//         row and column phase
//           row taps of the phase (kh_block)  steps: offsets of these taps                      L1
//             row, tile (mr pixels)           microkernel, lane by lane: sum over c and taps    registers
//         then: the tiles to the tensor, transposed where its layout asks for it
//
// Depthwise sources whose channels lie side by side could be read without packing; that was tried and is
// slower: pixels a power of two apart fall into few sets of L1, and nothing is fetched ahead.

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
        cols_(make_source_runs(cols, item.col_first, item.col_last, reads_every_column(cols))),
        lanes_(kernels.lanes),
        out_h_(item.row_last - item.row_first),
        out_w_(item.col_last - item.col_first) {
    source_ = scratch_.take_bytes<scalar_t>(plan.source_bytes);
    weight_ = scratch_.take_bytes<scalar_t>(plan.weight_bytes);
    tiles_ = scratch_.take_bytes<scalar_t>(plan.tile_bytes);
    steps_ = scratch_.take<KStep>(plan.kh_block * c.kW);
  }

  void run() {
    check_fits(rows_.length * cols_.length * lanes_ * c_.C, sizeof(scalar_t), plan_.source_bytes);
    const int64_t units = plan_.spread ? c_.G * c_.O : c_.G;
    for (int64_t b = item_.first; b < item_.last; ++b) {
      const int64_t first = b * lanes_, valid = std::min(lanes_, units - first);
      // The first block clears what lies outside the image, for all.
      if (plan_.spread) {
        run_results(first, valid, b == item_.first);
      } else {
        run_groups(first, valid, b == item_.first);
      }
    }
  }

 private:
  // With a stride and a kernel that leaves no column out, columns are packed as they follow each other.
  static bool reads_every_column(const Axis& cols) {
    if (cols.source_step == 1 || cols.phases.empty()) return false;
    const std::vector<Tap>& taps = cols.phases.front().taps;
    return static_cast<int64_t>(taps.size()) >= cols.source_step && taps[1].source == taps[0].source + 1;
  }

  int64_t plane() const { return rows_.length * cols_.length * lanes_; }

  // Lanes are the groups from g_first on.
  void run_groups(int64_t g_first, int64_t valid, bool clear) {
    const auto [sn, sc, sh, sw] = c_.source.stride;
    for (int64_t c = 0; c < c_.C; ++c) {
      pack_planes(kernels_, c_.source.data + item_.n * sn + (g_first * c_.C + c) * sc,
                  {c_.C * sc, sh, sw, 1, lanes_}, valid, c_.source_h, c_.source_w, rows_, cols_, clear,
                  source_ + c * plane(), tiles_, plan_.rows * plan_.cols);
    }
    for (int64_t o = 0; o < c_.O; ++o) {
      WeightView<scalar_t> w = c_.weight;
      w.data += g_first * c_.weight_group + o * w.lane;
      w.lane = c_.weight_group;
      pack_weight(kernels_, w, valid, lanes_, c_.C, {0, c_.kH}, {0, c_.kW}, weight_);
      compute(g_first * c_.O + o, c_.O, valid);
    }
  }

  // Lanes are the result channels from `first` on.
  void run_results(int64_t first, int64_t valid, bool clear) {
    const auto [sn, sc, sh, sw] = c_.source.stride;
    const int64_t g_first = first / c_.O, groups = (first + valid - 1) / c_.O - g_first + 1;
    std::vector<int32_t> channel(static_cast<size_t>(lanes_), 0);
    for (int64_t c = 0; c < c_.C; ++c) {
      for (int64_t l = 0; l < valid; ++l)
        channel[static_cast<size_t>(l)] = static_cast<int32_t>(((first + l) / c_.O - g_first) * c_.C + c);
      spread_plane(kernels_, c_.source.data + item_.n * sn + g_first * c_.C * sc, sh, sw, groups * c_.C,
                   channel.data(), c_.source_h, c_.source_w, rows_, cols_, clear, source_ + c * plane());
    }
    const WeightView<scalar_t>& w = c_.weight;
    const int64_t taps = c_.kH * c_.kW;
    std::fill_n(weight_, c_.C * taps * lanes_, scalar_t(0));
    for (int64_t l = 0; l < valid; ++l) {
      const scalar_t* src = w.data + (first + l) / c_.O * c_.weight_group + (first + l) % c_.O * w.lane;
      for (int64_t c = 0; c < c_.C; ++c)
        for (int64_t kh = 0; kh < c_.kH; ++kh)
          for (int64_t kw = 0; kw < c_.kW; ++kw)
            weight_[((c * c_.kH + kh) * c_.kW + kw) * lanes_ + l] =
                src[c * w.channel + kh * w.kh + kw * w.kw];
    }
    compute(first, 1, valid);
  }

  // The result channels first, first + step, ... of the lanes.
  void compute(int64_t first, int64_t step, int64_t valid) {
    if (c_.bias) start_with_bias(first, step, valid);
    for (size_t fh = 0; fh < row_axis_.phases.size(); ++fh) {
      for (size_t fw = 0; fw < col_axis_.phases.size(); ++fw) run_phases(fh, fw);
    }
    const auto [sn, sc, sh, sw] = c_.out.stride;
    scalar_t* out = c_.out.data + item_.n * sn + first * sc + item_.row_first * sh + item_.col_first * sw;
    // Rows that follow each other in the tensor without a gap are one long row.
    const bool merge = sh == out_w_ * sw;
    const int64_t lines = merge ? 1 : out_h_, width = merge ? out_h_ * out_w_ : out_w_;
    for (int64_t i = 0; i < lines; ++i) {
      kernels_.copy_2d({valid, width, 1, lanes_, step * sc, sw, c_.stream}, tiles_ + i * width * lanes_,
                       out + i * sh);
    }
  }

  // The rows and columns of one pair of phases.
  void run_phases(size_t fh, size_t fw) {
    const KRange jh =
        phase_range(static_cast<int64_t>(fh), row_axis_.out_step, item_.row_first, item_.row_last);
    const KRange jw =
        phase_range(static_cast<int64_t>(fw), col_axis_.out_step, item_.col_first, item_.col_last);
    const int64_t count = jw.end - jw.begin;
    if (count <= 0 || jh.end <= jh.begin) return;
    const std::vector<Tap>&row_taps = row_axis_.phases[fh].taps, &col_taps = col_axis_.phases[fw].taps;
    TileProblem<scalar_t> tile = {};
    tile.b = weight_;
    tile.outer = c_.C;
    tile.a_outer = plane();
    tile.b_outer = c_.kH * c_.kW * lanes_;
    tile.c_stride = col_axis_.out_step * lanes_;
    tile.a_row = cols_.out_step * lanes_;
    tile.accumulate = c_.bias;
    const int64_t column = static_cast<int64_t>(fw) + jw.begin * col_axis_.out_step - item_.col_first;
    const int64_t parts = ceil_div(count, kernels_.max_rows[1]);
    size_t t0 = 0;
    do {  // at least once: without taps the result is the bias
      const size_t t1 = std::min(row_taps.size(), t0 + static_cast<size_t>(plan_.kh_block));
      KStep* step = steps_;
      for (size_t t = t0; t < t1; ++t) {
        for (size_t u = 0; u < col_taps.size(); ++u, ++step) {
          const int64_t pixel =
              (rows_.start[fh][t] + jh.begin) * cols_.length + cols_.start[fw][u] + jw.begin * cols_.out_step;
          step->a = static_cast<int32_t>(pixel * lanes_);
          step->b = static_cast<int32_t>((row_taps[t].k * c_.kW + col_taps[u].k) * lanes_);
        }
      }
      for (int64_t j = jh.begin; j < jh.end; ++j) {
        const int64_t row = static_cast<int64_t>(fh) + j * row_axis_.out_step - item_.row_first;
        // Only taps whose source row exists: with a large kernel on a small image most do not.
        const KRange valid = valid_taps(row_taps, t0, t1, j);
        tile.steps =
            steps_ + (valid.begin - static_cast<int64_t>(t0)) * static_cast<int64_t>(col_taps.size());
        tile.inner = (valid.end - valid.begin) * static_cast<int64_t>(col_taps.size());
        for (int64_t i = 0; i < parts; ++i) {
          const int64_t begin = part_start(count, parts, i), end = part_start(count, parts, i + 1);
          tile.a = source_ + ((j - jh.begin) * cols_.length + begin * cols_.out_step) * lanes_;
          tile.c_tile = tiles_ + (row * out_w_ + column + begin * col_axis_.out_step) * lanes_;
          kernels_.microkernel_lanewise[end - begin](tile);
        }
      }
      tile.accumulate = true;
      t0 = t1;
    } while (t0 < row_taps.size());
  }

  // The taps of [t0, t1) whose source row lies inside the image: one range, since
  // sources go up or down with the tap.
  KRange valid_taps(const std::vector<Tap>& taps, size_t t0, size_t t1, int64_t j) const {
    const auto inside = [&](size_t t) {
      const int64_t h = j * row_axis_.source_step + taps[t].source;
      return h >= 0 && h < c_.source_h;
    };
    while (t0 < t1 && !inside(t0)) ++t0;
    while (t1 > t0 && !inside(t1 - 1)) --t1;
    return {static_cast<int64_t>(t0), static_cast<int64_t>(t1)};
  }

  void start_with_bias(int64_t first, int64_t step, int64_t valid) {
    for (int64_t l = 0; l < lanes_; ++l) tiles_[l] = l < valid ? c_.bias[first + l * step] : scalar_t(0);
    for (int64_t i = 1; i < out_h_ * out_w_; ++i) std::copy_n(tiles_, lanes_, tiles_ + i * lanes_);
  }

  const Correlation<scalar_t>& c_;
  const Plan& plan_;
  const Kernels<scalar_t>& kernels_;
  const Axis &row_axis_, &col_axis_;
  const PlaneItem item_;
  Scratch scratch_;
  const SourceRuns rows_, cols_;
  const int64_t lanes_, out_h_, out_w_;
  scalar_t *source_, *weight_, *tiles_;
  KStep* steps_;
};

}  // namespace

template <class scalar_t>
void lanewise_correlate(const Correlation<scalar_t>& c, const Plan& plan, const Kernels<scalar_t>& kernels,
                        int threads) {
  const Axis rows = c.rows({0, c.kH}), cols = c.cols({0, c.kW});
  for_each_plane_item(
      c, plan, ceil_div(plan.spread ? c.G * c.O : c.G, kernels.lanes), threads,
      [&](const PlaneItem& item) { Worker<scalar_t>(c, plan, kernels, rows, cols, item).run(); });
}

template void lanewise_correlate<float>(const Correlation<float>&, const Plan&, const Kernels<float>&, int);
template void lanewise_correlate<double>(const Correlation<double>&, const Plan&, const Kernels<double>&,
                                         int);

}  // namespace tce
