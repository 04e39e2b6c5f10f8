// grad_weight by Winograd F(m, r), with the matrices of back/winograd.inl, for each part of the kernel: a residue
// of the stride and a block (winograd.h, NOTE [Residues and blocks]).
//
//   dW = G^T [ sum over tiles of (B^T d B) . (A dY A^T) ] G        d: the PxP pixels of X that a tile reads
//
// Loops, outermost first, with what each holds:
//
//   item (group, channels, panels)        one thread; its sums: D[panel][product][part][ci][panel lanes]
//     chunk of tiles, in order            X packed, transformed: V[product][tile][part][ci]
//       panel (nv * lanes channels co)    dY packed, transformed: Y[product][tile][panel lanes]   L2
//         plane, channels (mr)            microkernel: D += sum over the tiles of V * Y      registers
//   then: D transformed to the elements of each part, and to the tensor
//
// The chunks are fixed by the geometry and summed in order: the same bits for any number of threads.

#include <algorithm>
#include <array>
#include <mutex>
#include <vector>

#include "cut.h"
#include "pack.h"
#include "parallel.h"
#include "scratch.h"
#include "winograd.h"

namespace tce {

namespace {

struct Item {
  int64_t g;
  int64_t panel_first, panel_last;
  KRange ci;
};

template <class scalar_t>
class Worker {
 public:
  Worker(const Plan& plan, const ConvGeometry& g, const Operands<scalar_t>& t,
         const Kernels<scalar_t>& kernels, const Item& item)
      : plan_(plan),
        g_(g),
        t_(t),
        kernels_(kernels),
        item_(item),
        scratch_(plan.scratch_bytes),
        lanes_(kernels.lanes),
        channels_(item.ci.end - item.ci.begin),
        padded_(ceil_div(channels_, lanes_) * lanes_),
        parts_w_(g.stride_w * plan.winograd_w.blocks),
        parts_(part_count(plan)),
        all_(parts_ * padded_),
        products_(product_count(plan)),
        transforms_(transforms_of(plan, kernels)),
        rows_(x_axis(plan.winograd_h, g.oH, g.iH, g.stride_h, g.padding_h, g.dilation_h, false)),
        cols_(x_axis(plan.winograd_w, g.oW, g.iW, g.stride_w, g.padding_w, g.dilation_w, true)),
        dy_rows_(dy_axis(plan.winograd_h, g.oH, g.dilation_h, false)),
        dy_cols_(dy_axis(plan.winograd_w, g.oW, g.dilation_w, true)),
        d_plane_(plane_stride(all_ * plan.panel_lanes(), lanes_)) {
    v_ = scratch_.take_bytes<scalar_t>(plan.source_bytes);
    y_ = scratch_.take_bytes<scalar_t>(plan.weight_bytes);
    d_ = scratch_.take_bytes<scalar_t>(plan.tile_bytes);
    edge_ = scratch_.take_bytes<scalar_t>(plan.edge_bytes);
    steps_ = scratch_.take<KStep>(plan.rows * plan.cols);
  }

  // The channels ci of each panel whose gradient came out not finite are appended to `not_finite`.
  void run(std::vector<WeightRegion>& not_finite) {
    std::fill(d_, d_ + (item_.panel_last - item_.panel_first) * products_ * d_plane_, scalar_t(0));
    const int64_t total_rows = g_.N * rows_.out_size;
    for (int64_t row = 0; row < total_rows; row += plan_.rows) {
      const int64_t row_last = std::min(total_rows, row + plan_.rows);
      for (int64_t col = 0; col < cols_.out_size; col += plan_.cols) {
        sum_chunk(row, row_last, col, std::min(cols_.out_size, col + plan_.cols));
      }
    }
    for (int64_t p = item_.panel_first; p < item_.panel_last; ++p) store(p, not_finite);
  }

 private:
  // `dense`: of columns, those of all residues of the dilation at once.
  static Axis x_axis(const WinogradAxis& tile, int64_t o_size, int64_t i_size, int64_t stride,
                     int64_t padding, int64_t dilation, bool dense) {
    return tile_axis(tile, o_size, stride, part_span(tile, stride), i_size, -padding, dilation, dense);
  }
  static Axis dy_axis(const WinogradAxis& tile, int64_t o_size, int64_t dilation, bool dense) {
    return tile_axis(tile, o_size, 1, tile.results(), o_size, 0, dilation, dense);
  }

