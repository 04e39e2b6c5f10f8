// Builds an Axis; the formulas stand in axis.h.

#include "axis.h"

#include <algorithm>

namespace tce {

namespace {

std::vector<Band> bands_of(const Axis& axis, const Phase& phase, int64_t fewest) {
  const auto met = [&](const Tap& tap) {  // the j that read the image with it
    return inside(tap.source, axis.source_step, phase.count, axis.source_size);
  };
  struct Cut {
    int64_t at;
    bool begins;  // a tap begins to meet the image here: earlier will do, too; or ceases to: or later
  };
  std::vector<Cut> cuts;
  for (const Tap& tap : phase.taps) {
    const KRange m = met(tap);
    if (m.begin < m.end) cuts.push_back({m.begin, true}), cuts.push_back({m.end, false});
  }
  std::sort(cuts.begin(), cuts.end(), [](const Cut& a, const Cut& b) { return a.at < b.at; });
  std::vector<Band> bands;
  int64_t begin = 0;
  const auto add = [&](int64_t end) {
    Band band{{begin, end}, {0, 0}};
    for (size_t u = 0; u < phase.taps.size(); ++u) {
      const KRange m = intersection(met(phase.taps[u]), band.j);
      if (m.begin >= m.end) continue;
      if (band.taps.begin == band.taps.end) band.taps.begin = static_cast<int64_t>(u);
      band.taps.end = static_cast<int64_t>(u) + 1;
    }
    bands.push_back(band);
    begin = end;
  };
  for (const Cut& cut : cuts) {
    const int64_t end =
        cut.begins ? std::min(cut.at, phase.count - fewest) : std::max(cut.at, begin + fewest);
    if (end - begin >= fewest && phase.count - end >= fewest) add(end);
  }
  if (begin < phase.count) add(phase.count);
  return bands;
}

}  // namespace

Bands make_bands(const Axis& axis, int64_t fewest) {
  Bands bands;
  for (const Phase& phase : axis.phases) bands.push_back(bands_of(axis, phase, fewest));
  return bands;
}

Axis forward_axis(int64_t o_size, int64_t i_size, KRange k, int64_t stride, int64_t padding,
                  int64_t dilation) {
  Axis axis{o_size, i_size, 1, stride, {}};
  Phase phase{o_size, {}};
  for (int64_t kk = k.begin; kk < k.end; ++kk) phase.taps.push_back({kk, kk * dilation - padding});
  axis.phases.push_back(std::move(phase));
  return axis;
}

// ih = oh * stride - padding + kh * dilation, solved for oh:
//
//   oh = j + base + (residue - kh * dilation) / stride   for the kh with kh * dilation = residue (mod stride)
//
//   where ih = first + j * stride,
//         residue = (first + padding) mod stride,
//         base = (first + padding - residue) / stride
Axis grad_input_axis(int64_t i_size, int64_t o_size, KRange k, int64_t stride, int64_t padding,
                     int64_t dilation) {
  Axis axis{i_size, o_size, stride, 1, {}};
  for (int64_t first = 0; first < std::min(stride, i_size); ++first) {
    const int64_t residue = floor_mod(first + padding, stride);
    const int64_t base = (first + padding - residue) / stride;
    Phase phase{ceil_div(i_size - first, stride), {}};
    for (int64_t kk = k.begin; kk < k.end; ++kk) {
      if (floor_mod(kk * dilation - residue, stride) != 0) continue;
      phase.taps.push_back({kk, base + (residue - kk * dilation) / stride});
    }
    axis.phases.push_back(std::move(phase));
  }
  return axis;
}

}  // namespace tce
