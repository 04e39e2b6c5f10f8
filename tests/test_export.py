"""Models that leave Python: ONNX, exported programs in files, AOTInductor's packages."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import torch_conv_ext
from cases import DILATIONS, FREE, GROUPS, PADDINGS, STRIDES, TRANSPOSED
from geometry import Geometry
from isolated import output_of
from operands import FORWARD, GRAD_INPUT, Contraction, assert_within, bias_of, bounds, operand
from torch_conv_ext._registrations import DECOMPOSITIONS

pytestmark = pytest.mark.usefixtures("threads")


def model(package: Any) -> nn.Sequential:
    """Every option of the two layers; the same parameters from torch_conv_ext and from torch.nn."""
    torch.manual_seed(0)
    return nn.Sequential(
        package.Conv2d(4, 8, (3, 2), (2, 1), (1, 2), groups=2),
        nn.ReLU(),
        package.ConvTranspose2d(8, 6, 3, 2, 1, output_padding=(1, 0), groups=2, bias=False),
        package.Conv2d(6, 4, (2, 4), padding="same", dilation=(1, 2), bias=False),
        package.ConvTranspose2d(4, 4, (2, 3), 1, 0, (1, 0), dilation=2),
    ).eval()


def export(module: nn.Module, strict: bool = False) -> ExportedProgram:
    """With a free batch and a free height."""
    sizes = {0: Dim("n"), 2: Dim("h", min=4, max=64)}
    return torch.export.export(module, (torch.ones(2, 4, 8, 9),), dynamic_shapes=(sizes,), strict=strict)


def close(result: Tensor, expected: Tensor) -> None:
    """Outputs of order one after four layers of less than 100 products: 1e-5 is a hundred roundings."""
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


X = torch.randn(3, 4, 11, 9, generator=torch.Generator().manual_seed(1))  # other sizes than those exported


# --- ONNX ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("captured", ["by_onnx", "strict_program"])
def test_onnx(captured: str) -> None:
    """Standard nodes alone, as from torch.nn, and onnxruntime's results are those of torch."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    ours = model(torch_conv_ext)
    if captured == "by_onnx":
        sizes = ({0: Dim("n"), 2: Dim("h", min=4, max=64)},)
        exported: Any = torch.onnx.export(
            ours, (torch.ones(2, 4, 8, 9),), dynamic_shapes=sizes, dynamo=True, verbose=False
        )
    else:
        exported = torch.onnx.export(export(ours, strict=True), dynamo=True, verbose=False)
    # onnxruntime has no output padding as large as the stride: the last layer's is added by two nodes more.
    nodes = [(node.domain, node.op_type) for node in exported.model.graph]
    assert [name for _, name in nodes if name != "Pad"] == [
        *("Conv", "Relu", "ConvTranspose", "Conv", "ConvTranspose", "Add")
    ]
    assert {domain for domain, _ in nodes} == {""}
    assert {opset.domain for opset in exported.model_proto.opset_import} == {""}
    session = onnxruntime.InferenceSession(exported.model_proto.SerializeToString())
    (result,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    close(torch.from_numpy(result), model(nn)(X))


SIDES: Any = ((0, 2), (1, 0))
PADDED: dict[str, Callable[[], nn.Module]] = {
    "same": lambda: torch_conv_ext.Conv2d(4, 6, 3, (2, 3), padding="same"),
    "sides": lambda: torch_conv_ext.Conv2d(4, 6, (2, 3), 2, padding=SIDES),
    "reflect": lambda: torch_conv_ext.Conv2d(4, 6, 3, padding=SIDES, padding_mode="reflect"),
    "replicate": lambda: torch_conv_ext.Conv2d(4, 6, 3, padding="same", padding_mode="replicate"),
    "circular": lambda: torch_conv_ext.Conv2d(4, 6, 3, 2, padding=1, padding_mode="circular"),
    "transposed_same": lambda: torch_conv_ext.ConvTranspose2d(4, 6, 3, 2, padding="same"),
    "transposed_sides": lambda: torch_conv_ext.ConvTranspose2d(4, 6, 3, 2, padding=SIDES, bias=False),
    "transposed_circular": lambda: torch_conv_ext.ConvTranspose2d(4, 6, 4, 2, 1, padding_mode="circular"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("layer", PADDED)
def test_onnx_of_more_padding(layer: str) -> None:
    """Padding that torch does not take, as standard nodes for even and odd heights."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    ours = PADDED[layer]().eval()
    program: Any = torch.onnx.export(export(ours), dynamo=True, verbose=False)
    assert {node.domain for node in program.model.graph} == {""}
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for x in (X, X[:, :, 1:]):
        (result,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        close(torch.from_numpy(result), ours(x))


SIZES = [*STRIDES, *DILATIONS, *PADDINGS, *GROUPS, *TRANSPOSED, *FREE]


@pytest.mark.parametrize("geometry", SIZES, ids=str)
@pytest.mark.parametrize("contraction", [FORWARD, GRAD_INPUT], ids=str)
def test_decompositions(contraction: Contraction, geometry: Geometry) -> None:
    """Each operator in terms of torch's = the operator, for all sizes of the result."""
    operator = getattr(torch.ops.torch_conv_ext, contraction.name).default
    a, b = (operand(geometry, name, torch.float64) for name in (contraction.first, contraction.second))
    size = geometry.shape(contraction.result)[2:]
    sizes = (*size, *geometry.stride, *geometry.padding, *geometry.dilation, geometry.groups)
    for bias in (None, bias_of(contraction, geometry, torch.float64)):
        result = DECOMPOSITIONS[operator](a, b, bias, *sizes)
        # torch's own sums round as the reference's do
        expected, bound = bounds(contraction, geometry, a, b, bias, torch.float64)
        assert_within(result, expected, bound, f"{contraction} {geometry}")


# --- programs and packages in files -------------------------------------------------------------------------

_RUN = """
import sys, torch, torch_conv_ext
program, package, tensors = sys.argv[1:]
x, y, z = torch.load(tensors)
print(torch.equal(torch.export.load(program).module()(x), y))
print(torch.equal(torch._inductor.aoti_load_package(package)(x), z))
"""


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exported program from a file, and an AOTInductor package, which is compiled code that calls our
    operators, give the bits of the model, here and in a process of its own.
    """
    ours = model(torch_conv_ext)
    y = ours(X).detach()
    program = tmp_path / "program.pt2"
    torch.export.save(export(ours), program)
    assert torch.equal(torch.export.load(program).module()(X), y)
    if shutil.which("g++") is None:
        pytest.skip("no compiler for AOTInductor")

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    part = nn.Sequential(ours[0], ours[2])  # fewer layers compile sooner
    z = part(X).detach()
    package = str(tmp_path / "package.pt2")
    torch._inductor.aoti_compile_and_package(export(part), package_path=package, inductor_configs=QUICK)
    assert torch.equal(torch._inductor.aoti_load_package(package)(X), z)
    torch.save((X, y, z), tmp_path / "tensors.pt")
    assert output_of(_RUN, program, package, tmp_path / "tensors.pt").split() == ["True", "True"]


QUICK = {
    "aot_inductor.compile_wrapper_opt_level": "O0",
    "aot_inductor.precompile_headers": False,
    "cpp_cache_precompile_headers": False,
    "compile_threads": 1,
}