  void sum_chunk(int64_t row_first, int64_t row_last, int64_t col_first, int64_t col_last) {
    const int64_t cols = col_last - col_first, tile_cols = cols * g_.dilation_w;
    const int64_t tiles = (row_last - row_first) * tile_cols;
    const int64_t v_plane = plane_stride(tiles * all_, lanes_);
    {
      const RowSlots rows = make_row_slots(rows_, row_first, row_last);
      const SourceRuns columns = make_source_runs(cols_, col_first, col_last, true);
      // The packed rows, and a row of zeros.
      check_fits((static_cast<int64_t>(rows.source.size()) + 1) * columns.length * lanes_, sizeof(scalar_t),
                 plan_.edge_bytes);
      for (int64_t c = 0; c < padded_; c += lanes_) {
        TensorView<const scalar_t> x = t_.a;
        x.data += (item_.g * g_.Ci + item_.ci.begin + c) * x.stride[1];
        pack_pixel_major(kernels_, x, std::min(lanes_, channels_ - c), lanes_, g_.iW, rows, columns, edge_);
        each_tile_row(edge_, rows, columns, row_last - row_first, col_first, lanes_,
                      [&](int64_t row, const scalar_t* const* lines) {
                        transform_parts(plan_, kernels_, lines, g_.stride_h, g_.stride_w, cols,
                                        v_ + row * tile_cols * all_ + c, all_, padded_, v_plane);
                      });
      }
    }
    const RowSlots rows = make_row_slots(dy_rows_, row_first, row_last);
    const SourceRuns columns = make_source_runs(dy_cols_, col_first, col_last, true);
    check_fits((static_cast<int64_t>(rows.source.size()) + 1) * columns.length * plan_.panel_lanes(),
               sizeof(scalar_t), plan_.edge_bytes);
    for (int64_t p = item_.panel_first; p < item_.panel_last; ++p) {
      const int64_t o0 = p * plan_.panel_lanes(), valid = std::min(plan_.panel_lanes(), g_.Co - o0);
      const int nv = static_cast<int>(ceil_div(valid, lanes_));
      const int64_t panel_lanes = nv * lanes_, y_plane = plane_stride(tiles * panel_lanes, lanes_);
      TensorView<const scalar_t> dy = t_.b;
      dy.data += (item_.g * g_.Co + o0) * dy.stride[1];
      pack_pixel_major(kernels_, dy, valid, panel_lanes, g_.oW, rows, columns, edge_);
      each_tile_row(edge_, rows, columns, row_last - row_first, col_first, panel_lanes,
                    [&](int64_t row, const scalar_t* const* lines) {
                      for (int64_t w = 0; w < g_.dilation_w; ++w) {
                        for (int v = 0; v < nv; ++v) {
                          const scalar_t* sources[kMaxWinogradPoints];
                          for (int i = 0; i < plan_.winograd_h.results(); ++i)
                            sources[i] = lines[i] + w * panel_lanes + v * lanes_;
                          transforms_.output_grad(
                              sources, g_.dilation_w * panel_lanes, cols,
                              y_ + (row * tile_cols + w * cols) * panel_lanes + v * lanes_, panel_lanes,
                              y_plane);
                        }
                      }
                    });
      multiply(p, nv, tiles, v_plane, y_plane);
    }
  }

  // D[panel][product][part][ci][panel lanes] += sum over tiles of V * Y
  void multiply(int64_t panel, int nv, int64_t tiles, int64_t v_plane, int64_t y_plane) {
    const int64_t panel_lanes = nv * lanes_;
    for (int64_t i = 0; i < tiles; ++i) {
      steps_[i] = {static_cast<int32_t>(i * all_), static_cast<int32_t>(i * panel_lanes)};
    }
    TileProblem<scalar_t> tile = {};
    tile.steps = steps_;
    tile.inner = tiles;
    tile.outer = 1;
    tile.c_stride = panel_lanes;
    tile.start_row = panel_lanes;
    const int64_t parts = ceil_div(all_, kernels_.max_rows[nv]);
    scalar_t* d = d_ + (panel - item_.panel_first) * products_ * d_plane_;
    for (int64_t xi = 0; xi < products_; ++xi) {
      tile.b = y_ + xi * y_plane;
      for (int64_t i = 0; i < parts; ++i) {
        const int64_t begin = part_start(all_, parts, i), end = part_start(all_, parts, i + 1);
        tile.a = v_ + xi * v_plane + begin;
        tile.start = tile.c_tile = d + xi * d_plane_ + begin * panel_lanes;
        kernels_.microkernel[nv][end - begin](tile);
      }
    }
  }

