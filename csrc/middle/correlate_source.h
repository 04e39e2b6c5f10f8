// Where the direct correlation finds its sources: packed, or where they lie in the tensor. Included by correlate.cpp.

#pragma once

#include <algorithm>
#include <vector>

#include "correlate.h"
#include "scratch.h"

namespace tce {
namespace {

// Panels that may read planes where they lie although few sets of the caches hold their lines together: each
// panel fetches them anew.
constexpr int64_t kFewPanels = 4, kFewSets = 16;

// A kernel block with its axes.
struct KernelBlock {
  KRange kh, kw;
  Axis rows, cols;
  Bands bands;  // of columns

  int64_t taps() const { return (kh.end - kh.begin) * (kw.end - kw.begin); }
};

struct CorrelationItem {
  int64_t g;
  int64_t row_first, row_last;  // numbered over the batch
  int64_t col_first, col_last;
  int64_t panel_first, panel_last;
};

// The sources of a K block, packed or where they lie: channel c of result column j, tap u, is at
//
//   data + slot[of the row] + (columns.start[phase][u] + j * columns.out_step) * pixel + c * channel
template <class scalar_t>
struct Source {
  const scalar_t* data;
  SourceRuns columns;
  int64_t pixel, channel;
  std::vector<int64_t> slot;
  int64_t rows;  // of a tile, at most
  bool fetch;    // pixels in place of which nothing has been read: their lines are fetched ahead
  bool planes;   // in place: each step fetches what the next tile reads
};

template <class scalar_t>
class SourceMaker {
 public:
  // buffer: for what has to be packed, plan.source_bytes.
  SourceMaker(const Correlation<scalar_t>& c, const Plan& plan, const Kernels<scalar_t>& kernels,
              const CorrelationItem& item, scalar_t* buffer)
      : c_(c),
        plan_(plan),
        kernels_(kernels),
        item_(item),
        buffer_(buffer),
        cols_(item.col_last - item.col_first),
        pixel_major_(c.source.stride[1] == 1),
        joined_(c.C <= kThinChannels) {}

  // Of channels [c0, c0 + channels) of the item's group.
  Source<scalar_t> make(const KernelBlock& block, const RowSlots& rows, int64_t c0, int64_t channels) const {
    TensorView<const scalar_t> x = c_.source;
    x.data += (item_.g * c_.C + c0) * x.stride[1];
    if (const int64_t tile_rows = pixel_major_ ? pixels_in_place(block, rows) : planes_in_place(block))
      return {x.data,
              columns_in_place(block.cols),
              x.stride[3],
              x.stride[1],
              slots_in_place(rows, x.stride[0], x.stride[2]),
              tile_rows,
              pixel_major_ && !joined_,
              !pixel_major_};
    const bool dense = pixel_major_ && reads_all_columns(block.cols);
    SourceRuns columns = make_source_runs(block.cols, item_.col_first, item_.col_last, dense, &block.bands);
    int64_t pixel = 1, channel = 1;
    if (pixel_major_) {
      pixel = line_stride(std::max<int64_t>(channels, 1), sizeof(scalar_t));
    } else {
      channel = columns.length = line_stride(std::max<int64_t>(columns.length, 1), sizeof(scalar_t));
    }
    const int64_t slot = pixel_major_ ? columns.length * pixel : channels * channel;
    check_fits(static_cast<int64_t>(rows.source.size()) * slot, sizeof(scalar_t), plan_.source_bytes);
    if (pixel_major_) {
      pack_pixel_major(kernels_, x, channels, pixel, c_.source_w, rows, columns, buffer_, true);
    } else {
      pack_channel_major(kernels_, x, channels, c_.source_w, rows, columns, buffer_);
    }
    return {buffer_, std::move(columns), pixel, channel, packed_slots(rows, slot), kMaxRows, false, false};
  }

 private:
  // How many pixels a tile may have that reads its sources where they lie, all of their lines together in L1;
  // 0: they have to be packed, as there is padding between them, or too few would fit.
  int64_t pixels_in_place(const KernelBlock& block, const RowSlots& rows) const {
    const auto [sn, sc, sh, sw] = c_.source.stride;
    const Axis& axis = block.cols;
    const int64_t reach = c_.source_h * sh + (c_.source_w + cols_ * axis.source_step) * sw;
    if (reach > INT32_MAX || !all_inside(axis, block.bands, item_.col_first, item_.col_last)) return 0;
    const int64_t taps = static_cast<int64_t>(max_taps(axis));
    const int64_t lines = rows.max_taps * std::min(taps, axis.source_step);  // of a pixel more
    const int64_t step = taps > 1 ? sw : axis.source_step * sw;
    const int64_t tile_rows = sets_hold(step, sizeof(scalar_t)) / std::max<int64_t>(1, lines);
    if (tile_rows < kFewestRows) return 0;
    // A kernel whose columns are cut into bands is worth packing for whole tiles.
    for (const std::vector<Band>& bands : block.bands) {
      for (const Band& band : bands) {
        const int64_t count = band.j.end - band.j.begin;
        if (bands.size() > 1 && ceil_div(count, tile_rows) > ceil_div(count, kernels_.max_rows[plan_.nv]))
          return 0;
      }
    }
    return tile_rows;
  }

  // The same of planes. With a stride kernels of several columns want neighbouring results to read side by side.
  int64_t planes_in_place(const KernelBlock& block) const {
    const auto [sn, sc, sh, sw] = c_.source.stride;
    const Axis& axis = block.cols;
    const bool anew = item_.panel_last - item_.panel_first > kFewPanels;
    if ((max_taps(axis) > 1 && sw * axis.source_step != 1) ||
        (anew && sets_hold(sc, sizeof(scalar_t)) < kFewSets))
      return 0;
    if (c_.source_h * sh + c_.source_w * sw + (joined_ ? c_.C * sc : 0) > INT32_MAX) return 0;
    return all_inside(axis, block.bands, item_.col_first, item_.col_last) ? kMaxRows : 0;
  }

  static size_t max_taps(const Axis& axis) {
    size_t taps = 0;
    for (const Phase& phase : axis.phases) taps = std::max(taps, phase.taps.size());
    return taps;
  }

  const Correlation<scalar_t>& c_;
  const Plan& plan_;
  const Kernels<scalar_t>& kernels_;
  const CorrelationItem& item_;
  scalar_t* const buffer_;
  const int64_t cols_;
  const bool pixel_major_;  // how sources are read (pack.h)
  const bool joined_;       // few channels, whose lines follow each other
};

}  // namespace
}  // namespace tce
