// What the user switches, for the whole process (torch_conv_ext.settings).

#pragma once

#include "plan.h"

namespace tce {

// Initially from the environment: TORCH_CONV_EXT_WINOGRAD=0 switches Winograd off.
PlanOptions plan_options();
void set_winograd(bool on);

}  // namespace tce
