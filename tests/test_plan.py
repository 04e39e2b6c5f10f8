"""The plan: a pure function of geometry, dtype, layout and ISA; its scratch is bounded for every layer."""

from __future__ import annotations

import math

import pytest
import torch

from cases import BY_NAME, CASES
from geometry import Geometry, conv, free, transposed
from operands import CONTRACTIONS, FORWARD, Contraction, operand
from torch_conv_ext import _C

DTYPES = ["float32", "float64"]
LAYOUTS = ["nchw", "channels_last"]
MIB = 1 << 20

ALGORITHMS = {
    "forward": {"direct", "winograd", "pixels", "lanewise", "rows"},
    "grad_input": {"direct", "winograd", "pixels", "lanewise", "rows", "subpixel"},
    "grad_weight": {"direct", "winograd", "lanewise", "rows", "exchanged"},
}

# "A few MiB per thread", whatever the layer.
SCRATCH_LIMIT = 8 * MIB

# Layers far beyond the grid. Only their plans are made: some of the tensors would not fit into memory.
HUGE = [
    conv("resnet_first_layer", (3, 64), 224, 7, stride=2, padding=3),
    conv("unet_high_resolution", (64, 64), 572, 3),
    conv("many_channels_7x7", (2048, 2048), 14, 7, padding=3),
    conv("fully_connected_vgg", (512, 4096), 7, 7),
    conv("row_of_100000", (1, 1), (1, 100_000), 1),
    conv("row_of_100000_many_channels", (512, 512), (1, 100_000), (1, 3), padding=(0, 1)),
    conv("column_of_100000", (64, 64), (100_000, 1), (3, 1), padding=(1, 0)),
    conv("image_8k", (3, 32), (4320, 7680), 5, padding=2),
    conv("kernel_1x100000", (16, 16), (1, 200_000), (1, 100_000)),
    conv("kernel_301x301", (8, 8), 601, 301),
    conv("stride_4096", (4, 4), (1, 1_000_000), (1, 4096), stride=(1, 4096)),
    conv("dilation_1000", (32, 32), 2100, 3, padding=1000, dilation=1000),
    conv("padding_1000", (8, 8), 3, 3, padding=1000),
    conv("depthwise_4096", (1, 1), 56, 31, padding=15, groups=4096),
    conv("groups_of_1024", (1024, 1024), 14, 3, padding=1, groups=4),
    transposed("vocoder", (1, 1026), (1, 4000), (1, 1024), (1, 256)),
    free("billions_of_pixels", (1, 1), (1 << 20, 1 << 20), (1 << 20, 1 << 20), (3, 3)),
]

