// Three algorithms on planes, packed or where they lie, for layers whose groups have few channels. A tap is one offset into the
// planes for all pixels of a phase, so none packs per row of the result.
//
//   pixels     lanes are pixels, a tile's rows a group's result channels      few: RGB heads, ResNeXt
//   lanewise   lanes are neighbouring result channels (grad_weight: groups);  many groups: channels side
//              a tile's rows and columns the image's (grad_weight: the       by side, small maps, strides
//              kernel's)
//   rows       lanes are columns, a tile's rows rows (grad_weight: taps)      depthwise, columns side by side

#pragma once

#include "contractions.h"
#include "correlate.h"
#include "cut.h"
#include "parallel.h"

namespace tce {

// What a thread computes at a time of forward or grad_input: some groups, rows
// and columns of one image.
struct PlaneItem {
  int64_t n, first, last;
  int64_t row_first, row_last, col_first, col_last;
};

// Calls run(item) for all items, on up to `threads` threads. `units`: number of groups.
template <class scalar_t, class F>
void for_each_plane_item(const Correlation<scalar_t>& c, const Plan& plan, int64_t units, int threads,
                         F&& run) {
  const int64_t row_parts = ceil_div(c.out_h, plan.rows), col_parts = ceil_div(c.out_w, plan.cols);
  const int64_t parts = ceil_div(units, cut_groups(plan, units, c.N * row_parts * col_parts, threads));
  parallel_for(c.N * parts * row_parts * col_parts, threads, [&](int64_t i) {
    const int64_t w = i % col_parts, h = i / col_parts % row_parts, u = i / col_parts / row_parts % parts;
    run(PlaneItem{i / col_parts / row_parts / parts, part_start(units, parts, u),
                  part_start(units, parts, u + 1), part_start(c.out_h, row_parts, h),
                  part_start(c.out_h, row_parts, h + 1), part_start(c.out_w, col_parts, w),
                  part_start(c.out_w, col_parts, w + 1)});
  });
}

// forward or grad_input.
template <class scalar_t>
void pixels_correlate(const Correlation<scalar_t>& correlation, const Plan& plan,
                      const Kernels<scalar_t>& kernels, int threads);
template <class scalar_t>
void lanewise_correlate(const Correlation<scalar_t>& correlation, const Plan& plan,
                        const Kernels<scalar_t>& kernels, int threads);

template <class scalar_t>
void rows_correlate(const Correlation<scalar_t>& correlation, const Plan& plan,
                    const Kernels<scalar_t>& kernels, int threads);

template <class scalar_t>
void lanewise_grad_weight(const Plan& plan, const ConvGeometry& geometry, const Operands<scalar_t>& operands,
                          const Kernels<scalar_t>& kernels, int threads);
template <class scalar_t>
void rows_grad_weight(const Plan& plan, const ConvGeometry& geometry, const Operands<scalar_t>& operands,
                      const Kernels<scalar_t>& kernels, int threads);

}  // namespace tce
