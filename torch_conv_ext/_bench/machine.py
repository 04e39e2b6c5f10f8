"""What a benchmark runs on: processor, versions, malloc's state, and two limits that are measured first.

Peak: no instruction stream is written for it. It is the highest rate, over a few sizes and repetitions, of
torch.mm and of a direct 3x3 convolution by torch and by this package, with operands that stay in the cache.
So it is a rate that real code reaches on this machine, some per cent below the processor's own limit. A share
of it above 100 % is Winograd, which needs fewer operations than are counted, or noise.

Bandwidth: Tensor.copy_ from one array of 128 MiB to another, bytes read plus bytes written.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import torch_conv_ext
from torch_conv_ext import _C, settings

# NOTE [malloc]
# A fresh output costs one page fault for each 4 KiB that malloc gets from the system. As glibc is set up, a
# large block is given back when it is freed, so each call pays again: up to three quarters of the time of a
# layer that is bound by memory, for torch and for us. Whether it happens hangs on what else the process has
# allocated. With these values freed memory stays in the process, and only the first use of it costs faults.
# glibc reads them when a process starts.
PINNED = {
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
    "MALLOC_TRIM_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


@dataclasses.dataclass(frozen=True)
class Machine:
    """All that a figure depends on besides the layer.

    `load` is how many threads were running on the machine in the minute before; `peak` is in GF/s by dtype,
    `copy` in GB/s.
    """

    cpu: str
    cores: int
    threads: int
    torch: str
    torch_conv_ext: str
    compiler: str
    isa: str
    torch_isa: str
    onednn_isa: str
    malloc: str
    load: float
    peak: dict[str, float]
    copy: float


def pin_malloc() -> None:
    """Start this command again in the same process with malloc pinned, unless it is. See NOTE [malloc].

    Values that the environment already has stay. Does nothing where the program is another one that uses this
    package, and outside of Linux.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    ours = spec is not None and spec.name == f"{torch_conv_ext.__name__}.__main__"
    if sys.platform != "linux" or not ours or all(name in os.environ for name in PINNED):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**PINNED, **os.environ})


def examine(dtypes: Sequence[str], seconds: float = 0.15) -> Machine:
    """Describe the machine; measure peak and bandwidth with torch's number of threads.

    `seconds` is for each of the seven candidates for the peak and for the copy.
    """
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        torch_conv_ext=torch_conv_ext.__version__,
        compiler=str(_C.build_info()["compiler"]),
        isa=_C.isa(),
        torch_isa=torch.backends.cpu.get_cpu_capability(),
        onednn_isa=os.environ.get("ONEDNN_MAX_CPU_ISA", "default"),
        malloc=_malloc(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        peak={dtype: _peak(getattr(torch, dtype), seconds) for dtype in dtypes},
        copy=_copy(seconds),
    )


def facts(machine: Machine) -> list[tuple[str, str]]:
    """Names and values for people."""
    peaks = ", ".join(f"{rate:.0f} GF/s {dtype}" for dtype, rate in machine.peak.items())
    return [
        ("machine", f"{machine.cpu}, {machine.cores} cores; {machine.threads} threads used"),
        ("torch", f"{machine.torch}, {machine.torch_isa}, oneDNN's ISA {machine.onednn_isa}"),
        ("ours", f"torch_conv_ext {machine.torch_conv_ext}, {machine.isa}, {machine.compiler}"),
        ("peak", f"{peaks} (best of matrix products and direct convolutions)"),
        ("copy", f"{machine.copy:.1f} GB/s (read and written)"),
        ("malloc", machine.malloc),
    ]


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _malloc() -> str:
    """The state as it shows: how many page faults a fresh tensor costs once another one has been freed."""
    name = "pinned" if all(name in os.environ for name in PINNED) else "default"
    try:
        import resource
    except ImportError:  # not on Windows
        return name
    faults = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.empty(2**24).zero_()
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return f"{name}, {faults[-1]} page faults for a fresh tensor of 64 MiB"


def _fastest(call: Callable[[], object], seconds: float) -> float:
    call()
    best = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def _peak(dtype: torch.dtype, seconds: float) -> float:
    rates = []
    for m in (384, 768, 1152):
        a, b = torch.rand(m, m, dtype=dtype), torch.rand(m, m, dtype=dtype)
        c = torch.empty_like(a)
        rates.append(2 * m**3 / _fastest(partial(torch.mm, a, b, out=c), seconds))
    with torch.no_grad(), settings.override(winograd=False):
        for channels, h, n in ((128, 28, 2), (256, 14, 4)):
            x = torch.rand(n, channels, h, h, dtype=dtype)
            w = torch.rand(channels, channels, 3, 3, dtype=dtype)
            # Only products inside of the image: those with the padding may be skipped.
            flops = 2 * n * channels**2 * (3 * h - 2) ** 2
            for conv2d in (F.conv2d, torch_conv_ext.conv2d):
                rates.append(flops / _fastest(partial(conv2d, x, w, padding=1), seconds))
    return max(rates) / 1e9


def _copy(seconds: float) -> float:
    source = torch.zeros(2**25)
    target = torch.empty_like(source)
    return 2 * _bytes(source) / _fastest(lambda: target.copy_(source), seconds) / 1e9


def _bytes(t: Tensor) -> int:
    return t.numel() * t.element_size()
