"""Builds torch_conv_ext._C: one module, every ISA of the target inside, for every torch >= 2.10.

Metadata stands in pyproject.toml. Build with an installed torch: `pip install --no-build-isolation .`
"""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

from setuptools import Extension, setup

try:
    import pybind11
    import torch
    from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths
except ImportError as error:
    sys.exit(
        f"torch_conv_ext: {error.name} is missing in the environment that builds. Install torch >= 2.10, pybind11 and "
        "ninja, then run `pip install --no-build-isolation .`"
    )

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "torch_conv_ext" / "_version.py").read_text())[1]  # type: ignore[index]
X86 = platform.machine().lower() in ("x86_64", "amd64")

# Selected at run time by csrc/middle/isa.cpp; a file without flags here is compiled for the target's baseline.
ISA_FLAGS = {
    "kernels_avx2": ["-mavx2", "-mfma"],
    "kernels_avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma"],
}

# The stable ABI of torch 2.10: a header outside of it becomes an #error, and the binary runs on 2.10 and later.
DEFINES = [
    ("TORCH_TARGET_VERSION", "0x020a000000000000"),
    ("TCE_VERSION", f'"{VERSION}"'),
    ("TCE_TORCH_VERSION", f'"{torch.__version__}"'),
]

COMPILE = [
    "-std=c++17",
    "-O3",
    "-Wall",
    "-Wextra",
    "-fvisibility=hidden",
    "-ffp-contract=fast",  # a * b + c is one rounding wherever the ISA has it
    f"-ffile-prefix-map={ROOT}=.",  # no path of the building machine in the binary
]
LINK: list[str] = []
if sys.platform == "darwin":
    # Apple's clang has OpenMP but no runtime; torch ships libomp.
    COMPILE += ["-Xpreprocessor", "-fopenmp"]
    LINK += ["-lomp"]
elif sys.platform == "win32":
    # The kernels use vector types that cl.exe lacks: Windows builds need clang-cl (CC=clang-cl).
    COMPILE = ["/std:c++17", "/O2", "/EHsc", "/openmp", "-Wall", "-ffp-contract=fast"]
else:
    COMPILE += ["-fopenmp"]
    LINK += [
        "-fopenmp",
        "-Wl,--exclude-libs,ALL",
        f"-Wl,--version-script={ROOT / 'csrc' / 'exports.map'}",
        "-Wl,--as-needed",
    ]


class BuildWithISAs(BuildExtension):
    """Compiles each ISA's file with its own flags, then the rest with the target's baseline."""

    def build_extension(self, ext: Extension) -> None:
        isa_sources = [source for source in ext.sources if Path(source).stem in ISA_FLAGS]
        ext.sources = [source for source in ext.sources if source not in isa_sources]
        for source in isa_sources:
            name = Path(source).stem
            objects = self.compiler.compile(
                [str(ROOT / source)],
                output_dir=os.path.join(self.build_temp, name),  # ninja's file is per folder
                include_dirs=ext.include_dirs,
                depends=ext.depends,
                extra_postargs=[*ext.extra_compile_args, *(ISA_FLAGS[name] if X86 else [])],
            )
            ext.extra_objects += objects
        super().build_extension(ext)


# System headers: their warnings are not ours to mend.
HEADERS = [option for path in (*include_paths(), pybind11.get_include()) for option in ("-isystem", path)]

core = Extension(
    "torch_conv_ext._C",
    sources=[str(path.relative_to(ROOT)) for path in sorted((ROOT / "csrc").rglob("*.cpp"))],
    depends=[
        str(path.relative_to(ROOT))
        for suffix in ("*.h", "*.inl", "*.map")
        for path in sorted((ROOT / "csrc").rglob(suffix))
    ],
    include_dirs=[],
    library_dirs=library_paths(),
    libraries=["torch_cpu"],
    define_macros=DEFINES,
    extra_compile_args=[*COMPILE, *HEADERS],
    extra_link_args=LINK,
    language="c++",
)

setup(
    version=VERSION,
    ext_modules=[core],
    cmdclass={"build_ext": BuildWithISAs.with_options(no_python_abi_suffix=False)},
)
