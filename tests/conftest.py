"""What the tests share: every ISA of this CPU, the number of threads, poisoned results, seeds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

# Test processes share the cores: a thread that waits must not spin. Read when torch loads OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch
from hypothesis import settings

# Random geometries are the same ones in every run, and nothing is written to disk.
settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")


def pytest_report_header() -> list[str]:
    """One line on what the tests run on; a missing compiled module is reported by the tests themselves."""
    try:
        from torch_conv_ext import _C
    except ImportError as error:
        return [f"torch_conv_ext: cannot be imported: {error}"]
    info = _C.build_info()
    return [
        f"torch_conv_ext: isa {'/'.join(_C.supported_isas())} (default {_C.isa()}), "
        f"built for torch {info['torch']} by {info['compiler']}, OpenMP {info['openmp']}; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads"
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `isa` runs once on every ISA that is built and that this CPU has."""
    if "isa" in metafunc.fixturenames:
        from torch_conv_ext import _C

        metafunc.parametrize("isa", _C.supported_isas(), indirect=True)


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The instruction set in use during the test."""
    from torch_conv_ext import _C

    before = _C.isa()
    _C.set_isa(request.param)
    yield request.param
    _C.set_isa(before)


@pytest.fixture
def algorithm(request: pytest.FixtureRequest) -> Iterator[str]:
    """The algorithm taken wherever it applies; elsewhere the plan's choice. Given with indirect=True."""
    from torch_conv_ext import _C

    _C.set_algorithm(request.param)
    yield request.param
    _C.set_algorithm("")


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """torch's number of threads during the test: one, or the parameter given with indirect=True."""
    before = torch.get_num_threads()
    count: int = getattr(request, "param", 1)
    torch.set_num_threads(count)
    yield count
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random numbers drawn without a generator of their own are the same in every run and in every order."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def poisoned_results() -> Iterator[None]:
    """Fills results and scratch with NaN before a kernel runs: an element left unwritten cannot look right.

    Only where the test's module has imported the kernels: nothing is imported here.
    """
    kernels = sys.modules.get("torch_conv_ext._C")
    if kernels is None:
        yield
        return
    kernels.poison(True)
    yield
    kernels.poison(False)
