// Chooses a cut by its estimated time: rounds of items on the threads, times the cost of an item.

#include "cut.h"

#include <algorithm>

namespace tce {

namespace {

// Costs in vector FMAs. Packing an element takes a load, a store and its share of a transpose (measured: 0.3
// to 0.6 cycles of an AVX-512 core, for either operand).
constexpr double kPackElement = 0.5;
// What an item costs however small it is: tables, scratch, its turn in the queue (about a microsecond).
constexpr double kItem = 2000;

double rounds(int64_t items, int threads) {
  return static_cast<double>(ceil_div(items, threads));
}

// Calls try_part for size, size / 2, size / 4, ... down to 1, and for an even share of the total.
template <class F>
void each_part(int64_t largest, int64_t total, int threads, F&& try_part) {
  for (int64_t part = std::max<int64_t>(1, largest);; part = ceil_div(part, 2)) {
    try_part(part);
    if (part == 1) break;
  }
  for (int64_t share = 1; share <= 4; share *= 2) {
    const int64_t part = ceil_div(total, threads * share);
    if (part >= 1 && part < largest) try_part(part);
  }
}

}  // namespace

CorrelationCut cut_correlation(const Plan& plan, const CorrelationSize& size, int64_t channels, int64_t taps,
                               int64_t phases, int threads) {
  CorrelationCut best{plan.rows, plan.panels};
  if (threads <= 1 || size.rows == 0 || size.panels == 0) return best;
  double best_time = 0;
  const int64_t col_parts = ceil_div(size.cols, plan.cols);
  const double terms = static_cast<double>(channels * taps) / static_cast<double>(phases);
  each_part(std::min(plan.rows, size.rows), size.rows, threads, [&](int64_t rows) {
    each_part(std::min(plan.panels, size.panels), size.panels, threads, [&](int64_t panels) {
      const int64_t items =
          size.groups * ceil_div(size.rows, rows) * col_parts * ceil_div(size.panels, panels);
      const double pixels = static_cast<double>(rows * plan.cols);
      const double sum = pixels * static_cast<double>(panels * plan.nv) * terms;
      // The source of a chunk: its pixels, and the rows above and below that its neighbours pack too.
      const double halo = 1 + static_cast<double>(plan.kh_block - 1) / static_cast<double>(rows);
      const double source = pixels * halo * static_cast<double>(channels) * kPackElement;
      const double weight = static_cast<double>(panels * plan.panel_lanes() * channels * taps) * kPackElement;
      const double time = rounds(items, threads) * (sum + source + weight + kItem);
      if (best_time == 0 || time < best_time) {
        best_time = time;
        best = {rows, panels};
      }
    });
  });
  return best;
}

WeightCut cut_grad_weight(const Plan& plan, int64_t pixels, int threads) {
  const ConvGeometry& g = plan.geometry;
  const int64_t panels_total = panel_count(plan, g.Co);
  WeightCut best{plan.panels, plan.c_block, plan.kh_block};
  if (threads <= 1 || g.Ci == 0 || panels_total == 0 || g.kH == 0) return best;
  double best_time = 0;
  const double px = static_cast<double>(pixels);
  each_part(std::min(plan.panels, panels_total), panels_total, threads, [&](int64_t panels) {
    each_part(plan.c_block, g.Ci, threads, [&](int64_t channels) {
      each_part(plan.kh_block, g.kH, threads, [&](int64_t kh) {
        const int64_t items = g.G * ceil_div(panels_total, panels) * ceil_div(g.Ci, channels) *
                              ceil_div(g.kH, kh) * ceil_div(g.kW, plan.kw_block);
        const double tile_rows = static_cast<double>(channels * kh * plan.kw_block);
        const double sum = px * tile_rows * static_cast<double>(panels * plan.nv);
        const double source = px * static_cast<double>(channels * std::min(kh, g.stride_h)) * kPackElement;
        const double dy = px * static_cast<double>(panels * plan.panel_lanes()) * kPackElement;
        const double time = rounds(items, threads) * (sum + source + dy + kItem);
        if (best_time == 0 || time < best_time) {
          best_time = time;
          best = {panels, channels, kh};
        }
      });
    });
  });
  return best;
}

}  // namespace tce
