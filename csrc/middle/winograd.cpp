// forward and grad_input by Winograd F(4x4, 3x3). Lanes are channels in every stage, so that no tile wastes a
// lane whatever the width of the image.
//
// Loops, outermost first, with what each holds:
//
//   item (group, chunk of tiles, panels)   one thread; disjoint results
//     channel group (lanes channels)       source packed: [slot][width][lanes]
//                                          transformed: V[36][group][tile][lanes]
//     panel (nv * lanes channels)
//       channel block (c_block)            weights packed: [c][kh][kw][panel lanes]
//                                          transformed: U[36][c][panel lanes]               L2
//         plane, tiles (mr)                microkernel: M[36][tile][panel lanes] += V * U   registers
//       tile row                           A^T M A: [4][4 * tiles][panel lanes]             L1
//                                          then to the tensor, unless it is not finite
//
// The weights are transformed anew for each item: nothing is shared between
// threads, and nothing outlives the call.

#include "winograd.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "cut.h"
#include "parallel.h"
#include "scratch.h"

namespace tce {

Axis tile_axis(int64_t out_size, int64_t source_size, int64_t first) {
  const int64_t tiles = ceil_div(out_size, 4);
  Axis axis{tiles, source_size, 1, 4, {{tiles, {}}}};
  for (int64_t i = 0; i < 6; ++i) axis.phases[0].taps.push_back({i, first + i});
  return axis;
}

namespace {

struct Item {
  int64_t g;
  int64_t row_first, row_last;  // tile rows, numbered over the batch
  int64_t col_first, col_last;  // tile columns
  int64_t panel_first, panel_last;
};

// What the direct algorithm has to compute again.
struct NotFinite {
  std::mutex mutex;
  std::vector<Region> regions;

  void add(const Region& region) {
    const std::lock_guard<std::mutex> lock(mutex);
    regions.push_back(region);
  }
};

template <class scalar_t>
class Worker {
 public:
  Worker(const Correlation<scalar_t>& c, const Plan& plan, const Kernels<scalar_t>& kernels, const Axis& rows,
         const Axis& cols, const int64_t (&taps)[9], const Item& item, NotFinite& not_finite)
      : c_(c),
        plan_(plan),
        kernels_(kernels),
        rows_(rows),
        cols_(cols),
        taps_(taps),
        item_(item),
        not_finite_(not_finite),
        scratch_(plan.scratch_bytes),
        lanes_(kernels.lanes),
        tile_cols_(item.col_last - item.col_first),
        tiles_((item.row_last - item.row_first) * tile_cols_),
        groups_(ceil_div(c.C, kernels.lanes)),
        v_plane_(plane_stride(groups_ * tiles_ * lanes_, lanes_)) {
    v_ = scratch_.take_bytes<scalar_t>(plan.source_bytes);
    u_ = scratch_.take_bytes<scalar_t>(plan.weight_bytes);
    m_ = scratch_.take_bytes<scalar_t>(plan.tile_bytes);
    edge_ = scratch_.take_bytes<scalar_t>(plan.edge_bytes);
    steps_ = scratch_.take<KStep>(lanes_);
  }

  void run() {
    transform_source();
    for (int64_t p = item_.panel_first; p < item_.panel_last; ++p) run_panel(p);
  }

 private:
  // V[36][group][tile][lanes]
  void transform_source() {
    const RowSlots rows = make_row_slots(rows_, item_.row_first, item_.row_last);
    const SourceRuns columns = make_source_runs(cols_, item_.col_first, item_.col_last, true);
    // The packed rows, and a row of zeros.
    check_fits((static_cast<int64_t>(rows.source.size()) + 1) * columns.length * lanes_, sizeof(scalar_t),
               plan_.edge_bytes);
    for (int64_t group = 0; group < groups_; ++group) {
      TensorView<const scalar_t> source = c_.source;
      source.data += (item_.g * c_.C + group * lanes_) * source.stride[1];
      pack_pixel_major(kernels_, source, std::min(lanes_, c_.C - group * lanes_), lanes_, c_.source_w, rows,
                       columns, edge_);
      each_tile_row(edge_, rows, columns, item_.row_last - item_.row_first, item_.col_first, lanes_,
                    [&](int64_t row, const scalar_t** sources) {
                      kernels_.winograd_input(sources, lanes_, tile_cols_,
                                              v_ + (group * tiles_ + row * tile_cols_) * lanes_, lanes_,
                                              v_plane_);
                    });
    }
  }

