// Packing of sources and weights (layouts and pictures in pack.h).

#include "pack.h"

#include <algorithm>

namespace tce {

RowSlots make_row_slots(const Axis& axis, int64_t first, int64_t last) {
  RowSlots slots = {};
  for (const Phase& phase : axis.phases)
    slots.max_taps = std::max<int64_t>(slots.max_taps, phase.taps.size());
  slots.slot.assign((last - first) * slots.max_taps, -1);
  std::vector<int32_t> slot_of;  // [position - low] of one image
  for (int64_t row = first; row < last;) {
    const int64_t n = row / axis.out_size, out_first = row % axis.out_size;
    const int64_t out_last = std::min(axis.out_size, out_first + last - row);
    const auto each_term = [&](auto&& visit) {
      for (int64_t out = out_first; out < out_last; ++out) {
        const Phase& phase = axis.phases[out % axis.out_step];
        const int64_t j = out / axis.out_step;
        for (size_t t = 0; t < phase.taps.size(); ++t) {
          const int64_t position = j * axis.source_step + phase.taps[t].source;
          if (position >= 0 && position < axis.source_size) visit(row + out - out_first - first, t, position);
        }
      }
    };
    int64_t low = axis.source_size, high = -1;
    each_term([&](int64_t, size_t, int64_t position) {
      low = std::min(low, position);
      high = std::max(high, position);
    });
    // Rows that several results read are packed once, unless they are so sparse
    // that looking them up costs more.
    const bool share = high - low < (out_last - out_first) * slots.max_taps;
    slot_of.assign(share && high >= low ? high - low + 1 : 0, -1);
    each_term([&](int64_t r, size_t t, int64_t position) {
      int32_t slot = share ? slot_of[position - low] : -1;
      if (slot < 0) {
        slot = static_cast<int32_t>(slots.source.size());
        slots.source.push_back({n, position});
        if (share) slot_of[position - low] = slot;
      }
      slots.slot[r * slots.max_taps + t] = slot;
    });
    row += out_last - out_first;
  }
  return slots;
}

SourceRuns make_source_runs(const Axis& axis, int64_t first, int64_t last, bool dense, const Bands* bands) {
  SourceRuns runs = {};
  runs.step = dense ? 1 : axis.source_step;
  runs.out_step = dense ? axis.source_step : 1;
  runs.wide = runs.step >= kWideStep || (runs.step == 2 && last - first >= kWideRow);
  struct Range {
    int64_t residue, low, high, base;
  };
  std::vector<Range> ranges;
  const auto range_of = [&](const Tap& tap) -> Range& {
    const int64_t residue = floor_mod(tap.source, runs.step);
    for (Range& range : ranges) {
      if (range.residue == residue) return range;
    }
    ranges.push_back({residue, INT64_MAX, INT64_MIN, 0});
    return ranges.back();
  };
  const auto each_tap = [&](auto&& visit) {
    for (size_t f = 0; f < axis.phases.size(); ++f) {
      const KRange j = phase_range(static_cast<int64_t>(f), axis.out_step, first, last);
      if (j.begin >= j.end) continue;
      const std::vector<Tap>& taps = axis.phases[f].taps;
      if (bands) {
        for (const Band& band : (*bands)[f]) {
          const KRange part = intersection(band.j, j);
          for (int64_t u = band.taps.begin; u < band.taps.end && part.begin < part.end; ++u)
            visit(f, static_cast<size_t>(u), taps[static_cast<size_t>(u)], part, false);
        }
        continue;
      }
      for (size_t u = 0; u < taps.size(); ++u) {
        const Tap& tap = taps[u];
        // A tap that misses the image in all results reads zeros; those of all such taps are the same ones.
        const bool misses = j.begin * axis.source_step + tap.source >= axis.source_size ||
                            (j.end - 1) * axis.source_step + tap.source < 0;
        visit(f, u, tap, j, misses && !dense);
      }
    }
  };
  int64_t zeros = 0;
  each_tap([&](size_t, size_t, const Tap& tap, const KRange& j, bool misses) {
    if (misses) {
      zeros = std::max(zeros, j.end - j.begin);
      return;
    }
    Range& range = range_of(tap);
    const int64_t offset = floor_div(tap.source, runs.step);
    range.low = std::min(range.low, j.begin * runs.out_step + offset);
    range.high = std::max(range.high, (j.end - 1) * runs.out_step + offset);
  });
  if (runs.wide && !ranges.empty()) {
    int64_t low = INT64_MAX, high = INT64_MIN;
    for (const Range& range : ranges) low = std::min(low, range.low), high = std::max(high, range.high);
    for (Range& range : ranges) range.low = low, range.high = high;
    std::sort(ranges.begin(), ranges.end(),
              [](const Range& a, const Range& b) { return a.residue < b.residue; });
  }
  for (Range& range : ranges) {
    const int64_t count = range.high - range.low + 1;
    range.base = runs.length;
    runs.runs.push_back({range.low * runs.step + range.residue, count, runs.length});
    runs.length += count;
  }
  const int64_t zeros_base = runs.length;
  if (zeros > 0) {
    runs.runs.push_back({-zeros * runs.step, zeros, zeros_base});  // left of the image
    runs.length += zeros;
  }
  for (const Phase& phase : axis.phases) runs.start.emplace_back(phase.taps.size(), 0);
  each_tap([&](size_t f, size_t u, const Tap& tap, const KRange& j, bool misses) {
    if (misses) {
      runs.start[f][u] = zeros_base - j.begin;
      return;
    }
    const Range& range = range_of(tap);
    runs.start[f][u] = range.base + floor_div(tap.source, runs.step) - range.low;
  });
  return runs;
}

bool reads_all_columns(const Axis& axis) {
  if (axis.source_step == 1 || axis.phases.empty()) return false;
  const std::vector<Tap>& taps = axis.phases[0].taps;
  const int64_t count = static_cast<int64_t>(taps.size());
  return count >= axis.source_step && taps.back().source - taps.front().source == count - 1;
}

bool all_inside(const Axis& axis, const Bands& bands, int64_t first, int64_t last) {
  for (size_t f = 0; f < axis.phases.size(); ++f) {
    for (const Band& band : bands[f]) {
      const KRange j = intersection(band.j, phase_range(static_cast<int64_t>(f), axis.out_step, first, last));
      for (int64_t u = band.taps.begin; u < band.taps.end && j.begin < j.end; ++u) {
        const int64_t source = axis.phases[f].taps[static_cast<size_t>(u)].source;
        if (j.begin * axis.source_step + source < 0 ||
            (j.end - 1) * axis.source_step + source >= axis.source_size)
          return false;
      }
    }
  }
  return true;
}

SourceRuns columns_in_place(const Axis& axis) {
  SourceRuns columns = {};
  columns.step = 1;
  columns.out_step = axis.source_step;
  for (const Phase& phase : axis.phases) {
    columns.start.emplace_back();
    for (const Tap& tap : phase.taps) columns.start.back().push_back(tap.source);
  }
  return columns;
}

KRange sources_of(const Axis& axis, int64_t first, int64_t last) {
  int64_t low = axis.source_size, high = 0;
  for (size_t f = 0; f < axis.phases.size(); ++f) {
    const KRange j = phase_range(static_cast<int64_t>(f), axis.out_step, first, last);
    if (j.begin >= j.end) continue;
    for (const Tap& tap : axis.phases[f].taps) {
      const int64_t begin = j.begin * axis.source_step + tap.source;
      const int64_t end = (j.end - 1) * axis.source_step + tap.source + 1;
      if (end <= 0 || begin >= axis.source_size) continue;
      low = std::min(low, std::max<int64_t>(begin, 0)),
      high = std::max(high, std::min(end, axis.source_size));
    }
  }
  return {std::min(low, high), high};
}

SourceRuns make_box(const KRange& range, int64_t length) {
  SourceRuns runs = {};
  runs.step = runs.out_step = 1;
  runs.length = length;
  runs.runs.push_back({range.begin, range.end - range.begin, 0});
  return runs;
}

KRange inside(const SourceRuns::Run& run, int64_t step, int64_t source_size) {
  const int64_t begin = std::clamp<int64_t>(ceil_div(-run.position, step), 0, run.count);
  const int64_t end = std::clamp<int64_t>(ceil_div(source_size - run.position, step), begin, run.count);
  return {begin, end};
}

namespace {

// The first `count` runs, and their elements that lie in the image for all of them.
struct Transposed {
  size_t count = 0;
  KRange inside{0, 0};
};

// The residues of a wide step that follow each other without a gap.
Transposed transposed_runs(const SourceRuns& columns, int64_t source_w) {
  Transposed t;
  if (!columns.wide || columns.runs.empty()) return t;
  t.count = 1;
  t.inside = inside(columns.runs[0], columns.step, source_w);
  while (t.count < columns.runs.size() &&
         columns.runs[t.count].position == columns.runs[t.count - 1].position + 1 &&
         columns.runs[t.count].count == columns.runs[0].count) {
    const KRange next = inside(columns.runs[t.count++], columns.step, source_w);
    t.inside = {std::max(t.inside.begin, next.begin), std::min(t.inside.end, next.end)};
  }
  if (t.count == 1 || t.inside.begin >= t.inside.end) return {};
  return t;
}

}  // namespace

template <class scalar_t>
void pack_channel_major(const Kernels<scalar_t>& kernels, const TensorView<const scalar_t>& x,
                        int64_t channels, int64_t source_w, const RowSlots& rows, const SourceRuns& columns,
                        scalar_t* dst) {
  const auto [sn, sc, sh, sw] = x.stride;
  const Transposed wide = transposed_runs(columns, source_w);
  for (const RowSlots::Source& source : rows.source) {
    const scalar_t* src = x.data + source.n * sn + source.position * sh;
    for (int64_t c = 0; c < channels && wide.count > 0; ++c) {
      const SourceRuns::Run& run = columns.runs[0];
      const KRange& all = wide.inside;
      kernels.copy_2d(
          {static_cast<int64_t>(wide.count), all.end - all.begin, sw, sw * columns.step, run.count, 1},
          src + c * sc + (run.position + all.begin * columns.step) * sw,
          dst + c * columns.length + run.base + all.begin);
    }
    for (size_t r = 0; r < columns.runs.size(); ++r) {
      const SourceRuns::Run& run = columns.runs[r];
      const KRange valid = inside(run, columns.step, source_w);
      if (r < wide.count) {
        // The elements that only some of the runs have.
        for (int64_t c = 0; c < channels; ++c) {
          scalar_t* d = dst + c * columns.length + run.base;
          for (int64_t i = 0; i < run.count; ++i) {
            if (i == wide.inside.begin) i = wide.inside.end;
            if (i >= run.count) break;
            d[i] = i >= valid.begin && i < valid.end ? src[c * sc + (run.position + i * columns.step) * sw]
                                                     : scalar_t(0);
          }
        }
        continue;
      }
      scalar_t* d = dst + run.base;
      for (int64_t c = 0; c < channels; ++c) {
        std::fill(d + c * columns.length, d + c * columns.length + valid.begin, scalar_t(0));
        std::fill(d + c * columns.length + valid.end, d + c * columns.length + run.count, scalar_t(0));
      }
      if (valid.begin == valid.end) continue;
      kernels.copy_2d({channels, valid.end - valid.begin, sc, sw * columns.step, columns.length, 1},
                      src + (run.position + valid.begin * columns.step) * sw, d + valid.begin);
    }
    dst += channels * columns.length;
  }
}

namespace {

// One row of pack_pixel_major.
template <class scalar_t>
void pack_pixels(const Kernels<scalar_t>& kernels, const scalar_t* src, int64_t sc, int64_t sw,
                 int64_t channels, int64_t stride, int64_t source_w, const SourceRuns& columns, scalar_t* dst,
                 bool loose) {
  for (const SourceRuns::Run& run : columns.runs) {
    const KRange valid = inside(run, columns.step, source_w);
    scalar_t* d = dst + run.base * stride;
    if (channels < stride && !loose) {
      std::fill(d, d + run.count * stride, scalar_t(0));
    } else {
      std::fill(d, d + valid.begin * stride, scalar_t(0));
      std::fill(d + valid.end * stride, d + run.count * stride, scalar_t(0));
    }
    if (valid.begin == valid.end) continue;
    kernels.copy_2d({valid.end - valid.begin, channels, sw * columns.step, sc, stride, 1},
                    src + (run.position + valid.begin * columns.step) * sw, d + valid.begin * stride);
  }
}

}  // namespace

template <class scalar_t>
void pack_pixel_major(const Kernels<scalar_t>& kernels, const TensorView<const scalar_t>& x, int64_t channels,
                      int64_t stride, int64_t source_w, const RowSlots& rows, const SourceRuns& columns,
                      scalar_t* dst, bool loose) {
  const auto [sn, sc, sh, sw] = x.stride;
  for (const RowSlots::Source& source : rows.source) {
    pack_pixels(kernels, x.data + source.n * sn + source.position * sh, sc, sw, channels, stride, source_w,
                columns, dst, loose);
    dst += columns.length * stride;
  }
}

namespace {

// Calls visit(h, w, at, height, width) for every rectangle of the packed plane that lies inside the image:
// source position, packed pixel, size. Of the first runs without their elements in `wide`.
template <class F>
void each_rectangle(const SourceRuns& rows, const SourceRuns& columns, int64_t source_h, int64_t source_w,
                    const Transposed& wide, F&& visit) {
  for (const SourceRuns::Run& row : rows.runs) {
    const KRange h = inside(row, rows.step, source_h);
    const auto part = [&](const SourceRuns::Run& run, int64_t begin, int64_t end) {
      if (h.begin >= h.end || begin >= end) return;
      visit(row.position + h.begin * rows.step, run.position + begin * columns.step,
            (row.base + h.begin) * columns.length + run.base + begin, h.end - h.begin, end - begin);
    };
    for (size_t r = 0; r < columns.runs.size(); ++r) {
      const SourceRuns::Run& run = columns.runs[r];
      const KRange w = inside(run, columns.step, source_w);
      if (r < wide.count) {
        part(run, w.begin, wide.inside.begin);
        part(run, wide.inside.end, w.end);
      } else {
        part(run, w.begin, w.end);
      }
    }
  }
}

// The elements of a channel's plane in `wide`, row by row.
template <class scalar_t>
void pack_wide(const Kernels<scalar_t>& kernels, const scalar_t* src, int64_t src_h, int64_t source_h,
               const SourceRuns& rows, const SourceRuns& columns, const Transposed& wide, scalar_t* dst) {
  const SourceRuns::Run& first = columns.runs[0];
  Copy2d copy{
      static_cast<int64_t>(wide.count), wide.inside.end - wide.inside.begin, 1, columns.step, first.count, 1};
  copy.src_ahead = 4 * src_h;
  src += first.position + wide.inside.begin * columns.step;
  dst += first.base + wide.inside.begin;
  // In the order in which the rows lie in memory, across the runs.
  int64_t count = 0;
  for (const SourceRuns::Run& row : rows.runs) count = std::max(count, row.count);
  for (int64_t i = 0; i < count; ++i) {
    for (const SourceRuns::Run& row : rows.runs) {
      const int64_t h = row.position + i * rows.step;
      if (i < row.count && h >= 0 && h < source_h)
        kernels.copy_2d(copy, src + h * src_h, dst + (row.base + i) * columns.length);
    }
  }
}

}  // namespace

template <class scalar_t>
void pack_planes(const Kernels<scalar_t>& kernels, const scalar_t* src, const PlaneStrides& s,
                 int64_t channels, int64_t source_h, int64_t source_w, const SourceRuns& rows,
                 const SourceRuns& columns, bool clear, scalar_t* dst, scalar_t* spare,
                 int64_t spare_pixels) {
  const bool blocked = s.dst_px > 1;  // a pixel's channels lie side by side
  if (clear) std::fill_n(dst, rows.length * columns.length * (blocked ? s.dst_px : channels), scalar_t(0));
  const int64_t from_h = s.src_h * rows.step, from_w = s.src_w * columns.step;
  const int64_t to_h = columns.length * s.dst_px;
  const Transposed wide = !blocked && s.src_w == 1 ? transposed_runs(columns, source_w) : Transposed{};
  for (int64_t c = 0; c < channels && wide.count > 0; ++c)
    pack_wide(kernels, src + c * s.src_c, s.src_h, source_h, rows, columns, wide, dst + c * s.dst_c);
  each_rectangle(rows, columns, source_h, source_w, wide,
                 [&](int64_t h, int64_t w, int64_t at, int64_t height, int64_t width) {
                   const scalar_t* from = src + h * s.src_h + w * s.src_w;
                   scalar_t* to = dst + at * s.dst_px;
                   if (from_h == width * from_w && to_h == width * s.dst_px) width *= height, height = 1;
                   const bool narrow =
                       blocked && height > 1 && from_w == 1 && from_h == width && width % kernels.lanes != 0;
                   if (narrow && width < 2 * kernels.lanes && height * width <= spare_pixels) {
                     kernels.copy_2d({channels, height * width, s.src_c, 1, 1, s.dst_px}, from, spare);
                     kernels.copy_2d({height, width * s.dst_px, width * s.dst_px, 1, to_h, 1}, spare, to);
                     return;
                   }
                   // Channel by channel, unless it is the channels that lie side by side on one side of the
                   // copy.
                   if (!blocked && (s.src_c != 1 || channels == 1)) {
                     for (int64_t c = 0; c < channels; ++c) {
                       kernels.copy_2d({height, width, from_h, from_w, to_h, s.dst_px}, from + c * s.src_c,
                                       to + c * s.dst_c);
                     }
                     return;
                   }
                   for (int64_t i = 0; i < height; ++i) {
                     kernels.copy_2d({channels, width, s.src_c, from_w, s.dst_c, s.dst_px}, from + i * from_h,
                                     to + i * to_h);
                   }
                 });
}

template <class scalar_t>
void spread_plane(const Kernels<scalar_t>& kernels, const scalar_t* src, int64_t src_h, int64_t src_w,
                  int64_t channels, const int32_t* channel, int64_t source_h, int64_t source_w,
                  const SourceRuns& rows, const SourceRuns& columns, bool clear, scalar_t* dst) {
  if (clear) std::fill_n(dst, rows.length * columns.length * kernels.lanes, scalar_t(0));
  each_rectangle(rows, columns, source_h, source_w, {},
                 [&](int64_t h, int64_t w, int64_t at, int64_t height, int64_t width) {
                   for (int64_t i = 0; i < height; ++i) {
                     kernels.spread(src + (h + i * rows.step) * src_h + w * src_w, src_w * columns.step,
                                    width, channels, channel,
                                    dst + (at + i * columns.length) * kernels.lanes);
                   }
                 });
}

template <class scalar_t>
void pack_weight(const Kernels<scalar_t>& kernels, const WeightView<scalar_t>& w, int64_t valid_lanes,
                 int64_t panel_lanes, int64_t channels, KRange kh, KRange kw, scalar_t* dst) {
  const int64_t nh = kh.end - kh.begin, nw = kw.end - kw.begin, taps = nh * nw;
  const scalar_t* src = w.data + kh.begin * w.kh + kw.begin * w.kw;
  if (valid_lanes < panel_lanes) std::fill(dst, dst + channels * taps * panel_lanes, scalar_t(0));
  if (w.kw == 1 && (nh == 1 || w.kh == nw) && taps > 1) {
    // A contiguous kernel: its elements are read along memory; where channels
    // follow without a gap, all at once.
    const bool joined = w.channel == taps;
    const int64_t calls = joined ? 1 : channels, run = joined ? channels * taps : taps;
    for (int64_t c = 0; c < calls; ++c) {
      kernels.copy_2d({run, valid_lanes, 1, w.lane, panel_lanes, 1}, src + c * w.channel,
                      dst + c * taps * panel_lanes);
    }
    return;
  }
  for (int64_t i = 0; i < nh; ++i) {
    for (int64_t j = 0; j < nw; ++j) {
      kernels.copy_2d({channels, valid_lanes, w.channel, w.lane, taps * panel_lanes, 1},
                      src + i * w.kh + j * w.kw, dst + (i * nw + j) * panel_lanes);
    }
  }
}

#define TCE_INSTANTIATE(scalar_t)                                                                            \
  template void pack_channel_major<scalar_t>(const Kernels<scalar_t>&, const TensorView<const scalar_t>&,    \
                                             int64_t, int64_t, const RowSlots&, const SourceRuns&,           \
                                             scalar_t*);                                                     \
  template void pack_pixel_major<scalar_t>(const Kernels<scalar_t>&, const TensorView<const scalar_t>&,      \
                                           int64_t, int64_t, int64_t, const RowSlots&, const SourceRuns&,    \
                                           scalar_t*, bool);                                                 \
  template void pack_planes<scalar_t>(const Kernels<scalar_t>&, const scalar_t*, const PlaneStrides&,        \
                                      int64_t, int64_t, int64_t, const SourceRuns&, const SourceRuns&, bool, \
                                      scalar_t*, scalar_t*, int64_t);                                        \
  template void spread_plane<scalar_t>(const Kernels<scalar_t>&, const scalar_t*, int64_t, int64_t, int64_t, \
                                       const int32_t*, int64_t, int64_t, const SourceRuns&,                  \
                                       const SourceRuns&, bool, scalar_t*);                                  \
  template void pack_weight<scalar_t>(const Kernels<scalar_t>&, const WeightView<scalar_t>&, int64_t,        \
                                      int64_t, int64_t, KRange, KRange, scalar_t*);
TCE_INSTANTIATE(float)
TCE_INSTANTIATE(double)
#undef TCE_INSTANTIATE

}  // namespace tce
