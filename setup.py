"""Builds torch_conv_ext._C: one module, every ISA of the target inside, for every torch >= 2.10.

Metadata stands in pyproject.toml. Build with an installed torch: `pip install --no-build-isolation .`
Tried with GCC on Linux x86-64. The flags for other compilers and targets are untried.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NoReturn

from setuptools import Extension, setup


def stop(problem: str) -> NoReturn:
    """Ends the build with one sentence that says what to do."""
    sys.exit(f"torch_conv_ext cannot be built: {problem}")


try:
    import pybind11
    import torch
    from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths
except ImportError as error:
    stop(
        f"{error.name} is missing in the environment that builds; "
        "run `pip install 'torch>=2.10' pybind11 ninja`, then `pip install --no-build-isolation .`"
    )

# What csrc/front asks of torch: its stable ABI as of 2.10.
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 10):
    stop(f"torch is {torch.__version__}, and 2.10 or later is needed; run `pip install --upgrade torch`")

if not shutil.which("ninja"):  # an environment that is not activated has it all the same
    try:
        from ninja import BIN_DIR
    except ImportError:
        stop("ninja is missing; run `pip install ninja`")
    os.environ["PATH"] += os.pathsep + BIN_DIR

ROOT = Path(__file__).resolve().parent
CORE = ROOT / "csrc"
VERSION = re.findall(r'__version__ = "(.+)"', (ROOT / "torch_conv_ext" / "_version.py").read_text())[0]
X86 = platform.machine().lower() in ("x86_64", "amd64")
MACOS, WINDOWS = sys.platform == "darwin", sys.platform == "win32"

# Selected at run time by csrc/middle/isa.cpp; any other file is compiled for the target's baseline.
ISA_FLAGS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"],
}

# The stable ABI of torch 2.10: a header outside of it is an #error, and the binary runs on 2.10 and later.
DEFINES = [
    ("TORCH_TARGET_VERSION", "0x020a000000000000"),
    ("TCE_VERSION", f'"{VERSION}"'),
    ("TCE_TORCH_VERSION", f'"{torch.__version__}"'),
]

# System headers: their warnings are not ours to mend.
INCLUDE = [*include_paths(), pybind11.get_include()]
SYSTEM_INCLUDE = [option for path in INCLUDE for option in ("-isystem", path)]

# No path of the building machine stands in the binary: neither of the sources, nor of headers and debug
# information, which Python's own flags ask for.
PACKAGES = {Path(module.__path__[0]).parent for module in (torch, pybind11)}
NO_PATHS = ["-g0", *(f"-ffile-prefix-map={path}=." for path in (ROOT, *sorted(PACKAGES)))]

# a * b + c is one rounding wherever the ISA has it.
COMMON = ["-O3", "-std=c++17", "-ffp-contract=fast", "-Wall", "-Wextra", "-fvisibility=hidden"]

if WINDOWS:
    # cl.exe lacks the vector types of the kernels. To clang-cl, -Wall means every warning that it has.
    os.environ.setdefault("CXX", "clang-cl")
    gcc_style = [f"/clang:{option}" for option in ("-O3", "-ffp-contract=fast", *NO_PATHS)]
    COMPILE = ["/std:c++17", "/EHsc", "/W3", "/openmp", *gcc_style]
    LINK: list[str] = []
elif MACOS:
    # Apple's clang knows OpenMP but has neither header nor library; torch ships the library.
    COMPILE = [*COMMON, "-Xpreprocessor", "-fopenmp", *NO_PATHS, *SYSTEM_INCLUDE]
    LINK = ["-lomp", "-Wl,-exported_symbol,_PyInit__C"]
else:
    COMPILE = [*COMMON, "-fopenmp", *NO_PATHS, *SYSTEM_INCLUDE]
    LINK = [
        "-fopenmp",
        "-Wl,--exclude-libs,ALL",
        f"-Wl,--version-script={CORE / 'exports.map'}",
        "-Wl,--as-needed",
    ]

# Code that compiles where the compiler will do, and what to say where it does not.
PROBES = {
    "int unused;": "does not compile C++17; install g++ (`apt install g++`) or set CXX",
    "#include <Python.h>": "does not find Python.h; install Python's headers (`apt install python3-dev`)",
    "#include <omp.h>\n#ifndef _OPENMP\n#error none\n#endif": (
        "has no OpenMP; use GCC on Linux (CXX=g++), "
        "on macOS `brew install libomp` and add its include folder to CFLAGS"
    ),
    "typedef int pair __attribute__((vector_size(8)));\n"
    "pair f(pair a) { return __builtin_shufflevector(a, a, 0, 2); }": (
        "is too old; install GCC 12 or later, or set CXX"
    ),
}


def check_compiler() -> None:
    """One sentence in place of pages of errors. CXX is the compiler that BuildExtension will run."""
    compiler = shlex.split(os.environ.get("CXX", "c++"), posix=not WINDOWS)
    if not shutil.which(compiler[0]):
        advice = "install LLVM" if WINDOWS else "install g++ (`apt install g++`)"
        stop(f"there is no C++ compiler '{compiler[0]}' on PATH; {advice} or set CXX")
    if WINDOWS:
        return
    flags = [*shlex.split(os.environ.get("CFLAGS", "")), f"-I{sysconfig.get_path('include')}", *COMPILE]
    for code, problem in PROBES.items():
        command = [*compiler, *flags, "-fsyntax-only", "-x", "c++", "-"]
        if subprocess.run(command, input=code + "\n", text=True, capture_output=True, check=False).returncode:
            stop(f"the compiler '{' '.join(compiler)}' {problem}")


class BuildWithISAs(BuildExtension):
    """Compiles each ISA's files with its own flags, then the rest with the target's baseline."""

    def build_extensions(self) -> None:
        check_compiler()
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        for isa, flags in ISA_FLAGS.items():
            sources = [source for source in ext.sources if Path(source).stem.startswith(f"kernels_{isa}_")]
            ext.sources = [source for source in ext.sources if source not in sources]
            flags = flags if X86 else []
            objects = self.compiler.compile(
                [str(ROOT / source) for source in sources],
                output_dir=os.path.join(self.build_temp, isa),  # ninja's file is per folder
                include_dirs=ext.include_dirs,
                depends=ext.depends,
                extra_postargs=[
                    *ext.extra_compile_args,
                    *(f"/clang:{flag}" if WINDOWS else flag for flag in flags),
                ],
            )
            ext.extra_objects += objects
        super().build_extension(ext)


extension = Extension(
    "torch_conv_ext._C",
    sources=[str(path.relative_to(ROOT)) for path in sorted(CORE.rglob("*.cpp"))],
    depends=[
        str(path.relative_to(ROOT))
        for path in sorted(CORE.rglob("*"))
        if path.suffix in (".h", ".inl", ".map")
    ],
    include_dirs=INCLUDE if WINDOWS else [],
    library_dirs=library_paths(),
    libraries=["torch_cpu"],
    define_macros=DEFINES,
    extra_compile_args=COMPILE,
    extra_link_args=LINK,
    language="c++",
)

setup(
    version=VERSION,
    ext_modules=[extension],
    cmdclass={"build_ext": BuildWithISAs.with_options(no_python_abi_suffix=False)},
)
