// "Was it built" and "does this CPU have it" are two questions; both are asked here, and nowhere else.

#include "isa.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace tce {

namespace {

bool cpu_has(const std::string& isa) {
#if defined(__x86_64__) || defined(__i386__)
  // __builtin_cpu_supports also asks the operating system whether it saves the wide registers.
  if (isa == "avx2") return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == "avx512") {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  }
#endif
  return isa == "portable";
}

const std::vector<KernelTable>& built_tables() {
  static const std::vector<KernelTable> tables = [] {
    std::vector<KernelTable> built = {
        {"portable", kernels_portable<float>(), kernels_portable<double>()},
        {"avx2", kernels_avx2<float>(), kernels_avx2<double>()},
        {"avx512", kernels_avx512<float>(), kernels_avx512<double>()},
    };
    const auto missing = [](const KernelTable& table) { return !table.f32 || !table.f64; };
    built.erase(std::remove_if(built.begin(), built.end(), missing), built.end());
    return built;
  }();
  return tables;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

const KernelTable* table_named(const std::string& name, const char* given_by) {
  for (const KernelTable& table : built_tables()) {
    if (name == table.isa && cpu_has(name)) return &table;
  }
  throw std::runtime_error(
      std::string(given_by) + ": given '" + name +
      "', expected an ISA that is built and that this CPU has: " + joined(supported_isas()));
}

const KernelTable* initial_table() {
  const char* forced = std::getenv("TORCH_CONV_EXT_ISA");
  if (forced && *forced) return table_named(forced, "TORCH_CONV_EXT_ISA");
  const KernelTable* best = nullptr;
  for (const KernelTable& table : built_tables()) {
    if (cpu_has(table.isa)) best = &table;
  }
  return best;
}

std::atomic<const KernelTable*>& current() {
  static std::atomic<const KernelTable*> table{initial_table()};
  return table;
}

}  // namespace

std::vector<std::string> built_isas() {
  std::vector<std::string> names;
  for (const KernelTable& table : built_tables()) names.push_back(table.isa);
  return names;
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const std::string& name : built_isas()) {
    if (cpu_has(name)) names.push_back(name);
  }
  return names;
}

const KernelTable& kernel_table() {
  return *current().load(std::memory_order_acquire);
}

void set_isa(const std::string& name) {
  current().store(table_named(name, "set_isa"), std::memory_order_release);
}

}  // namespace tce
