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
#include <cstdlib>
#include <numeric>
#include <vector>

#include "planes.h"
#include "scratch.h"

namespace tce {

namespace {

// Bytes of the planes that are computed side by side.
constexpr int64_t kNearBytes = 16 * 1024;

// Row taps that read neighbouring source rows, in ascending k. Of a gradient the rows descend (`down`): its
// results are then counted from the last one, so that they ascend with the source all the same.
struct Chain {
  int64_t source;    // source row of the first tap for j = 0
  int64_t position;  // packed: the packed row
  int64_t k, k_step, count;
};

// Row tiles with the same terms, one below the other. Of a sweep: `count` rows.
struct Tiles {
  int64_t first, mr, count;
  std::vector<RowSegment> segments;
};

// Column tiles.
struct Part {
  int64_t vectors, x, result, cols;  // source column and result column of the first
  std::vector<RowTap> taps;
};

// One pair of phases (kZipped: both column phases, in a sweep all four) and some of its row taps.
struct Job {
  size_t fh, fw;
  KRange jh, jw;
  bool first;              // of its phases
  int64_t sweep;           // K of the sweep, or 0
  int64_t way;             // from a result to the next: 1, or -1 from the last one up
  int64_t row, row_step;   // row of the first result, and from it to the next
  int64_t x_row, w_row;    // from a row of the window, of the kernel to the next, in elements
  int64_t skip;
  int64_t width, second_width;
  std::vector<Part> parts;
  std::vector<Tiles> tiles;
};

// With a dilation the results that share sources are no neighbours, but those of a phase of this axis are.
Axis split_by_dilation(const Axis& axis) {
  int64_t distance = axis.source_step;
  for (const Phase& phase : axis.phases)
    if (phase.taps.size() > 1) distance = std::abs(phase.taps[1].source - phase.taps[0].source);
  const int64_t m = distance / std::gcd(distance, axis.source_step);
  Axis split{axis.out_size, axis.source_size, axis.out_step * m, axis.source_step * m, {}};
  for (int64_t first = 0; first < std::min(split.out_step, axis.out_size); ++first) {
    Phase phase{ceil_div(axis.out_size - first, split.out_step), axis.phases[first % axis.out_step].taps};
    for (Tap& tap : phase.taps) tap.source += first / axis.out_step * axis.source_step;
    split.phases.push_back(std::move(phase));
  }
  return split;
}

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
    mode_ = packs_                ? RowMode::kPlain
            : cols.source_step > 1 ? RowMode::kPairs
            : cols.out_step > 1    ? RowMode::kZipped
                                   : RowMode::kPlain;
    if (mode_ == RowMode::kZipped && add_zipped_sweep()) return;
    for (size_t fh = 0; fh < rows.phases.size(); ++fh) {
      for (size_t fw = 0; fw < (packs_ ? cols.phases.size() : 1); ++fw) add_jobs(fh, fw);
    }
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
          for (const Job& job : jobs_) run_job(job, packs_ ? source_ : source, g, count, o, c0, channels);
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
    add_parts(job);
    const std::vector<Tap>& taps = row_axis_.phases[fh].taps;
    job.way = taps.size() > 1 && taps[1].source < taps[0].source ? -1 : 1;
    job.row = static_cast<int64_t>(fh) + (job.way > 0 ? job.jh.begin : job.jh.end - 1) * row_axis_.out_step;
    job.row_step = job.way * row_axis_.out_step;
    job.x_row = job.way * (packs_ ? cols_.length : row_axis_.source_step * c_.source.stride[2]);
    job.first = true;
    if (add_sweep(job)) return;
    size_t t0 = 0;
    do {  // at least once: without taps the result is the bias
      const size_t t1 = std::min(taps.size(), t0 + static_cast<size_t>(plan_.kh_block));
      add_tiles(job, make_chains(job, t0, t1));
      jobs_.push_back(job);
      job.first = false;
      t0 = t1;
    } while (t0 < taps.size());
  }

