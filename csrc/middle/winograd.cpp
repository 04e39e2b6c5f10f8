// forward and grad_input by Winograd F(m, r). Lanes are channels in every stage, so that no tile wastes
// a lane whatever the width of the image.
//
// Loops, outermost first, with what each holds:
//
//   item (group, chunk of tiles, panels)   one thread; disjoint results
//     channel group (lanes channels)       source packed: [slot][width][lanes]
//       part of the source                 transformed: V[products][part][group][tile][lanes]
//     panel (row residue of dX, channels)  of grad_input with all column residues: nv vectors
//       channel block (c_block)            weights packed: [c][kh][kw][lanes]
//         part of the source               transformed: U[products][c][panel lanes]         L2
//           product, tiles (mr)            microkernel: M[product][tile][panel lanes] += V * U   registers
//       tile row                           A^T M A: [m][m * tiles][column residue][lanes]   L1
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

void part_taps(const Plan& plan, const KernelPart& part, int64_t unit, bool reversed, int64_t* taps) {
  const ConvGeometry& g = plan.geometry;
  const int64_t r_h = plan.winograd_h.taps, r_w = plan.winograd_w.taps;
  for (int64_t i = 0; i < r_h * r_w; ++i) {
    const int64_t kh = g.stride_h * (r_h * part.block_h + i / r_w) + part.residue_h;
    const int64_t kw = g.stride_w * (r_w * part.block_w + i % r_w) + part.residue_w;
    taps[reversed ? r_h * r_w - 1 - i : i] = kh < g.kH && kw < g.kW ? (kh * g.kW + kw) * unit : -1;
  }
}

