// grad_weight with lanes over the columns of a row: depthwise convolution, small groups and thin layers where
// columns lie side by side. dY is read where it lies, X from packed planes; a lane sums its columns, and at the
// end the lanes are added.
//
// Loops, outermost first, with what each holds:
//
//   item (group, co, kh)                    one thread; its sums: [co][ci][kh][kw][lanes]       L1, L2
//     chunk of rows and columns of dY
//       image
//         block of ci                       X's planes packed: [ci][height][width]              L1, L2
//           one co:      taps (kh, kw) of a ci    row weight kernel: sum over the chunk's pixels      registers
//           several co:  taps (ci, kh, kw)        channel weight kernel: the same                     registers
//   then: the lanes of each sum added, to the tensor
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
  int64_t g;
  KRange co, kh;
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
        channels_(item.co.end - item.co.begin),
        nh_(item.kh.end - item.kh.begin),
        rows_(forward_axis(g.oH, g.iH, item.kh, g.stride_h, g.padding_h, g.dilation_h)),
        cols_(forward_axis(g.oW, g.iW, {0, g.kW}, g.stride_w, g.padding_w, g.dilation_w)) {
    source_ = scratch_.take_bytes<scalar_t>(plan.source_bytes);
    sums_ = scratch_.take_bytes<scalar_t>(plan.tile_bytes);
  }

  void run() {
    std::fill_n(sums_, channels_ * g_.Ci * nh_ * g_.kW * lanes_, scalar_t(0));
    for (int64_t h = 0; h < g_.oH; h += plan_.rows) {
      for (int64_t w = 0; w < g_.oW; w += plan_.cols) {
        sum_chunk({h, std::min(g_.oH, h + plan_.rows)}, {w, std::min(g_.oW, w + plan_.cols)});
      }
    }
    store();
  }

 private:
  // The same chunk of all images, in order.
  void sum_chunk(const KRange& h, const KRange& w) {
    const SourceRuns rows = make_source_runs(rows_, h.begin, h.end, false);
    const SourceRuns cols = make_source_runs(cols_, w.begin, w.end, false);
    const int64_t plane = rows.length * cols.length;
    check_fits(plane * std::min(plan_.c_block, g_.Ci), sizeof(scalar_t), plan_.source_bytes);
    make_taps(rows, cols, plane);
    const auto [sn, sc, sh, sw] = t_.a.stride;
    const auto [tn, tc, th, tw] = t_.b.stride;
    for (int64_t n = 0; n < g_.N; ++n) {
      const scalar_t* dy = t_.b.data + n * tn + (item_.g * g_.Co + item_.co.begin) * tc + w.begin * tw;
      for (int64_t ci = 0; ci < g_.Ci; ci += plan_.c_block) {
        const int64_t planes = std::min(plan_.c_block, g_.Ci - ci);
        pack_planes(kernels_, t_.a.data + n * sn + (item_.g * g_.Ci + ci) * sc, {sc, sh, sw, plane, 1},
                    planes, g_.iH, g_.iW, rows, cols, n == 0 && ci == 0, source_);
        const scalar_t* x = source_ + h.begin * cols.length + w.begin;
        scalar_t* sums = sums_ + ci * nh_ * g_.kW * lanes_;
        if (g_.Co > 1) {
          const scalar_t* first = dy + h.begin * th;
          sum_channels(x, cols.length, first, n + 1 < g_.N ? first + tn : first, h.end - h.begin,
                       w.end - w.begin, planes, sums);
        } else {
          sum_plane(dy, sums, rows, cols, h, w);
        }
      }
    }
  }

  // Where the kernel elements of a block of planes lie, (ci, kh, kw) in order, for the chunk's first pixel.
  // With one result channel a plane has its own rows, see sum_plane.
  void make_taps(const SourceRuns& rows, const SourceRuns& cols, int64_t plane) {
    taps_.clear();
    const int64_t planes = g_.Co > 1 ? std::min(plan_.c_block, g_.Ci) : 1, kh = g_.Co > 1 ? nh_ : 1;
    for (int64_t c = 0; c < planes; ++c) {
      for (int64_t h = 0; h < kh; ++h) {
        const int64_t row = g_.Co > 1 ? c * plane + rows.start[0][h] * cols.length : 0;
        for (const int64_t start : cols.start[0]) taps_.push_back(static_cast<int32_t>(row + start));
      }
    }
  }

  // All taps of some planes, all result channels of the item. `next`: dy of the next image.
  void sum_channels(const scalar_t* x, int64_t x_row, const scalar_t* dy, const scalar_t* next, int64_t rows,
                    int64_t cols, int64_t planes, scalar_t* sums) {
    ChannelWeightProblem<scalar_t> problem = {};
    problem.x = x;
    problem.x_row = x_row;
    problem.dy_row = t_.b.stride[2];
    problem.dy_channel = t_.b.stride[1];
    problem.sums_row = g_.Ci * nh_ * g_.kW * lanes_;
    problem.rows = rows;
    problem.cols = cols;
    const int64_t taps = planes * nh_ * g_.kW, parts = ceil_div(channels_, plan_.mr);
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t co = part_start(channels_, parts, i), mr = part_start(channels_, parts, i + 1) - co;
      const auto& kernel = kernels_.channel_weight_kernel[mr];
      int64_t most = kMaxWeightTaps;
      while (!kernel[most]) --most;
      const int64_t tap_parts = ceil_div(taps, most);
      problem.dy = dy + co * problem.dy_channel;
      for (int64_t j = 0; j < tap_parts; ++j) {
        const int64_t tap = part_start(taps, tap_parts, j), count = part_start(taps, tap_parts, j + 1) - tap;
        problem.taps = taps_.data() + tap;
        problem.sums = sums + co * problem.sums_row + tap * lanes_;
        problem.ahead = j + 1 < tap_parts ? problem.dy
                        : i + 1 < parts   ? problem.dy + mr * problem.dy_channel
                                          : next;
        kernel[count](problem);
      }
    }
  }

  // The one result channel of a group, and one plane.
  void sum_plane(const scalar_t* dy, scalar_t* sums, const SourceRuns& rows, const SourceRuns& cols,
                 const KRange& h, const KRange& w) {
    RowWeightProblem<scalar_t> problem = {};
    problem.x_row = cols.length;
    problem.dy_row = t_.b.stride[2];
    problem.cols = w.end - w.begin;
    // Kernel rows whose sources are neighbouring packed rows are `step` apart; they share what is loaded.
    const int64_t step = g_.stride_h % g_.dilation_h == 0 ? g_.stride_h / g_.dilation_h : nh_;
    for (int64_t residue = 0; residue < std::min(step, nh_); ++residue) {
      for (int64_t kh = residue; kh < nh_;) {
        // Kernel rows that miss the image are not among the neighbours.
        const std::vector<int64_t>& start = rows.start[0];
        int64_t count = 1;
        while (count < kMaxWeightRows && kh + count * step < nh_ &&
               start[kh + count * step] == start[kh + (count - 1) * step] + 1) {
          ++count;
        }
        KRange met = rows_that_meet(kh, count, step, h);
        while (count > 1 && met.end - met.begin < count - 1) met = rows_that_meet(kh, --count, step, h);
        if (met.begin < met.end) {
          problem.rows = met.end - met.begin;
          problem.sums_row = step * g_.kW * lanes_;
          problem.dy = dy + met.begin * problem.dy_row;
          sum_taps(problem, kh, count, (rows.start[0][kh] + met.begin) * cols.length, w.begin, sums);
        }
        kh += count * step;
      }
    }
  }

  // The rows of dY in h that meet a row of X with one of the kernel rows kh, kh + step, ...
  KRange rows_that_meet(int64_t kh, int64_t count, int64_t step, const KRange& h) const {
    const auto source = [&](int64_t k) { return (item_.kh.begin + k) * g_.dilation_h - g_.padding_h; };
    const int64_t begin = std::clamp(ceil_div(-source(kh + (count - 1) * step), g_.stride_h), h.begin, h.end);
    return {begin, std::clamp(ceil_div(g_.iH - source(kh), g_.stride_h), begin, h.end)};
  }

  // `count` kernel rows from kh on, all kernel columns.
  void sum_taps(RowWeightProblem<scalar_t>& problem, int64_t kh, int64_t count, int64_t row, int64_t column,
                scalar_t* sums) {
    int64_t most = kMaxWeightCols;
    while (!kernels_.row_weight_kernel[count][most]) --most;
    const int64_t parts = ceil_div(g_.kW, most);
    for (int64_t i = 0; i < parts; ++i) {
      const int64_t begin = part_start(g_.kW, parts, i), end = part_start(g_.kW, parts, i + 1);
      problem.x = source_ + row + column;
      problem.taps = taps_.data() + begin;
      problem.sums = sums + (kh * g_.kW + begin) * lanes_;
      kernels_.row_weight_kernel[count][end - begin](problem);
    }
  }

  // The lanes of each sum, added in order.
  void store() {
    const auto [so, si, sh, sw] = t_.result.stride;
    const scalar_t* sums = sums_;
    for (int64_t co = item_.co.begin; co < item_.co.end; ++co) {
      for (int64_t ci = 0; ci < g_.Ci; ++ci) {
        for (int64_t kh = 0; kh < nh_; ++kh) {
          for (int64_t kw = 0; kw < g_.kW; ++kw, sums += lanes_) {
            scalar_t sum = 0;
            for (int64_t l = 0; l < lanes_; ++l) sum += sums[l];
            t_.result.data[(item_.g * g_.Co + co) * so + ci * si + (item_.kh.begin + kh) * sh + kw * sw] =
                sum;
          }
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
  const int64_t lanes_, channels_, nh_;
  const Axis rows_, cols_;
  std::vector<int32_t> taps_;
  scalar_t *source_, *sums_;
};

}  // namespace

template <class scalar_t>
void rows_grad_weight(const Plan& plan, const ConvGeometry& g, const Operands<scalar_t>& t,
                      const Kernels<scalar_t>& kernels, int threads) {
  const int64_t kh_parts = ceil_div(g.kH, plan.kh_block);
  // Result channels are shared out between threads, in whole tiles.
  const int64_t mr = g.Co > 1 ? plan.mr : 1, tiles = ceil_div(g.Co, mr);
  const int64_t wanted = threads > 1 ? ceil_div(2 * threads, std::max<int64_t>(1, g.G * kh_parts)) : 1;
  const int64_t co_parts = std::max(ceil_div(tiles, plan.panels), std::min(tiles, wanted));
  parallel_for(g.G * co_parts * kh_parts, threads, [&](int64_t i) {
    const int64_t h = i % kh_parts, o = i / kh_parts % co_parts;
    const auto channel = [&](int64_t part) { return std::min(g.Co, part_start(tiles, co_parts, part) * mr); };
    const Item item{i / kh_parts / co_parts,
                    {channel(o), channel(o + 1)},
                    {part_start(g.kH, kh_parts, h), part_start(g.kH, kh_parts, h + 1)}};
    Worker<scalar_t>(plan, g, t, kernels, item).run();
  });
}

template void rows_grad_weight<float>(const Plan&, const ConvGeometry&, const Operands<float>&,
                                      const Kernels<float>&, int);
template void rows_grad_weight<double>(const Plan&, const ConvGeometry&, const Operands<double>&,
                                       const Kernels<double>&, int);

}  // namespace tce