  void run_panel(int64_t panel) {
    const int64_t o0 = panel * plan_.panel_lanes(), valid = std::min(plan_.panel_lanes(), c_.O - o0);
    const int nv = static_cast<int>(ceil_div(valid, lanes_));
    const int64_t panel_lanes = nv * lanes_, m_plane = plane_stride(tiles_ * panel_lanes, lanes_);
    for (int64_t c0 = 0; c0 < c_.C; c0 += plan_.c_block) {
      const int64_t channels = std::min(plan_.c_block, c_.C - c0);
      const int64_t u_plane = transform_weight(o0, valid, panel_lanes, c0, channels);
      multiply(nv, c0 / lanes_, ceil_div(channels, lanes_), u_plane, m_plane, c0 > 0);
    }
    for (int64_t row = 0; row < item_.row_last - item_.row_first; ++row) {
      store_row(row, o0, valid, nv, m_plane);
    }
  }

  // U[36][c][panel lanes]; rows up to a whole number of channel groups are zero. Returns the plane stride.
  int64_t transform_weight(int64_t o0, int64_t valid, int64_t panel_lanes, int64_t c0, int64_t channels) {
    const int64_t rows = ceil_div(channels, lanes_) * lanes_;
    const int64_t plane = plane_stride(rows * panel_lanes, lanes_);
    WeightView<scalar_t> w = c_.weight;
    w.data += item_.g * c_.weight_group + o0 * w.lane + c0 * w.channel;
    pack_weight(kernels_, w, valid, panel_lanes, channels, {0, 3}, {0, 3}, edge_);
    int64_t taps[9];
    for (int i = 0; i < 9; ++i) taps[i] = taps_[i] * panel_lanes;
    for (int64_t c = 0; c < channels; ++c) {
      kernels_.winograd_kernel(edge_ + c * 9 * panel_lanes, taps, panel_lanes / lanes_, u_ + c * panel_lanes,
                               plane);
    }
    for (int64_t xi = 0; channels < rows && xi < 36; ++xi) {
      std::fill(u_ + xi * plane + channels * panel_lanes, u_ + xi * plane + rows * panel_lanes, scalar_t(0));
    }
    return plane;
  }

  // M[36][tile][panel lanes] (+)= sum over the channels of the groups of V * U
  void multiply(int nv, int64_t group_first, int64_t groups, int64_t u_plane, int64_t m_plane,
                bool accumulate) {
    const int64_t panel_lanes = nv * lanes_;
    for (int64_t l = 0; l < lanes_; ++l) {
      steps_[l] = {static_cast<int32_t>(l), static_cast<int32_t>(l * panel_lanes)};
    }
    TileProblem<scalar_t> tile = {};
    tile.steps = steps_;
    tile.inner = lanes_;
    tile.outer = groups;
    tile.a_outer = tiles_ * lanes_;
    tile.b_outer = lanes_ * panel_lanes;
    tile.c_stride = panel_lanes;
    tile.accumulate = accumulate;
    const int64_t parts = ceil_div(tiles_, kernels_.max_rows[nv]);
    for (int64_t xi = 0; xi < 36; ++xi) {
      tile.b = u_ + xi * u_plane;
      for (int64_t i = 0; i < parts; ++i) {
        const int64_t begin = part_start(tiles_, parts, i), end = part_start(tiles_, parts, i + 1);
        tile.a = v_ + xi * v_plane_ + (group_first * tiles_ + begin) * lanes_;
        tile.c_tile = m_ + xi * m_plane + begin * panel_lanes;
        kernels_.microkernel_blocked[nv][end - begin](tile);
      }
    }
  }