Axis tile_axis(const WinogradAxis& tile, int64_t results, int64_t step, int64_t span, int64_t source_size,
               int64_t first, int64_t dilation, bool dense) {
  const int64_t tiles = tile_count(results, dilation, tile.results());
  const int64_t residues = dense ? 1 : dilation, count = dense ? span * dilation : span;
  Axis axis{tiles * residues, source_size, residues, tile.results() * step * dilation, {}};
  for (int64_t a = 0; a < residues; ++a) {
    Phase phase{tiles, {}};
    for (int64_t i = 0; i < count; ++i) phase.taps.push_back({i, first + a + i * residues});
    axis.phases.push_back(std::move(phase));
  }
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

// What forward and grad_input differ in, of a layer of stride s: forward sums over residues of the source,
// grad_input computes those of the result.
struct Shape {
  int64_t source_h, source_w;  // residues of the source
  int64_t parts_h, parts_w;    // of the source: residues and blocks
  int64_t out_h, out_w;        // residues of the result
  int64_t first_h, first_w;    // result (u, a) lies at first + out * u + a
  Axis rows, cols;             // tiles; of columns those of all residues of the dilation at once
};

template <class scalar_t>
Shape make_shape(const Correlation<scalar_t>& c, const Plan& plan) {
  const ConvGeometry& g = plan.geometry;
  Shape s = {};
  const bool is_forward = plan.contraction == Contraction::kForward;
  s.source_h = s.source_w = s.out_h = s.out_w = 1;
  (is_forward ? s.source_h : s.out_h) = g.stride_h;
  (is_forward ? s.source_w : s.out_w) = g.stride_w;
  s.parts_h = s.source_h * plan.winograd_h.blocks;
  s.parts_w = s.source_w * plan.winograd_w.blocks;
  const auto set_axis = [&](const WinogradAxis& tile, int64_t out, int64_t source, int64_t stride,
                            int64_t padding, int64_t dilation, bool dense, int64_t& first, Axis& axis) {
    const ResidueRange u = is_forward ? ResidueRange{0, out} : residue_range(out, stride, padding);
    const int64_t sources = is_forward ? stride : 1;
    first = is_forward ? 0 : stride * u.first - padding;
    axis = tile_axis(tile, u.count, sources, part_span(tile, sources), source,
                     is_forward ? -padding : u.first - dilation * (tile.taps * tile.blocks - 1), dilation,
                     dense);
  };
  set_axis(plan.winograd_h, c.out_h, c.source_h, g.stride_h, g.padding_h, g.dilation_h, false, s.first_h,
           s.rows);
  set_axis(plan.winograd_w, c.out_w, c.source_w, g.stride_w, g.padding_w, g.dilation_w, true, s.first_w,
           s.cols);
  return s;
}

template <class scalar_t>
class Worker {
 public:
  Worker(const Correlation<scalar_t>& c, const Plan& plan, const Kernels<scalar_t>& kernels,
         const Shape& shape, const Item& item, NotFinite& not_finite)
      : c_(c),
        plan_(plan),
        kernels_(kernels),
        transforms_(transforms_of(plan, kernels)),
        shape_(shape),
        item_(item),
        not_finite_(not_finite),
        scratch_(plan.scratch_bytes),
        lanes_(kernels.lanes),
        channel_lanes_(plan.panel_lanes() / shape.out_w),
        tile_rows_(item.row_last - item.row_first),
        tile_cols_((item.col_last - item.col_first) * plan.geometry.dilation_w),
        tiles_(tile_rows_ * tile_cols_),
        groups_(ceil_div(c.C, kernels.lanes)),
        parts_(part_count(plan)),
        products_(product_count(plan)),
        v_plane_(plane_stride(parts_ * groups_ * tiles_ * lanes_, lanes_)) {
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
  // The result channels of a panel, and the row residue of dX.
  struct Panel {
    int64_t residue, o_first, valid;
    int nv;         // vectors of a column residue
    int64_t lanes;  // of all column residues
  };

  // V[product][part][group][tile][lanes]
  void transform_source() {
    const RowSlots rows = make_row_slots(shape_.rows, item_.row_first, item_.row_last);
    const SourceRuns columns = make_source_runs(shape_.cols, item_.col_first, item_.col_last, true);
    // The packed rows, and a row of zeros.
    check_fits((static_cast<int64_t>(rows.source.size()) + 1) * columns.length * lanes_, sizeof(scalar_t),
               plan_.edge_bytes);
    for (int64_t group = 0; group < groups_; ++group) {
      TensorView<const scalar_t> source = c_.source;
      source.data += (item_.g * c_.C + group * lanes_) * source.stride[1];
      pack_pixel_major(kernels_, source, std::min(lanes_, c_.C - group * lanes_), lanes_, c_.source_w, rows,
                       columns, edge_);
      each_tile_row(edge_, rows, columns, tile_rows_, item_.col_first, lanes_,
                    [&](int64_t row, const scalar_t* const* lines) {
                      transform_parts(plan_, kernels_, lines, shape_.source_h, shape_.source_w,
                                      item_.col_last - item_.col_first,
                                      v_ + (group * tiles_ + row * tile_cols_) * lanes_, lanes_,
                                      groups_ * tiles_ * lanes_, v_plane_);
                    });
    }
  }

  void run_panel(int64_t index) {
    const int64_t panels = ceil_div(c_.O, channel_lanes_);
    Panel panel = {};
    panel.residue = index / panels;
    panel.o_first = index % panels * channel_lanes_;
    panel.valid = std::min(channel_lanes_, c_.O - panel.o_first);
    panel.nv = static_cast<int>(ceil_div(panel.valid, lanes_));
    panel.lanes = shape_.out_w * panel.nv * lanes_;
    const int64_t m_plane = plane_stride(tiles_ * panel.lanes, lanes_);
    for (int64_t c0 = 0; c0 < c_.C; c0 += plan_.c_block) {
      const int64_t channels = std::min(plan_.c_block, c_.C - c0);
      pack_panel_weight(panel, c0, channels);
      for (int64_t part = 0; part < parts_; ++part) {
        const int64_t u_plane = transform_weight(panel, part, channels);
        multiply(panel, part * groups_ + c0 / lanes_, ceil_div(channels, lanes_), u_plane, m_plane,
                 c0 + part > 0);
      }
    }
    for (int64_t row = 0; row < tile_rows_; ++row) store_row(row, panel, m_plane);
  }

  void pack_panel_weight(const Panel& panel, int64_t c0, int64_t channels) {
    const int64_t unit = panel.nv * lanes_, kernel = c_.kH * c_.kW * unit;
    WeightView<scalar_t> w = c_.weight;
    w.data += item_.g * c_.weight_group + panel.o_first * w.lane + c0 * w.channel;
    if (plan_.joined == 1)
      return pack_weight(kernels_, w, panel.valid, unit, channels, {0, c_.kH}, {0, c_.kW}, edge_);
    // One panel and one block of channels have all of the joined groups, whose weights stand along the diagonal.
    const int64_t lanes = c_.O / plan_.joined, group_channels = c_.C / plan_.joined;
    std::fill(edge_, edge_ + channels * kernel, scalar_t(0));
    for (int64_t j = 0; j < plan_.joined; ++j, w.data += c_.weight_group / plan_.joined) {
      pack_weight(kernels_, w, lanes, unit, group_channels, {0, c_.kH}, {0, c_.kW},
                  edge_ + j * (group_channels * kernel + lanes));
    }
  }

  // U[product][c][panel lanes] of a part of the source, and of a row and all column residues of dX; rows up to
  // a whole number of channel groups are zero. Returns the plane stride.
  int64_t transform_weight(const Panel& panel, int64_t part, int64_t channels) {
    const int64_t rows = ceil_div(channels, lanes_) * lanes_, unit = panel.nv * lanes_;
    const int64_t plane = plane_stride(rows * panel.lanes, lanes_);
    const bool reversed = plan_.contraction == Contraction::kGradInput;
    const int64_t h = part / shape_.parts_w, w = part % shape_.parts_w;
    KernelPart elements{h % shape_.source_h, h / shape_.source_h, w % shape_.source_w, w / shape_.source_w};
    if (reversed) {  // the last block of the kernel reads the first sources
      elements.block_h = plan_.winograd_h.blocks - 1 - elements.block_h;
      elements.block_w = plan_.winograd_w.blocks - 1 - elements.block_w;
      elements.residue_h = panel.residue;
    }
    for (int64_t out_w = 0; out_w < shape_.out_w; ++out_w) {
      if (reversed) elements.residue_w = out_w;
      int64_t taps[kMaxWinogradTaps * kMaxWinogradTaps];
      part_taps(plan_, elements, unit, reversed, taps);
      for (int64_t c = 0; c < channels; ++c) {
        transforms_.kernel(edge_ + c * c_.kH * c_.kW * unit, taps, panel.nv,
                           u_ + c * panel.lanes + out_w * unit, plane);
      }
    }
    for (int64_t xi = 0; channels < rows && xi < products_; ++xi) {
      std::fill(u_ + xi * plane + channels * panel.lanes, u_ + xi * plane + rows * panel.lanes, scalar_t(0));
    }
    return plane;
  }

  // M[product][tile][panel lanes] (+)= sum over the channels of the groups of V * U
  void multiply(const Panel& panel, int64_t group_first, int64_t groups, int64_t u_plane, int64_t m_plane,
                bool accumulate) {
    const int64_t nv = panel.lanes / lanes_;
    for (int64_t l = 0; l < lanes_; ++l) {
      steps_[l] = {static_cast<int32_t>(l), static_cast<int32_t>(l * panel.lanes)};
    }
    TileProblem<scalar_t> tile = {};
    tile.steps = steps_;
    tile.inner = lanes_;
    tile.outer = groups;
    tile.a_row = lanes_;
    tile.a_outer = tiles_ * lanes_;
    tile.b_outer = lanes_ * panel.lanes;
    tile.c_stride = panel.lanes;
    tile.start_row = panel.lanes;
    const int64_t parts = ceil_div(tiles_, kernels_.max_rows[nv]);
    for (int64_t xi = 0; xi < products_; ++xi) {
      tile.b = u_ + xi * u_plane;
      for (int64_t i = 0; i < parts; ++i) {
        const int64_t begin = part_start(tiles_, parts, i), end = part_start(tiles_, parts, i + 1);
        tile.a = v_ + xi * v_plane_ + (group_first * tiles_ + begin) * lanes_;
        tile.c_tile = m_ + xi * m_plane + begin * panel.lanes;
        tile.start = accumulate ? tile.c_tile : nullptr;
        kernels_.microkernel_strided[nv][end - begin](tile);
      }
    }
  }

  void store_row(int64_t row, const Panel& panel, int64_t m_plane) {
    const int64_t dilation_h = plan_.geometry.dilation_h, dilation_w = plan_.geometry.dilation_w;
    const int64_t unit = panel.nv * lanes_, width = plan_.winograd_w.results() * tile_cols_ * shape_.out_w;
    const int64_t residues = shape_.out_w * dilation_w, cols = item_.col_last - item_.col_first;
    // edge_: bias, then m rows of pixels.
    scalar_t *bias = nullptr, *pixels = edge_ + unit;
    if (c_.bias) {
      bias = edge_;
      std::fill(bias, bias + unit, scalar_t(0));
      std::copy_n(c_.bias + item_.g * c_.O + panel.o_first, panel.valid, bias);
    }
    bool finite = true;
    for (int64_t w = 0; w < residues; ++w) {
      const int64_t from = dilation_w > 1 ? w * cols * panel.lanes : w * unit;
      finite &= transforms_.output(m_ + row * tile_cols_ * panel.lanes + from, m_plane, cols, panel.nv,
                                   panel.lanes, bias, pixels + w * unit, width * unit, residues * unit);
    }
    const int64_t n = (item_.row_first + row) / shape_.rows.out_size;
    const int64_t t = (item_.row_first + row) % shape_.rows.out_size;
    // The rows of all residues, and the columns, of these tiles.
    const int64_t step_h = shape_.out_h * dilation_h;
    const int64_t height = step_h * plan_.winograd_h.results();
    const int64_t h_first = shape_.first_h + height * (t / dilation_h);
    const int64_t h_last = std::min(h_first + height, c_.out_h);
    const int64_t w_first = shape_.first_w + residues * plan_.winograd_w.results() * item_.col_first;
    const int64_t w0 = std::max<int64_t>(0, w_first), w1 = std::min(w_first + width, c_.out_w);
    if (!finite) {
      const int64_t first = n * c_.out_h;
      return not_finite_.add({item_.g, first + std::max<int64_t>(0, h_first), first + h_last, w0, w1,
                              panel.o_first, panel.o_first + panel.valid});
    }
    const auto [sn, sc, sh, sw] = c_.out.stride;
    scalar_t* out = c_.out.data + n * sn + (item_.g * c_.O + panel.o_first) * sc + w0 * sw;
    for (int64_t h = h_first + panel.residue + t % dilation_h; h < h_last;
         h += step_h, pixels += width * unit) {
      if (h < 0) continue;
      kernels_.copy_2d({panel.valid, w1 - w0, 1, unit, sc, sw}, pixels + (w0 - w_first) * unit, out + h * sh);
    }
  }

  const Correlation<scalar_t>& c_;
  const Plan& plan_;
  const Kernels<scalar_t>& kernels_;
  const WinogradKernels<scalar_t>& transforms_;
  const Shape& shape_;
  const Item item_;
  NotFinite& not_finite_;
  Scratch scratch_;
  const int64_t lanes_;          // of a vector
  const int64_t channel_lanes_;  // result channels of a panel
  const int64_t tile_rows_, tile_cols_, tiles_;
  const int64_t groups_, parts_;  // of the source
  const int64_t products_;
  const int64_t v_plane_;
  scalar_t *v_, *u_, *m_, *edge_;
  KStep* steps_;
};

}  // namespace

template <class scalar_t>
void winograd_correlate(const Correlation<scalar_t>& given, const Plan& given_plan, const Plan& direct,
                        const Kernels<scalar_t>& kernels, int threads) {
  const int64_t joined = given_plan.joined;
  Plan plan = given_plan;
  plan.geometry = joined_geometry(plan);
  Correlation<scalar_t> c = given;
  c.G /= joined, c.C *= joined, c.O *= joined, c.weight_group *= joined;
  const Shape shape = make_shape(c, plan);
  const int64_t cols = shape.cols.out_size, total_rows = c.N * shape.rows.out_size;
  const int64_t panels = shape.out_h * ceil_div(c.O * shape.out_w, plan.panel_lanes());
  const PanelCut cut = cut_winograd(plan, {c.G, total_rows, cols, panels}, c.C, threads);
  const int64_t row_parts = ceil_div(total_rows, cut.rows), col_parts = ceil_div(cols, plan.cols);
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
    item.col_last = std::min(cols, item.col_first + plan.cols);
    item.panel_first = part_start(panels, panel_parts, p);
    item.panel_last = part_start(panels, panel_parts, p + 1);
    Worker<scalar_t>(c, plan, kernels, shape, item, not_finite).run();
  });
  for (Region region : not_finite.regions) {
    if (joined > 1) region.g *= joined, region.o_last = given.O;
    for (int64_t j = 0; j < joined; ++j, ++region.g) correlate_region(given, direct, kernels, region);
  }
}

template void winograd_correlate<float>(const Correlation<float>&, const Plan&, const Plan&,
                                        const Kernels<float>&, int);
template void winograd_correlate<double>(const Correlation<double>&, const Plan&, const Plan&,
                                         const Kernels<double>&, int);

}  // namespace tce
