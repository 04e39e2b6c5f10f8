// grad_weight with lanes over groups: depthwise convolution, and groups of a few channels.
//
// Loops, outermost first, with what each holds:
//
//   item (blocks of groups, kh)            one thread; its sums: [block][co][ci][kh][kw][lanes]
//     image, chunk of rows and columns of dY
//       block (as many groups as lanes)
//         unless they are read where they lie (lanes_in_place in plan.h):
//                                          X packed: [ci][height][width][lanes]              L2
//                                          dY packed: [co][pixel][lanes]                     L2
//         co, ci, kernel elements (mr x nv)
//                                          lane weight kernel: sum over the pixels           registers
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

// A part of an axis of dY, and the sources inside the image that it meets.
struct Part {
  int64_t first, last;
  KRange source;
  // [kernel elements k_first ... of a tile][position - first]: bit i: element k_first + i meets the image.
  std::vector<std::vector<uint32_t>> taps;
};

// Neighbouring kernel elements of a tile.
std::vector<KRange> tiles_of(const KRange& k, int64_t most) {
  std::vector<KRange> tiles;
  const int64_t parts = ceil_div(k.end - k.begin, most);
  for (int64_t i = 0; i < parts; ++i)
    tiles.push_back({k.begin + part_start(k.end - k.begin, parts, i),
                     k.begin + part_start(k.end - k.begin, parts, i + 1)});
  return tiles;
}

