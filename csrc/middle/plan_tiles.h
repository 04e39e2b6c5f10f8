// Choosing the microkernel's tile: shared by the algorithms' plans.

#pragma once

#include <algorithm>

#include "plan.h"

namespace tce {

// The largest part of total cut into equal parts of at most `limit`.
inline int64_t balanced(int64_t total, int64_t limit) {
  if (total <= 0) return 1;
  return ceil_div(total, ceil_div(total, std::max<int64_t>(limit, 1)));
}

// Cycles that a core needs for one step of the sum of an mr x nv tile: it starts fma_per_cycle FMAs and two
// loads a cycle, and an accumulator takes one FMA each four cycles.
template <class scalar_t>
double step_cycles(const Kernels<scalar_t>& k, int64_t mr, int64_t nv) {
  const double fma = static_cast<double>(mr * nv) / k.fma_per_cycle;
  const double loads = static_cast<double>(mr + nv) / 2;
  return std::max({fma, loads, 4.0});
}

// Cycles for one step over a result of `count` rows and `vectors` vectors of channels, cut into tiles of nv
// vectors.
template <class scalar_t>
double tiling_cycles(const Kernels<scalar_t>& k, int64_t count, int64_t vectors, int nv) {
  const auto panels = [&](int64_t panel_vectors) {
    const int64_t tiles = ceil_div(count, k.max_rows[panel_vectors]);
    const int64_t larger = count % tiles, mr = count / tiles;
    return static_cast<double>(larger) * step_cycles(k, mr + 1, panel_vectors) +
           static_cast<double>(tiles - larger) * step_cycles(k, mr, panel_vectors);
  };
  const int64_t rest = vectors % nv;
  return static_cast<double>(vectors / nv) * panels(nv) + (rest ? panels(rest) : 0.0);
}

// Returns the cycles of tiling_cycles for the chosen tile.
template <class scalar_t>
double choose_tile(Plan& plan, const Kernels<scalar_t>& k, int64_t count, int64_t channels) {
  const int64_t vectors = std::max<int64_t>(1, ceil_div(channels, k.lanes));
  count = std::max<int64_t>(1, count);
  double best = 0;
  for (int nv = 1; nv <= kMaxVectors && nv <= vectors; ++nv) {
    if (!k.max_rows[nv]) continue;
    const double cycles = tiling_cycles(k, count, vectors, nv);
    // On a tie the wider panel: it reads the source fewer times.
    if (plan.nv == 0 || cycles <= best) {
      best = cycles;
      plan.nv = nv;
    }
  }
  plan.mr = k.max_rows[plan.nv];
  plan.lanes = k.lanes;
  return best;
}

// What is best for each algorithm, and the cycles that it is expected to take per sample and group on one
// core. The cycles compare algorithms with each other; they are no prediction of time.
template <class scalar_t>
double plan_direct(Plan& plan, const Kernels<scalar_t>& kernels);
template <class scalar_t>
double plan_winograd(Plan& plan, const Kernels<scalar_t>& kernels);

}  // namespace tce
