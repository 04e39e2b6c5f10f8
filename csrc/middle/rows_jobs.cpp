// Builds the jobs of the rows algorithm (rows_jobs.h).

#include "rows_jobs.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>

namespace tce {

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

namespace {

// The row taps of a phase, in ascending order of their sources.
std::vector<Tap> row_taps(const Axis& rows, size_t phase, size_t t0, size_t t1) {
  const std::vector<Tap>& all = rows.phases[phase].taps;
  std::vector<Tap> taps(all.data() + t0, all.data() + t1);
  if (taps.size() > 1 && taps[1].source < taps[0].source) std::reverse(taps.begin(), taps.end());
  return taps;
}

}  // namespace

std::vector<RowChain> make_row_chains(const Axis& rows, size_t phase, size_t t0, size_t t1,
                                      int64_t distance) {
  std::vector<RowChain> chains;
  for (const Tap& tap : row_taps(rows, phase, t0, t1)) {
    const auto chain = std::find_if(chains.begin(), chains.end(), [&](const RowChain& c) {
      return tap.source == c.source + c.count * distance;
    });
    if (chain == chains.end()) {
      chains.push_back({tap.source, tap.k, 0, 1});
    } else if (chain->count++ == 1) {
      chain->k_step = tap.k - chain->k;
    }
  }
  return chains;
}

namespace {

class JobMaker {
 public:
  explicit JobMaker(const RowJobInput& input)
      : in_(input), packs_(!rows_in_place(input.plan)), lanes_(input.plan.lanes) {}

  std::vector<RowJob> make() {
    if (in_.mode == RowMode::kZipped && add_zipped_sweep()) return jobs_;
    for (size_t fh = 0; fh < in_.rows.phases.size(); ++fh) {
      for (size_t fw = 0; fw < (packs_ ? in_.cols.phases.size() : 1); ++fw) add_jobs(fh, fw);
    }
    return jobs_;
  }

 private:
  // The jobs of one pair of phases.
  void add_jobs(size_t fh, size_t fw) {
    RowJob job = {};
    job.fh = fh, job.fw = fw;
    job.jh = phase_range(static_cast<int64_t>(fh), in_.rows.out_step, in_.item.row_first, in_.item.row_last);
    job.jw = phase_range(static_cast<int64_t>(fw), in_.cols.out_step, in_.item.col_first, in_.item.col_last);
    if (job.jh.end <= job.jh.begin || job.jw.end <= job.jw.begin) return;
    add_parts(job);
    const std::vector<Tap>& taps = in_.rows.phases[fh].taps;
    job.row = static_cast<int64_t>(fh) + job.jh.begin * in_.rows.out_step;
    job.row_step = in_.rows.out_step;
    job.x_row = packs_ ? in_.packed_cols.length : in_.rows.source_step * in_.source_row;
    job.first = true;
    if (add_sweep(job)) return;
    size_t t0 = 0;
    do {  // at least once: without taps the result is the bias
      const size_t t1 = std::min(taps.size(), t0 + static_cast<size_t>(in_.plan.kh_block));
      add_tiles(job, make_row_chains(in_.rows, fh, t0, t1));
      jobs_.push_back(job);
      job.first = false;
      t0 = t1;
    } while (t0 < taps.size());
  }

  void add_parts(RowJob& job) const {
    const int64_t cols =
        in_.mode == RowMode::kZipped ? in_.item.col_last - in_.item.col_first : job.jw.end - job.jw.begin;
    const int64_t vectors = ceil_div(cols, lanes_), parts = ceil_div(vectors, in_.plan.nv);
    for (int64_t i = 0; i < parts; ++i) {
      ColumnPart part = {};
      int64_t first = part_start(vectors, parts, i), last = part_start(vectors, parts, i + 1);
      if (in_.mode == RowMode::kZipped) first = 2 * i, last = first + 2;
      part.vectors = last - first;
      part.result = first * lanes_;
      part.cols = std::min(cols, last * lanes_) - first * lanes_;
      part.x = part.result * in_.cols.source_step / in_.cols.out_step + job.jw.begin * in_.cols.source_step;
      if (packs_) part.x = part.result + job.jw.begin;
      part.count = 1;
      add_taps(job, part);
      if (!job.parts.empty() && job.parts.back().cols == part.cols && same_lanes(job.parts.back(), part)) {
        ++job.parts.back().count;
      } else {
        job.parts.push_back(std::move(part));
      }
    }
  }

