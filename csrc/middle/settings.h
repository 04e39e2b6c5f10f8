// What the user switches, for the whole process (torch_conv_ext.settings).

#pragma once

#include <string>

#include "plan.h"

namespace tce {

// Initially from the environment: TORCH_CONV_EXT_WINOGRAD=0 switches Winograd off.
PlanOptions plan_options();
void set_winograd(bool on);

// Tests only: take this algorithm wherever it applies; an empty name for the plan's own choice. Throws
// std::invalid_argument for a name that is not an algorithm's.
void set_algorithm(const std::string& name);

}  // namespace tce
