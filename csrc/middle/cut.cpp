// Chooses a cut by its estimated time: rounds of items on the threads, times the cost of an item.

#include "cut.h"

#include <algorithm>

#include "plan_tiles.h"

namespace tce {

namespace {

// Costs in vector FMAs. Packing an element takes a load, a store and its share of a transpose (measured: 0.3
// to 0.6 cycles of an AVX-512 core, for either operand).
constexpr double kPackElement = 0.5;
// What an item costs however small it is: tables, scratch, its turn in the queue (about a microsecond).
constexpr double kItem = 2000;

// Pixels for which a vector's weights are packed, at least (lanewise).
constexpr int64_t kLanePixels = 128;

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

// The cut into rows and panels with the least rounds(items) * item_cost(rows, panels).
template <class F>
PanelCut cut_panels(const Plan& plan, const CorrelationSize& size, int threads, F&& item_cost) {
  PanelCut best{plan.rows, plan.panels};
  if (threads <= 1 || size.rows == 0 || size.panels == 0) return best;
  double best_time = 0;
  const int64_t others = size.groups * ceil_div(size.cols, plan.cols);
  each_part(std::min(plan.rows, size.rows), size.rows, threads, [&](int64_t rows) {
    each_part(std::min(plan.panels, size.panels), size.panels, threads, [&](int64_t panels) {
      const int64_t items = others * ceil_div(size.rows, rows) * ceil_div(size.panels, panels);
      const double time = rounds(items, threads) * (item_cost(rows, panels) + kItem);
      if (best_time == 0 || time < best_time) {
        best_time = time;
        best = {rows, panels};
      }
    });
  });
  return best;
}

// The same for grad_weight; others: items that are there in any case.
template <class F>
WeightCut cut_weight(const Plan& plan, int64_t others, int64_t kh_total, int threads, F&& item_cost) {
  const ConvGeometry& g = plan.geometry;
  const int64_t panels_total = panel_count(plan, g.Co);
  WeightCut best{plan.panels, plan.c_block, plan.kh_block};
  if (threads <= 1 || g.Ci == 0 || panels_total == 0 || g.kH == 0) return best;
  double best_time = 0;
  each_part(std::min(plan.panels, panels_total), panels_total, threads, [&](int64_t panels) {
    each_part(plan.c_block, g.Ci, threads, [&](int64_t channels) {
      each_part(plan.kh_block, kh_total, threads, [&](int64_t kh) {
        const int64_t items =
            g.G * others * ceil_div(panels_total, panels) * ceil_div(g.Ci, channels) * ceil_div(kh_total, kh);
        const double time = rounds(items, threads) * (item_cost(panels, channels, kh) + kItem);
        if (best_time == 0 || time < best_time) {
          best_time = time;
          best = {panels, channels, kh};
        }
      });
    });
  });
  return best;
}

}  // namespace

PanelCut cut_correlation(const Plan& plan, const CorrelationSize& size, int64_t channels, int64_t taps,
                         int64_t phases, int threads) {
  const double c = static_cast<double>(channels),
               terms = c * static_cast<double>(taps) / static_cast<double>(phases);
  return cut_panels(plan, size, threads, [&](int64_t rows, int64_t panels) {
    const double pixels = static_cast<double>(rows * std::min(plan.cols, size.cols));
    const double sum = pixels * static_cast<double>(panels * plan.nv) * terms;
    // The source of a chunk: its pixels, and the rows above and below that its neighbours pack too.
    const double halo = 1 + static_cast<double>(plan.kh_block - 1) / static_cast<double>(rows);
    const double source = pixels * halo * c * kPackElement;
    const double weight = static_cast<double>(panels * plan.panel_lanes() * channels * taps) * kPackElement;
    return sum + source + weight;
  });
}

PanelCut cut_winograd(const Plan& plan, const CorrelationSize& size, int64_t channels, int threads) {
  const double products = static_cast<double>(product_count(plan));
  const WinogradCycles cycles = winograd_cycles(plan);
  // Parts of the source are as channels.
  const int64_t parts = part_count(plan);
  const double groups = static_cast<double>(parts * ceil_div(channels, plan.lanes)), c = groups * plan.lanes;
  return cut_panels(plan, size, threads, [&](int64_t rows, int64_t panels) {
    const double tiles = static_cast<double>(rows * std::min(plan.cols, size.cols));
    const double vectors = static_cast<double>(panels * plan.nv);
    return tiles * vectors * (products * c + cycles.output) + tiles * groups * cycles.input +
           vectors * c * cycles.kernel;
  });
}

int64_t cut_groups(const Plan& plan, int64_t groups, int64_t others, int threads) {
  const ConvGeometry& g = plan.geometry;
  const double group = static_cast<double>(g.Ci * g.Co * g.kH * g.kW) *
                       static_cast<double>(plan.rows * plan.cols) / plan.lanes;
  // Several groups share an item until it is worth its overhead; but every thread gets some.
  // Where channels lie side by side, an item that has all of them reads every line of its pixels once.
  const int64_t worth = plan.layout.channels_inner
                            ? groups
                            : std::max<int64_t>(1, static_cast<int64_t>(10 * kItem / std::max(group, 1.0)));
  return std::clamp<int64_t>(std::min(worth, groups * others / (4 * threads)), 1,
                             std::max<int64_t>(1, groups));
}

LaneCut cut_lanes(const Plan& plan, int64_t blocks, int64_t chunks, int threads) {
  if (blocks == 0 || chunks == 0) return {0, 0};
  LaneCut cut{ceil_div(blocks, plan.panels), 1};
  if (threads <= 1) return cut;
  // Every item packs its weights: it has enough pixels to be worth that, unless threads were left without any.
  const int64_t pixels = std::max<int64_t>(1, plan.rows * plan.cols);
  const int64_t worth = std::max(ceil_div(chunks * pixels, kLanePixels), static_cast<int64_t>(threads));
  cut.chunks = std::min({chunks, worth, ceil_div(4 * threads, cut.blocks)});
  if (cut.blocks * cut.chunks < threads) cut.blocks = std::min(blocks, ceil_div(threads, cut.chunks));
  return cut;
}

WeightCut cut_grad_weight(const Plan& plan, int64_t pixels, int64_t segments, int threads) {
  const ConvGeometry& g = plan.geometry;
  const double px = static_cast<double>(ceil_div(pixels, segments));
  return cut_weight(plan, segments * ceil_div(g.kW, plan.kw_block), g.kH, threads,
                    [&](int64_t panels, int64_t channels, int64_t kh) {
                      const double tile_rows = static_cast<double>(channels * kh * plan.kw_block);
                      const double sum = px * tile_rows * static_cast<double>(panels * plan.nv);
                      const double source =
                          px * static_cast<double>(channels * std::min(kh, g.stride_h)) * kPackElement;
                      const double dy = px * static_cast<double>(panels * plan.panel_lanes()) * kPackElement;
                      return sum + source + dy;
                    });
}

WeightCut cut_winograd_weight(const Plan& plan, int64_t tiles, int threads) {
  const double t = static_cast<double>(tiles), products = static_cast<double>(product_count(plan));
  const int64_t parts = part_count(plan);
  const WinogradCycles cycles = winograd_cycles(plan);
  // All of kh is one item's: the products mix it.
  WeightCut cut = cut_weight(plan, 1, 1, threads, [&](int64_t panels, int64_t channels, int64_t) {
    const double groups = static_cast<double>(parts * ceil_div(channels, plan.lanes));
    const double vectors = static_cast<double>(panels * plan.nv);
    return t * (products * groups * plan.lanes * vectors + groups * cycles.input + vectors * cycles.input);
  });
  cut.channels = ceil_div(cut.channels, plan.lanes) * plan.lanes;
  return cut;
}

}  // namespace tce
