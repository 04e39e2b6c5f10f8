// Packing of sources and weights (layouts and pictures in pack.h).

#include "pack.h"

#include <algorithm>

namespace tce {

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

// One row of pack_pixel_major; `ahead`: how far beyond it lies what is read soon.
template <class scalar_t>
void pack_pixels(const Kernels<scalar_t>& kernels, const scalar_t* src, int64_t sc, int64_t sw,
                 int64_t channels, int64_t stride, int64_t source_w, const SourceRuns& columns, scalar_t* dst,
                 bool loose, int64_t ahead) {
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
    kernels.copy_2d({valid.end - valid.begin, channels, sw * columns.step, sc, stride, 1, false, ahead},
                    src + (run.position + valid.begin * columns.step) * sw, d + valid.begin * stride);
  }
}

}  // namespace

template <class scalar_t>
void pack_pixel_major(const Kernels<scalar_t>& kernels, const TensorView<const scalar_t>& x, int64_t channels,
                      int64_t stride, int64_t source_w, const RowSlots& rows, const SourceRuns& columns,
                      scalar_t* dst, bool loose) {
  const auto [sn, sc, sh, sw] = x.stride;
  // A small part of each pixel: the processor does not foresee the next row's.
  const int64_t ahead = sc == 1 && channels < sw ? 4 * sh : 0;
  for (const RowSlots::Source& source : rows.source) {
    pack_pixels(kernels, x.data + source.n * sn + source.position * sh, sc, sw, channels, stride, source_w,
                columns, dst, loose, ahead);
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
void pack_weight(const Kernels<scalar_t>& kernels, const WeightView<scalar_t>& w, int64_t valid_lanes,
                 int64_t panel_lanes, int64_t channels, KRange kh, KRange kw, scalar_t* dst) {
  const int64_t taps = (kh.end - kh.begin) * (kw.end - kw.begin);
  if (valid_lanes < panel_lanes) std::fill(dst, dst + channels * taps * panel_lanes, scalar_t(0));
  pack_weight_lanes(kernels, w, valid_lanes, panel_lanes, channels, kh, kw, dst);
}

template <class scalar_t>
void pack_weight_lanes(const Kernels<scalar_t>& kernels, const WeightView<scalar_t>& w, int64_t valid_lanes,
                       int64_t panel_lanes, int64_t channels, KRange kh, KRange kw, scalar_t* dst) {
  const int64_t nh = kh.end - kh.begin, nw = kw.end - kw.begin, taps = nh * nw;
  const scalar_t* src = w.data + kh.begin * w.kh + kw.begin * w.kw;
  if (w.kw == 1 && (nh == 1 || w.kh == nw) && taps > 1) {
    // A contiguous kernel: its elements are read along memory; where channels
    // follow without a gap, all at once.
    const bool joined = w.channel == taps;
    const int64_t calls = joined ? 1 : channels, run = joined ? channels * taps : taps;
    for (int64_t c = 0; c < calls; ++c) {
      // The kernels of the next channels may lie far away.
      const int64_t ahead = c + 4 < calls ? 4 * w.channel : 0;
      kernels.copy_2d({run, valid_lanes, 1, w.lane, panel_lanes, 1, false, ahead}, src + c * w.channel,
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

template <class scalar_t>
void pack_few(const Kernels<scalar_t>& kernels, const WeightView<scalar_t>& w, int64_t valid_lanes,
              int64_t panel_lanes, int64_t channels, KRange kh, KRange kw, scalar_t* dst, int64_t ahead) {
  const int64_t nh = kh.end - kh.begin, nw = kw.end - kw.begin, taps = nh * nw, tap = channels * panel_lanes;
  if (valid_lanes < panel_lanes) std::fill(dst, dst + taps * tap, scalar_t(0));
  const scalar_t* src = w.data + kh.begin * w.kh + kw.begin * w.kw;
  const bool rows_follow = nh == 1 || w.kh == nw * w.kw;
  if (rows_follow && w.channel == 1 && w.kw == channels) {
    kernels.copy_2d({taps * channels, valid_lanes, 1, w.lane, panel_lanes, 1, false, ahead}, src, dst);
  } else if (rows_follow && w.kw == 1) {
    for (int64_t c = 0; c < channels; ++c, src += w.channel, dst += panel_lanes)
      kernels.copy_2d({taps, valid_lanes, 1, w.lane, tap, 1, false, ahead}, src, dst);
  } else {
    for (int64_t i = 0; i < taps; ++i, dst += tap)
      kernels.copy_2d({channels, valid_lanes, w.channel, w.lane, panel_lanes, 1},
                      src + i / nw * w.kh + i % nw * w.kw, dst);
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
  template void pack_weight<scalar_t>(const Kernels<scalar_t>&, const WeightView<scalar_t>&, int64_t,        \
                                      int64_t, int64_t, KRange, KRange, scalar_t*);                          \
  template void pack_few<scalar_t>(const Kernels<scalar_t>&, const WeightView<scalar_t>&, int64_t, int64_t,  \
                                   int64_t, KRange, KRange, scalar_t*, int64_t);                             \
  template void pack_weight_lanes<scalar_t>(const Kernels<scalar_t>&, const WeightView<scalar_t>&, int64_t,  \
                                            int64_t, int64_t, KRange, KRange, scalar_t*);
TCE_INSTANTIATE(float)
TCE_INSTANTIATE(double)
#undef TCE_INSTANTIATE

}  // namespace tce
