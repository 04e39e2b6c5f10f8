// forward and grad_input with lanes over the columns of a row: depthwise convolution and small groups where
// columns lie side by side. Planes are read and written along memory, nothing is transposed; a source row in
// registers serves all rows of the tile that have a tap on it.
//
// Loops, outermost first, with what each holds:
//
//   item (image, groups, rows, columns)     one thread; disjoint results
//     group
//       channel block (c_block)             planes packed: [c][height][width]                    L1, L2
//         result channel
//           job: row and column phase,      weights packed: [c][tap], in the order of the tiles  L1
//                row taps (kh_block)        segments: taps on neighbouring rows                  L1
//             rows (mr), columns (nv)       row kernel: sum over c and the job's taps            registers
//         after the last block: where the tiles do not stand in the tensor itself, the channel's rows to it

#include <algorithm>
#include <vector>

#include "planes.h"
#include "scratch.h"

namespace tce {

namespace {

// One pair of phases and some of its row taps.
struct Job {
  size_t fh, fw;
  KRange jh, jw;
  std::vector<RowSegment> segments;  // x: packed row of j = 0
  std::vector<KRange> inside;        // of a segment: the packed rows that lie in the image
  std::vector<int32_t> taps;         // packed column of j = 0
  std::vector<int64_t> weights;      // offsets in W, in packed order
  bool first;                        // of its phases
};

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
        out_h_(item.row_last - item.row_first),
        phases_(static_cast<int64_t>(cols.phases.size())),
        j_first_(item.col_first / cols.out_step),
        width_(ceil_div(item.col_last, cols.out_step) - j_first_),
        in_place_(cols.out_step == 1 && c.out.stride[3] == 1),
        keep_tiles_(c.C > plan.c_block),
        trims_(plan.kh_block > 8) {
    source_ = scratch_.take_bytes<scalar_t>(plan.source_bytes);
    weight_ = scratch_.take_bytes<scalar_t>(plan.weight_bytes);
    tiles_ = scratch_.take_bytes<scalar_t>(plan.tile_bytes);
    for (size_t fh = 0; fh < rows.phases.size(); ++fh) {
      for (size_t fw = 0; fw < cols.phases.size(); ++fw) add_jobs(fh, fw);
    }
  }

  void run() {
    const auto [sn, sc, sh, sw] = c_.source.stride;
    const int64_t plane = rows_.length * cols_.length;
    // The last vector of a row may run over the end of the last plane.
    check_fits(plane * std::min(plan_.c_block, c_.C) + kMaxVectors * kernels_.lanes, sizeof(scalar_t),
               plan_.source_bytes);
    if (!in_place_)
      check_fits(phases_ * out_h_ * width_ * (keep_tiles_ ? c_.O : 1), sizeof(scalar_t), plan_.tile_bytes);
    for (int64_t g = item_.first; g < item_.last; ++g) {
      int64_t c0 = 0;
      do {  // at least once: without channels the result is the bias
        const int64_t channels = std::min(plan_.c_block, c_.C - c0);
        const bool first = c0 == 0, last = c0 + channels >= c_.C;
        pack_planes(kernels_, c_.source.data + item_.n * sn + (g * c_.C + c0) * sc, {sc, sh, sw, plane, 1},
                    channels, c_.source_h, c_.source_w, rows_, cols_, g == item_.first && first, source_);
        for (int64_t o = 0; o < c_.O; ++o) {
          for (const Job& job : jobs_) run_job(job, g, o, c0, channels);
          if (last && !in_place_) store(g * c_.O + o, tiles_ + tile_of(o));
        }
        c0 += plan_.c_block;
      } while (c0 < c_.C);
    }
  }

