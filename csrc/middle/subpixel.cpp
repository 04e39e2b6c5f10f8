// Weights and results of the subpixel view (subpixel.h).

#include "subpixel.h"

#include <algorithm>

namespace tce {

SubpixelAxis subpixel_axis(int64_t i_size, int64_t k, int64_t stride, int64_t padding) {
  // Pixels 0, ..., i_size - 1 are a*stride + r - padding for the a from floor(padding / stride) on.
  const int64_t a_first = floor_div(padding, stride), a_last = floor_div(i_size - 1 + padding, stride);
  return {i_size > 0 ? a_last - a_first + 1 : 0, k / stride, a_first * stride - padding, a_first};
}

namespace {

// Calls visit(lane, o, r_h, r_w, length) for the pieces of [first, first + valid) that share o and r_h:
// neighbouring pixels of a row. `lane` counts from `first`.
template <class F>
void each_piece(const Subpixel& s, int64_t first, int64_t valid, F&& visit) {
  for (int64_t lane = 0; lane < valid;) {
    const int64_t r_w = (first + lane) % s.step_w, line = (first + lane) / s.step_w;
    const int64_t length = std::min(s.step_w - r_w, valid - lane);
    visit(lane, line / s.step_h, line % s.step_h, r_w, length);
    lane += length;
  }
}

}  // namespace

template <class scalar_t>
void pack_subpixel_weight(const Kernels<scalar_t>& kernels, const WeightView<scalar_t>& w, const Subpixel& s,
                          int64_t first, int64_t valid, int64_t panel_lanes, int64_t channels, KRange q_h,
                          KRange q_w, scalar_t* dst) {
  const int64_t n_w = q_w.end - q_w.begin, taps = (q_h.end - q_h.begin) * n_w;
  if (valid < panel_lanes) std::fill_n(dst, channels * taps * panel_lanes, scalar_t(0));
  each_piece(s, first, valid, [&](int64_t lane, int64_t o, int64_t r_h, int64_t r_w, int64_t length) {
    for (int64_t i = q_h.begin; i < q_h.end; ++i) {
      for (int64_t j = q_w.begin; j < q_w.end; ++j) {
        const int64_t kh = r_h + i * s.step_h, kw = r_w + j * s.step_w;
        kernels.copy_2d({channels, length, w.channel, w.kw, taps * panel_lanes, 1},
                        w.data + o * w.lane + kh * w.kh + kw * w.kw,
                        dst + ((i - q_h.begin) * n_w + j - q_w.begin) * panel_lanes + lane);
      }
    }
  });
}

template <class scalar_t>
void store_subpixel_row(const Kernels<scalar_t>& kernels, const scalar_t* tiles, int64_t tile_lanes,
                        const Subpixel& s, int64_t first, int64_t valid, int64_t row, int64_t col_first,
                        int64_t cols, const TensorView<scalar_t>& out) {
  each_piece(s, first, valid, [&](int64_t lane, int64_t o, int64_t r_h, int64_t r_w, int64_t length) {
    const int64_t h = s.first_h + row * s.step_h + r_h;
    if (h < 0 || h >= s.image_h) return;
    scalar_t* line = out.data + o * out.stride[1] + h * out.stride[2];
    const int64_t w0 = s.first_w + col_first * s.step_w + r_w;  // pixel of the piece in the first column
    // Columns whose whole piece lies inside the image are one copy; the others, at its edges, are cut.
    const int64_t begin = std::clamp<int64_t>(ceil_div(-w0, s.step_w), 0, cols);
    const int64_t end = std::clamp<int64_t>(floor_div(s.image_w - length - w0, s.step_w) + 1, begin, cols);
    const auto copy = [&](int64_t col, int64_t count, int64_t skip, int64_t part) {
      if (count <= 0 || part <= 0) return;
      kernels.copy_2d({count, part, tile_lanes, 1, s.step_w * out.stride[3], out.stride[3]},
                      tiles + col * tile_lanes + lane + skip,
                      line + (w0 + col * s.step_w + skip) * out.stride[3]);
    };
    copy(begin, end - begin, 0, length);
    for (int64_t col = 0; col < cols; col = col + 1 == begin ? end : col + 1) {
      if (col >= begin && col < end) continue;
      const int64_t w = w0 + col * s.step_w, skip = std::max<int64_t>(0, -w);
      copy(col, 1, skip, std::min(length, s.image_w - w) - skip);
    }
  });
}

#define TCE_INSTANTIATE(scalar_t)                                                                           \
  template void pack_subpixel_weight<scalar_t>(const Kernels<scalar_t>&, const WeightView<scalar_t>&,       \
                                               const Subpixel&, int64_t, int64_t, int64_t, int64_t, KRange, \
                                               KRange, scalar_t*);                                          \
  template void store_subpixel_row<scalar_t>(const Kernels<scalar_t>&, const scalar_t*, int64_t,            \
                                             const Subpixel&, int64_t, int64_t, int64_t, int64_t, int64_t,  \
                                             const TensorView<scalar_t>&);
TCE_INSTANTIATE(float)
TCE_INSTANTIATE(double)
#undef TCE_INSTANTIATE

}  // namespace tce
