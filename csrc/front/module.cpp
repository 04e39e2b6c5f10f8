// The Python module torch_conv_ext._C: what the core tells about itself. Includes no torch header; importing
// it loads the operators too (ops.cpp), whose registration runs when the library is loaded.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <stdexcept>
#include <string>

#include "../middle/isa.h"
#include "../middle/parallel.h"
#include "../middle/plan.h"
#include "../middle/scratch.h"
#include "../middle/settings.h"

#ifndef TCE_VERSION
#error "setup.py defines TCE_VERSION and TCE_TORCH_VERSION"
#endif

namespace py = pybind11;

namespace tce {

namespace {

const char* compiler() {
#if defined(__clang__)
  return "Clang " __clang_version__;
#elif defined(__GNUC__)
  return "GCC " __VERSION__;
#else
  return "unknown";
#endif
}

py::dict build_info() {
  py::dict info;
  info["version"] = TCE_VERSION;
  info["compiler"] = compiler();
  info["cxx_standard"] = static_cast<long>(__cplusplus);
  info["openmp"] = openmp_version();
  info["isas"] = built_isas();
  info["torch"] = TCE_TORCH_VERSION;
  return info;
}

template <class T>
T choice(const char* what, const std::string& given, const std::map<std::string, T>& choices) {
  const auto found = choices.find(given);
  if (found != choices.end()) return found->second;
  std::string expected;
  for (const auto& [name, value] : choices) expected += (expected.empty() ? "'" : ", '") + name + "'";
  throw std::invalid_argument(std::string(what) + ": given '" + given + "', expected one of " + expected);
}

Contraction contraction_named(const std::string& name) {
  return choice<Contraction>("contraction", name,
                             {{"forward", Contraction::kForward},
                              {"grad_input", Contraction::kGradInput},
                              {"grad_weight", Contraction::kGradWeight}});
}

// sizes: the fields of ConvGeometry but N, in lower case with underscores.
ConvGeometry geometry_from(const std::map<std::string, int64_t>& sizes) {
  ConvGeometry g = {};
  const std::map<std::string, int64_t*> fields = {{"groups", &g.G},
                                                  {"ci", &g.Ci},
                                                  {"co", &g.Co},
                                                  {"ih", &g.iH},
                                                  {"iw", &g.iW},
                                                  {"oh", &g.oH},
                                                  {"ow", &g.oW},
                                                  {"kh", &g.kH},
                                                  {"kw", &g.kW},
                                                  {"stride_h", &g.stride_h},
                                                  {"stride_w", &g.stride_w},
                                                  {"padding_h", &g.padding_h},
                                                  {"padding_w", &g.padding_w},
                                                  {"dilation_h", &g.dilation_h},
                                                  {"dilation_w", &g.dilation_w}};
  for (const auto& [name, field] : fields) {
    const auto found = sizes.find(name);
    if (found == sizes.end()) throw std::invalid_argument("plan: given sizes without '" + name + "'");
    *field = found->second;
  }
  for (const auto& [name, value] : sizes) {
    if (!fields.count(name))
      throw std::invalid_argument("plan: given sizes with the unknown key '" + name + "'");
    const bool positive = name == "groups" || name.find("stride") == 0 || name.find("dilation") == 0;
    if (value < (positive ? 1 : 0) && name.find("padding") != 0) {
      throw std::invalid_argument("plan: given " + name + " = " + std::to_string(value) +
                                  ", expected at least " + (positive ? "1" : "0"));
    }
  }
  return g;
}

// What run.cpp finds of dense tensors. Of one channel, or of one pixel, the layouts are the same.
Layout layout_of_dense(const ConvGeometry& g, bool channels_last) {
  const bool one_channel = g.G * g.Ci == 1 && g.G * g.Co == 1, one_pixel = batch_is_row(g);
  return {true, (!channels_last || one_channel) && !one_pixel, channels_last || one_channel || one_pixel};
}

py::dict plan(const std::string& contraction, const std::string& dtype, const std::string& layout,
              const std::map<std::string, int64_t>& sizes) {
  const Contraction which = contraction_named(contraction);
  ConvGeometry g = geometry_from(sizes);
  const double flops =
      2.0 * static_cast<double>(g.G * g.Ci * g.Co * g.kH * g.kW) * static_cast<double>(g.oH * g.oW);
  g = cropped(which, g).geometry;
  if (is_fully_connected(g)) g = as_pointwise(g);
  const bool is_float = choice<bool>("dtype", dtype, {{"float32", true}, {"float64", false}});
  const bool channels_last = choice<bool>("layout", layout, {{"nchw", false}, {"channels_last", true}});
  const Layout lies = layout_of_dense(g, channels_last);
  const auto make = is_float ? make_plan<float> : make_plan<double>;
  const auto make_all = is_float ? make_candidates<float> : make_candidates<double>;
  const Plan p = make(which, g, lies, plan_options(), kernel_table());
  py::dict others;
  for (const Plan& other : make_all(which, g, lies, plan_options(), kernel_table()).plan) {
    if (other.algorithm == p.algorithm) continue;
    others[name_of(other.algorithm)] =
        other.declined ? py::object(py::str(other.declined)) : py::object(py::float_(other.cycles));
  }
  py::dict result;
  result["contraction"] = name_of(p.contraction);
  result["algorithm"] = name_of(p.algorithm);
  result["reason"] = "the fewest cycles by estimate of the algorithms that apply";
  result["cycles"] = p.cycles;
  result["others"] = others;  // the other algorithms: cycles by estimate, or why they cannot be taken
  result["isa"] = p.isa;
  result["lanes"] = p.lanes;
  result["tile_rows"] = p.mr;
  result["tile_vectors"] = p.nv;
  result["c_block"] = p.c_block;
  result["kh_block"] = p.kh_block;
  result["kw_block"] = p.kw_block;
  result["chunk_rows"] = p.rows;
  result["chunk_cols"] = p.cols;
  result["panels"] = p.panels;
  result["scratch_bytes"] = p.scratch_bytes;
  result["flops_per_sample"] = flops;
  result["text"] = describe(p);
  return result;
}

}  // namespace

}  // namespace tce

PYBIND11_MODULE(_C, m) {
  using namespace tce;
  m.doc() = "The compiled core of torch_conv_ext.";
  kernel_table();  // chooses the ISA now: a wrong TORCH_CONV_EXT_ISA is an error of the import
  m.def("build_info", &build_info, "Version, compiler, C++ standard, OpenMP, ISAs and torch of this build.");
  m.def("supported_isas", &supported_isas, "ISAs that are built and that this CPU has, slowest first.");
  m.def("isa", [] { return std::string(kernel_table().isa); }, "The ISA in use.");
  m.def("set_isa", &set_isa, py::arg("name"), "Switch the ISA; for tests.");
  m.def("winograd", [] { return plan_options().winograd; }, "Whether Winograd may be used.");
  m.def("set_winograd", &set_winograd, py::arg("on"), "Allow or forbid Winograd, for the whole process.");
  m.def("set_algorithm", &set_algorithm, py::arg("name"),
        "Take this algorithm wherever it applies, or with an empty name the plan's choice; for tests.");
  m.def("poison", &set_poison, py::arg("on"), "Fill results and scratch with NaN before use; for tests.");
  m.def("team_size", &team_size, py::arg("threads"), py::call_guard<py::gil_scoped_release>(),
        "The number of threads that a parallel region of this size gets.");
  m.def("plan", &plan, py::arg("contraction"), py::arg("dtype"), py::arg("layout"), py::arg("sizes"),
        "How a contraction is computed; see torch_conv_ext.plan.");
}