  void add_parts(Job& job) const {
    const int64_t cols = mode_ == RowMode::kZipped ? item_.col_last - item_.col_first : job.jw.end - job.jw.begin;
    const int64_t vectors = ceil_div(cols, lanes_), parts = ceil_div(vectors, plan_.nv);
    for (int64_t i = 0; i < parts; ++i) {
      Part part = {};
      int64_t first = part_start(vectors, parts, i), last = part_start(vectors, parts, i + 1);
      if (mode_ == RowMode::kZipped) first = 2 * i, last = first + 2;
      part.vectors = last - first;
      part.result = first * lanes_;
      part.cols = std::min(cols, last * lanes_) - first * lanes_;
      part.x = (mode_ == RowMode::kZipped ? part.result / 2 : part.result) + job.jw.begin;
      part.x *= packs_ ? 1 : col_axis_.source_step;
      add_taps(job, part);
      job.parts.push_back(std::move(part));
    }
  }

  void add_taps(Job& job, Part& part) const {
    const std::vector<Tap>& taps = col_axis_.phases[job.fw].taps;
    const auto add = [&](const Tap& tap, int64_t start) {
      part.taps.push_back({tap.k * c_.weight.kw, static_cast<int32_t>(start), {}});
      for (int64_t v = 0; v < 2 * kMaxVectors; ++v)
        for (int64_t l = 0; l < lanes_; ++l) {
          const int64_t column = part.x + start + v * lanes_ + l;
          if (packs_ || (column >= 0 && column < c_.source_w)) part.taps.back().lanes[v] |= 1 << l;
        }
    };
    if (mode_ == RowMode::kPairs) {
      std::vector<Tap> single;
      for (size_t t = 0; t < taps.size(); ++t) {
        if (t + 1 < taps.size() && taps[t + 1].source == taps[t].source + 1) {
          add(taps[t], taps[t].source), ++t;
        } else {
          single.push_back(taps[t]);
        }
      }
      job.width = static_cast<int64_t>(part.taps.size());
      for (const Tap& tap : single) add(tap, tap.source);
    } else {
      for (size_t t = 0; t < taps.size(); ++t) add(taps[t], packs_ ? cols_.start[job.fw][t] : taps[t].source);
      job.width = static_cast<int64_t>(part.taps.size());
      if (mode_ == RowMode::kZipped && col_axis_.phases.size() > 1)
        for (const Tap& tap : col_axis_.phases[1].taps) add(tap, tap.source);
    }
    job.second_width = static_cast<int64_t>(part.taps.size()) - job.width;
  }

  // The row taps [t0, t1) of a phase.
  std::vector<Chain> make_chains(const Job& job, size_t t0, size_t t1) const {
    const std::vector<Tap>& taps = row_axis_.phases[job.fh].taps;
    const int64_t step = row_axis_.source_step * job.way;
    std::vector<Chain> chains;
    for (size_t t = t0; t < t1; ++t) {
      const Tap& tap = taps[t];
      const auto chain = std::find_if(chains.begin(), chains.end(), [&](const Chain& c) {
        return tap.source == c.source + c.count * step && (c.count == 1 || tap.k == c.k + c.count * c.k_step);
      });
      if (chain == chains.end()) {
        chains.push_back({tap.source, 0, tap.k, 0, 1});
      } else if (chain->count++ == 1) {
        chain->k_step = tap.k - chain->k;
      }
    }
    if (packs_)
      for (Chain& chain : chains) chain.position = packed_row(job, chain);
    return chains;
  }