std::vector<Part> parts_of(const Axis& axis, int64_t size, const std::vector<KRange>& tiles, int64_t stride,
                           int64_t padding, int64_t dilation) {
  std::vector<Part> parts;
  for (int64_t first = 0; first < axis.out_size; first += size) {
    Part part{first, std::min(axis.out_size, first + size), {}, {}};
    part.source = sources_of(axis, part.first, part.last);
    for (const KRange& tile : tiles) {
      std::vector<uint32_t> taps;
      for (int64_t o = part.first; o < part.last; ++o) {
        uint32_t bits = 0;
        for (int64_t k = tile.begin; k < tile.end; ++k) {
          const int64_t i = o * stride - padding + k * dilation;
          if (i >= 0 && i < axis.source_size) bits |= 1u << (k - tile.begin);
        }
        taps.push_back(bits);
      }
      part.taps.push_back(std::move(taps));
    }
    parts.push_back(std::move(part));
  }
  return parts;
}

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
        in_place_(lanes_in_place(plan)),
        lanes_(kernels.lanes),
        nh_(item.kh.end - item.kh.begin),
        kh_tiles_(tiles_of(item.kh, plan.mr)),
        kw_tiles_(tiles_of({0, g.kW}, plan.nv)),
        rows_(parts_of(forward_axis(g.oH, g.iH, item.kh, g.stride_h, g.padding_h, g.dilation_h), plan.rows,
                       kh_tiles_, g.stride_h, g.padding_h, g.dilation_h)),
        cols_(parts_of(forward_axis(g.oW, g.iW, {0, g.kW}, g.stride_w, g.padding_w, g.dilation_w), plan.cols,
                       kw_tiles_, g.stride_w, g.padding_w, g.dilation_w)) {
    source_ = scratch_.take_bytes<scalar_t>(plan.source_bytes);
    dy_ = scratch_.take_bytes<scalar_t>(plan.weight_bytes);
    tiles_ = scratch_.take_bytes<scalar_t>(plan.tile_bytes);
  }

  void run() {
    check_fits((item_.block_last - item_.block_first) * sums(), sizeof(scalar_t), plan_.tile_bytes);
    std::fill_n(tiles_, (item_.block_last - item_.block_first) * sums(), scalar_t(0));
    for (int64_t n = 0; n < g_.N; ++n) {
      for (const Part& cols : cols_)
        for (size_t r = 0; r < rows_.size(); ++r) sum_chunk(n, r, cols);
    }
    for (int64_t b = item_.block_first; b < item_.block_last; ++b) store(b);
  }

 private:
  // Elements of a block's sums, and where they begin.
  int64_t sums() const { return g_.Co * g_.Ci * nh_ * g_.kW * lanes_; }
  scalar_t* sums_of(int64_t block) const { return tiles_ + (block - item_.block_first) * sums(); }
  int64_t groups_of(int64_t block) const { return std::min(lanes_, g_.G - block * lanes_); }

  void sum_chunk(int64_t n, size_t r, const Part& cols) {
    const Part& rows = rows_[r];
    LaneWeightProblem<scalar_t> p = {};
    p.rows = rows.last - rows.first, p.cols = cols.last - cols.first;
    p.sums_row = g_.kW * lanes_;
    for (int64_t b = item_.block_first; b < item_.block_last; ++b) {
      p.channels = static_cast<int>(groups_of(b));
      if (in_place_) {
        const auto [xn, xc, xh, xw] = t_.a.stride;
        const auto [dn, dc, dh, dw] = t_.b.stride;
        p.dy_row = dh, p.dy_col = dw;
        // The chunk below, or of the next image.
        const bool below = r + 1 < rows_.size();
        const int64_t image = below ? 0 : n + 1 < g_.N, down = rows_[below ? r + 1 : 0].first - rows.first;
        const bool fetches = below || image;
        p.dy_ahead = fetches ? image * dn + down * dh : 0;
        p.x_ahead = fetches ? image * xn + down * g_.stride_h * xh : 0;
        p.ahead_row = -xh, p.ahead_col = xw;
        sum_block(rows, cols, t_.a.data + n * xn + b * lanes_, xh, xw,
                  t_.b.data + n * dn + b * lanes_ + rows.first * dh + cols.first * dw, sums_of(b), p);
        continue;
      }
      const int64_t height = rows.source.end - rows.source.begin, width = cols.source.end - cols.source.begin;
      const int64_t plane = height * width * lanes_, pixels = p.rows * p.cols;
      check_fits(plane * g_.Ci, sizeof(scalar_t), plan_.source_bytes);
      pack(t_.a, n, b, g_.Ci, g_.iH, g_.iW, make_box(rows.source, height), make_box(cols.source, width),
           source_);
      pack(t_.b, n, b, g_.Co, g_.oH, g_.oW, make_box({rows.first, rows.last}, p.rows),
           make_box({cols.first, cols.last}, p.cols), dy_);
      p.dy_row = p.cols * lanes_, p.dy_col = lanes_;
      const int64_t corner = (rows.source.begin * width + cols.source.begin) * lanes_;
      for (int64_t co = 0; co < g_.Co; ++co)
        for (int64_t ci = 0; ci < g_.Ci; ++ci)
          sum_block(rows, cols, source_ + ci * plane - corner, width * lanes_, lanes_,
                    dy_ + co * pixels * lanes_, sums_of(b) + (co * g_.Ci + ci) * nh_ * g_.kW * lanes_, p);
    }
  }

  // dst[c][height][width][lanes] of image n, c < channels of a group. X is packed before dY is needed.
  void pack(const TensorView<const scalar_t>& t, int64_t n, int64_t block, int64_t channels, int64_t height,
            int64_t width, const SourceRuns& rows, const SourceRuns& cols, scalar_t* dst) {
    const auto [sn, sc, sh, sw] = t.stride;
    for (int64_t c = 0; c < channels; ++c) {
      pack_planes(kernels_, t.data + n * sn + (block * lanes_ * channels + c) * sc,
                  {channels * sc, sh, sw, 1, lanes_}, groups_of(block), height, width, rows, cols, false,
                  dst + c * rows.length * cols.length * lanes_, dy_,
                  dst == source_ ? plan_.rows * plan_.cols : 0);
    }
  }

  // x: the image's first element, of rows `row` and columns `col` apart; dy: the chunk's.
  void sum_block(const Part& rows, const Part& cols, const scalar_t* x, int64_t row, int64_t col,
                 const scalar_t* dy, scalar_t* sums, const LaneWeightProblem<scalar_t>& chunk) const {
    LaneWeightProblem<scalar_t> p = chunk;
    p.dy = dy;
    p.x_row = g_.stride_h * row, p.x_col = g_.stride_w * col;
    p.x_kh = g_.dilation_h * row, p.x_kw = g_.dilation_w * col;
    for (size_t i = 0; i < kh_tiles_.size(); ++i) {
      for (size_t j = 0; j < kw_tiles_.size(); ++j) {
        const KRange &kh = kh_tiles_[i], &kw = kw_tiles_[j];
        // One of the tiles fetches: it has the last kernel row.
        const bool fetches = i + 1 == kh_tiles_.size() && j == 0;
        p.dy_ahead = fetches ? chunk.dy_ahead : 0;
        p.ahead_rows = g_.stride_h, p.ahead_cols = g_.stride_w;
        p.x = x + (rows.first * g_.stride_h - g_.padding_h + kh.begin * g_.dilation_h) * row +
              (cols.first * g_.stride_w - g_.padding_w + kw.begin * g_.dilation_w) * col;
        p.row_taps = rows.taps[i].data(), p.col_taps = cols.taps[j].data();
        p.sums = sums + ((kh.begin - item_.kh.begin) * g_.kW + kw.begin) * lanes_;
        kernels_.lane_weight_kernel[kh.end - kh.begin][kw.end - kw.begin](p);
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
  const bool in_place_;
  const int64_t lanes_, nh_;
  const std::vector<KRange> kh_tiles_, kw_tiles_;
  const std::vector<Part> rows_, cols_;
  scalar_t *source_, *dy_, *tiles_;
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
