// Plans of the calls that a thread made lately: a small layer takes less time than its plan.

#pragma once

#include "plan.h"

namespace tce {

struct Plans {
  Plan plan;
  Plan direct;  // of the direct algorithm, to which Winograd leaves what is not finite; else `plan`
};

// make_plan and make_direct_plan, kept for the next call with the same arguments. The table is of a fixed size:
// it does not grow with the shapes that pass by.
template <class scalar_t>
Plans cached_plans(Contraction contraction, const ConvGeometry& geometry, const Layout& layout,
                   const PlanOptions& options, const KernelTable& table);

}  // namespace tce
