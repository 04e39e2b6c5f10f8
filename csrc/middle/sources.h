// Which sources the results of a chunk read, and where each stands in the packed rows (pack.h copies them there).

#pragma once

#include <cstdint>
#include <vector>

#include "axis.h"

namespace tce {

// Of this step between neighbouring packed columns or more, and of a step of 2 in rows of so many results, see
// SourceRuns::wide.
constexpr int64_t kWideStep = 3, kWideRow = 64;

// The source rows of a chunk of result rows. Result rows are numbered over the whole batch:
// row = n * out_size + out.
struct RowSlots {
  struct Source {
    int64_t n, position;
  };
  int64_t max_taps;            // of a phase
  std::vector<int32_t> slot;   // [row - first][tap]; -1: outside the image, the term is absent
  std::vector<Source> source;  // [slot]
};

RowSlots make_row_slots(const Axis& axis, int64_t first, int64_t last);

// [slot] where its row begins: packed, `size` elements after the slot before, or in a tensor with these strides.
std::vector<int64_t> packed_slots(const RowSlots& rows, int64_t size);
std::vector<int64_t> slots_in_place(const RowSlots& rows, int64_t stride_n, int64_t stride_h);

// The source positions along one axis that the results [first, last) read. They are split by residue modulo
// the source step, so that neighbouring results read neighbouring packed elements:
//
//   source_step = 2, taps kw = 0, 1, 2:    packed row = | kw 0 and 2: even columns | kw 1: odd columns |
//
struct SourceRuns {
  struct Run {
    int64_t position, count, base;  // positions position + i * step, i < count, at packed elements base + i
  };
  // All residues have runs of one length that begin at neighbouring positions, so that they can be packed as
  // one transposed block. (Of short rows with a step of 2, every second element of all channels at once takes
  // fewer calls.)
  bool wide;
  int64_t step;           // between neighbouring packed elements
  int64_t out_step;       // packed elements from result j to result j + 1 of a phase
  int64_t length;         // packed elements
  std::vector<Run> runs;  // one per residue that a tap reads; one of zeros for taps that miss the image
  // [phase][tap]: packed element of j = 0 (j counts within the phase).
  std::vector<std::vector<int64_t>> start;
};

// The part [begin, end) of a run that lies inside the image; begin == end where none does.
KRange inside(const SourceRuns::Run& run, int64_t step, int64_t source_size);

// `dense`: keep all positions in one run of step 1, neighbouring taps side by side; result j then reads
// element start + j * source_step. `bands`: what their taps read is all that is packed.
SourceRuns make_source_runs(const Axis& axis, int64_t first, int64_t last, bool dense,
                            const Bands* bands = nullptr);

// Whether the results read every position between the first and the last: those of a stride, at least as many
// neighbouring taps. Packed densely they are one copy.
bool reads_all_columns(const Axis& axis);

// Whether the results [first, last) read no padding along an axis with the taps of their bands;
// then the start and the out_step of columns that are not packed at all: packed element i stands for position i.
bool all_inside(const Axis& axis, const Bands& bands, int64_t first, int64_t last);
SourceRuns columns_in_place(const Axis& axis);

// The sources inside the image that the results [first, last) read, from the first to the last; and these as one
// run, in a packed row of `length` elements.
KRange sources_of(const Axis& axis, int64_t first, int64_t last);
SourceRuns make_box(const KRange& range, int64_t length);

}  // namespace tce