# What well-known layers are computed by: in both layouts, or NCHW / channels_last; "-" is left open. Only
# choices whose estimates are clearly apart stand here, by a quarter or more.
Choices = dict[str, str]
KNOWN: list[tuple[Geometry, Choices]] = [
    (
        conv("resnet_3x3", (64, 64), 56, 3, padding=1),
        {"forward": "winograd", "grad_input": "winograd", "grad_weight": "winograd"},
    ),
    (
        conv("resnet_3x3_256_channels", (256, 256), 14, 3, padding=1),
        {"forward": "winograd", "grad_input": "winograd", "grad_weight": "winograd"},
    ),
    (
        conv("resnet_3x3_stride_2", (128, 128), 56, 3, stride=2, padding=1),
        {"forward": "winograd", "grad_input": "winograd", "grad_weight": "winograd"},
    ),
    (conv("resnet_3x3_stride_2_on_14", (512, 512), 14, 3, stride=2, padding=1), {"grad_weight": "direct"}),
    (
        conv("inception_5x5", (48, 64), 35, 5, padding=2),
        {"forward": "winograd", "grad_input": "winograd", "grad_weight": "winograd"},
    ),
    (
        transposed("dcgan_4x4_stride_2", (64, 128), 32, 4, stride=2, padding=1),
        {"forward": "winograd", "grad_input": "winograd", "grad_weight": "winograd"},
    ),
    (conv("resnet_pointwise", (256, 64), 56, 1), {"forward": "direct", "grad_input": "direct"}),
    (
        conv("deeplab_dilation_2", (256, 256), 33, 3, padding=2, dilation=2),
        {"forward": "winograd", "grad_input": "winograd", "grad_weight": "winograd"},
    ),
    (
        conv("deeplab_dilation_24", (512, 256), 33, 3, padding=24, dilation=24),
        {"forward": "direct", "grad_input": "direct", "grad_weight": "direct"},
    ),
    (
        conv("inception_1x7", (192, 192), 17, (1, 7), padding=(0, 3)),
        {"forward": "winograd"},
    ),
    (
        conv("dense_7x7", (64, 64), 56, 7, padding=3),
        {"forward": "winograd", "grad_input": "winograd", "grad_weight": "winograd"},
    ),
    (
        conv("mobilenet_depthwise_14", (1, 1), 14, 3, padding=1, groups=512),
        {"forward": "- / lanewise", "grad_input": "- / lanewise", "grad_weight": "lanewise"},
    ),
    (
        conv("mobilenet_depthwise_stride_2", (1, 1), 56, 3, stride=2, padding=1, groups=144),
        {"forward": "- / lanewise", "grad_input": "- / lanewise", "grad_weight": "lanewise"},
    ),
    (
        conv("convnext_depthwise_7x7", (1, 1), 14, 7, padding=3, groups=384),
        {"forward": "- / lanewise", "grad_input": "- / lanewise", "grad_weight": "lanewise"},
    ),
    (
        conv("replknet_depthwise_31x31", (1, 1), 14, 31, padding=15, groups=384),
        {"forward": "lanewise", "grad_input": "lanewise", "grad_weight": "lanewise"},
    ),
    (
        conv("one_channel_31x31", (1, 1), 128, 31, padding=15),
        {"forward": "rows / -", "grad_input": "rows / -", "grad_weight": "rows / -"},
    ),
    (conv("one_channel_3x3", (1, 1), 512, 3, padding=1), {"grad_weight": "rows / -"}),
    (conv("vdsr_last_layer", (64, 1), 41, 3, padding=1), {"grad_weight": "exchanged"}),
    (conv("segmentation_head_1x1", (64, 1), 128, 1), {"forward": "pixels / -"}),
    (
        conv("vit_patches", (3, 768), 224, 16, stride=16),
        {"grad_input": "subpixel", "grad_weight": "direct"},
    ),
    (
        conv("convnext_first_layer", (3, 96), 224, 4, stride=4),
        {"forward": "direct", "grad_input": "subpixel", "grad_weight": "- / direct"},
    ),
    (
        transposed("dcgan_last_layer", (3, 64), 32, 4, stride=2, padding=1),
        {"forward": "direct", "grad_weight": "- / direct"},
    ),
    (conv("mnist_first_layer", (1, 32), 28, 3, padding=1), {"grad_weight": "rows / direct"}),
    (
        transposed("vocoder_upsampling", (1, 32), (1, 8192), (1, 16), stride=(1, 8), padding=(0, 4)),
        {"grad_input": "subpixel", "grad_weight": "rows / direct"},
    ),
]
# The same where vectors have 32 bytes or more; with the portable kernels' 16 bytes these estimates lie close
# together.
KNOWN_OF_LONG_VECTORS: list[tuple[Geometry, Choices]] = [
    (
        conv("resnet_first_layer", (3, 64), 224, 7, stride=2, padding=3),
        {"forward": "direct", "grad_weight": "direct"},
    ),
    (
        conv("alexnet_first_layer", (3, 64), 224, 11, stride=4, padding=2),
        {"forward": "direct", "grad_weight": "direct"},
    ),
    (
        conv("mobilenet_depthwise_112", (1, 1), 112, 3, padding=1, groups=32),
        {"forward": "rows / lanewise", "grad_input": "rows / lanewise", "grad_weight": "- / lanewise"},
    ),
    (
        conv("efficientnet_depthwise_5x5", (1, 1), 28, 5, padding=2, groups=240),
        {"forward": "rows / lanewise", "grad_input": "rows / lanewise"},
    ),
    (conv("two_channels_per_group", (2, 2), 56, 3, padding=1, groups=64), {"forward": "- / lanewise"}),
    (
        conv("resnext_four_channels_per_group", (4, 4), 56, 3, padding=1, groups=32),
        {"forward": "- / lanewise", "grad_input": "- / lanewise"},
    ),
    (
        conv("rgb_head", (64, 3), 256, 3, padding=1),
        {"forward": "pixels", "grad_weight": "exchanged"},
    ),
    (conv("srcnn_last_layer", (32, 1), 96, 5, padding=2), {"forward": "rows", "grad_weight": "exchanged"}),
    (conv("one_channel_3x3", (1, 1), 512, 3, padding=1), {"forward": "rows / -", "grad_input": "rows / -"}),
    (
        conv("encodec_first_layer", (1, 32), (1, 24_000), (1, 7), padding=(0, 3)),
        {"forward": "pixels / direct", "grad_weight": "rows / direct"},
    ),
    (conv("vgg_first_layer", (3, 64), 224, 3, padding=1), {"grad_weight": "rows / direct"}),
    (
        transposed("dcgan_last_layer", (3, 64), 32, 4, stride=2, padding=1),
        {"grad_weight": "rows / direct"},
    ),
]


def plan_of(
    contraction: Contraction, case: Geometry, dtype: str = "float32", layout: str = "nchw"
) -> dict[str, object]:
    return _C.plan(contraction.name, dtype, layout, case.plan_sizes())