 private:
  // The jobs of one pair of phases.
  void add_jobs(size_t fh, size_t fw) {
    Job job = {};
    job.fh = fh, job.fw = fw;
    job.jh = phase_range(static_cast<int64_t>(fh), row_axis_.out_step, item_.row_first, item_.row_last);
    job.jw = phase_range(static_cast<int64_t>(fw), col_axis_.out_step, item_.col_first, item_.col_last);
    if (job.jh.end <= job.jh.begin || job.jw.end <= job.jw.begin) return;
    for (const int64_t start : cols_.start[fw]) job.taps.push_back(static_cast<int32_t>(start));
    const std::vector<Tap>& taps = row_axis_.phases[fh].taps;
    job.first = true;
    size_t t0 = 0;
    do {  // at least once: without taps the result is the bias
      const size_t t1 = std::min(taps.size(), t0 + static_cast<size_t>(plan_.kh_block));
      job.segments.clear(), job.inside.clear(), job.weights.clear();
      for (size_t t = t0; t < t1;) t = add_segment(job, t, t1);
      jobs_.push_back(job);
      job.first = false;
      t0 = t1;
    } while (t0 < taps.size());
  }

  // The longest segment of the row taps from t on, upwards or downwards. Returns the tap after it.
  size_t add_segment(Job& job, size_t t, size_t t1) {
    const std::vector<Tap>& taps = row_axis_.phases[job.fh].taps;
    const std::vector<int64_t>& start = rows_.start[job.fh];
    size_t end = t + 1;
    const bool down = end < t1 && start[end] == start[t] - 1;
    while (end < t1 && start[end] == start[end - 1] + (down ? -1 : 1)) ++end;
    const int64_t count = static_cast<int64_t>(end - t), first = down ? start[end - 1] : start[t];
    job.segments.push_back(
        {static_cast<int32_t>(first), static_cast<int32_t>(job.weights.size()), static_cast<int32_t>(count)});
    KRange valid{0, 0};
    for (const SourceRuns::Run& run : rows_.runs) {
      const int64_t row = first + job.jh.begin;
      if (row < run.base || row >= run.base + run.count) continue;
      valid = inside(run, rows_.step, c_.source_h);
      valid.begin += run.base, valid.end += run.base;
    }
    job.inside.push_back(valid);
    for (int64_t i = 0; i < count; ++i) {
      const Tap& row_tap = taps[down ? end - 1 - static_cast<size_t>(i) : t + static_cast<size_t>(i)];
      for (const Tap& col_tap : col_axis_.phases[job.fw].taps)
        job.weights.push_back(row_tap.k * c_.weight.kh + col_tap.k * c_.weight.kw);
    }
    return end;
  }

  void run_job(const Job& job, int64_t g, int64_t o, int64_t c0, int64_t channels) {
    const int64_t taps = static_cast<int64_t>(job.weights.size());
    const scalar_t* w = c_.weight.data + g * c_.weight_group + o * c_.weight.lane + c0 * c_.weight.channel;
    check_fits(channels * taps, sizeof(scalar_t), plan_.weight_bytes);
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < taps; ++i) weight_[c * taps + i] = w[c * c_.weight.channel + job.weights[i]];

