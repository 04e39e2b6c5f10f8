// forward and grad_input with lanes over the columns of a row: depthwise convolution and small groups where
// columns lie side by side. Nothing is transposed; a source row in registers serves all rows of the tile that
// have a tap on it. Planes are read where they lie (rows_in_place in plan.h), or packed.
//
// Loops, outermost first, with what each holds:
//
//   item (image, groups, rows, columns)     one thread; disjoint results
//     groups, as many as L1 holds           (one, if planes are packed: [c][height][width])      L1, L2
//       channel block (c_block)
//         result channel
//           job: row and column phase,      segments: taps on neighbouring rows                  L1
//                row taps (kh_block)
//             rows (mr), columns (nv)
//               group                       row kernel: sum over c and the job's taps            registers
//         after the last block: where the tiles do not stand in the tensor itself, the channel's rows to it

#include <algorithm>
#include <vector>

#include "planes.h"
#include "rows_jobs.h"
#include "scratch.h"

namespace tce {

namespace {

// Bytes of the planes that are computed side by side.
constexpr int64_t kNearBytes = 16 * 1024;

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
        packs_(!rows_in_place(plan)),
        out_h_(item.row_last - item.row_first),
        phases_(static_cast<int64_t>(cols.phases.size())),
        j_first_(item.col_first / cols.out_step),
        width_(ceil_div(item.col_last, cols.out_step) - j_first_),
        in_place_(!packs_ || (cols.out_step == 1 && c.out.stride[3] == 1)),
        keep_tiles_(c.C > plan.c_block),
        half_(plan.lanes < kernels.lanes),
        lanes_(plan.lanes) {
    if (packs_) {
      rows_ = make_source_runs(rows, item.row_first, item.row_last, false);
      cols_ = make_source_runs(cols, item.col_first, item.col_last, false);
    }
    source_ = scratch_.take_bytes<scalar_t>(plan.source_bytes);
    tiles_ = scratch_.take_bytes<scalar_t>(plan.tile_bytes);
    mode_ = packs_                 ? RowMode::kPlain
            : cols.source_step > 1 ? RowMode::kPairs
            : cols.out_step > 1    ? RowMode::kZipped
                                   : RowMode::kPlain;
    jobs_ =
        make_row_jobs({plan, rows, cols, item_, rows_, cols_, mode_, c.C, c.kH, c.kW, c.source_h, c.source_w,
                       c.source.stride[2], c.weight.kh, c.weight.kw, [&](int64_t k, int64_t vectors) {
                         return kernels.sweep_kernel[half_][static_cast<int>(mode_)][k][vectors] != nullptr;
                       }});
  }

  void run() {
    const auto [sn, sc, sh, sw] = c_.source.stride;
    const int64_t plane = rows_.length * cols_.length;
    // The last vector of a row may run over the end of the last plane.
    if (packs_)
      check_fits(plane * std::min(plan_.c_block, c_.C) + kMaxVectors * lanes_, sizeof(scalar_t),
                 plan_.source_bytes);
    if (!in_place_)
      check_fits(phases_ * out_h_ * width_ * (keep_tiles_ ? c_.O : 1), sizeof(scalar_t), plan_.tile_bytes);
    const int64_t bytes = (c_.C * c_.source_h * c_.source_w + c_.O * out_h_ * c_.out_w) *
                          static_cast<int64_t>(sizeof(scalar_t));
    const int64_t groups = packs_ ? 1 : std::max<int64_t>(1, kNearBytes / std::max<int64_t>(1, bytes));
    for (int64_t g = item_.first; g < item_.last; g += groups) {
      const int64_t count = std::min(groups, item_.last - g);
      int64_t c0 = 0;
      do {  // at least once: without channels the result is the bias
        const int64_t channels = std::min(plan_.c_block, c_.C - c0);
        const bool first = c0 == 0, last = c0 + channels >= c_.C;
        const scalar_t* source = c_.source.data + item_.n * sn + (g * c_.C + c0) * sc;
        if (packs_)
          pack_planes(kernels_, source, {sc, sh, sw, plane, 1}, channels, c_.source_h, c_.source_w, rows_,
                      cols_, g == item_.first && first, source_);
        for (int64_t o = 0; o < c_.O; ++o) {
          for (const RowJob& job : jobs_) run_job(job, packs_ ? source_ : source, g, count, o, c0, channels);
          if (last && !in_place_) store(g * c_.O + o, tiles_ + tile_of(o));
        }
        c0 += plan_.c_block;
      } while (c0 < c_.C);
    }
  }