  static bool same_lanes(const ColumnPart& a, const ColumnPart& b) {
    return std::equal(a.taps.begin(), a.taps.end(), b.taps.begin(), [](const RowTap& s, const RowTap& t) {
      return std::equal(std::begin(s.lanes), std::end(s.lanes), std::begin(t.lanes));
    });
  }

  void add_taps(RowJob& job, ColumnPart& part) const {
    const std::vector<Tap>& taps = in_.cols.phases[job.fw].taps;
    const auto add = [&](const Tap& tap, int64_t start) {
      RowTap t = {tap.k * in_.weight_kw, static_cast<int32_t>(start), {}};
      for (int64_t v = 0; v < 2 * kMaxVectors; ++v) {
        const int64_t column = part.x + start + v * lanes_;
        const int64_t begin = packs_ ? 0 : std::clamp<int64_t>(-column, 0, lanes_);
        const int64_t end = packs_ ? lanes_ : std::clamp(in_.source_w - column, begin, lanes_);
        t.lanes[v] = static_cast<uint16_t>((1 << end) - (1 << begin));
      }
      part.taps.push_back(t);
    };
    if (in_.mode == RowMode::kPairs) {
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
      for (size_t t = 0; t < taps.size(); ++t)
        add(taps[t], packs_ ? in_.packed_cols.start[job.fw][t] : taps[t].source);
      job.width = static_cast<int64_t>(part.taps.size());
      if (in_.mode == RowMode::kZipped && in_.cols.phases.size() > 1)
        for (const Tap& tap : in_.cols.phases[1].taps) add(tap, tap.source);
    }
    job.second_width = static_cast<int64_t>(part.taps.size()) - job.width;
  }

  // Of a chain's first tap, from those that have packed rows of their own: they do not miss the image.
  int64_t packed_row(const RowJob& job, const RowChain& chain) const {
    const std::vector<Tap>& taps = in_.rows.phases[job.fh].taps;
    const int64_t step = in_.rows.source_step;
    for (size_t t = 0; t < taps.size(); ++t) {
      const int64_t i = (taps[t].source - chain.source) / step;
      if (i < 0 || i >= chain.count || taps[t].source != chain.source + i * step) continue;
      if ((job.jh.end - 1) * step + taps[t].source >= 0 &&
          job.jh.begin * step + taps[t].source < in_.source_h)
        return in_.packed_rows.start[job.fh][t] - i;
    }
    return 0;
  }

