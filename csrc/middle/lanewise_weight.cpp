// grad_weight with lanes over groups: depthwise convolution, and groups of a few channels.
//
// Loops, outermost first, with what each holds:
//
//   item (blocks of groups, kh)            one thread; its sums: [block][co][ci][kh][kw][lanes]
//     chunk of rows and columns of dY      steps: its pixels                                 L1
//       image, block (as many groups as lanes)
//                                          X packed: [ci][height][width][lanes]              L2
//                                          dY packed: [co][pixel][lanes]                     L2
//         kh, co, ci, kernel columns (mr)  microkernel, lane by lane: sum over the pixels    registers
//   then: the sums to the tensor
//
// The chunks are fixed by the geometry and summed in order: the same bits for any number of threads.

#include <algorithm>
#include <vector>

#include "parallel.h"
#include "planes.h"
#include "scratch.h"

namespace tce {

namespace {

struct Item {
  int64_t block_first, block_last;  // block b: groups b * lanes, ...
  KRange kh;
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
        nh_(item.kh.end - item.kh.begin),
        rows_(forward_axis(g.oH, g.iH, item.kh, g.stride_h, g.padding_h, g.dilation_h)),
        cols_(forward_axis(g.oW, g.iW, {0, g.kW}, g.stride_w, g.padding_w, g.dilation_w)),
        dy_rows_(identity_axis(g.oH)),
        dy_cols_(identity_axis(g.oW)) {
    source_ = scratch_.take_bytes<scalar_t>(plan.source_bytes);
    dy_ = scratch_.take_bytes<scalar_t>(plan.weight_bytes);
    tiles_ = scratch_.take_bytes<scalar_t>(plan.tile_bytes);
    steps_ = scratch_.take<KStep>(plan.rows * plan.cols);
  }

  void run() {
    std::fill_n(tiles_, (item_.block_last - item_.block_first) * sums(), scalar_t(0));
    for (int64_t h = 0; h < g_.oH; h += plan_.rows) {
      for (int64_t w = 0; w < g_.oW; w += plan_.cols) {
        sum_chunk(h, std::min(g_.oH, h + plan_.rows), w, std::min(g_.oW, w + plan_.cols));
      }
    }
    for (int64_t b = item_.block_first; b < item_.block_last; ++b) store(b);
  }

 private:
  // Elements of a block's sums, and where they begin.
  int64_t sums() const { return g_.Co * g_.Ci * nh_ * g_.kW * lanes_; }
  scalar_t* sums_of(int64_t block) const { return tiles_ + (block - item_.block_first) * sums(); }
  int64_t groups_of(int64_t block) const { return std::min(lanes_, g_.G - block * lanes_); }

  static Axis identity_axis(int64_t size) { return {size, size, 1, 1, {{size, {{0, 0}}}}}; }

  // The same chunk of all images, in order.
  void sum_chunk(int64_t h0, int64_t h1, int64_t w0, int64_t w1) {
    // Dense, so that the elements of a kernel row with dilation 1 lie side by side: the rows of a tile.
    const SourceRuns rows = make_source_runs(rows_, h0, h1, false);
    const SourceRuns cols = make_source_runs(cols_, w0, w1, true);
    const SourceRuns dy_rows = make_source_runs(dy_rows_, h0, h1, false);
    const SourceRuns dy_cols = make_source_runs(dy_cols_, w0, w1, false);
    check_fits(rows.length * cols.length * lanes_ * g_.Ci, sizeof(scalar_t), plan_.source_bytes);
    KStep* step = steps_;
    for (int64_t h = 0; h < h1 - h0; ++h) {
      for (int64_t w = 0; w < w1 - w0; ++w, ++step) {
        step->a = static_cast<int32_t>((h * cols.length + w * g_.stride_w) * lanes_);
        step->b = static_cast<int32_t>((step - steps_) * lanes_);
      }
    }
    bool clear = true;
    for (int64_t n = 0; n < g_.N; ++n) {
      for (int64_t b = item_.block_first; b < item_.block_last; ++b) {
        pack(t_.a, n, b, g_.Ci, g_.iH, g_.iW, rows, cols, clear, source_);
        pack(t_.b, n, b, g_.Co, g_.oH, g_.oW, dy_rows, dy_cols, clear, dy_);
        sum_image(sums_of(b), rows, cols, h0, h1, w0, w1);
        clear = false;
      }
    }
  }

  // dst[c][height][width][lanes] of image n, c < channels of a group. X is packed before dY is needed.
  void pack(const TensorView<const scalar_t>& t, int64_t n, int64_t block, int64_t channels, int64_t height,
            int64_t width, const SourceRuns& rows, const SourceRuns& cols, bool clear, scalar_t* dst) {
    const auto [sn, sc, sh, sw] = t.stride;
    for (int64_t c = 0; c < channels; ++c) {
      pack_planes(kernels_, t.data + n * sn + (block * lanes_ * channels + c) * sc,
                  {channels * sc, sh, sw, 1, lanes_}, groups_of(block), height, width, rows, cols, clear,
                  dst + c * rows.length * cols.length * lanes_, dy_,
                  dst == source_ ? plan_.rows * plan_.cols : 0);
    }
  }