  // Of a chain's first tap, from those that have packed rows of their own: they do not miss the image.
  int64_t packed_row(const Job& job, const Chain& chain) const {
    const std::vector<Tap>& taps = row_axis_.phases[job.fh].taps;
    const int64_t step = row_axis_.source_step;
    for (size_t t = 0; t < taps.size(); ++t) {
      const int64_t i = (taps[t].source - chain.source) / (step * job.way);
      if (i < 0 || i >= chain.count || taps[t].source != chain.source + i * step * job.way) continue;
      if ((job.jh.end - 1) * step + taps[t].source >= 0 && job.jh.begin * step + taps[t].source < c_.source_h)
        return rows_.start[job.fh][t] - i * job.way;
    }
    return 0;
  }

  void add_tiles(Job& job, const std::vector<Chain>& chains) const {
    job.tiles.clear();
    job.w_row = 0;
    int64_t most = plan_.mr;  // no more than a chain's kernel rows and one
    for (const Chain& chain : chains) {
      most = std::min(most, chain.count + 1);
      if (chain.count > 1) job.w_row = chain.k_step * c_.weight.kh;
    }
    const int64_t rows = job.jh.end - job.jh.begin;
    bool inner = false;  // the tiles before: all terms of the window lie in the image
    for (int64_t first = 0; first < rows;) {
      const int64_t left = rows - first;
      Tiles tiles{first, ceil_div(left, ceil_div(left, most)), 1, {}};
      bool whole = true;
      for (const Chain& chain : chains) {
        const RowSegment segment = make_segment(job, chain, first, tiles.mr);
        whole = whole && segment.begin == 0 && segment.end == chain.count + tiles.mr - 1;
        if (segment.begin < segment.end) tiles.segments.push_back(segment);
      }
      first += tiles.mr;
      if (whole && inner && job.tiles.back().mr == tiles.mr) {
        ++job.tiles.back().count;
      } else {
        job.tiles.push_back(std::move(tiles));
      }
      inner = whole;
    }
  }

  // For `count` results from `first` on, counted the job's way.
  RowSegment make_segment(const Job& job, const Chain& chain, int64_t first, int64_t count) const {
    const int64_t j = job.way > 0 ? job.jh.begin + first : job.jh.end - 1 - first;
    const int64_t source = chain.source + j * row_axis_.source_step;
    const KRange rows = inside(source, job.way * row_axis_.source_step, chain.count + count - 1);
    const int64_t x = packs_ ? (chain.position + j) * cols_.length : source * c_.source.stride[2];
    return {x, chain.k * c_.weight.kh, static_cast<int32_t>(chain.count), static_cast<int32_t>(rows.begin),
            static_cast<int32_t>(rows.end)};
  }

  // The i < window whose source rows, source + i * step, lie in the image.
  KRange inside(int64_t source, int64_t step, int64_t window) const {
    const int64_t begin = step > 0 ? ceil_div(-source, step) : ceil_div(source - c_.source_h + 1, -step);
    const int64_t end = step > 0 ? ceil_div(c_.source_h - source, step) : floor_div(source, -step) + 1;
    const int64_t from = std::clamp<int64_t>(begin, 0, window);
    return {from, std::clamp(end, from, window)};
  }

  // Depthwise, with a K x K kernel whose elements follow each other, all in one block.
  bool may_sweep(const Job& job) const {
    const int64_t k = c_.kH;
    if (packs_ || c_.C != 1 || k != c_.kW || k > std::min<int64_t>(kMaxSweep, plan_.kh_block) ||
        c_.weight.kw != 1 || c_.weight.kh != k) {
      return false;
    }
    return std::all_of(job.parts.begin(), job.parts.end(), [&](const Part& part) {
      return kernels_.sweep_kernel[half_][static_cast<int>(mode_)][k][part.vectors] != nullptr;
    });
  }