  void add_tiles(RowJob& job, const std::vector<RowChain>& chains) const {
    job.tiles.clear();
    job.w_row = 0;
    int64_t most = in_.plan.mr;  // no more than a chain's kernel rows and one
    for (const RowChain& chain : chains) {
      most = std::min(most, chain.count + 1);
      if (chain.count > 1) job.w_row = chain.k_step * in_.weight_kh;
    }
    const int64_t rows = job.jh.end - job.jh.begin;
    bool inner = false;  // the tiles before: all terms of the window lie in the image
    for (int64_t first = 0; first < rows;) {
      const int64_t left = rows - first;
      RowTiles tiles{first, ceil_div(left, ceil_div(left, most)), 1, {}};
      bool whole = true;
      for (const RowChain& chain : chains) {
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

  // For `count` results from `first` on.
  RowSegment make_segment(const RowJob& job, const RowChain& chain, int64_t first, int64_t count) const {
    const int64_t j = job.jh.begin + first, source = chain.source + j * in_.rows.source_step;
    const KRange rows = inside(source, in_.rows.source_step, chain.count + count - 1, in_.source_h);
    const int64_t x =
        packs_ ? (packed_row(job, chain) + j) * in_.packed_cols.length : source * in_.source_row;
    return {x, chain.k * in_.weight_kh, static_cast<int32_t>(chain.count), static_cast<int32_t>(rows.begin),
            static_cast<int32_t>(rows.end)};
  }

  // Depthwise, with a K x K kernel whose elements follow each other, all in one block.
  bool may_sweep(const RowJob& job) const {
    const int64_t k = in_.kH;
    if (packs_ || in_.C != 1 || k != in_.kW || k > std::min<int64_t>(kMaxSweep, in_.plan.kh_block) ||
        in_.weight_kw != 1 || in_.weight_kh != k) {
      return false;
    }
    return std::all_of(job.parts.begin(), job.parts.end(),
                       [&](const ColumnPart& part) { return in_.has_sweep(k, part.vectors); });
  }

  // As a sweep, if the kernel's rows read neighbouring rows of the source.
  bool add_sweep(RowJob& job) {
    const int64_t k = in_.kH, rows = job.jh.end - job.jh.begin, step = in_.mode == RowMode::kPairs ? 2 : 1;
    const std::vector<Tap> taps = row_taps(in_.rows, job.fh, 0, in_.rows.phases[job.fh].taps.size());
    if (in_.mode == RowMode::kZipped || static_cast<int64_t>(taps.size()) != k || rows < k - 1 ||
        in_.rows.source_step % step != 0 || job.width != k / step || job.second_width != k % step ||
        !may_sweep(job)) {
      return false;
    }
    const int64_t unit = in_.rows.source_step / step;
    for (size_t t = 1; t < taps.size(); ++t)
      if (taps[t].source != taps[t - 1].source + unit) return false;
    const int64_t source = taps[0].source + job.jh.begin * in_.rows.source_step;
    const KRange window = inside(source, unit, (rows - 1) * step + k, in_.source_h);
    job.x_row = unit * in_.source_row;
    job.w_row = taps[0].k == 0 ? k : -k;
    job.sweep = k;
    job.tiles.push_back({0,
                         0,
                         rows,
                         {{source * in_.source_row, taps[0].k * k, static_cast<int32_t>(k),
                           static_cast<int32_t>(window.begin), static_cast<int32_t>(window.end)}}});
    jobs_.push_back(job);
    return true;
  }

  // All four pairs of phases as one sweep: result row 2 s - padding + k takes source row s with kernel row k.
  bool add_zipped_sweep() {
    RowJob job = {};
    job.jw = phase_range(0, 2, in_.item.col_first, in_.item.col_last);
    if (in_.rows.out_step != 2 || in_.rows.phases.size() != 2 || in_.cols.phases.size() != 2) return false;
    add_parts(job);
    if (job.width == 0 || job.second_width == 0 || !may_sweep(job)) return false;
    const auto padding_of = [](size_t f, const Tap& tap) {
      return 2 * tap.source + tap.k - static_cast<int64_t>(f);
    };
    const int64_t k = in_.kH;
    for (const Axis* axis : {&in_.rows, &in_.cols}) {  // dilation 1
      for (size_t f = 0; f < 2; ++f) {
        if (axis->phases[f].taps.empty()) return false;
        for (const Tap& tap : axis->phases[f].taps)
          if (padding_of(f, tap) != padding_of(0, axis->phases[0].taps[0])) return false;
      }
    }
    const int64_t padding = padding_of(0, in_.rows.phases[0].taps[0]);
    const int64_t first = ceil_div(in_.item.row_first + padding - k + 1, 2);
    const int64_t rows = floor_div(in_.item.row_last - 1 + padding, 2) + 1 - first;
    const KRange window = inside(first, 1, rows, in_.source_h);
    job.first = true;
    job.sweep = k;
    job.row = in_.item.row_first;
    job.row_step = 1;
    job.w_row = k;
    job.x_row = in_.source_row;
    job.skip = in_.item.row_first - (2 * first - padding);
    job.tiles.push_back({0,
                         0,
                         in_.item.row_last - in_.item.row_first,
                         {{first * in_.source_row, 0, static_cast<int32_t>(rows),
                           static_cast<int32_t>(window.begin), static_cast<int32_t>(window.end)}}});
    jobs_.push_back(job);
    return true;
  }

  const RowJobInput& in_;
  const bool packs_;
  const int64_t lanes_;
  std::vector<RowJob> jobs_;
};

}  // namespace

std::vector<RowJob> make_row_jobs(const RowJobInput& input) {
  return JobMaker(input).make();
}

}  // namespace tce
