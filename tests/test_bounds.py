"""No kernel reads outside of its operands or writes outside of its result, not even a lane.

Each operand is copied to memory of its own that ends exactly at a page without access, or starts right after
one. A read outside of it ends the process, so the kernels run in a process of their own, which prints the
case before it.
"""

from __future__ import annotations

import ctypes
import mmap
import signal
import subprocess
from itertools import product

import pytest
import torch
from torch import Tensor

from cases import CASES
from geometry import Geometry
from isolated import run_python
from operands import CONTRACTIONS, DTYPES, Contraction, bias_of, operand
from torch_conv_ext import _C

LAYOUT_PAIRS = [
    ("contiguous", "contiguous"),
    ("channels_last", "channels_last"),
    ("permuted", "expanded_batch"),
]
# Without access: PROT_NONE of <sys/mman.h>, which Python's mmap does not name.
PROT_NONE = 0


def guarded(tensor: Tensor, side: str) -> Tensor:
    """A copy with the same strides whose storage touches a page without access at its start or end."""
    size = tensor.untyped_storage().nbytes()
    if size == 0:
        return tensor
    page = mmap.PAGESIZE
    length = -(-size // page) * page
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    access = mmap.PROT_READ | mmap.PROT_WRITE
    # Never unmapped: the process ends soon, and tensors refer to it.
    region = libc.mmap(None, length + 2 * page, access, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    for guard in (region, region + page + length):
        assert libc.mprotect(guard, page, PROT_NONE) == 0
    start = region + page + (length - size if side == "end" else 0)
    flat = torch.frombuffer((ctypes.c_char * size).from_address(start), dtype=tensor.dtype)
    copy = flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    flat.copy_(torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()))
    return copy


def run_guarded(
    contraction: Contraction, case: Geometry, dtype: torch.dtype, layouts: tuple[str, str]
) -> None:
    """The result is the one from ordinary memory."""
    a, b = (
        operand(case, name, dtype, layout)
        for name, layout in zip((contraction.first, contraction.second), layouts, strict=True)
    )
    bias = bias_of(contraction, case, dtype)
    expected = contraction(case, a, b, bias)
    for side in ("start", "end"):
        print(contraction, case, dtype, *layouts, side, flush=True)
        guarded_bias = None if bias is None else guarded(bias, side)
        result = contraction(case, guarded(a, side), guarded(b, side), guarded_bias)
        assert torch.equal(result, expected)


def run_plain(contraction: Contraction, case: Geometry, dtype: torch.dtype, layouts: tuple[str, str]) -> None:
    """Makes and frees one result."""
    print(contraction, case, dtype, *layouts, flush=True)
    a, b = (
        operand(case, name, dtype, layout)
        for name, layout in zip((contraction.first, contraction.second), layouts, strict=True)
    )
    contraction(case, a, b, bias_of(contraction, case, dtype))


def run_all(run_one: str, isa: str) -> None:
    """The body of the child processes."""
    _C.set_isa(isa)
    torch.set_num_threads(1)
    run = {"guarded": run_guarded, "plain": run_plain}[run_one]
    for contraction, case, dtype, layouts in product(CONTRACTIONS, CASES, DTYPES, LAYOUT_PAIRS):
        run(contraction, case, dtype, layouts)


CHILD = "import sys, test_bounds; test_bounds.run_all(*sys.argv[1:])"


def assert_lives(done: subprocess.CompletedProcess[str]) -> None:
    last = done.stdout.strip().rsplit("\n", 1)[-1]
    assert done.returncode == 0, f"exit status {done.returncode} in or before: {last}\n{done.stderr[-2000:]}"


# Reads: kernel(operands at a guard page) = kernel(operands), and the process lives.
def test_reads_stay_inside_the_operands(isa: str) -> None:
    assert_lives(run_python(CHILD, "guarded", isa))


# The guard itself: one byte beside a guarded tensor ends the process.
@pytest.mark.parametrize("side", ["start", "end"])
def test_guard_page_stops_a_read(side: str) -> None:
    code = (
        "import ctypes, sys, torch, test_bounds\n"
        "t = test_bounds.guarded(torch.ones(5), sys.argv[1])\n"
        "assert t.sum() == 5\n"
        "ctypes.string_at(t.data_ptr() + (20 if sys.argv[1] == 'end' else -1), 1)\n"
    )
    assert run_python(code, side).returncode == -signal.SIGSEGV


# glibc's checking allocator puts a mark behind each block and ends the process at free() if the mark has
# changed.
CHECKING_ALLOCATOR = {"LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3"}


@pytest.fixture(scope="module")
def checking_allocator() -> dict[str, str]:
    """The environment that turns the checks on, once a deliberate write past the end has ended a process."""
    code = "import ctypes, torch\nt = torch.empty(17)\nctypes.memset(t.data_ptr() + 68, 0, 1)\ndel t\n"
    if run_python(code, environment=CHECKING_ALLOCATOR).returncode != -signal.SIGABRT:
        pytest.skip("this C library has no libc_malloc_debug.so.0")
    return CHECKING_ALLOCATOR


# Writes: the byte after each result (and after each block of scratch that malloc gave) is as it was.
def test_writes_stay_inside_the_result(isa: str, checking_allocator: dict[str, str]) -> None:
    assert_lives(run_python(CHILD, "plain", isa, environment=checking_allocator))