 private:
  // Of `count` groups from g on.
  void run_job(const RowJob& job, const scalar_t* source, int64_t g, int64_t count, int64_t o, int64_t c0,
               int64_t channels) {
    const auto [sn, sc, sh, sw] = c_.out.stride;
    RowProblem<scalar_t> tile = {};
    scalar_t* result = tiles_ + tile_of(o) +
                       (static_cast<int64_t>(job.fw) * out_h_ + job.row - item_.row_first) * width_ +
                       job.jw.begin - j_first_;
    int64_t result_row = width_;
    if (in_place_) {
      result = c_.out.data + item_.n * sn + (g * c_.O + o) * sc + job.row * sh + item_.col_first;
      result_row = sh;
    }
    const auto& weight = c_.weight;
    tile.w = weight.data + g * c_.weight_group + o * weight.lane + c0 * weight.channel;
    tile.w_row = job.w_row;
    tile.w_col = weight.kw;
    tile.w_outer = weight.channel;
    tile.w_plane = c_.weight_group;
    tile.start = c_.bias ? c_.bias + g * c_.O + o : nullptr;
    tile.start_plane = c_.O;
    tile.x_row = job.x_row;
    tile.x_outer = packs_ ? rows_.length * cols_.length : c_.source.stride[1];
    tile.x_plane = c_.C * c_.source.stride[1];
    tile.result_row = result_row * job.row_step;
    tile.result_plane = c_.O * sc;
    tile.planes = count;
    tile.outer = channels;
    tile.width = job.width;
    tile.second_width = job.second_width;
    tile.skip = job.skip;
    tile.accumulate = c0 > 0 || !job.first;
    tile.stream = c_.stream;
    for (const RowTiles& tiles : job.tiles) {
      tile.tiles = tiles.count;
      tile.segments = tiles.segments.data();
      tile.segment_count = static_cast<int64_t>(tiles.segments.size());
      for (const ColumnPart& part : job.parts) {
        tile.x = source + part.x;
        tile.taps = part.taps.data();
        tile.result = result + tiles.first * tile.result_row + part.result;
        tile.cols = part.cols;
        const int mode = static_cast<int>(mode_);
        const auto kernel = job.sweep ? kernels_.sweep_kernel[half_][mode][job.sweep][part.vectors]
                                      : kernels_.row_kernel[half_][mode][part.vectors][tiles.mr];
        if (part.count == 1) {
          kernel(tile);
        } else {
          run_parts(kernel, tile, part);
        }
      }
    }
  }

  // Equal parts side by side, as if they were planes.
  template <class Kernel>
  void run_parts(Kernel kernel, const RowProblem<scalar_t>& given, const ColumnPart& part) const {
    RowProblem<scalar_t> tile = given;
    tile.planes = part.count;
    tile.result_plane = part.cols;
    tile.x_plane = part.cols * (packs_ ? 1 : col_axis_.source_step) / (packs_ ? 1 : col_axis_.out_step);
    tile.w_plane = tile.start_plane = 0;
    for (int64_t p = 0; p < given.planes; ++p) {
      kernel(tile);
      tile.x += given.x_plane, tile.w += given.w_plane, tile.result += given.result_plane;
      if (tile.start) tile.start += given.start_plane;
    }
  }

  // Tiles of a result channel: [column phase][row][column of the phase].
  int64_t tile_of(int64_t o) const { return keep_tiles_ ? o * phases_ * out_h_ * width_ : 0; }

  void store(int64_t channel, const scalar_t* tiles) {
    const auto [sn, sc, sh, sw] = c_.out.stride;
    const int64_t step = col_axis_.out_step, phase = out_h_ * width_;
    // The results that every phase has; at either end some may have one more.
    int64_t begin = 0, end = INT64_MAX;
    for (int64_t f = 0; f < phases_; ++f) {
      const KRange j = phase_range(f, step, item_.col_first, item_.col_last);
      begin = std::max(begin, j.begin), end = std::min(end, j.end);
    }
    end = std::max(begin, end);
    for (int64_t h = 0; h < out_h_; ++h) {
      scalar_t* out = c_.out.data + item_.n * sn + channel * sc + (item_.row_first + h) * sh;
      const scalar_t* row = tiles + h * width_ - j_first_;
      kernels_.copy_2d({phases_, end - begin, phase, 1, sw, step * sw}, row + begin, out + begin * step * sw);
      for (int64_t f = 0; f < phases_; ++f) {
        const KRange j = phase_range(f, step, item_.col_first, item_.col_last);
        for (int64_t i = j.begin; i < std::min(j.end, begin); ++i)
          out[(f + i * step) * sw] = row[f * phase + i];
        for (int64_t i = std::max(j.begin, end); i < j.end; ++i)
          out[(f + i * step) * sw] = row[f * phase + i];
      }
    }
  }

  const Correlation<scalar_t>& c_;
  const Plan& plan_;
  const Kernels<scalar_t>& kernels_;
  const Axis &row_axis_, &col_axis_;
  const PlaneItem item_;
  Scratch scratch_;
  const bool packs_;
  SourceRuns rows_ = {}, cols_ = {};  // packed
  const int64_t out_h_, phases_;
  const int64_t j_first_, width_;  // of a row of tiles, in results of a phase
  const bool in_place_, keep_tiles_, half_;
  const int64_t lanes_;
  RowMode mode_;
  std::vector<RowJob> jobs_;
  scalar_t *source_, *tiles_;
};

}  // namespace

template <class scalar_t>
void rows_correlate(const Correlation<scalar_t>& c, const Plan& plan, const Kernels<scalar_t>& kernels,
                    int threads) {
  const Axis rows = rows_in_place(plan) ? split_by_dilation(c.rows({0, c.kH})) : c.rows({0, c.kH});
  const Axis cols = c.cols({0, c.kW});
  for_each_plane_item(c, plan, c.G, threads, [&](const PlaneItem& item) {
    Worker<scalar_t>(c, plan, kernels, rows, cols, item).run();
  });
}

template void rows_correlate<float>(const Correlation<float>&, const Plan&, const Kernels<float>&, int);
template void rows_correlate<double>(const Correlation<double>&, const Plan&, const Kernels<double>&, int);

}  // namespace tce