# plan(arguments) = plan(the same arguments): after other plans, after kernels ran, with other numbers of
# threads.
@pytest.mark.parametrize("contraction", CONTRACTIONS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_is_deterministic(dtype: str, layout: str, contraction: Contraction, isa: str, threads: int) -> None:
    cases = [*CASES, *HUGE]
    first = [plan_of(contraction, case, dtype, layout) for case in cases]
    torch.set_num_threads(2)
    case = BY_NAME["asymmetric_everything"]
    contraction(case, *(operand(case, o, torch.float32) for o in (contraction.first, contraction.second)))
    again = [plan_of(contraction, case, dtype, layout) for case in reversed(cases)]
    assert again[::-1] == first


# The plan takes neither a batch size nor a number of threads, so no result can depend on them through it.
@pytest.mark.parametrize("name", ["n", "batch", "threads"])
def test_takes_no_batch_and_no_threads(name: str) -> None:
    sizes = BY_NAME["plain_3x3"].plan_sizes()
    _C.plan("forward", "float32", "nchw", sizes)
    with pytest.raises(ValueError, match=name):
        _C.plan("forward", "float32", "nchw", {**sizes, name: 2})


def test_names_what_is_missing_or_unknown() -> None:
    sizes = BY_NAME["plain_3x3"].plan_sizes()
    with pytest.raises(ValueError, match="stride_w"):
        _C.plan("forward", "float32", "nchw", {k: v for k, v in sizes.items() if k != "stride_w"})
    with pytest.raises(ValueError, match="backward"):
        _C.plan("backward", "float32", "nchw", sizes)
    with pytest.raises(ValueError, match="float16"):
        _C.plan("forward", "float16", "nchw", sizes)
    with pytest.raises(ValueError, match="nhwc"):
        _C.plan("forward", "float32", "nhwc", sizes)
    with pytest.raises(ValueError, match="stride"):
        _C.plan("forward", "float32", "nchw", {**sizes, "stride_h": 0})


# 0 <= scratch_bytes <= 8 MiB for each thread: for every layer, also for those that do not fit into memory.
@pytest.mark.parametrize("contraction", CONTRACTIONS, ids=str)
@pytest.mark.parametrize("case", [*CASES, *HUGE], ids=str)
def test_scratch_is_bounded(case: Geometry, contraction: Contraction, isa: str) -> None:
    for dtype in DTYPES:
        for layout in LAYOUTS:
            scratch = plan_of(contraction, case, dtype, layout)["scratch_bytes"]
            assert isinstance(scratch, int)
            assert 0 <= scratch <= SCRATCH_LIMIT, f"{dtype} {layout}: {scratch / MIB:.1f} MiB"


# flops of one sample = 2 * groups * co * ci * oh * ow * kh * kw; terms that fall on padding count too.
@pytest.mark.parametrize("contraction", CONTRACTIONS, ids=str)
@pytest.mark.parametrize("case", [*CASES, *HUGE], ids=str)
def test_counts_the_work_of_one_sample(case: Geometry, contraction: Contraction) -> None:
    products = case.groups * case.co * case.ci * math.prod(case.output) * math.prod(case.kernel)
    flops = plan_of(contraction, case)["flops_per_sample"]
    assert flops == pytest.approx(2 * products, rel=1e-12)


# The plan says what is chosen and why, for the ISA in use, in values and in text.
@pytest.mark.parametrize("contraction", CONTRACTIONS, ids=str)
def test_explains_itself(contraction: Contraction, isa: str) -> None:
    plan = plan_of(contraction, BY_NAME["asymmetric_everything"])
    assert plan["isa"] == isa
    assert isinstance(plan["reason"], str)
    assert plan["reason"]
    text = plan["text"]
    assert isinstance(text, str)
    assert len(text.splitlines()) > 1
    for word in (contraction.name, plan["algorithm"], isa, "float32"):
        assert str(word) in text


# The grid reaches every algorithm: what the plan may choose is tested by the kernel tests.
@pytest.mark.parametrize("contraction", CONTRACTIONS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_grid_reaches_every_algorithm(dtype: str, contraction: Contraction, isa: str) -> None:
    chosen = {plan_of(contraction, case, dtype)["algorithm"] for case in CASES}
    assert chosen == ALGORITHMS[contraction.name]


# plan(layer) = what the tables above say, in float32.
def test_algorithms_of_well_known_layers(isa: str) -> None:
    known = KNOWN if isa == "portable" else KNOWN + KNOWN_OF_LONG_VECTORS
    wrong = []
    for case, choices in known:
        for contraction in CONTRACTIONS:
            expected = choices.get(contraction.name, "-").split(" / ")
            for layout, algorithm in zip(LAYOUTS, (expected[0], expected[-1]), strict=True):
                chosen = plan_of(contraction, case, "float32", layout)["algorithm"]
                if algorithm not in ("-", chosen):
                    wrong.append(f"{case} {contraction} {layout}: {chosen}, expected {algorithm}")
    assert not wrong, "\n".join(wrong)


# Another contraction, dtype or geometry gives another plan.
def test_depends_on_its_arguments() -> None:
    case = BY_NAME["many_channels_several_k_blocks"]
    texts = {str(plan_of(c, case, dtype)["text"]) for c in CONTRACTIONS for dtype in DTYPES}
    assert len(texts) == len(CONTRACTIONS) * len(DTYPES)
    assert plan_of(FORWARD, case) != plan_of(FORWARD, BY_NAME["depthwise"])
