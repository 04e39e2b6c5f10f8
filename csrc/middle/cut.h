// How the work of one call is cut into items for threads. Unlike the plan, a cut may look at the batch and at
// the number of threads: it decides who computes an element and when, never in which order its terms are
// summed (plan.h, NOTE [Same bits]).

#pragma once

#include <cstdint>

#include "plan.h"

namespace tce {

struct CorrelationSize {
  int64_t groups, rows, cols, panels;  // rows over the whole batch
};
struct PanelCut {
  int64_t rows, panels;  // of an item, at most; never more than the plan's, whose scratch they use
};
// summed channels, kernel elements; `phases`: the kernel's elements are shared
// out over so many kinds of pixels.
PanelCut cut_correlation(const Plan& plan, const CorrelationSize& size, int64_t channels, int64_t taps,
                         int64_t phases, int threads);

PanelCut cut_winograd(const Plan& plan, const CorrelationSize& size, int64_t channels, int threads);

// Groups of an item (pixels, rows); `others`: images and chunks of an image.
int64_t cut_groups(const Plan& plan, int64_t groups, int64_t others, int threads);

// lanewise: parts of the blocks of a vector's lanes, and of the chunks of all images.
struct LaneCut {
  int64_t blocks, chunks;
};
LaneCut cut_lanes(const Plan& plan, int64_t blocks, int64_t chunks, int threads);

struct WeightCut {
  int64_t panels, channels, kh;  // of an item, at most; never more than the plan's
};
// pixels of dY over the whole batch, in so many segments.
WeightCut cut_grad_weight(const Plan& plan, int64_t pixels, int64_t segments, int threads);

// tiles of dY over the whole batch; `channels` is a whole number of vectors.
WeightCut cut_winograd_weight(const Plan& plan, int64_t tiles, int threads);

}  // namespace tce
