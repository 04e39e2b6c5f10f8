"""torch_conv_ext.settings: what a switch changes, for whom, and for how long."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

import torch_conv_ext
from isolated import output_of, run_python
from torch_conv_ext import conv2d, settings

# A layer that the plan gives to Winograd on every ISA.
INPUT, WEIGHT = (1, 64, 24, 24), (64, 64, 3, 3)


def algorithm() -> str:
    return torch_conv_ext.plan("conv2d", INPUT, WEIGHT, padding=1).contractions[0].algorithm


@pytest.fixture(autouse=True)
def winograd_on() -> Iterator[None]:
    """Winograd is on when a test starts, and afterwards what it was."""
    before = settings.winograd
    settings.winograd = True
    yield
    settings.winograd = before


def test_winograd_is_a_property(isa: str) -> None:
    assert settings.winograd is True
    assert algorithm() == "winograd"
    settings.winograd = False
    assert settings.winograd is False
    assert algorithm() != "winograd"


# The setting reaches the kernels: other bits, the same values, and the first bits again afterwards.
def test_override_changes_the_result_of_the_block_only(isa: str, threads: int) -> None:
    x, w = torch.randn(INPUT), torch.randn(WEIGHT) / 24
    y = conv2d(x, w, padding=1)
    with settings.override(winograd=False):
        direct = conv2d(x, w, padding=1)
    assert not torch.equal(direct, y)
    torch.testing.assert_close(direct, y)
    assert torch.equal(conv2d(x, w, padding=1), y)


# A backward pass follows the settings of the moment in which it runs.
def test_backward_follows_the_settings_of_its_moment(threads: int) -> None:
    x, w = torch.randn(INPUT, requires_grad=True), torch.randn(WEIGHT) / 24

    def gradient(forward: bool, backward: bool) -> torch.Tensor:
        with settings.override(winograd=forward):
            y = conv2d(x, w, padding=1)
        with settings.override(winograd=backward):
            return torch.autograd.grad(y, x, torch.ones_like(y))[0]

    assert torch.equal(gradient(True, False), gradient(False, False))
    assert not torch.equal(gradient(True, False), gradient(True, True))


def test_override_is_undone_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), settings.override(winograd=False):
        _ = 1 / 0
    assert settings.winograd is True


def test_override_nests_and_decorates() -> None:
    @settings.override(winograd=False)
    def inside() -> bool:
        with settings.override(winograd=True):
            assert settings.winograd is True
        with settings.override():
            pass
        return settings.winograd

    assert inside() is False
    assert settings.winograd is True


def test_settings_belong_to_the_process() -> None:
    seen = []
    with settings.override(winograd=False):
        thread = threading.Thread(target=lambda: seen.append(settings.winograd))
        thread.start()
        thread.join()
    assert seen == [False]


@pytest.mark.parametrize("value", [0, 1, "off", None])
def test_a_value_must_be_a_bool(value: object) -> None:
    with pytest.raises(TypeError, match="expected True or False, but got"):
        settings.winograd = value  # type: ignore[assignment]
    if value is not None:
        with pytest.raises(TypeError, match="expected True or False, but got"):
            settings.override(winograd=value).__enter__()  # type: ignore[arg-type]
    assert settings.winograd is True


def test_a_misspelt_setting_is_an_error() -> None:
    with pytest.raises(AttributeError, match="expected the setting 'winograd', but got 'winogard'"):
        settings.winogard = False  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="winogard"):
        settings.override(winogard=False)  # type: ignore[call-arg]


def test_environment_switches_winograd_off() -> None:
    code = "import torch_conv_ext; print(torch_conv_ext.settings.winograd)"
    assert output_of(code, environment={"TORCH_CONV_EXT_WINOGRAD": "0"}) == "False\n"


def test_environment_with_an_unknown_isa_is_an_error_of_the_import() -> None:
    done = run_python("import torch_conv_ext", environment={"TORCH_CONV_EXT_ISA": "mmx"})
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: torch_conv_ext: TORCH_CONV_EXT_ISA: given 'mmx', expected")
    assert last.endswith("unset the variable or set it to one of these")
