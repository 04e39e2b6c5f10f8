"""What is shipped: metadata, files, no trace of a machine, and what setup.py says when it cannot build.

In a checkout setup.py is asked; where a wheel is installed, the same questions go to what it installed.
"""

from __future__ import annotations

import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from email.message import Message
from email.parser import Parser
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

import torch_conv_ext
from torch_conv_ext import _C

ROOT = Path(__file__).resolve().parents[1]
IN_CHECKOUT = (ROOT / "setup.py").exists()
checkout_only = pytest.mark.skipif(not IN_CHECKOUT, reason="not in a checkout")
installed_only = pytest.mark.skipif(IN_CHECKOUT, reason="of an installed wheel; `make test-wheel` has one")


@pytest.fixture(scope="module")
def egg_info(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What setuptools writes about the checkout: PKG-INFO, and in SOURCES.txt the files of the sdist."""
    base = tmp_path_factory.mktemp("metadata")
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(base)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return base / "torch_conv_ext.egg-info"


@pytest.fixture
def package_metadata(request: pytest.FixtureRequest) -> Message:
    """The core metadata, of the checkout or else as installed."""
    if not IN_CHECKOUT:
        return Parser().parsestr(metadata.distribution("torch_conv_ext").read_text("METADATA") or "")
    folder: Path = request.getfixturevalue("egg_info")
    return Parser().parsestr((folder / "PKG-INFO").read_text())


# --- metadata -----------------------------------------------------------------------------------------------


def test_requires_torch_and_nothing_else(package_metadata: Message) -> None:
    required = package_metadata.get_all("Requires-Dist") or []
    assert [line for line in required if "extra ==" not in line] == ["torch>=2.10"]
    assert package_metadata["Requires-Python"] == ">=3.10"


# The version stands in _version.py and comes from there to all other places.
def test_version_is_the_same_everywhere(package_metadata: Message) -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", torch_conv_ext.__version__)
    assert package_metadata["Version"] == torch_conv_ext.__version__
    assert _C.build_info()["version"] == torch_conv_ext.__version__


@checkout_only
def test_sdist_has_all_sources(egg_info: Path) -> None:
    packed = set((egg_info / "SOURCES.txt").read_text().splitlines())
    expected = {"setup.py", "pyproject.toml", "Makefile", "README.md", "LICENSE", "requirements-dev.txt"}
    for folder in ("csrc", "torch_conv_ext", "tests", "examples", "docs", "tools"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".pyc", ".so"):
                expected.add(path.relative_to(ROOT).as_posix())
    assert len(expected) > 80
    assert not expected - packed
    assert not [name for name in packed if name.endswith((".so", ".pyc", ".o"))]


@installed_only
def test_installed_files() -> None:
    files = [path.as_posix() for path in metadata.distribution("torch_conv_ext").files or []]
    # a library that is not ours would be a second copy of it in the process
    libraries = [name for name in files if re.search(r"\.(so|dylib|dll|pyd)\b", name)]
    assert len(libraries) == 1 and libraries[0].startswith("torch_conv_ext/_C."), libraries
    assert {"torch_conv_ext/py.typed", "torch_conv_ext/_C.pyi"} <= set(files)
    assert not [name for name in files if name.startswith(("tests/", "csrc/", "examples/"))]


# --- the binary ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the ISAs of x86-64")
def test_holds_every_isa() -> None:
    assert _C.build_info()["isas"] == ["portable", "avx2", "avx512"]


# A header's assertion names its file: relative names only. Debug information would hold more of them.
def test_binary_tells_nothing_of_the_machine_that_built_it() -> None:
    data = Path(_C.__file__).read_bytes()
    absolute = re.findall(rb"(?<![\w.])/(?:[\w.+-]+/)+[\w.+-]+\.(?:cpp|hpp|h|inl|cc|o)\b", data)
    assert not absolute, absolute
    assert b".debug_info" not in data


# --- files under version control ----------------------------------------------------------------------------


@checkout_only
def test_files_name_no_folder_of_a_machine() -> None:
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not in a git checkout")
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    folder = re.compile(rb"(?<![\w.])/(?:home|Users|root|work|tmp|opt|mnt)/[\w.]+")
    found = {}
    for path in (ROOT / name for name in names if name):
        if path.is_file() and (hits := folder.findall(path.read_bytes())):
            found[path.name] = hits
    assert not found


# --- when the extension cannot be built ---------------------------------------------------------------------


def run_setup(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """setup.py's names after it has run without a command."""
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    monkeypatch.setenv("PATH", os.environ["PATH"])  # setup.py may add to it
    return runpy.run_path(str(ROOT / "setup.py"))


def sentence_of(action: Callable[..., object], *arguments: object) -> str:
    """The one line with which the build ends."""
    with pytest.raises(SystemExit) as error:
        action(*arguments)
    text = str(error.value.code)
    assert text.startswith("torch_conv_ext cannot be built: ")
    assert "\n" not in text
    return text


@checkout_only
@pytest.mark.parametrize("name", ["torch", "pybind11"])
def test_missing_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    text = sentence_of(run_setup, monkeypatch)
    assert f"{name} is missing" in text and "pip install 'torch>=2.10' pybind11 ninja" in text


@checkout_only
def test_missing_ninja(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ninja", None)
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    assert "pip install ninja" in sentence_of(run_setup, monkeypatch)


@checkout_only
def test_old_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    text = sentence_of(run_setup, monkeypatch)
    assert "torch is 2.9.1+cpu" in text and "pip install --upgrade torch" in text


# A compiler is played by a script that refuses what it cannot do.
@checkout_only
@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ("", "does not compile C++17"),
        ("Python.h", "python3-dev"),
        ("omp.h", "has no OpenMP"),
        ("__builtin_shufflevector", "is too old"),
    ],
)
def test_compiler_that_will_not_do(
    refused: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\n! grep -q '{refused}'\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    text = sentence_of(run_setup(monkeypatch)["check_compiler"])
    assert said in text and str(compiler) in text


@checkout_only
def test_compiler_that_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", os.environ.get("CXX", "c++"))
    run_setup(monkeypatch)["check_compiler"]()


# The whole way: nothing but the sentence is printed, and nothing is left behind.
@checkout_only
def test_build_without_a_compiler(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "-b", str(tmp_path), "-t", str(tmp_path)]
    environment = {**os.environ, "CXX": "no-such-compiler"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "torch_conv_ext cannot be built: there is no C++ compiler 'no-such-compiler' on PATH; "
        "install g++ (`apt install g++`) or set CXX"
    ]
    assert not list(tmp_path.iterdir())
