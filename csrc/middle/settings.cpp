// The process-wide switches.

#include "settings.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <stdexcept>

namespace tce {

namespace {

std::atomic<bool>& winograd() {
  static std::atomic<bool> on{[] {
    const char* value = std::getenv("TORCH_CONV_EXT_WINOGRAD");
    return !(value && std::strcmp(value, "0") == 0);
  }()};
  return on;
}

std::atomic<int> only{-1};

}  // namespace

PlanOptions plan_options() {
  return {winograd().load(std::memory_order_relaxed), only.load(std::memory_order_relaxed)};
}

void set_winograd(bool on) {
  winograd().store(on, std::memory_order_relaxed);
}

void set_algorithm(const std::string& name) {
  if (name.empty()) return only.store(-1);
  for (int i = 0; i < kAlgorithms; ++i) {
    if (name == name_of(static_cast<Algorithm>(i))) return only.store(i);
  }
  throw std::invalid_argument("set_algorithm: given '" + name +
                              "', expected direct, winograd, pixels, lanewise, rows, subpixel or exchanged");
}

}  // namespace tce
