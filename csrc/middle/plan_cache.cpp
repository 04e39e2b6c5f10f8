// A table of plans for each thread, where a newer plan takes the place of an older one (plan_cache.h).

#include "plan_cache.h"

#include <array>
#include <vector>

namespace tce {

namespace {

// Layers whose plans a thread keeps: more than most networks have.
constexpr size_t kPlans = 256;

// Everything that a plan depends on; the batch is not among it.
using Key = std::array<int64_t, 20>;

Key key_of(Contraction contraction, const ConvGeometry& g, const Layout& layout, const PlanOptions& options,
           const KernelTable& table) {
  return {static_cast<int64_t>(contraction) + 1,  // an empty entry has 0
          g.G,
          g.Ci,
          g.Co,
          g.iH,
          g.iW,
          g.oH,
          g.oW,
          g.kH,
          g.kW,
          g.stride_h,
          g.stride_w,
          g.padding_h,
          g.padding_w,
          g.dilation_h,
          g.dilation_w,
          layout.rows_merge + 2 * layout.columns_inner + 4 * layout.channels_inner,
          options.winograd,
          options.only,
          reinterpret_cast<intptr_t>(&table)};
}

size_t place_of(const Key& key) {
  uint64_t hash = 0;
  for (const int64_t part : key) hash = (hash ^ static_cast<uint64_t>(part)) * 0x9E3779B97F4A7C15u;
  return static_cast<size_t>(hash >> 32) % kPlans;
}

}  // namespace

template <class scalar_t>
Plans cached_plans(Contraction contraction, const ConvGeometry& geometry, const Layout& layout,
                   const PlanOptions& options, const KernelTable& table) {
  struct Entry {
    Key key;
    Plans plans;
  };
  static thread_local std::vector<Entry> entries(kPlans);
  const Key key = key_of(contraction, geometry, layout, options, table);
  Entry& entry = entries[place_of(key)];
  if (entry.key != key) {
    Plans& p = entry.plans;
    entry.key = {};
    p.plan = make_plan<scalar_t>(contraction, geometry, layout, options, table);
    p.direct = p.plan.algorithm == Algorithm::kWinograd ? make_direct_plan<scalar_t>(p.plan, table) : p.plan;
    entry.key = key;
  }
  return entry.plans;
}

template Plans cached_plans<float>(Contraction, const ConvGeometry&, const Layout&, const PlanOptions&,
                                   const KernelTable&);
template Plans cached_plans<double>(Contraction, const ConvGeometry&, const Layout&, const PlanOptions&,
                                    const KernelTable&);

}  // namespace tce
