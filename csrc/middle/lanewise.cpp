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
//         or strip (mr rows), vector             strip kernel: the whole sum, column by column     registers
//       where the tiles do not stand in the tensor itself: to it, transposed where its layout asks for it

#include <algorithm>

#include "lanewise_job.h"
#include "scratch.h"

namespace tce {

namespace {

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
        compute(chunk, i + 1 < chunk_last ? chunk_at(i + 1) : chunk,
                c_.source.data + chunk.n * sn + first_ * unit_.sources, first_, last_, 0, unit_.vectors,
                result_of(chunk.n, first_, 0), c_.out.stride[2], c_.out.stride[3]);
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
  static bool same(const Chunk& a, const Chunk& b) {
    return a.n == b.n && a.rows == b.rows && a.cols == b.cols;
  }

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
    // A strip comes back for the other half of a line when the first one has long gone to memory.
    if (job_.step > 0 && lanes_ * sizeof(scalar_t) < 64) return false;
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
    if (job_.step > 0) return compute_strips(chunk, next, source, first, last, result, row, col);
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
    const Chunk& ahead = next.cols == chunk.cols ? next : chunk;
    const int64_t image = ahead.n - chunk.n, down = ahead.rows->first - chunk.rows->first;
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

  // The same in strips.
  void compute_strips(const Chunk& chunk, const Chunk& next, const scalar_t* source, int64_t first,
                      int64_t last, scalar_t* result, int64_t row, int64_t col) const {
    const int64_t S = job_.step;
    const int64_t x_row = job_.row_axis.source_step / S * job_.strides.row,
                  x_col = job_.col_axis.source_step / S * job_.strides.col;
    LaneStrip<scalar_t> strip = {};
    strip.x_row = x_row, strip.x_col = x_col;
    strip.w_block = kernel_;
    strip.start = c_.bias ? bias_of(first, 0) : nullptr;
    strip.result_row = job_.row_axis.out_step * row;
    strip.result_col = job_.col_axis.out_step * col;
    strip.channels = groups(first, last);
    strip.stream = streams();
    // Of the next chunk whole rows are fetched, if a strip's channels are all that there are.
    const bool fetches = job_.in_place && strip.channels == c_.G && !same(next, chunk) &&
                         next.rows->tiles.size() == chunk.rows->tiles.size() &&
                         next.cols->tiles.size() == chunk.cols->tiles.size();
    const scalar_t* const next_source = source + (next.n - chunk.n) * c_.source.stride[0];
    scalar_t* const next_result = result + (next.n - chunk.n) * c_.out.stride[0];
    for (size_t i = 0; i < chunk.rows->tiles.size(); ++i) {
      const RowTile& rows = chunk.rows->tiles[i];
      const StripTaps& h = rows.strip;
      strip.w_row = h.k_step * c_.kW * lanes_;
      strip.kernel_rows = h.count;
      strip.rows = bits(h.met);
      for (size_t j = 0; j < chunk.cols->tiles.size(); ++j) {
        const ColumnTile& cols = chunk.cols->tiles[j];
        const StripTaps& w = cols.strip;
        strip.x = source + h.source * job_.strides.row + w.source * job_.strides.col;
        strip.w = weight_of(first, 0) + (h.k * c_.kW + w.k) * lanes_;
        strip.w_col = w.k_step * lanes_;
        strip.result = result + rows.first * row + cols.first * col;
        strip.cols = cols.count;
        strip.col_begin = w.met.begin, strip.col_end = w.met.end;
        strip.x_ahead = strip.result_ahead = nullptr;
        if (fetches) {
          const StripTaps &below = next.rows->tiles[i].strip, &side = next.cols->tiles[j].strip;
          if (rows.fetches && cols.fetches && job_.strides.col == c_.G)
            strip.x_ahead = next_source + below.source * job_.strides.row +
                            std::max<int64_t>(0, below.count - S) * x_row + side.source * job_.strides.col +
                            side.met.begin * x_col + cols.x_ahead * c_.G;
          if (!strip.stream && col == c_.G)
            strip.result_ahead = next_result + next.rows->tiles[i].first * row + next.cols->first * col +
                                 cols.result_ahead * c_.G;
        }
        // No taps: a kernel of one that meets nothing.
        const int64_t kh = std::max<int64_t>(1, h.count), kw = std::max<int64_t>(1, w.count);
        const auto& kernels = kernels_.strip_kernel[S][rows.count];
        const auto known = kh <= kMaxStripKh ? kernels[kh][kw] : nullptr;
        (known ? known : kernels[0][kw])(strip);
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