  // As a sweep, if the kernel's rows read neighbouring rows of the source.
  bool add_sweep(Job& job) {
    const std::vector<Tap>& taps = row_axis_.phases[job.fh].taps;
    const int64_t k = c_.kH, rows = job.jh.end - job.jh.begin, step = mode_ == RowMode::kPairs ? 2 : 1;
    if (mode_ == RowMode::kZipped || static_cast<int64_t>(taps.size()) != k || rows < k - 1 || k < 2 ||
        row_axis_.source_step % step != 0 ||
        job.width != k / step || job.second_width != k % step || !may_sweep(job)) {
      return false;
    }
    const int64_t unit = job.way * row_axis_.source_step / step;
    for (size_t t = 1; t < taps.size(); ++t)
      if (taps[t].source != taps[t - 1].source + unit) return false;
    const int64_t j = job.way > 0 ? job.jh.begin : job.jh.end - 1;
    const int64_t source = taps[0].source + j * row_axis_.source_step;
    const KRange window = inside(source, unit, (rows - 1) * step + k);
    job.x_row = unit * c_.source.stride[2];
    job.sweep = k;
    job.tiles.push_back({0, 0, rows, {{source * c_.source.stride[2], 0, static_cast<int32_t>(k),
                                       static_cast<int32_t>(window.begin), static_cast<int32_t>(window.end)}}});
    jobs_.push_back(job);
    return true;
  }

  // All four pairs of phases as one sweep: result row 2 s - padding + k takes source row s with kernel row k.
  bool add_zipped_sweep() {
    Job job = {};
    job.jw = phase_range(0, 2, item_.col_first, item_.col_last);
    if (row_axis_.out_step != 2 || row_axis_.phases.size() != 2 || col_axis_.phases.size() != 2) return false;
    add_parts(job);
    if (job.width == 0 || job.second_width == 0 || !may_sweep(job)) return false;
    const auto padding_of = [](size_t f, const Tap& tap) {
      return 2 * tap.source + tap.k - static_cast<int64_t>(f);
    };
    const int64_t k = c_.kH;
    for (const Axis* axis : {&row_axis_, &col_axis_}) {  // dilation 1
      for (size_t f = 0; f < 2; ++f) {
        if (axis->phases[f].taps.empty()) return false;
        for (const Tap& tap : axis->phases[f].taps)
          if (padding_of(f, tap) != padding_of(0, axis->phases[0].taps[0])) return false;
      }
    }
    const int64_t padding = padding_of(0, row_axis_.phases[0].taps[0]);
    const int64_t first = ceil_div(item_.row_first + padding - k + 1, 2);
    const int64_t rows = floor_div(item_.row_last - 1 + padding, 2) + 1 - first;
    const KRange window = inside(first, 1, rows);
    job.first = true;
    job.sweep = k;
    job.way = job.row_step = 1;
    job.row = item_.row_first;
    job.x_row = c_.source.stride[2];
    job.skip = item_.row_first - (2 * first - padding);
    job.tiles.push_back({0, 0, item_.row_last - item_.row_first,
                         {{first * c_.source.stride[2], 0, static_cast<int32_t>(rows),
                           static_cast<int32_t>(window.begin), static_cast<int32_t>(window.end)}}});
    jobs_.push_back(job);
    return true;
  }

  // Of `count` groups from g on.
  void run_job(const Job& job, const scalar_t* source, int64_t g, int64_t count, int64_t o, int64_t c0,
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
    for (const Tiles& tiles : job.tiles) {
      tile.tiles = tiles.count;
      tile.segments = tiles.segments.data();
      tile.segment_count = static_cast<int64_t>(tiles.segments.size());
      for (const Part& part : job.parts) {
        tile.x = source + part.x;
        tile.taps = part.taps.data();
        tile.result = result + tiles.first * tile.result_row + part.result;
        tile.cols = part.cols;
        const int mode = static_cast<int>(mode_);
        const auto kernel = job.sweep ? kernels_.sweep_kernel[half_][mode][job.sweep][part.vectors]
                                      : kernels_.row_kernel[half_][mode][part.vectors][tiles.mr];
        kernel(tile);
      }
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
  std::vector<Job> jobs_;
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
