"""The benchmark: its layers are what they say, its arithmetic is right, it runs. No test asks for a speed."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import torch_conv_ext
from torch_conv_ext._bench import machine, models, plot, results, timing, zoo
from torch_conv_ext._bench.families import family_suites
from torch_conv_ext._bench.layers import (
    CLASSES,
    CONTRACTIONS,
    DENSE_DIRECT,
    DENSE_WINOGRAD,
    Layer,
    Network,
    merged,
    without_repeats,
)
from torch_conv_ext._bench.networks import network_suites
from torch_conv_ext._bench.results import Row

SUITES = merged(network_suites(), family_suites())
ALL = [layer for suite in SUITES.values() for layer in suite.layers]

# Multiply-adds of all convolutions for one image, in units of 1e9: the papers' figures, rounded, where a
# suite has the layers and the input of the paper. Fully connected layers are not in it.
PUBLISHED = {
    "resnet50": 4.1,
    "vgg16": 15.3,
    "mobilenetv2": 0.30,
    "efficientnet_b0": 0.39,
    "convnext_t": 4.5,
    "resnext50": 4.2,
    "replknet31": 15.3,
    "inception_v3": 5.7,
}


# --- layers -------------------------------------------------------------------------------------------------


def test_every_suite_names_its_source_and_has_layers() -> None:
    for suite in SUITES.values():
        assert len(suite.source) > 20 and suite.layers
        assert all(layer.suite == suite.name and layer.count >= 1 for layer in suite.layers)
    assert all(len(source) > 20 for source in models.SOURCES.values())


@pytest.mark.parametrize("suite", SUITES)
def test_layers_are_legal_and_have_the_size_that_torch_says(suite: str) -> None:
    for layer in SUITES[suite].layers:
        x = torch.empty(layer.input_shape, device="meta")
        w = torch.empty(layer.weight_shape, device="meta")
        stride, padding, dilation = layer.stride, layer.padding, layer.dilation
        if layer.transposed:
            y = F.conv_transpose2d(x, w, None, stride, padding, layer.output_padding, layer.groups, dilation)
        else:
            y = F.conv2d(x, w, None, stride, padding, dilation, layer.groups)
        assert y.shape == layer.output_shape, layer.name


@pytest.mark.parametrize("suite", SUITES)
def test_names_tell_layers_apart(suite: str) -> None:
    names = {(layer.name, layer.n) for layer in SUITES[suite].layers}
    assert len(names) == len(SUITES[suite].layers)


@pytest.mark.parametrize("suite", PUBLISHED)
def test_networks_have_the_published_number_of_operations(suite: str) -> None:
    operations = sum(layer.flops / 2 / layer.n * layer.count for layer in SUITES[suite].layers)
    assert operations / 1e9 == pytest.approx(PUBLISHED[suite], rel=0.03)


def test_flops_are_two_for_each_term() -> None:
    conv = Network("s", 2, 6, 5, 7).conv(9, (3, 1), s=2, p=0, g=3).layers()[0]
    assert conv.output_shape == (2, 9, 2, 4)
    assert conv.flops == 2 * (2 * 9 * 2 * 4) * (2 * 3)
    transposed = Network("s", 2, 6, 5, 7).up(9, (3, 1), s=2, g=3).layers()[0]
    assert transposed.flops == 2 * (2 * 6 * 5 * 7) * (3 * 3)


def test_classes() -> None:
    def layer(ci: int = 64, co: int = 64, k: int = 3, s: int = 1, d: int = 1, g: int = 1) -> Layer:
        return Network("s", 1, ci, 32).conv(co, k, s=s, d=d, g=g).layers()[0]

    assert layer().tags == ("dense", DENSE_WINOGRAD)
    assert layer(co=32).tags == ("dense",)
    assert layer(s=2).tags == layer(d=2).tags == layer(k=1).tags == ("dense", DENSE_DIRECT)
    assert layer(ci=3).tags == layer(co=1).tags == ("thin",)
    assert layer(g=64).tags == layer(co=128, g=64).tags == ("depthwise",)
    assert layer(g=32).tags == ("grouped",)
    assert Network("s", 1, 8, 4).up(8, 2, s=2, g=8).layers()[0].tags == ("transposed",)
    assert {layer.layer_class for layer in ALL} == set(CLASSES)
    assert {t for layer in ALL for t in layer.tags} <= set(results.TAGS)


def test_equal_layers_are_counted_and_timed_once() -> None:
    net = Network("a", 1, 8, 4)
    layers = net.conv(8, 3).conv(8, 3).conv(8, 1).layers()
    assert [layer.count for layer in layers] == [2, 1]
    elsewhere = Network("b", 1, 8, 4).conv(8, 3).layers()
    assert without_repeats([*layers, *elsewhere]) == list(layers)


def test_the_short_suite_repeats_layers_of_the_others() -> None:
    others = {layer.geometry for layer in ALL if layer.suite != "quick"}
    missing = [layer.name for layer in SUITES["quick"].layers if layer.geometry not in others]
    assert len(missing) <= 3, missing


# --- timing -------------------------------------------------------------------------------------------------

SMALL = [
    Network("s", 3, 6, 9, 8).conv(4, (3, 2), s=2, p=1, g=2).layers()[0],
    Network("s", 3, 6, 5, 4).up(4, 3, s=2, p=1, op=1, g=2).layers()[0],
    Network("s", 2, 6, 1, 7).up(1, (1, 5), s=(1, 3)).layers()[0],
]


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("contraction", CONTRACTIONS)
@pytest.mark.parametrize("layer", SMALL, ids=lambda layer: layer.name)
def test_both_calls_compute_the_same(layer: Layer, contraction: str, layout: str) -> None:
    t = timing.operands(layer, "float64", layout)
    theirs = timing.torch_call(layer, contraction, t)()
    torch.testing.assert_close(timing.our_call(layer, contraction, t)(), theirs)
    assert max(timing.errors(layer, contraction, t)) < 1e-14


@pytest.mark.parametrize("contraction", CONTRACTIONS)
def test_a_wrong_result_is_seen(contraction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, t = SMALL[0], timing.operands(SMALL[0], "float32", "nchw")
    assert timing.is_right(layer, "float32", timing.errors(layer, contraction, t)[1])
    right = timing.our_call
    for spoil in (1e-2, math.nan):
        monkeypatch.setattr(timing, "our_call", lambda *a, by=spoil: lambda: right(*a)() + by)
        assert not timing.is_right(layer, "float32", timing.errors(layer, contraction, t)[1])


def test_calls_take_turns() -> None:
    calls: list[str] = []
    measured = timing.in_turns(
        lambda _: (lambda: calls.append("a"), lambda: calls.append("b")), 1e-4, fresh=True
    )
    timed = calls[4:]
    assert measured.rounds == len(timed) // 2 >= 1
    assert timed[:8] == ["a", "b", "b", "a", "a", "b", "b", "a"][: len(timed)]
    assert measured.low <= measured.high and measured.torch > 0 and measured.ours > 0


def test_each_round_of_a_new_width_has_another_width() -> None:
    layer = dataclasses.replace(SMALL[2], w=200, variant="new width")
    widths = [max(1, layer.w + number * 37 % 201 - 100) for number in range(201)]
    assert len(set(widths)) == 201 and abs(sum(widths) / 201 - layer.w) < 1
    t = timing.operands(layer, "float32", "nchw")
    assert timing.time_layer(layer, "forward", t, "float32", "nchw", 0.01).rounds >= 1


def test_quartiles() -> None:
    assert timing.quartiles([5.0, 1.0, 3.0, 2.0, 4.0]) == (2.0, 4.0)
    assert timing.quartiles([7.0]) == (7.0, 7.0)


# --- results ------------------------------------------------------------------------------------------------

MACHINE = machine.Machine(
    "cpu",
    2,
    2,
    "2.13.0",
    "0.1.0",
    "gcc",
    "avx2",
    "AVX2",
    "default",
    "pinned, 0",
    0.0,
    {"float32": 100.0},
    10.0,
)


def row(name: str = "l", ratio: float = 2.0, **changes: object) -> Row:
    made = Row(
        suite="s",
        layer=name,
        batch=8,
        contraction="forward",
        dtype="float32",
        layout="nchw",
        tags=["grouped"],
        count=1,
        flops=10**6,
        algorithm="direct",
        torch=1e-3 * ratio,
        ours=1e-3,
        ratio=ratio,
        low=0.95 * ratio,
        high=1.05 * ratio,
        rounds=9,
        torch_error=0.0,
        ours_error=0.0,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def test_geometric_mean() -> None:
    assert results.geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert results.geometric_mean([2.0, 2.0, 16.0]) == pytest.approx(4.0)
    assert math.isnan(results.geometric_mean([]))


def test_summary_holds_rows_against_targets() -> None:
    rows = [row("a", 4.0), row("b", 0.9), row("c", 8.0, tags=["dense", DENSE_WINOGRAD])]
    by_tag = {s.tag: s for s in results.summarise(rows)}
    assert list(by_tag) == ["dense", DENSE_WINOGRAD, "grouped", "all"]
    grouped = by_tag["grouped"]
    assert (grouped.rows, grouped.worst.layer, grouped.wins) == (2, "b", 0.5)
    assert grouped.mean == pytest.approx(math.sqrt(3.6))
    assert grouped.verdict == "mean and worst below"
    assert by_tag[DENSE_WINOGRAD].verdict == "ok"
    assert by_tag["all"].mean == pytest.approx((4.0 * 0.9 * 8.0) ** (1 / 3))
    assert by_tag["all"].verdict == ""


def test_targets_stand_for_every_class_once() -> None:
    for dtype in ("float32", "float64"):
        for tag in CLASSES:
            for contraction in CONTRACTIONS:
                found = [
                    t
                    for t in results.TARGETS
                    if (t.dtype, t.tag) == (dtype, tag) and t.contraction in ("", contraction)
                ]
                assert len(found) == 1, (dtype, tag, contraction)


def test_comparison_takes_the_change_of_the_ratio() -> None:
    old = [row("a", 2.0), row("b", 2.0), row("gone", 1.0)]
    new = [row("a", 3.0, suite="other"), row("b", 1.98), row("new", 1.0), row("a", 1.0, batch=1)]
    changes = results.compare(old, new)
    assert [(c.new.layer, round(c.factor, 2), c.certain) for c in changes] == [
        ("b", 0.99, False),
        ("a", 1.5, True),
    ]
    other = dataclasses.replace(MACHINE, threads=1, malloc="default, 9", load=2.0)
    assert [d.partition(":")[0] for d in results.differences(MACHINE, other)] == ["threads", "malloc"]


def test_totals_count_each_layer_as_often_as_it_stands_there() -> None:
    layers = Network("net", 8, 8, 4).conv(8, 3).conv(8, 3).conv(4, 1).layers()
    rows = [row(layers[0].name, 3.0), row(layers[1].name, 1.0)]
    (total,) = results.totals(rows, layers, ["net", "absent"])
    assert (total.torch, total.ours) == pytest.approx((7e-3, 3e-3))
    assert results.totals(rows[:1], layers, ["net"]) == []


def test_files_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [row("a", copy_share=0.5), row("b", rivals={"openvino": 1e-3})]
    results.save(tmp_path / "new" / "r.json", MACHINE, rows)
    assert results.load(tmp_path / "new" / "r.json") == (MACHINE, rows)
    for content in ("no json", "[]", "{}", '{"schema": 99, "machine": {}, "rows": []}'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match=r"bad\.json: "):
            results.load(tmp_path / "bad.json")


@pytest.mark.skipif(not plot.AVAILABLE, reason="matplotlib is not installed")
@pytest.mark.parametrize("count", [1, 50])
def test_plot(count: int, tmp_path: Path) -> None:
    rows = [row(f"l{i}", 0.5 * 1.2 ** (i % 30)) for i in range(count)]
    plot.save_plot(tmp_path / "p.png", MACHINE, rows)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


# --- the command --------------------------------------------------------------------------------------------


def bench(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torch_conv_ext", "bench", *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_command(tmp_path: Path) -> None:
    """Two rows are timed, saved, drawn and compared; malloc is pinned unless it shall not be."""
    file, picture = tmp_path / "r.json", tmp_path / "p.png"
    few = ("--suite", "lenet", "vit", "--filter", "5x5 p0 1-6", "--time", "0.01", "--no-rivals")
    first = bench(*few, "--contraction", "forward", "grad_weight", "--save", file)
    assert first.returncode == 0, first.stderr
    content = json.loads(file.read_text())
    assert [r["contraction"] for r in content["rows"]] == ["forward", "grad_weight"]
    assert all(r["ratio"] > 0 and 0 <= r["ours_error"] < 1e-4 for r in content["rows"])
    if sys.platform == "linux":
        assert content["machine"]["malloc"].startswith("pinned")
    assert "5x5 p0 1-6 @32 N64" in first.stdout and "Summary, float32, nchw" in first.stdout

    plots = ("--plot", picture) if plot.AVAILABLE else ()
    again = bench(*few, "--contraction", "forward", "--default-malloc", "--compare", file, *plots)
    assert again.returncode == 0, again.stderr
    assert "malloc   default" in again.stdout
    assert "1 rows in both" in again.stdout
    assert picture.exists() == plot.AVAILABLE


def test_command_with_channels_last_and_models() -> None:
    """JSON on stdout is one object with a row for each pass."""
    done = bench("--suite", "calls", "--layout", "channels_last", "--time", "0.001", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [r["contraction"].removeprefix("call: ") for r in rows] == list(models.CALLS)


@pytest.mark.parametrize("model", zoo.MODELS["narrow"], ids=lambda model: model.name)
def test_models_agree_with_torch(model: zoo.Model) -> None:
    """In float64 both errors are rounding. (test_models.py has the models of the other suite.)"""
    passes = [p for p in models.passes("narrow", "float64", "nchw", batch=2) if p.name == model.name]
    assert [p.kind for p in passes] == ["inference", "training step"]
    for p in passes:
        theirs, ours, _, _ = p.prepare()
        assert max(theirs, ours) < 1e-9


def test_a_wrong_model_is_not_timed() -> None:
    """The limit, or twice torch's error where that is larger."""
    p = next(models.passes("narrow", "float32", "nchw"))
    right = [(0.0, 9e-3), (2e-2, 3e-2)]
    for errors in [*right, (0.0, 2e-2), (2e-2, 5e-2), (0.0, math.nan)]:
        prepared: models.Prepared = (*errors, int, int)
        timed = dataclasses.replace(p, prepare=partial(copy.copy, prepared)).measure(1e-4)
        assert (timed[0] is not None) == (errors in right)


