// The positions that a chunk reads along an axis, and their order in packed rows (pictures in sources.h).

#include "sources.h"

#include <algorithm>

namespace tce {

RowSlots make_row_slots(const Axis& axis, int64_t first, int64_t last) {
  RowSlots slots = {};
  for (const Phase& phase : axis.phases)
    slots.max_taps = std::max<int64_t>(slots.max_taps, phase.taps.size());
  slots.slot.assign((last - first) * slots.max_taps, -1);
  std::vector<int32_t> slot_of;  // [position - low] of one image
  for (int64_t row = first; row < last;) {
    const int64_t n = row / axis.out_size, out_first = row % axis.out_size;
    const int64_t out_last = std::min(axis.out_size, out_first + last - row);
    const auto each_term = [&](auto&& visit) {
      for (int64_t out = out_first; out < out_last; ++out) {
        const Phase& phase = axis.phases[out % axis.out_step];
        const int64_t j = out / axis.out_step;
        for (size_t t = 0; t < phase.taps.size(); ++t) {
          const int64_t position = j * axis.source_step + phase.taps[t].source;
          if (position >= 0 && position < axis.source_size) visit(row + out - out_first - first, t, position);
        }
      }
    };
    int64_t low = axis.source_size, high = -1;
    each_term([&](int64_t, size_t, int64_t position) {
      low = std::min(low, position);
      high = std::max(high, position);
    });
    // Rows that several results read are packed once, unless they are so sparse
    // that looking them up costs more.
    const bool share = high - low < (out_last - out_first) * slots.max_taps;
    slot_of.assign(share && high >= low ? high - low + 1 : 0, -1);
    each_term([&](int64_t r, size_t t, int64_t position) {
      int32_t slot = share ? slot_of[position - low] : -1;
      if (slot < 0) {
        slot = static_cast<int32_t>(slots.source.size());
        slots.source.push_back({n, position});
        if (share) slot_of[position - low] = slot;
      }
      slots.slot[r * slots.max_taps + t] = slot;
    });
    row += out_last - out_first;
  }
  return slots;
}

SourceRuns make_source_runs(const Axis& axis, int64_t first, int64_t last, bool dense, const Bands* bands) {
  SourceRuns runs = {};
  runs.step = dense ? 1 : axis.source_step;
  runs.out_step = dense ? axis.source_step : 1;
  runs.wide = runs.step >= kWideStep || (runs.step == 2 && last - first >= kWideRow);
  struct Range {
    int64_t residue, low, high, base;
  };
  std::vector<Range> ranges;
  const auto range_of = [&](const Tap& tap) -> Range& {
    const int64_t residue = floor_mod(tap.source, runs.step);
    for (Range& range : ranges) {
      if (range.residue == residue) return range;
    }
    ranges.push_back({residue, INT64_MAX, INT64_MIN, 0});
    return ranges.back();
  };
  const auto each_tap = [&](auto&& visit) {
    for (size_t f = 0; f < axis.phases.size(); ++f) {
      const KRange j = phase_range(static_cast<int64_t>(f), axis.out_step, first, last);
      if (j.begin >= j.end) continue;
      const std::vector<Tap>& taps = axis.phases[f].taps;
      if (bands) {
        for (const Band& band : (*bands)[f]) {
          const KRange part = intersection(band.j, j);
          for (int64_t u = band.taps.begin; u < band.taps.end && part.begin < part.end; ++u)
            visit(f, static_cast<size_t>(u), taps[static_cast<size_t>(u)], part, false);
        }
        continue;
      }
      for (size_t u = 0; u < taps.size(); ++u) {
        const Tap& tap = taps[u];
        // A tap that misses the image in all results reads zeros; those of all such taps are the same ones.
        const bool misses = j.begin * axis.source_step + tap.source >= axis.source_size ||
                            (j.end - 1) * axis.source_step + tap.source < 0;
        visit(f, u, tap, j, misses && !dense);
      }
    }
  };
  int64_t zeros = 0;
  each_tap([&](size_t, size_t, const Tap& tap, const KRange& j, bool misses) {
    if (misses) {
      zeros = std::max(zeros, j.end - j.begin);
      return;
    }
    Range& range = range_of(tap);
    const int64_t offset = floor_div(tap.source, runs.step);
    range.low = std::min(range.low, j.begin * runs.out_step + offset);
    range.high = std::max(range.high, (j.end - 1) * runs.out_step + offset);
  });
  if (runs.wide && !ranges.empty()) {
    int64_t low = INT64_MAX, high = INT64_MIN;
    for (const Range& range : ranges) low = std::min(low, range.low), high = std::max(high, range.high);
    for (Range& range : ranges) range.low = low, range.high = high;
    std::sort(ranges.begin(), ranges.end(),
              [](const Range& a, const Range& b) { return a.residue < b.residue; });
  }
  for (Range& range : ranges) {
    const int64_t count = range.high - range.low + 1;
    range.base = runs.length;
    runs.runs.push_back({range.low * runs.step + range.residue, count, runs.length});
    runs.length += count;
  }
  const int64_t zeros_base = runs.length;
  if (zeros > 0) {
    runs.runs.push_back({-zeros * runs.step, zeros, zeros_base});  // left of the image
    runs.length += zeros;
  }
  for (const Phase& phase : axis.phases) runs.start.emplace_back(phase.taps.size(), 0);
  each_tap([&](size_t f, size_t u, const Tap& tap, const KRange& j, bool misses) {
    if (misses) {
      runs.start[f][u] = zeros_base - j.begin;
      return;
    }
    const Range& range = range_of(tap);
    runs.start[f][u] = range.base + floor_div(tap.source, runs.step) - range.low;
  });
  return runs;
}

bool reads_all_columns(const Axis& axis) {
  if (axis.source_step == 1 || axis.phases.empty()) return false;
  const std::vector<Tap>& taps = axis.phases[0].taps;
  const int64_t count = static_cast<int64_t>(taps.size());
  return count >= axis.source_step && taps.back().source - taps.front().source == count - 1;
}

bool all_inside(const Axis& axis, const Bands& bands, int64_t first, int64_t last) {
  for (size_t f = 0; f < axis.phases.size(); ++f) {
    for (const Band& band : bands[f]) {
      const KRange j = intersection(band.j, phase_range(static_cast<int64_t>(f), axis.out_step, first, last));
      for (int64_t u = band.taps.begin; u < band.taps.end && j.begin < j.end; ++u) {
        const int64_t source = axis.phases[f].taps[static_cast<size_t>(u)].source;
        if (j.begin * axis.source_step + source < 0 ||
            (j.end - 1) * axis.source_step + source >= axis.source_size)
          return false;
      }
    }
  }
  return true;
}

SourceRuns columns_in_place(const Axis& axis) {
  SourceRuns columns = {};
  columns.step = 1;
  columns.out_step = axis.source_step;
  for (const Phase& phase : axis.phases) {
    columns.start.emplace_back();
    for (const Tap& tap : phase.taps) columns.start.back().push_back(tap.source);
  }
  return columns;
}

KRange sources_of(const Axis& axis, int64_t first, int64_t last) {
  int64_t low = axis.source_size, high = 0;
  for (size_t f = 0; f < axis.phases.size(); ++f) {
    const KRange j = phase_range(static_cast<int64_t>(f), axis.out_step, first, last);
    if (j.begin >= j.end) continue;
    for (const Tap& tap : axis.phases[f].taps) {
      const int64_t begin = j.begin * axis.source_step + tap.source;
      const int64_t end = (j.end - 1) * axis.source_step + tap.source + 1;
      if (end <= 0 || begin >= axis.source_size) continue;
      low = std::min(low, std::max<int64_t>(begin, 0)),
      high = std::max(high, std::min(end, axis.source_size));
    }
  }
  return {std::min(low, high), high};
}

SourceRuns make_box(const KRange& range, int64_t length) {
  SourceRuns runs = {};
  runs.step = runs.out_step = 1;
  runs.length = length;
  runs.runs.push_back({range.begin, range.end - range.begin, 0});
  return runs;
}

KRange inside(const SourceRuns::Run& run, int64_t step, int64_t source_size) {
  return inside(run.position, step, run.count, source_size);
}

std::vector<int64_t> packed_slots(const RowSlots& rows, int64_t size) {
  std::vector<int64_t> slots(rows.source.size());
  for (size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<int64_t>(i) * size;
  return slots;
}

std::vector<int64_t> slots_in_place(const RowSlots& rows, int64_t stride_n, int64_t stride_h) {
  std::vector<int64_t> slots;
  slots.reserve(rows.source.size());
  for (const RowSlots::Source& at : rows.source) slots.push_back(at.n * stride_n + at.position * stride_h);
  return slots;
}

}  // namespace tce