  void store(int64_t panel, std::vector<WeightRegion>& not_finite) {
    const int64_t o0 = panel * plan_.panel_lanes(), valid = std::min(plan_.panel_lanes(), g_.Co - o0);
    const int nv = static_cast<int>(ceil_div(valid, lanes_));
    const int64_t panel_lanes = nv * lanes_;
    const scalar_t* d = d_ + (panel - item_.panel_first) * products_ * d_plane_;
    const auto [so, si, sh, sw] = t_.result.stride;
    // Of joined groups those blocks of the sums are stored that have both channels in one group.
    const int64_t group_ci = g_.Ci / plan_.joined, group_co = g_.Co / plan_.joined;
    const int64_t lanes = plan_.joined > 1 ? group_co : valid;
    std::vector<std::array<int64_t, kMaxWinogradTaps * kMaxWinogradTaps>> taps(parts_);
    for (int64_t i = 0; i < parts_; ++i) {
      const int64_t h = i / parts_w_, w = i % parts_w_;
      part_taps(plan_, {h % g_.stride_h, h / g_.stride_h, w % g_.stride_w, w / g_.stride_w}, panel_lanes,
                false, taps[i].data());
    }
    // A vector of channels at a time, or those of a group: a channels_last dW is written along its channels.
    const int64_t elements = g_.kH * g_.kW;
    for (int64_t c = 0, count; c < channels_; c += count) {
      const int64_t j = (item_.ci.begin + c) / group_ci, ci = (item_.ci.begin + c) % group_ci;
      count = std::min({lanes_, channels_ - c, group_ci - ci});
      for (int64_t i = 0; i < count; ++i) {
        scalar_t* kernel = edge_ + i * elements * panel_lanes;
        bool finite = true;
        for (int64_t part = 0; part < parts_; ++part) {
          finite &= transforms_.kernel_grad(d + (part * padded_ + c + i) * panel_lanes, d_plane_, nv,
                                            taps[part].data(), kernel);
        }
        if (finite) continue;
        add_region(not_finite, {item_.g * plan_.joined + j, o0, o0 + lanes, {ci + i, ci + i + 1}});
      }
      const scalar_t* from = edge_ + j * group_co;
      scalar_t* dw = t_.result.data + (item_.g * g_.Co + o0 + j * group_co) * so + ci * si;
      if (sw == 1 && sh == g_.kW) {                          // contiguous kernels: written along memory
        const int64_t kernels = si == elements ? count : 1;  // at a time
        for (int64_t i = 0; i < count; i += kernels) {
          kernels_.copy_2d({lanes, kernels * elements, 1, panel_lanes, so, 1},
                           from + i * elements * panel_lanes, dw + i * si);
        }
        continue;
      }
      for (int64_t k = 0; k < elements; ++k) {
        kernels_.copy_2d({lanes, count, 1, elements * panel_lanes, so, si}, from + k * panel_lanes,
                         dw + k / g_.kW * sh + k % g_.kW * sw);
      }
    }
  }

  static void add_region(std::vector<WeightRegion>& regions, const WeightRegion& region) {
    if (!regions.empty() && regions.back().g == region.g && regions.back().o_first == region.o_first &&
        regions.back().ci.end == region.ci.begin) {
      regions.back().ci.end = region.ci.end;
    } else {
      regions.push_back(region);
    }
  }

  const Plan& plan_;
  const ConvGeometry& g_;
  const Operands<scalar_t>& t_;
  const Kernels<scalar_t>& kernels_;
  const Item item_;
  Scratch scratch_;
  const int64_t lanes_;              // of a vector
  const int64_t channels_, padded_;  // of the item; to a whole number of vectors
  const int64_t parts_w_, parts_;    // of the kernel along w, of both axes: residues and blocks
  const int64_t all_;                // channels of all parts
  const int64_t products_;
  const WinogradKernels<scalar_t>& transforms_;
  const Axis rows_, cols_, dy_rows_, dy_cols_;
  const int64_t d_plane_;
  scalar_t *v_, *y_, *d_, *edge_;
  KStep* steps_;
};

}  // namespace

template <class scalar_t>
void winograd_grad_weight(const Plan& given_plan, const Plan& direct, const ConvGeometry& given,
                          const Operands<scalar_t>& t, const Kernels<scalar_t>& kernels, int threads) {
  Plan plan = given_plan;
  plan.geometry = joined_geometry(plan);
  ConvGeometry g = plan.geometry;
  g.N = given.N;
  const int64_t panels = panel_count(plan, g.Co), L = kernels.lanes;
  const int64_t tiles = g.N * g.dilation_h * tile_count(g.oH, g.dilation_h, plan.winograd_h.results()) *
                        g.dilation_w * tile_count(g.oW, g.dilation_w, plan.winograd_w.results());
  const WeightCut cut = cut_winograd_weight(plan, tiles, threads);
  const int64_t panel_parts = ceil_div(panels, cut.panels), ci_groups = ceil_div(g.Ci, L);
  const int64_t ci_parts = ceil_div(ci_groups, cut.channels / L);
  std::mutex mutex;
  std::vector<WeightRegion> not_finite;
  parallel_for(g.G * panel_parts * ci_parts, threads, [&](int64_t i) {
    Item item;
    const int64_t c = i % ci_parts, p = i / ci_parts % panel_parts;
    item.g = i / ci_parts / panel_parts;
    item.ci = {part_start(ci_groups, ci_parts, c) * L,
               std::min(g.Ci, part_start(ci_groups, ci_parts, c + 1) * L)};
    item.panel_first = part_start(panels, panel_parts, p);
    item.panel_last = part_start(panels, panel_parts, p + 1);
    std::vector<WeightRegion> regions;
    Worker<scalar_t>(plan, g, t, kernels, item).run(regions);
    if (regions.empty()) return;
    const std::lock_guard<std::mutex> lock(mutex);
    not_finite.insert(not_finite.end(), regions.begin(), regions.end());
  });
  for (const WeightRegion& region : not_finite) grad_weight_region(direct, given, t, kernels, region);
}

template void winograd_grad_weight<float>(const Plan&, const Plan&, const ConvGeometry&,
                                          const Operands<float>&, const Kernels<float>&, int);
template void winograd_grad_weight<double>(const Plan&, const Plan&, const ConvGeometry&,
                                           const Operands<double>&, const Kernels<double>&, int);

}  // namespace tce