def test_passes_beside_torch_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more for each model. The first compiles torch's network, the second both."""
    compiled: list[torch.nn.Module] = []

    def note(net: torch.nn.Module) -> torch.nn.Module:
        compiled.append(net)
        return net

    monkeypatch.setattr(torch, "compile", note)
    passes = [p for p in models.passes("narrow", "float64", "nchw", 2, compiled=True) if p.name == "ResNet"]
    assert [p.kind for p in passes[2:]] == [models.COMPILED, models.BOTH_COMPILED]
    assert results.target("float32", "model", models.COMPILED) is not None
    for p, owners in zip(passes[2:], ([torch.nn], [torch.nn, torch_conv_ext]), strict=True):
        theirs, ours, _, _ = p.prepare()
        assert max(theirs, ours) < 1e-9
        assert [type(net.get_submodule("0")) for net in compiled] == [owner.Conv2d for owner in owners]
        compiled.clear()


def test_models_of_absent_packages_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They have no rows; the command says so, and what to install."""
    from torch_conv_ext.__main__ import main

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    names = {p.name for p in models.passes("models", "float32", "nchw")}
    assert names == {model.name for model in zoo.MODELS["models"] if not model.package}
    few = ["--time", "0.001", "--batch", "1", "--default-malloc", "--threads", str(torch.get_num_threads())]
    assert main(["bench", "--suite", "models", "--filter", "NeXt|DCGAN", *few]) == 0
    shown = capsys.readouterr()
    assert "DCGAN generator N1" in shown.out and "U-Net" not in shown.out
    assert "left out: ResNeXt-50 32x4d; for these run `python -m pip install pytorchcv`" in "".join(shown)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--suite", "resnet51"), "'resnet51'"),
        (("--filter", "("), "regular expression"),
        (("--filter", "no such layer"), "no layer or model of the suites quick"),
        (("--isa", "mmx"), "'mmx'"),
        (("--compare", "absent.json"), "absent.json"),
        (("--time", "0"), "positive"),
    ],
)
def test_errors_in_the_command_line(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch_conv_ext.__main__ import main

    try:
        status = main(["bench", *arguments])
    except SystemExit as error:
        status = int(str(error.code))
    assert status == 2
    assert said in capsys.readouterr().err


def test_list_of_suites(capsys: pytest.CaptureFixture[str]) -> None:
    from torch_conv_ext.__main__ import main

    assert main(["bench", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in [*SUITES, *models.SOURCES])
