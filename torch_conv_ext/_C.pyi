"""The compiled module. Importing it, after torch, registers the operators torch.ops.torch_conv_ext.*."""

def build_info() -> dict[str, object]:
    """Version, compiler, C++ standard, OpenMP (0 = without), ISAs built, torch built against."""

def supported_isas() -> list[str]:
    """The ISAs that are built and that this CPU runs, slowest first: of "portable", "avx2", "avx512"."""

def isa() -> str:
    """The ISA in use: the fastest, or the one that the environment variable TORCH_CONV_EXT_ISA names."""

def set_isa(name: str) -> None:
    """Use another ISA from now on. For tests."""

def winograd() -> bool:
    """Whether Winograd may be used; `torch_conv_ext.settings`."""

def set_winograd(on: bool) -> None:
    """Allow or forbid Winograd, for the whole process."""

def set_algorithm(name: str) -> None:
    """Take this algorithm wherever it applies; "" for the plan's own choice. For tests."""

def poison(on: bool) -> None:
    """Fill every result and all scratch with NaN before a kernel runs. For tests."""

def team_size(threads: int) -> int:
    """The number of threads that an OpenMP region of `threads` threads really gets."""

def plan(contraction: str, dtype: str, layout: str, sizes: dict[str, int]) -> dict[str, object]:
    """How a contraction is computed, and why; `text` is for printing.

    contraction: "forward", "grad_input" or "grad_weight"; dtype: "float32" or "float64"; layout: "nchw" or
    "channels_last"; sizes: groups, ci, co (per group), ih, iw, oh, ow, kh, kw, stride_h, stride_w, padding_h,
    padding_w, dilation_h, dilation_w.
    """
