"""`python -m torch_conv_ext`, torch_conv_ext.plan, and what a user reads where the import fails."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import torch_conv_ext
from cases import CASES
from geometry import Geometry
from torch_conv_ext import _C, __main__, plan, settings
from torch_conv_ext._cli import check, console, info
from torch_conv_ext._cli.layer import Layer

PACKAGE = Path(torch_conv_ext.__file__).parent

CONV = ["plan", "conv2d", "--input", "8,64,56,56", "--weight", "64,64,3,3", "--padding", "1"]
TRANSPOSED = ["plan", "conv_transpose2d", "--input", "8,64,28,28", "--weight", "64,32,4,4"]
TRANSPOSED += ["--stride", "2", "--padding", "1"]


def run(*arguments: str) -> int:
    """The exit status of a command, run in this process."""
    try:
        return __main__.main(arguments)
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


# --- the command line as such ---


def test_as_a_process() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch_conv_ext", *CONV, "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["computed_by"] == "torch_conv_ext"
    assert done.stderr == ""


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"torch_conv_ext {torch_conv_ext.__version__}\n"
    assert run("--help") == 0
    out = capsys.readouterr().out
    for command in __main__.COMMANDS:
        assert f"\n    {command} " in out
        assert run(command, "--help") == 0


# Errors have one voice: what was expected, what was given, where to read on; nothing on stdout.
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (
            ["plan", "conv2d", "--input", "8,64", "--weight", "1,1,3,3"],
            "--input: expected four sizes such as",
        ),
        (["plan", "conv2d", "--input", "8,64,x,5", "--weight", "1,1,3,3"], "but got '8,64,x,5'"),
        (
            [*CONV, "--stride", "1,2,3"],
            "--stride: expected one integer or two, such as 2 or 2,1, but got '1,2,3'",
        ),
        ([*CONV, "--groups", "2"], "expected input[8, 64, 56, 56] to have 128 channels, but got 64"),
        ([*CONV, "--padding", "-1"], "negative padding is not supported, but got padding=[-1, -1]"),
        ([*CONV, "--output-padding", "1"], "--output-padding: expected conv_transpose2d, but got conv2d"),
        (
            [*TRANSPOSED, "--padding", "1,2,3"],
            "--padding: expected one, two or four integers, 'same' or 'valid', but got '1,2,3'",
        ),
        ([*TRANSPOSED, "--padding", "same", "--output-padding", "1"], "takes no output padding, but got"),
        (["check", "--isa", "mmx"], "--isa: expected one of portable"),
    ],
)
def test_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    first, second = err.splitlines()
    assert first.startswith("error: ")
    assert message in first
    assert second.startswith("See `python -m torch_conv_ext")


# Tables with rich and without hold the same words.
def test_rich_and_plain(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run(*TRANSPOSED)
    plain = capsys.readouterr().out
    assert plain.splitlines() == [line.rstrip() for line in plain.splitlines()]
    pytest.importorskip("rich")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    run(*TRANSPOSED)
    rich = capsys.readouterr().out
    assert "\x1b[" in rich
    for style in ("0", "1"):
        rich = rich.replace(f"\x1b[{style}m", "")
    assert rich.split() == plain.split()
    monkeypatch.setattr(console, "HAS_RICH", False)
    run(*TRANSPOSED)
    assert capsys.readouterr().out == plain


# A failed check may hold NaN, which is no JSON.
def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    console.Console(as_json=True).result({"rows": [{"error": float("nan")}], "most": (float("inf"), 1.5)})
    assert json.loads(capsys.readouterr().out) == {"rows": [{"error": None}], "most": [None, 1.5]}


# --- info ---


def test_info(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_CONV_EXT_WINOGRAD", "off")
    monkeypatch.setenv("TORCH_CONV_EXT_THREADS", "3")
    found = run_json(capsys, "info")
    assert found["torch_conv_ext"]["version"] == torch_conv_ext.__version__
    assert found["torch"]["running"] == torch.__version__
    assert found["isa"]["supported"] == _C.supported_isas()
    assert found["threads"]["torch.get_num_threads"] == torch.get_num_threads()
    assert found["settings"] == {"winograd": settings.winograd}
    assert found["environment"]["TORCH_CONV_EXT_WINOGRAD"] == "off"
    notes = "\n".join(found["notes"])
    assert "TORCH_CONV_EXT_WINOGRAD: expected 0 or 1, but got 'off'" in notes
    assert "TORCH_CONV_EXT_THREADS has no meaning: expected TORCH_CONV_EXT_ISA or" in notes
    assert run("info") == 0
    out = capsys.readouterr().out
    assert f"running: {torch.__version__}" in out
    assert all(f"note: {note}" in out for note in found["notes"])


def test_info_notes_what_is_unusual(monkeypatch: pytest.MonkeyPatch) -> None:
    build = {**_C.build_info(), "openmp": 0}
    monkeypatch.setattr(_C, "build_info", lambda: build)
    monkeypatch.setattr(_C, "isa", lambda: "none of them")
    monkeypatch.setattr(info, "_openmp_libraries", lambda: ["libgomp.so.1", "libiomp5.so"])
    notes = "\n".join(info.collect()["notes"])
    assert "built without OpenMP" in notes
    assert "none of them is in use" in notes
    assert "several OpenMP libraries" in notes


# --- plan ---


def test_plan_of_conv2d(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, *CONV)
    assert found == json.loads(
        json.dumps(plan("conv2d", (8, 64, 56, 56), (64, 64, 3, 3), padding=1).to_dict())
    )
    assert found["output"] == [8, 64, 56, 56]
    parts = found["contractions"]
    assert [part["contraction"] for part in parts] == ["forward", "grad_input", "grad_weight"]
    x, w = 4 * 8 * 64 * 56 * 56, 4 * 64 * 64 * 9
    assert [(part["bytes_read"], part["bytes_written"]) for part in parts] == [
        (x + w, x),
        (x + w, x),
        (x + x, w),
    ]
    for part in parts:
        assert part["flops"] == 2 * 8 * 64 * 64 * 9 * 56 * 56
        assert part["intensity"] == part["flops"] / (x + w + x)
        assert part["scratch_bytes"] > 0
        assert part["reason"]
        assert {part["algorithm"], *part["others"]} >= {"direct", "winograd"}
        estimates = [why for why in part["others"].values() if isinstance(why, float)]
        assert part["cycles"] == min([part["cycles"], *estimates])
    assert run(*CONV) == 0
    out = capsys.readouterr().out
    for text in (
        "contraction  forward",
        "not taken    direct: ",
        "cycles, ",
        "scratch",
        "MiB per thread",
        "GFLOP",
        "FLOP per byte",
    ):
        assert text in out


# Four numbers are top, bottom, left and right.
def test_plan_with_a_padding_for_each_side(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, *CONV[:-1], "0,2,1,3", "--stride", "2")
    assert found["output"] == [8, 64, 28, 29]
    assert found["padding"] == [[0, 2], [1, 3]]
    assert run_json(capsys, *CONV[:-1], "same", "--stride", "2")["output"] == [8, 64, 28, 28]


# A transposed convolution is the gradient of a convolution by its input.
def test_plan_of_conv_transpose2d_exchanges_roles(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json(capsys, *TRANSPOSED)
    assert found["output"] == [8, 32, 56, 56]
    assert [part["contraction"] for part in found["contractions"]] == ["grad_input", "forward", "grad_weight"]
    x, w, y = 4 * 8 * 64 * 28 * 28, 4 * 64 * 32 * 16, 4 * 8 * 32 * 56 * 56
    assert [part["bytes_written"] for part in found["contractions"]] == [y, x, w]
    run(*TRANSPOSED)
    assert "grad_input computes the output" in capsys.readouterr().out


# The plan that is shown is the plan of the call: of the sizes that the geometry of the tests has.
@pytest.mark.parametrize("case", [c for c in CASES if c.is_conv2d or c.is_transposed], ids=str)
def test_plan_is_that_of_the_kernels(case: Geometry, isa: str) -> None:
    options: dict[str, Any] = {"stride": case.stride, "padding": case.padding, "dilation": case.dilation}
    options["groups"] = case.groups
    found = []
    if case.is_conv2d:
        found.append(plan("conv2d", case.shape("x"), case.shape("w"), **options))
    if case.is_transposed:
        options["output_padding"] = case.output_padding
        found.append(plan("conv_transpose2d", case.shape("y"), case.shape("w"), **options))
    for layer in found:
        for part in layer.contractions:
            assert part.text == _C.plan(part.contraction, "float32", "nchw", case.plan_sizes())["text"]
            assert part.isa == isa


def test_plan_of_tensors() -> None:
    x = torch.randn(2, 8, 9, 9, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    w = torch.randn(4, 8, 3, 3, dtype=torch.float64)
    found = plan("conv2d", x, w, torch.randn(4, dtype=torch.float64), stride=2)
    assert found == plan("conv2d", x.shape, w.shape, stride=2, dtype=torch.float64, layout="channels_last")
    assert found.output == F.conv2d(x, w, stride=2).shape
    assert plan("conv2d", x[0], w).output == F.conv2d(x[0], w).shape
    assert str(found).startswith("conv2d: input (2, 8, 9, 9), weight (4, 8, 3, 3) -> output (2, 4, 4, 4)\n")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.groups = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"dtype": torch.bfloat16}, "the dtype is bfloat16, the kernels here are for float32, float64"),
        ({"input": torch.empty(1, 3, 8, 8, device="meta")}, "input is on the device meta"),
        ({"input": torch.empty(1, 3, 8, 8).to_mkldnn()}, "the kernels here are for plain dense tensors"),
    ],
)
def test_plan_says_where_torch_computes(options: dict[str, Any], why: str) -> None:
    found = plan(**{"function": "conv2d", "input": (1, 3, 8, 8), "weight": (4, 3, 3, 3), **options})
    assert (found.computed_by, found.contractions) == ("torch", ())
    assert why in found.reason
    assert f"torch's own operator computes this layer: {found.reason}." in str(found)


def test_plan_under_autocast() -> None:
    with torch.autocast("cpu"):
        assert "autocast is on" in plan("conv2d", (1, 3, 8, 8), (4, 3, 3, 3)).reason


# plan raises what the function raises.
@pytest.mark.parametrize(
    ("x", "w", "options"),
    [
        ((1, 3, 8, 8), (4, 2, 3, 3), {}),
        ((1, 3, 2, 2), (4, 3, 3, 3), {}),
        ((8, 8), (4, 3, 3, 3), {}),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"stride": 0}),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"padding": "some"}),
        ((1, 3, 8, 8), (4, 3, 3, 3), {"padding": 1.5}),
    ],
)
def test_plan_raises_what_the_function_raises(x: Any, w: Any, options: dict[str, Any]) -> None:
    with pytest.raises((RuntimeError, TypeError)) as of_call:
        torch_conv_ext.conv2d(torch.empty(x), torch.empty(w), **options)
    with pytest.raises(of_call.type) as of_plan:
        plan("conv2d", x, w, **options)
    assert str(of_plan.value) == str(of_call.value)


def test_plan_names_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"expected function to be one of conv2d.* but got 'conv3d'"):
        plan("conv3d", (1, 3, 8, 8), (4, 3, 3, 3))
    with pytest.raises(ValueError, match="expected layout to be one of nchw, channels_last, but got 'nhwc'"):
        plan("conv2d", (1, 3, 8, 8), (4, 3, 3, 3), layout="nhwc")
    with pytest.raises(ValueError, match="expected dtype to be that of input"):
        plan("conv2d", torch.empty(1, 3, 8, 8), (4, 3, 3, 3), dtype=torch.float64)


# --- check: it passes, it puts everything back, and it can fail ---


def test_check(capsys: pytest.CaptureFixture[str]) -> None:
    before = _C.isa(), torch.get_num_threads(), settings.winograd, torch.get_rng_state()
    isa = _C.supported_isas()[-1]
    assert run("check", "--isa", isa, "--json") == 0
    after = _C.isa(), torch.get_num_threads(), settings.winograd, torch.get_rng_state()
    assert after[:3] == before[:3]
    assert torch.equal(after[3], before[3])
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert [c["check"] for c in found["checks"]] == ["agreement", "gradcheck", "threads", "batch", "accuracy"]
    assert {"direct", "winograd"} <= {row["algorithm"] for row in found["accuracy"]}
    assert all(0 < row["rms_error"] < row["max_error"] < 1e-5 for row in found["accuracy"])


def only_a_few_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    small = Layer("conv2d", (2, 3, 9, 8), (4, 3, 3, 3), padding=1)
    monkeypatch.setattr(check, "LAYERS", [small])
    monkeypatch.setattr(check, "TINY", [dataclasses.replace(small, input=(1, 3, 4, 3))])
    monkeypatch.setattr(check, "ACCURACY", small)


conv2d = torch_conv_ext.conv2d


def less_accurate(x: Tensor, w: Tensor, *args: Any, **options: Any) -> Tensor:
    return conv2d(x, w, *args, **options) * (1 + 1e-4)


def by_threads(x: Tensor, w: Tensor, *args: Any, **options: Any) -> Tensor:
    return conv2d(x, w * (1 + 1e-7 * torch.get_num_threads()), *args, **options)


def by_batch(x: Tensor, w: Tensor, *args: Any, **options: Any) -> Tensor:
    return conv2d(x * (1 + 1e-7 * len(x)), w, *args, **options)


def wrong_gradient(x: Tensor, w: Tensor, *args: Any, **options: Any) -> Tensor:
    y = conv2d(x, w, *args, **options)
    return y + (y - y.detach())


@pytest.mark.parametrize(
    ("broken", "failing"),
    [
        (less_accurate, {"agreement", "accuracy"}),
        (by_threads, {"threads"}),
        (by_batch, {"batch"}),
        (wrong_gradient, {"agreement", "gradcheck", "accuracy"}),
    ],
)
def test_check_finds_what_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, broken: Any, failing: set[str]
) -> None:
    only_a_few_layers(monkeypatch)
    monkeypatch.setattr(torch_conv_ext, "conv2d", broken)
    assert run("check", "--isa", "portable") == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    failed = {line.split()[1] for line in lines if line.startswith("FAILED: ")}
    assert failing <= failed <= failing | {"agreement", "accuracy"}
    assert f"{len(failed)} of 5 checks failed" in lines[-2]
    assert "torch_conv_ext info" in lines[-1]
    assert err.splitlines()[-1] == "[5/5] portable: accuracy"


# --- errors of the import: one sentence that says what to do ---

STUB = """
def build_info(): return {{"version": {version!r}}}
isa = plan = poison = set_isa = set_winograd = supported_isas = team_size = {last} = print
"""


def import_error(
    folder: Path, *, torch: str = "", compiled: str = "", binary: str = "", module: bool = False
) -> str:
    """What the import prints last, with a stand-in for torch of a version and one for the compiled module."""
    shutil.copytree(PACKAGE, folder / "torch_conv_ext", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    if torch:
        (folder / "torch.py").write_text(f"__version__ = {torch!r}\n")
    if compiled:
        (folder / "torch_conv_ext" / "_C.py").write_text(compiled)
    if binary:
        (folder / "torch_conv_ext" / binary).touch()
    # -S: without the installed packages.
    command = ["-m", "torch_conv_ext"] if module else ["-c", "import torch_conv_ext"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    if module:
        assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr.splitlines()[-1]


def test_without_torch(tmp_path: Path) -> None:
    assert import_error(tmp_path) == (
        "ImportError: torch_conv_ext: torch is not installed in this Python, expected 2.10 or newer; "
        'run `python -m pip install "torch>=2.10"`'
    )


@pytest.mark.parametrize("version", ["2.9.1+cpu", "1.13.0"])
def test_with_an_old_torch(tmp_path: Path, version: str) -> None:
    assert import_error(tmp_path, torch=version) == (
        f"ImportError: torch_conv_ext: torch {version} is installed, expected 2.10 or newer; "
        'run `python -m pip install "torch>=2.10"`'
    )


def test_in_a_checkout_that_is_not_built(tmp_path: Path) -> None:
    (tmp_path / "csrc").mkdir()
    message = import_error(tmp_path, torch="2.10.0")
    assert f"the compiled module is not built in {tmp_path}; run `make build` there" in message


def test_installed_without_the_compiled_module(tmp_path: Path) -> None:
    message = import_error(tmp_path, torch="2.10.0")
    assert "the compiled module is missing from" in message
    assert "reinstall the wheel" in message


def test_built_for_another_python(tmp_path: Path) -> None:
    message = import_error(tmp_path, torch="2.10.0", binary="_C.cpython-37m-x86_64-linux-gnu.so")
    assert "is not for CPython 3." in message
    assert "(found _C.cpython-37m-x86_64-linux-gnu.so)" in message


def test_compiled_module_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "csrc").mkdir()
    compiled = STUB.format(version="0.0.1", last="winograd")
    message = import_error(tmp_path, torch="2.10.0", compiled=compiled)
    assert (
        f"the compiled module is of version 0.0.1, the Python files are of {torch_conv_ext.__version__}; "
        f"run `make build`"
    ) in message


def test_compiled_module_that_lacks_a_function(tmp_path: Path) -> None:
    compiled = STUB.format(version=torch_conv_ext.__version__, last="other")
    message = import_error(tmp_path, torch="2.10.0", compiled=compiled)
    assert "the compiled module is older than the Python files (it lacks winograd); reinstall" in message


def test_compiled_module_that_does_not_load(tmp_path: Path) -> None:
    compiled = "raise ImportError('undefined symbol: aoti_torch_empty')"
    message = import_error(tmp_path, torch="2.10.0", compiled=compiled)
    assert "does not load with torch 2.10.0 (undefined symbol: aoti_torch_empty); reinstall" in message


# `python -m torch_conv_ext` prints the sentence alone.
def test_as_a_module(tmp_path: Path) -> None:
    message = import_error(tmp_path, module=True)
    assert "torch_conv_ext: torch is not installed in this Python, expected 2.10 or newer" in message