  void store_row(int64_t row, int64_t o0, int64_t valid, int nv, int64_t m_plane) {
    const int64_t panel_lanes = nv * lanes_, width = 4 * tile_cols_;
    // edge_: bias, then four rows of pixels.
    scalar_t *bias = nullptr, *pixels = edge_ + panel_lanes;
    if (c_.bias) {
      bias = edge_;
      std::fill(bias, bias + panel_lanes, scalar_t(0));
      std::copy_n(c_.bias + item_.g * c_.O + o0, valid, bias);
    }
    const bool finite = kernels_.winograd_output(m_ + row * tile_cols_ * panel_lanes, m_plane, tile_cols_, nv,
                                                 panel_lanes, bias, pixels, width * panel_lanes);
    const int64_t n = (item_.row_first + row) / rows_.out_size;
    const int64_t h0 = (item_.row_first + row) % rows_.out_size * 4, h1 = std::min(h0 + 4, c_.out_h);
    const int64_t w0 = item_.col_first * 4, w1 = std::min(w0 + width, c_.out_w);
    if (!finite)
      return not_finite_.add({item_.g, n * c_.out_h + h0, n * c_.out_h + h1, w0, w1, o0, o0 + valid});
    const auto [sn, sc, sh, sw] = c_.out.stride;
    for (int64_t h = h0; h < h1; ++h) {
      kernels_.copy_2d({valid, w1 - w0, 1, panel_lanes, sc, sw}, pixels + (h - h0) * width * panel_lanes,
                       c_.out.data + n * sn + (item_.g * c_.O + o0) * sc + h * sh + w0 * sw);
    }
  }

  const Correlation<scalar_t>& c_;
  const Plan& plan_;
  const Kernels<scalar_t>& kernels_;
  const Axis &rows_, &cols_;
  const int64_t (&taps_)[9];
  const Item item_;
  NotFinite& not_finite_;
  Scratch scratch_;
  const int64_t lanes_;  // of a vector
  const int64_t tile_cols_, tiles_, groups_, v_plane_;
  scalar_t *v_, *u_, *m_, *edge_;
  KStep* steps_;
};

}  // namespace

template <class scalar_t>
void winograd_correlate(const Correlation<scalar_t>& c, const Plan& plan, const Plan& direct,
                        const Kernels<scalar_t>& kernels, int threads) {
  // With stride 1 the three taps of an axis read neighbouring positions, in
  // ascending or descending order of k.
  const std::vector<Tap> taps_h = c.rows({0, 3}).phases.at(0).taps, taps_w = c.cols({0, 3}).phases.at(0).taps;
  const int64_t first_h = std::min(taps_h[0].source, taps_h[2].source);
  const int64_t first_w = std::min(taps_w[0].source, taps_w[2].source);
  int64_t taps[9];
  for (const Tap& h : taps_h) {
    for (const Tap& w : taps_w) taps[(h.source - first_h) * 3 + w.source - first_w] = h.k * 3 + w.k;
  }
  const Axis rows = tile_axis(c.out_h, c.source_h, first_h), cols = tile_axis(c.out_w, c.source_w, first_w);

  const int64_t total_rows = c.N * rows.out_size, panels = panel_count(plan, c.O);
  const PanelCut cut = cut_winograd(plan, {c.G, total_rows, cols.out_size, panels}, c.C, threads);
  const int64_t row_parts = ceil_div(total_rows, cut.rows), col_parts = ceil_div(cols.out_size, plan.cols);
  const int64_t panel_parts = ceil_div(panels, cut.panels);
  NotFinite not_finite;
  parallel_for(c.G * row_parts * col_parts * panel_parts, threads, [&](int64_t i) {
    Item item;
    const int64_t p = i % panel_parts, w = i / panel_parts % col_parts,
                  r = i / panel_parts / col_parts % row_parts;
    item.g = i / panel_parts / col_parts / row_parts;
    item.row_first = part_start(total_rows, row_parts, r);
    item.row_last = part_start(total_rows, row_parts, r + 1);
    item.col_first = w * plan.cols;
    item.col_last = std::min(cols.out_size, item.col_first + plan.cols);
    item.panel_first = part_start(panels, panel_parts, p);
    item.panel_last = part_start(panels, panel_parts, p + 1);
    Worker<scalar_t>(c, plan, kernels, rows, cols, taps, item, not_finite).run();
  });
  for (const Region& region : not_finite.regions) correlate_region(c, direct, kernels, region);
}

template void winograd_correlate<float>(const Correlation<float>&, const Plan&, const Plan&,
                                        const Kernels<float>&, int);
template void winograd_correlate<double>(const Correlation<double>&, const Plan&, const Plan&,
                                         const Kernels<double>&, int);

}  // namespace tce
