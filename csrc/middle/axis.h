// One spatial axis of a correlation (correlate.h): which source positions each output position reads.
//
// forward and grad_input are the same computation along an axis, seen from different sides:
//
//   forward      out = oh                        source ih = oh * stride + (kh * dilation - padding)
//   grad_input   out = ih = phase + j * stride   source oh = j + const(phase, kh)  for the kh of that residue
//
// A strided grad_input thus splits by residue into dense stride-1 problems (phases), here, once; no modulo is
// left for the loops. forward is the case of one phase.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "geometry.h"

namespace tce {

// Output position j of a phase reads source position j * source_step + source, times the kernel's element k.
struct Tap {
  int64_t k;
  int64_t source;
};

// The outputs phase + j * out_step, 0 <= j < count, and their taps in ascending k.
struct Phase {
  int64_t count;
  std::vector<Tap> taps;
};

struct Axis {
  int64_t out_size, source_size;
  int64_t out_step, source_step;
  std::vector<Phase> phases;  // [out_step], fewer if out_size is smaller
};

struct KRange {
  int64_t begin, end;
};

// Neighbouring results j of a phase, and the range of its taps that read the image for some of them.
struct Band {
  KRange j, taps;
};

// Bands of fewer results, and shorter tiles, read their weights too often.
constexpr int64_t kFewestRows = 7;

// [phase] its results, cut where taps begin or cease to meet the image, though into bands of no fewer than
// `fewest`: with a dilation or padding as large as the image, most taps meet nothing but padding.
using Bands = std::vector<std::vector<Band>>;
Bands make_bands(const Axis& axis, int64_t fewest);

// The j of a phase whose outputs phase + j * out_step lie in [first, last).
inline KRange phase_range(int64_t phase, int64_t out_step, int64_t first, int64_t last) {
  return {ceil_div(first - phase, out_step), ceil_div(last - phase, out_step)};
}

inline KRange intersection(const KRange& a, const KRange& b) {
  return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

// A bit for each element of the range; all are below 64.
inline uint64_t bits(const KRange& r) {
  return (uint64_t{1} << r.end) - (uint64_t{1} << r.begin);
}

// The i < count whose positions, first + i * step, lie in [0, size): a range, and where none does an empty one.
inline KRange inside(int64_t first, int64_t step, int64_t count, int64_t size) {
  const int64_t begin = std::clamp<int64_t>(ceil_div(-first, step), 0, count);
  return {begin, std::clamp(ceil_div(size - first, step), begin, count)};
}

// The part of the axis whose kernel elements lie in k.
Axis forward_axis(int64_t o_size, int64_t i_size, KRange k, int64_t stride, int64_t padding,
                  int64_t dilation);
Axis grad_input_axis(int64_t i_size, int64_t o_size, KRange k, int64_t stride, int64_t padding,
                     int64_t dilation);

}  // namespace tce