    const auto [sn, sc, sh, sw] = c_.out.stride;
    const int64_t row = static_cast<int64_t>(job.fh) + job.jh.begin * row_axis_.out_step;
    RowProblem<scalar_t> tile = {};
    scalar_t* result = tiles_ + tile_of(o) +
                       (static_cast<int64_t>(job.fw) * out_h_ + row - item_.row_first) * width_ +
                       job.jw.begin - j_first_;
    int64_t result_row = width_;
    if (in_place_) {
      result = c_.out.data + item_.n * sn + (g * c_.O + o) * sc + row * sh + item_.col_first;
      result_row = sh;
    }
    tile.w = weight_;
    tile.taps = job.taps.data();
    tile.x_row = cols_.length;
    tile.result_row = result_row * row_axis_.out_step;
    tile.x_outer = rows_.length * cols_.length;
    tile.w_outer = taps;
    tile.outer = channels;
    tile.width = static_cast<int64_t>(job.taps.size());
    tile.start = c_.bias ? c_.bias[g * c_.O + o] : scalar_t(0);
    tile.accumulate = c0 > 0 || !job.first;
    const int64_t cols = job.jw.end - job.jw.begin;
    const int64_t vectors = ceil_div(cols, kernels_.lanes), parts = ceil_div(vectors, plan_.nv);
    segments_.resize(job.segments.size());
    tile.segments = segments_.data();
    for (int64_t j = job.jh.begin; j < job.jh.end;) {
      const int64_t left = job.jh.end - j, mr = tile_rows(job, left);
      tile.tiles = trims_ ? 1 : left / mr;
      tile.segment_count = make_segments(job, j, mr);
      for (int64_t i = 0; i < parts; ++i) {
        const int64_t begin = part_start(vectors, parts, i), end = part_start(vectors, parts, i + 1);
        tile.x = source_ + job.jw.begin + begin * kernels_.lanes;
        tile.result = result + (j - job.jh.begin) * tile.result_row + begin * kernels_.lanes;
        tile.cols = std::min(cols, end * kernels_.lanes) - begin * kernels_.lanes;
        kernels_.row_kernel[end - begin][mr](tile);
      }
      j += tile.tiles * mr;
    }
  }

  // Rows of the next tile: no more than a segment's kernel rows and one.
  int64_t tile_rows(const Job& job, int64_t left) const {
    int64_t mr = std::min<int64_t>(plan_.mr, left);
    for (const RowSegment& segment : job.segments) mr = std::min<int64_t>(mr, segment.rows + 1);
    return mr;
  }

  // The segments of the tiles from j on; without the kernel rows that read nothing but padding if `trims_`:
  // with a large kernel on a small image these are most. Returns their number.
  int64_t make_segments(const Job& job, int64_t j, int64_t mr) {
    size_t count = 0;
    for (size_t s = 0; s < job.segments.size(); ++s) {
      const RowSegment& segment = job.segments[s];
      const int64_t row = segment.x + j;  // the tile's row 0 reads the packed rows from here on
      const int64_t least = mr - 1;       // kernel rows, see RowSegment
      int64_t first = 0, rows = segment.rows;
      if (trims_) {
        const KRange valid = job.inside[s];
        if (valid.begin >= valid.end || row + rows + mr - 1 <= valid.begin || row >= valid.end) continue;
        const int64_t most = std::max<int64_t>(0, rows - least);
        first = std::clamp<int64_t>(valid.begin - (row + mr - 1), 0, most);
        rows -= first;
        rows -= std::clamp<int64_t>(row + segment.rows - valid.end, 0, std::max<int64_t>(0, rows - least));
      }
      const int64_t width = static_cast<int64_t>(job.taps.size());
      segments_[count++] = {static_cast<int32_t>((row + first) * cols_.length),
                            static_cast<int32_t>(segment.w + first * width), static_cast<int32_t>(rows)};
    }
    return static_cast<int64_t>(count);
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
  const SourceRuns rows_, cols_;
  const int64_t out_h_, phases_;
  const int64_t j_first_, width_;  // of a row of tiles, in results of a phase
  const bool in_place_, keep_tiles_, trims_;
  std::vector<Job> jobs_;
  std::vector<RowSegment> segments_;
  scalar_t *source_, *weight_, *tiles_;
};

}  // namespace

template <class scalar_t>
void rows_correlate(const Correlation<scalar_t>& c, const Plan& plan, const Kernels<scalar_t>& kernels,
                    int threads) {
  const Axis rows = c.rows({0, c.kH}), cols = c.cols({0, c.kW});
  for_each_plane_item(c, plan, c.G, threads, [&](const PlaneItem& item) {
    Worker<scalar_t>(c, plan, kernels, rows, cols, item).run();
  });
}

template void rows_correlate<float>(const Correlation<float>&, const Plan&, const Kernels<float>&, int);
template void rows_correlate<double>(const Correlation<double>&, const Plan&, const Kernels<double>&, int);

}  // namespace tce
