"""The compiled module as a file and as a guest in a process: what it links, exports and does to its host."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

from geometry import conv
from isolated import output_of, run_python
from operands import CONTRACTIONS, FORWARD, Contraction, operand
from torch_conv_ext import _C

LIBRARY = Path(_C.__file__)
ROOT = Path(__file__).parent.parent


def tool(*command: str) -> str:
    """What a program of binutils prints."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} (binutils) is not installed")
    return subprocess.run([*command], capture_output=True, text=True, check=True).stdout


# --- the file -----------------------------------------------------------------------------------------------


# It needs torch's stable C interface in libtorch_cpu, not the libraries whose C++ interface changes with each
# release.
def test_links_no_library_with_an_unstable_interface() -> None:
    needed = re.findall(r"NEEDED.*\[(.*)\]", tool("readelf", "-d", str(LIBRARY)))
    assert any("libtorch_cpu" in name for name in needed), needed
    unstable = [name for name in needed if re.match(r"libc10|libtorch_python|libtorch\.so", name)]
    assert not unstable, unstable


# No path of the machine that built it stands in the file.
def test_has_no_run_path() -> None:
    assert not re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", tool("readelf", "-d", str(LIBRARY)))


# at:: and c10:: are C++ interfaces of one torch release: the module asks for none of their symbols.
def test_uses_no_symbol_of_one_torch_release() -> None:
    undefined = tool("nm", "-DC", "--undefined-only", str(LIBRARY)).splitlines()
    unstable = [line for line in undefined if re.search(r"\b(?:at|c10)::", line)]
    assert not unstable, unstable


# Nothing in it can be taken for another library's function.
def test_exports_only_its_entry_point() -> None:
    defined = tool("nm", "-DC", "--defined-only", str(LIBRARY)).splitlines()
    names = [line.split(maxsplit=2)[-1] for line in defined if " A " not in line]
    assert names == ["PyInit__C"], names


# A weak symbol (an inline function outside of an anonymous namespace) in the object of one ISA could be the
# copy that the linker keeps for everyone: an AVX-512 copy would end the process on an older CPU.
def test_objects_of_an_isa_have_no_weak_symbols() -> None:
    objects = sorted((ROOT / "build").rglob("kernels_*.o"))
    if not objects:
        pytest.skip("no object files: the extension was not built in this checkout")
    for file in objects:
        weak = re.findall(r"^\S* +[WVu] .*$", tool("nm", "-C", str(file)), re.MULTILINE)
        assert not weak, f"{file.name}: {weak}"


# --- OpenMP -------------------------------------------------------------------------------------------------


# A build without -fopenmp is silently serial.
def test_openmp_is_in() -> None:
    version = _C.build_info()["openmp"]
    assert isinstance(version, int)
    assert version >= 201511
    assert [_C.team_size(threads) for threads in (1, 2, 3)] == [1, 2, 3]


# Two OpenMP runtimes would mean two pools of threads that fight for the cores.
def test_shares_the_openmp_runtime_of_torch() -> None:
    code = (
        "import re, torch, torch_conv_ext\n"
        "torch.set_num_threads(2)\n"
        "torch_conv_ext.conv2d(torch.ones(2, 8, 32, 32), torch.ones(8, 8, 3, 3))\n"
        "runtimes = re.findall(r'\\S*/lib[gi]?omp\\d*[^/\\s]*\\.so\\S*', open('/proc/self/maps').read())\n"
        "print(*sorted(set(runtimes)), sep='\\n')\n"
    )
    runtimes = output_of(code).split()
    assert len(runtimes) == 1, runtimes


# A forked child has no threads of the pool but remembers them: it must compute, alone if need be, and not
# wait.
def test_fork_after_a_parallel_region() -> None:
    code = """
import os, signal, sys, time, torch, torch_conv_ext
torch.set_num_threads(2)
x, w = torch.ones(4, 8, 32, 32), torch.ones(8, 8, 3, 3)
kernels = torch.ops.torch_conv_ext
def compute():
    y = kernels.forward(x, w, None, 30, 30, 1, 1, 0, 0, 1, 1, 1)
    dx = kernels.grad_input(y, w, None, 32, 32, 1, 1, 0, 0, 1, 1, 1)
    dw = kernels.grad_weight(x, y, 3, 3, 1, 1, 0, 0, 1, 1, 1)
    return [t.numpy().tobytes() for t in (y, dx, dw)]
before = compute()
child = os.fork()
if child == 0:
    os._exit(0 if compute() == before else 3)
for _ in range(600):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        assert compute() == before
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.05)
os.kill(child, signal.SIGKILL)
sys.exit("the child hangs")
"""
    output_of(code)


# --- as a guest ---------------------------------------------------------------------------------------------


# Another Python thread goes on while a kernel runs: it wakes up between the start and the end of the call.
@pytest.mark.parametrize("contraction", CONTRACTIONS, ids=str)
def test_releases_the_gil(contraction: Contraction, threads: int) -> None:
    case = conv("long", (64, 64), 60, 5, padding=2, n=8)
    a, b = (operand(case, name, torch.float64) for name in (contraction.first, contraction.second))
    ticks: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.001):
            ticks.append(time.perf_counter())

    ticker = threading.Thread(target=tick)
    ticker.start()
    try:
        start = time.perf_counter()
        contraction(case, a, b)
        end = time.perf_counter()
    finally:
        stop.set()
        ticker.join()
    during = sum(start < t < end for t in ticks)
    assert during >= 5, f"{during} ticks of a millisecond during {end - start:.3f} s"


# Two Python threads may call at a time; each gets what it would get alone.
def test_calls_from_two_python_threads() -> None:
    case = conv("concurrent", (8, 16), 20, 3, padding=1, n=2)
    x, w = operand(case, "x", torch.float32), operand(case, "w", torch.float32)
    expected = FORWARD(case, x, w)
    equal: list[bool] = []

    def work() -> None:
        torch.set_num_threads(2)
        equal.append(all(torch.equal(FORWARD(case, x, w), expected) for _ in range(50)))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert equal == [True, True]


PRINT_ISA = "import torch, torch_conv_ext; from torch_conv_ext import _C; print(_C.isa())"


@pytest.mark.parametrize("name", _C.supported_isas())
def test_environment_chooses_the_isa(name: str) -> None:
    assert output_of(PRINT_ISA, environment={"TORCH_CONV_EXT_ISA": name}).strip() == name


def test_unknown_isa_in_the_environment_is_an_error() -> None:
    done = run_python(PRINT_ISA, environment={"TORCH_CONV_EXT_ISA": "avx1024"})
    assert done.returncode == 1, "an exception was expected"
    assert "avx1024" in done.stderr
    assert "TORCH_CONV_EXT_ISA" in done.stderr
    assert all(name in done.stderr for name in _C.supported_isas()), done.stderr


def test_isas_are_listed_slowest_first_and_the_best_is_the_default() -> None:
    order = ["portable", "avx2", "avx512"]
    supported = _C.supported_isas()
    assert supported == [name for name in order if name in supported]
    assert supported[0] == "portable"
    assert output_of(PRINT_ISA, environment={"TORCH_CONV_EXT_ISA": ""}).strip() == supported[-1]


def test_set_isa_refuses_an_unknown_name() -> None:
    before = _C.isa()
    with pytest.raises(RuntimeError, match="avx1024"):
        _C.set_isa("avx1024")
    assert _C.isa() == before
