// The process-wide switches.

#include "settings.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace tce {

namespace {

std::atomic<bool>& winograd() {
  static std::atomic<bool> on{[] {
    const char* value = std::getenv("TORCH_CONV_EXT_WINOGRAD");
    return !(value && std::strcmp(value, "0") == 0);
  }()};
  return on;
}

}  // namespace

PlanOptions plan_options() {
  return {winograd().load(std::memory_order_relaxed)};
}

void set_winograd(bool on) {
  winograd().store(on, std::memory_order_relaxed);
}

}  // namespace tce
