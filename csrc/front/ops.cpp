// The operators torch_conv_ext::forward, grad_input and grad_weight: checks, the result tensor, the dtype;
// then the middle computes.
//
// The checks here protect memory. Messages in torch's own wording are made in Python
// (_args.py), before an operator is called. Schemas: sizes are free (geometry.h), so each
// operator is told the spatial size of its result.

#include <array>
#include <limits>

#include "../middle/contractions.h"
#include "../middle/isa.h"
#include "../middle/scratch.h"
#include "../middle/settings.h"
#include "tensor.h"

namespace tce {

namespace {

using Pair = std::array<int64_t, 2>;  // along height and width

void check_tensor(const char* op, const char* name, const Tensor& t, int64_t dim) {
  if (t.dim() != dim)
    fail(op, ": given ", name, " of shape ", shape_text(t), ", expected ", dim, " dimensions");
  if (!t.is_cpu()) fail(op, ": given ", name, " on another device, expected a CPU tensor");
  const ScalarType dtype = t.scalar_type();
  if (dtype != ScalarType::Float && dtype != ScalarType::Double)
    fail(op, ": given ", name, " of a dtype without a kernel, expected float32 or float64");
}

void check_pair(const char* op, const char* name, const Pair& pair, int64_t minimum) {
  // The plan multiplies sizes in int64_t; numbers that no layer has would overflow it.
  constexpr int64_t kMaximum = std::numeric_limits<int32_t>::max();
  for (const int64_t value : pair) {
    if (value > kMaximum)
      fail(op, ": given ", name, " [", pair[0], ", ", pair[1], "], expected at most ", kMaximum);
    if (value < minimum)
      fail(op, ": given ", name, " [", pair[0], ", ", pair[1], "], expected at least ", minimum);
  }
}

struct Arguments {
  const char* op;
  Pair stride, padding, dilation;
  int64_t groups;
};

void check_arguments(const Arguments& a, const char* size_name, const Pair& size) {
  check_pair(a.op, size_name, size, 0);
  check_pair(a.op, "stride", a.stride, 1);
  check_pair(a.op, "padding", a.padding, -std::numeric_limits<int32_t>::max());
  check_pair(a.op, "dilation", a.dilation, 1);
  if (a.groups < 1) fail(a.op, ": given groups ", a.groups, ", expected at least 1");
}

void check_channels(const Arguments& a, const char* name, const Tensor& t, int64_t channels) {
  if (t.size(1) != channels)
    fail(a.op, ": given ", name, " of shape ", shape_text(t), ", expected ", channels, " channels");
}

void check_dtypes(const char* op, const Tensor& a, const Tensor& b, const std::optional<Tensor>& bias) {
  if (a.scalar_type() != b.scalar_type() || (bias && bias->scalar_type() != a.scalar_type())) {
    fail(op, ": given tensors of different dtypes, expected one dtype");
  }
}

void check_bias(const char* op, const std::optional<Tensor>& bias, int64_t channels) {
  if (!bias) return;
  check_tensor(op, "bias", *bias, 1);
  if (bias->size(0) != channels)
    fail(op, ": given bias of shape ", shape_text(*bias), ", expected [", channels, "]");
}

ConvGeometry make_geometry(const Arguments& a, const Pair& i, const Pair& o, const Pair& k, int64_t n,
                           int64_t ci, int64_t co) {
  return {n,    a.groups, ci,          co,          i[0],         i[1],         o[0],          o[1],
          k[0], k[1],     a.stride[0], a.stride[1], a.padding[0], a.padding[1], a.dilation[0], a.dilation[1]};
}

Pair spatial(const Tensor& t) {
  return {t.size(2), t.size(3)};
}

template <class scalar_t>
void poison_result(const TensorView<scalar_t>& view, int64_t count) {
  for (int64_t i = 0; i < count; ++i) view.data[i] = std::numeric_limits<scalar_t>::quiet_NaN();
}

// `Reference`: compute by the definition in loops instead.
template <class scalar_t, bool Reference>
void compute(Contraction contraction, const ConvGeometry& geometry, const Tensor& a, const Tensor& b,
             const std::optional<Tensor>& bias, const Tensor& result) {
  std::vector<scalar_t> dense_bias;
  Operands<scalar_t> operands{view<scalar_t>(a), view<scalar_t>(b), nullptr, mutable_view<scalar_t>(result)};
  if (bias) {
    operands.bias = static_cast<const scalar_t*>(bias->const_data_ptr());
    if (bias->stride(0) != 1) {
      for (int64_t i = 0; i < bias->size(0); ++i) dense_bias.push_back(operands.bias[i * bias->stride(0)]);
      operands.bias = dense_bias.data();
    }
  }
  if (poison()) poison_result(operands.result, result.numel());
  if (Reference) return run_reference(contraction, geometry, operands);
  run(contraction, geometry, operands, plan_options(), kernel_table(), thread_count());
}

template <bool Reference>
Tensor compute(Contraction contraction, const ConvGeometry& geometry, const Tensor& a, const Tensor& b,
               const std::optional<Tensor>& bias, const int64_t (&size)[4]) {
  Tensor result = empty(size, suggests_channels_last(a) || suggests_channels_last(b), a.scalar_type());
  if (a.scalar_type() == ScalarType::Float) {
    compute<float, Reference>(contraction, geometry, a, b, bias, result);
  } else {
    compute<double, Reference>(contraction, geometry, a, b, bias, result);
  }
  return result;
}

// Numbers one by one: a list costs an allocation and a call into torch for each
// element, which shows in small layers.
#define TCE_GEOMETRY_PARAMETERS                                                                 \
  int64_t stride_h, int64_t stride_w, int64_t padding_h, int64_t padding_w, int64_t dilation_h, \
      int64_t dilation_w, int64_t groups
#define TCE_GEOMETRY_FIELDS {stride_h, stride_w}, {padding_h, padding_w}, {dilation_h, dilation_w}, groups

// Y (N, G*Co, oH, oW) from X (N, G*Ci, iH, iW) and W (G*Co, Ci, kH, kW)
template <bool Reference>
Tensor forward_op(const Tensor x, const Tensor w, const std::optional<Tensor> bias, int64_t output_h,
                  int64_t output_w, TCE_GEOMETRY_PARAMETERS) {
  const Arguments a{"forward", TCE_GEOMETRY_FIELDS};
  const Pair output_size{output_h, output_w};
  check_tensor(a.op, "x", x, 4);
  check_tensor(a.op, "w", w, 4);
  check_arguments(a, "output_size", output_size);
  check_dtypes(a.op, x, w, bias);
  check_channels(a, "x", x, groups * w.size(1));
  if (w.size(0) % groups != 0)
    fail(a.op, ": given w of shape ", shape_text(w), ", expected a multiple of groups ", groups,
         " at dimension 0");
  check_bias(a.op, bias, w.size(0));
  const ConvGeometry g =
      make_geometry(a, spatial(x), output_size, spatial(w), x.size(0), w.size(1), w.size(0) / groups);
  return compute<Reference>(Contraction::kForward, g, x, w, bias, {g.N, w.size(0), g.oH, g.oW});
}

// dX (N, G*Ci, iH, iW) from dY (N, G*Co, oH, oW) and W (G*Co, Ci, kH, kW); bias (G*Ci)
template <bool Reference>
Tensor grad_input_op(const Tensor dy, const Tensor w, const std::optional<Tensor> bias, int64_t input_h,
                     int64_t input_w, TCE_GEOMETRY_PARAMETERS) {
  const Arguments a{"grad_input", TCE_GEOMETRY_FIELDS};
  const Pair input_size{input_h, input_w};
  check_tensor(a.op, "dy", dy, 4);
  check_tensor(a.op, "w", w, 4);
  check_arguments(a, "input_size", input_size);
  check_dtypes(a.op, dy, w, bias);
  check_channels(a, "dy", dy, w.size(0));
  if (w.size(0) % groups != 0)
    fail(a.op, ": given w of shape ", shape_text(w), ", expected a multiple of groups ", groups,
         " at dimension 0");
  check_bias(a.op, bias, groups * w.size(1));
  const ConvGeometry g =
      make_geometry(a, input_size, spatial(dy), spatial(w), dy.size(0), w.size(1), w.size(0) / groups);
  return compute<Reference>(Contraction::kGradInput, g, dy, w, bias, {g.N, groups * g.Ci, g.iH, g.iW});
}

// dW (G*Co, Ci, kH, kW) from X (N, G*Ci, iH, iW) and dY (N, G*Co, oH, oW)
template <bool Reference>
Tensor grad_weight_op(const Tensor x, const Tensor dy, int64_t kernel_h, int64_t kernel_w,
                      TCE_GEOMETRY_PARAMETERS) {
  const Arguments a{"grad_weight", TCE_GEOMETRY_FIELDS};
  const Pair kernel_size{kernel_h, kernel_w};
  check_tensor(a.op, "x", x, 4);
  check_tensor(a.op, "dy", dy, 4);
  check_arguments(a, "kernel_size", kernel_size);
  check_dtypes(a.op, x, dy, std::nullopt);
  if (x.size(0) != dy.size(0))
    fail(a.op, ": given x of shape ", shape_text(x), " and dy of shape ", shape_text(dy),
         ", expected one batch size");
  for (const Tensor* t : {&x, &dy}) {
    if (t->size(1) % groups != 0)
      fail(a.op, ": given a tensor of shape ", shape_text(*t), ", expected a multiple of groups ", groups,
           " at dimension 1");
  }
  const ConvGeometry g = make_geometry(a, spatial(x), spatial(dy), kernel_size, x.size(0), x.size(1) / groups,
                                       dy.size(1) / groups);
  return compute<Reference>(Contraction::kGradWeight, g, x, dy, std::nullopt, {dy.size(1), g.Ci, g.kH, g.kW});
}

}  // namespace

}  // namespace tce

