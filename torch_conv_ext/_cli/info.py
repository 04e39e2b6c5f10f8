"""Versions, instruction sets, threads and settings: what a bug report needs."""

from __future__ import annotations

import argparse
import os
import platform
import re
from pathlib import Path
from typing import Any, cast

import torch

from torch_conv_ext import _C, __version__, settings
from torch_conv_ext._cli.console import Console, add_json
from torch_conv_ext._load import CHECKOUT, PACKAGE

# Our own variables and what they may be; `settings` documents them.
VARIABLES = {
    "TORCH_CONV_EXT_ISA": None,  # a wrong one is an error of the import
    "TORCH_CONV_EXT_WINOGRAD": ("0", "1"),
}
# Variables of others that change threads or the choice of kernels.
_OTHERS = re.compile(r"OMP_|GOMP_|KMP_|MKL_|ONEDNN_|DNNL_|ATEN_CPU_|TORCH_CONV_EXT_|LD_PRELOAD$")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Only --json."""
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print what `collect` finds."""
    console = Console(args.json)
    info = collect()
    console.result(info)
    console.facts([(name, _text(value)) for name, value in info.items() if name != "notes"])
    for note in info["notes"]:
        console.note(note)
    return 0


def collect() -> dict[str, Any]:
    """All that `info` shows, as dictionaries, lists, strings and numbers."""
    build = cast("dict[str, Any]", _C.build_info())
    threads = torch.get_num_threads()
    info: dict[str, Any] = {
        "torch_conv_ext": {"version": __version__, "from": str(PACKAGE)},
        "torch": {"running": str(torch.__version__), "built against": build["torch"]},
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": f"{build['compiler']}, C++ {build['cxx_standard']}",
        "system": platform.platform(),
        "cpu": {"model": _cpu_model(), "cores": _cores(), "seen by torch": _capability()},
        "isa": {"in use": _C.isa(), "supported": _C.supported_isas(), "built": build["isas"]},
        "openmp": {"version": build["openmp"] or "none", "libraries loaded": _openmp_libraries()},
        "threads": {"torch.get_num_threads": threads, "in a team here": _C.team_size(threads)},
        "settings": {"winograd": settings.winograd},
        "environment": {name: value for name, value in sorted(os.environ.items()) if _OTHERS.match(name)},
    }
    info["notes"] = _notes(info)
    return info


def _notes(info: dict[str, Any]) -> list[str]:
    """What is unusual, each with its remedy."""
    notes = []
    threads, team = info["threads"].values()
    if info["openmp"]["version"] == "none":
        notes.append(
            "built without OpenMP: every call runs on one thread; rebuild with a compiler that has -fopenmp"
        )
    elif team < threads:
        notes.append(
            f"asked for {threads} threads, OpenMP gives {team}: see OMP_THREAD_LIMIT and OMP_DYNAMIC"
        )
    if len(info["openmp"]["libraries loaded"]) > 1:
        notes.append(
            "several OpenMP libraries are loaded, each with its own threads: they take turns on the cores"
        )
    isa = info["isa"]
    if isa["in use"] != isa["supported"][-1]:
        notes.append(
            f"{isa['in use']} is in use, this CPU also runs {isa['supported'][-1]}: see TORCH_CONV_EXT_ISA"
        )
    for name, value in info["environment"].items():
        if name.startswith("TORCH_CONV_EXT_"):
            notes += _note_on_variable(name, value)
    if _sources_are_newer():
        notes.append("files in csrc are newer than the compiled module: run `make build`")
    return notes


def _note_on_variable(name: str, value: str) -> list[str]:
    if name not in VARIABLES:
        return [f"{name} has no meaning: expected {' or '.join(VARIABLES)}"]
    expected = VARIABLES[name]
    if expected and value not in expected:
        return [f"{name}: expected {' or '.join(expected)}, but got {value!r}, which is taken for 1"]
    return []


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _capability() -> str:
    return str(torch.backends.cpu.get_cpu_capability())


def _openmp_libraries() -> list[str]:
    """Files of OpenMP runtimes in this process; known on Linux only."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return []
    return sorted(set(re.findall(r"/((?:libgomp|libomp|libiomp5)[^/\s]*\.so[^/\s]*)", maps)))


def _sources_are_newer() -> bool:
    """In a checkout: a source of the compiled module was changed after it was built."""
    compiled = getattr(_C, "__file__", None)
    if CHECKOUT is None or compiled is None:
        return False
    built = Path(compiled).stat().st_mtime
    sources = (CHECKOUT / "csrc").rglob("*")
    return any(path.stat().st_mtime > built for path in sources if path.suffix in (".h", ".cpp", ".inl"))


def _text(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_text(v)}" for name, v in value.items()) or "none set"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)
