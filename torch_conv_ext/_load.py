"""Loads torch and the compiled module; each way in which that fails becomes one sentence of advice.

`torch_conv_ext/__init__.py` imports this before all else, so the other modules may import both without care.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path

from torch_conv_ext._version import __version__

OLDEST_TORCH = (2, 10)  # the first one whose stable ABI has all that the compiled module calls

PACKAGE = Path(__file__).parent
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "csrc").is_dir() else None

# What the Python files call in the compiled module. A build that lacks one is older than they are.
_NEEDED = (
    "build_info",
    "isa",
    "plan",
    "poison",
    "set_isa",
    "set_winograd",
    "supported_isas",
    "team_size",
    "winograd",
)


def _error(problem: str, remedy: str) -> ImportError:
    # With this name `python -m torch_conv_ext` prints the sentence alone, without a traceback.
    return ImportError(f"torch_conv_ext: {problem}; {remedy}", name="torch_conv_ext")


def _rebuild() -> str:
    if CHECKOUT:
        return f"run `make build`, or `pip install --no-build-isolation .`, in {CHECKOUT}"
    return "reinstall the wheel of torch_conv_ext: `python -m pip install --force-reinstall --no-deps WHEEL`"


def _load_torch() -> str:
    """Import torch and return its version."""
    oldest = ".".join(map(str, OLDEST_TORCH))
    remedy = f"""run `python -m pip install "torch>={oldest}"`"""
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise  # torch is there, and its own error says what it lacks
        raise _error(f"torch is not installed in this Python, expected {oldest} or newer", remedy) from None
    version = str(torch.__version__)
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < OLDEST_TORCH:
        raise _error(f"torch {version} is installed, expected {oldest} or newer", remedy)
    return version


def _load_compiled(torch_version: str) -> None:
    """Import the compiled module, which registers the operators."""
    try:
        import torch_conv_ext._C as compiled
    except ModuleNotFoundError as error:
        if error.name != "torch_conv_ext._C":
            raise
        raise _missing() from None
    except ImportError as error:
        problem = str(error)
        if problem.startswith("TORCH_CONV_EXT_ISA"):
            raise _error(problem, "unset the variable or set it to one of these") from None
        raise _error(
            f"the compiled module does not load with torch {torch_version} ({problem})", _rebuild()
        ) from None
    lacking = [name for name in _NEEDED if not hasattr(compiled, name)]
    built = __version__ if "build_info" in lacking else compiled.build_info()["version"]
    if built != __version__:
        raise _error(
            f"the compiled module is of version {built}, the Python files are of {__version__}", _rebuild()
        )
    if lacking:
        raise _error(
            f"the compiled module is older than the Python files (it lacks {', '.join(lacking)})", _rebuild()
        )


def _missing() -> ImportError:
    others = sorted(path.name for path in PACKAGE.glob("_C.*") if path.suffix in (".so", ".pyd"))
    python = f"{platform.python_implementation()} {platform.python_version()} on {platform.machine()}"
    if others:
        return _error(f"the compiled module is not for {python} (found {', '.join(others)})", _rebuild())
    if CHECKOUT:
        return _error(
            f"the compiled module is not built in {CHECKOUT}",
            "run `make build` there, or start Python in another folder to use an installed torch_conv_ext",
        )
    return _error(f"the compiled module is missing from {PACKAGE}", _rebuild())


_load_compiled(_load_torch())
