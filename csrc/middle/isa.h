// Which ISA is in use: the best that was built and that this CPU has, or a lower one by TORCH_CONV_EXT_ISA.

#pragma once

#include <string>
#include <vector>

#include "../back/kernels.h"

namespace tce {

std::vector<std::string> built_isas();      // slowest first
std::vector<std::string> supported_isas();  // of these, what this CPU has

// The table in use. Chosen at the first call, which is made while the module loads. Throws std::runtime_error
// if TORCH_CONV_EXT_ISA names an ISA that is not supported.
const KernelTable& kernel_table();

// Tests only. Throws std::runtime_error for a name that is not supported.
void set_isa(const std::string& name);

}  // namespace tce
