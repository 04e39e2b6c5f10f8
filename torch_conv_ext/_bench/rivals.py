"""onnxruntime and openvino on a single layer, where they are installed: forward, float32, NCHW.

They are inference runtimes: weights are packed once, when the model is loaded, and openvino writes each
result to the same memory. Both are timed alone, after torch and us, with the same number of threads: their
idle threads go on spinning for a while.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch

from torch_conv_ext._bench.layers import Layer
from torch_conv_ext._bench.timing import Call, Operands, alone, largest_error, torch_call

LIMIT = 1e-3


def installed() -> list[str]:
    """Which of the two can be used. onnxruntime needs onnx too, to be told of a layer."""
    needs = {"onnxruntime": ("onnxruntime", "onnx"), "openvino": ("openvino",)}
    return [name for name, ms in needs.items() if all(importlib.util.find_spec(m) is not None for m in ms)]


def time_rivals(names: list[str], layer: Layer, t: Operands, seconds: float) -> dict[str, float]:
    """Seconds of a forward call by name. A runtime that does not know the layer, or is wrong, is left out."""
    found = {}
    for name in names:
        try:
            call = {"onnxruntime": _onnxruntime, "openvino": _openvino}[name](layer, t)
            reference = torch_call(layer, "forward", t)()
            if largest_error(torch.as_tensor(call()), reference.double()) <= LIMIT:
                found[name] = alone(call, seconds)
        except Exception:  # each has its own, and none may end a benchmark
            continue
    return found


def _onnxruntime(layer: Layer, t: Operands) -> Call:
    onnx: Any = importlib.import_module("onnx")
    runtime: Any = importlib.import_module("onnxruntime")
    helper = onnx.helper
    attributes: dict[str, Any] = {
        "strides": layer.stride,
        "pads": (*layer.padding, *layer.padding),
        "dilations": layer.dilation,
        "group": layer.groups,
    }
    if layer.transposed:
        attributes["output_padding"] = layer.output_padding
    kind = "ConvTranspose" if layer.transposed else "Conv"
    node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", layer.input_shape), ("y", layer.output_shape))
    )
    weight = onnx.numpy_helper.from_array(t.w.numpy(), "w")
    model = helper.make_model(helper.make_graph([node], "layer", [x], [y], [weight]))
    model.ir_version = min(model.ir_version, 10)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"x": t.x.numpy()}
    return lambda: session.run(None, feed)[0]


def _openvino(layer: Layer, t: Operands) -> Call:
    ov: Any = importlib.import_module("openvino")
    ops: Any = importlib.import_module("openvino.opset13")
    x = ops.parameter(layer.input_shape, ov.Type.f32)
    w = t.w.numpy()
    name = "convolution"
    if layer.groups > 1:
        name = "group_convolution"
        w = w.reshape(layer.groups, w.shape[0] // layer.groups, *w.shape[1:])
    options: dict[str, Any] = {
        "strides": list(layer.stride),
        "pads_begin": list(layer.padding),
        "pads_end": list(layer.padding),
        "dilations": list(layer.dilation),
    }
    if layer.transposed:
        name += "_backprop_data"
        options |= {"auto_pad": "explicit", "output_padding": list(layer.output_padding)}
    node = getattr(ops, name)(x, ops.constant(w), **options)
    model = ov.Model([node], [x], "layer")
    config = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.compile_model(model, "CPU", config).create_infer_request()
    source = t.x.numpy()

    def run() -> Any:
        return request.infer([source], share_inputs=True, share_outputs=True)[0]

    return run
