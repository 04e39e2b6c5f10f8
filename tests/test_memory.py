"""Memory does not grow with the number of shapes; a kernel needs no more scratch than its plan says."""

from __future__ import annotations

import pytest

from geometry import Geometry, conv, transposed
from isolated import output_of

MIB = 1 << 20

# Reads a size of this process from Linux, in bytes: VmRSS is what it holds, VmHWM the most that it ever held.
STATUS = """
import re, sys
import torch
import torch_conv_ext

def status(name):
    return int(re.search(name + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) << 10
"""

# The largest shapes come first. What malloc holds but nobody uses goes back to Linux before each measurement:
# in it a cache could grow unseen.
MANY_SHAPES = (
    STATUS
    + """
import ctypes
torch.set_num_threads(2)
FORMATS = torch.contiguous_format, torch.channels_last

def step(h, w, groups, memory_format):
    x, dy = (torch.ones(2, c, h, w).contiguous(memory_format=memory_format) for c in (8, 16))
    weight = torch.ones(16, 8 // groups, 3, 3, requires_grad=True)
    torch_conv_ext.conv2d(x.requires_grad_(), weight, padding=1, groups=groups).backward(dy)
    torch_conv_ext.conv_transpose2d(dy, weight.detach(), stride=2, groups=groups)

def steps(sizes):
    for h, w in sizes:
        for memory_format in FORMATS:
            step(h, w, 8 if w % 2 else 1, memory_format)

sizes = [(36 - i // 25, 36 - i % 25) for i in range(564)]
def resident():
    ctypes.CDLL(None).malloc_trim(0)
    return status("VmRSS")

steps(sizes[:64])
before = resident()
steps(sizes[64:])
print(len(set(sizes[64:])), resident() - before)
"""
)

# Linux sets VmHWM back to VmRSS when 5 is written to clear_refs. The small call before starts the threads.
PEAK = (
    STATUS
    + """
from operands import CONTRACTIONS
from test_memory import LAYERS, SMALL
from torch_conv_ext import _C

torch.set_num_threads(2)
case = next(c for c in LAYERS if c.name == sys.argv[1])
for contraction in CONTRACTIONS:
    names = contraction.first, contraction.second
    contraction(SMALL, *(torch.ones(SMALL.shape(name)) for name in names))
    operands = [torch.ones(case.shape(name)) for name in names]
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    result = contraction(case, *operands)
    peak = status("VmHWM") - before
    plan = _C.plan(contraction.name, "float32", "nchw", case.plan_sizes())
    print(contraction, peak, result.nbytes, plan["scratch_bytes"])
    del operands, result
"""
)

# Tensors of a megabyte and more go back to the system when they are freed, so that each peak starts from
# below.
NO_REUSE = {"MALLOC_MMAP_THRESHOLD_": str(MIB)}

SMALL = conv("small", (3, 5), 6, 3, padding=1)
LAYERS = [
    conv("vgg_first_block", (64, 64), 224, 3, padding=1, n=1),
    conv("many_channels", (512, 512), 14, 3, padding=1, n=4),
    conv("large_kernel", (16, 16), 100, 13, padding=6, n=1),
    transposed("decoder", (64, 128), 56, 2, stride=2, n=2),
]


# Resident memory after 564 shapes = after 64 shapes, within 2 MiB: all three contractions, dense and
# depthwise, in both layouts. A cache entry of 5 KB for each shape would show.
def test_does_not_grow_with_the_number_of_shapes() -> None:
    shapes, growth = map(int, output_of(MANY_SHAPES).split())
    assert shapes == 500
    assert growth <= 2 * MIB, f"{growth / MIB:.1f} MiB more after {shapes} further shapes"


# peak - before <= result + 2 threads * scratch_bytes + 2 MiB (stacks, page tables, code read for the first
# time). An im2col of these images would take 10 to 110 MB.
@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_scratch_is_what_the_plan_says(case: Geometry) -> None:
    lines = output_of(PEAK, case, environment=NO_REUSE).splitlines()
    assert len(lines) == 3
    for line in lines:
        name, *numbers = line.split()
        peak, result, scratch = (int(number) / MIB for number in numbers)
        assert peak <= result + 2 * scratch + 2, (
            f"{name}: peak {peak:.1f} MiB, result {result:.1f}, scratch {scratch:.1f} for each thread"
        )