  void sum_image(scalar_t* sums, const SourceRuns& rows, const SourceRuns& cols, int64_t h0, int64_t h1,
                 int64_t w0, int64_t w1) {
    const int64_t plane = rows.length * cols.length * lanes_, width = w1 - w0;
    TileProblem<scalar_t> tile = {};
    tile.outer = 1;
    tile.c_stride = lanes_;
    tile.a_row = lanes_;
    tile.accumulate = true;
    // With a dilation each kernel element is a tile of its own.
    const int64_t parts = g_.dilation_w == 1 ? ceil_div(g_.kW, kernels_.max_rows[1]) : g_.kW;
    for (int64_t kh = 0; kh < nh_; ++kh) {
      // The rows of dY that meet a row of X with this kernel row.
      const int64_t source = (item_.kh.begin + kh) * g_.dilation_h - g_.padding_h;
      const int64_t first = std::clamp(ceil_div(-source, g_.stride_h), h0, h1);
      const int64_t last = std::clamp(ceil_div(g_.iH - source, g_.stride_h), first, h1);
      tile.steps = steps_ + (first - h0) * width;
      tile.inner = (last - first) * width;
      if (tile.inner == 0) continue;
      const int64_t pixel = (rows.start[0][kh] + h0) * cols.length + w0 * g_.stride_w;
      for (int64_t co = 0; co < g_.Co; ++co) {
        tile.b = dy_ + co * (h1 - h0) * width * lanes_;
        for (int64_t ci = 0; ci < g_.Ci; ++ci) {
          for (int64_t i = 0; i < parts; ++i) {
            const int64_t begin = part_start(g_.kW, parts, i), end = part_start(g_.kW, parts, i + 1);
            tile.a = source_ + ci * plane + (pixel + cols.start[0][begin]) * lanes_;
            tile.c_tile = sums + (((co * g_.Ci + ci) * nh_ + kh) * g_.kW + begin) * lanes_;
            kernels_.microkernel_lanewise[end - begin](tile);
          }
        }
      }
    }
  }

  void store(int64_t block) {
    const auto [so, si, sh, sw] = t_.result.stride;
    for (int64_t co = 0; co < g_.Co; ++co) {
      for (int64_t ci = 0; ci < g_.Ci; ++ci) {
        for (int64_t kh = 0; kh < nh_; ++kh) {
          kernels_.copy_2d(
              {groups_of(block), g_.kW, 1, lanes_, g_.Co * so, sw},
              sums_of(block) + ((co * g_.Ci + ci) * nh_ + kh) * g_.kW * lanes_,
              t_.result.data + (block * lanes_ * g_.Co + co) * so + ci * si + (item_.kh.begin + kh) * sh);
        }
      }
    }
  }

  const Plan& plan_;
  const ConvGeometry& g_;
  const Operands<scalar_t>& t_;
  const Kernels<scalar_t>& kernels_;
  const Item item_;
  Scratch scratch_;
  const int64_t lanes_, nh_;
  const Axis rows_, cols_, dy_rows_, dy_cols_;
  scalar_t *source_, *dy_, *tiles_;
  KStep* steps_;
};

}  // namespace

template <class scalar_t>
void lanewise_grad_weight(const Plan& plan, const ConvGeometry& g, const Operands<scalar_t>& t,
                          const Kernels<scalar_t>& kernels, int threads) {
  const int64_t blocks = ceil_div(g.G, kernels.lanes), kh_parts = ceil_div(g.kH, plan.kh_block);
  // An item has no more blocks than leave one for every thread.
  const int64_t most = std::min(plan.panels, ceil_div(blocks * kh_parts, threads));
  const int64_t block_parts = ceil_div(blocks, std::max<int64_t>(1, most));
  parallel_for(block_parts * kh_parts, threads, [&](int64_t i) {
    const int64_t part = i % kh_parts, b = i / kh_parts;
    const Item item{part_start(blocks, block_parts, b),
                    part_start(blocks, block_parts, b + 1),
                    {part_start(g.kH, kh_parts, part), part_start(g.kH, kh_parts, part + 1)}};
    Worker<scalar_t>(plan, g, t, kernels, item).run();
  });
}

template void lanewise_grad_weight<float>(const Plan&, const ConvGeometry&, const Operands<float>&,
                                          const Kernels<float>&, int);
template void lanewise_grad_weight<double>(const Plan&, const ConvGeometry&, const Operands<double>&,
                                           const Kernels<double>&, int);

}  // namespace tce