// Registered while the module loads. Sizes are SymInt, so that tracing keeps them
// symbolic; the kernels get numbers.
STABLE_TORCH_LIBRARY(torch_conv_ext, m) {
#define TCE_GEOMETRY_SCHEMA                                                                   \
  "SymInt stride_h, SymInt stride_w, SymInt padding_h, SymInt padding_w, SymInt dilation_h, " \
  "SymInt dilation_w, SymInt groups) -> Tensor"
#define TCE_FORWARD_SCHEMA \
  "(Tensor x, Tensor w, Tensor? bias, SymInt output_h, SymInt output_w, " TCE_GEOMETRY_SCHEMA
#define TCE_GRAD_INPUT_SCHEMA \
  "(Tensor dy, Tensor w, Tensor? bias, SymInt input_h, SymInt input_w, " TCE_GEOMETRY_SCHEMA
#define TCE_GRAD_WEIGHT_SCHEMA "(Tensor x, Tensor dy, SymInt kernel_h, SymInt kernel_w, " TCE_GEOMETRY_SCHEMA
  m.def("forward" TCE_FORWARD_SCHEMA);
  m.def("grad_input" TCE_GRAD_INPUT_SCHEMA);
  m.def("grad_weight" TCE_GRAD_WEIGHT_SCHEMA);
  // The definitions in loops, for the tests.
  m.def("_reference_forward" TCE_FORWARD_SCHEMA);
  m.def("_reference_grad_input" TCE_GRAD_INPUT_SCHEMA);
  m.def("_reference_grad_weight" TCE_GRAD_WEIGHT_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(torch_conv_ext, CPU, m) {
  m.impl("forward", TORCH_BOX(&tce::forward_op<false>));
  m.impl("grad_input", TORCH_BOX(&tce::grad_input_op<false>));
  m.impl("grad_weight", TORCH_BOX(&tce::grad_weight_op<false>));
  m.impl("_reference_forward", TORCH_BOX(&tce::forward_op<true>));
  m.impl("_reference_grad_input", TORCH_BOX(&tce::grad_input_op<true>));
  m.impl("_reference_grad_weight", TORCH_BOX(&tce::grad_weight_op<true>));
}
