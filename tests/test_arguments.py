"""What the functions take: forms of integers, named paddings, empty tensors. Calls that are known."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn import grad

import torch_conv_ext
from torch_conv_ext import functional

# Forms of an argument that torch accepts, beside an int and a pair of ints.
FORMS: list[Any] = [
    [2],
    (2,),
    [2, 1],
    torch.Size((1, 2)),
    np.int64(2),
    (np.int32(2), np.int64(1)),
    torch.tensor(2),
]


@pytest.mark.parametrize("form", FORMS, ids=repr)
@pytest.mark.parametrize("argument", ["stride", "padding", "dilation"])
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_forms_of_integers(name: str, argument: str, form: Any) -> None:
    """What torch takes for a pair of integers is taken here, with the same result."""
    torch.manual_seed(0)
    x, w = torch.randn(1, 2, 6, 7, dtype=torch.float64), torch.randn(2, 2, 3, 2, dtype=torch.float64)
    result = getattr(torch_conv_ext, name)(x, w, **{argument: form})
    torch.testing.assert_close(result, getattr(F, name)(x, w, **{argument: form}), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 2), (4, 1)], ids=str)
@pytest.mark.parametrize("dilation", [1, 2, (1, 3)], ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_padding_same_and_valid(kernel: tuple[int, int], dilation: Any) -> None:
    """The zeros of 'same' lie where torch has them, for even kernels too; also in the gradients."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 9, 10, dtype=torch.float64)
    w, b = torch.randn(4, 3, *kernel, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    for padding in ("same", "valid"):
        results = []
        for module in (torch_conv_ext, F):
            leaves = [t.clone().requires_grad_() for t in (x, w, b)]
            y = module.conv2d(*leaves, padding=padding, dilation=dilation)
            results.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
        torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)


def test_empty_batches_and_channels() -> None:
    """An empty batch gives an empty result, as in torch; a sum over no channels is the bias."""
    w, b = torch.randn(4, 3, 3, 3), torch.randn(4)
    empty = torch.empty(0, 3, 6, 6)
    assert torch_conv_ext.conv2d(empty, w, b, padding=1).shape == F.conv2d(empty, w, b, padding=1).shape
    assert torch_conv_ext.conv_transpose2d(empty, w.transpose(0, 1)).shape == (0, 4, 8, 8)
    assert torch_conv_ext.conv2d(torch.empty(0, 3, 0, 6), w, padding=2).shape == (0, 4, 2, 8)
    y = torch_conv_ext.conv2d(torch.empty(2, 0, 6, 6), w[:, :0], b)
    assert torch.equal(y, b.view(-1, 1, 1).expand(2, 4, 4, 4))


def test_input_gradient_needs_the_size() -> None:
    """With stride 2 two sizes of input have the same output: both gradients, as in torch.nn.grad."""
    torch.manual_seed(0)
    w, dy = torch.randn(4, 3, 3, 3, dtype=torch.float64), torch.randn(2, 4, 3, 3, dtype=torch.float64)
    for size in (7, 8):
        result = torch_conv_ext.conv2d_input((2, 3, size, size), w, dy, stride=2)
        expected = grad.conv2d_input((2, 3, size, size), w, dy, stride=2)
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(RuntimeError, match=re.escape("[2, 4, 4, 4], but got")):
        torch_conv_ext.conv2d_input((2, 3, 9, 9), w, dy, stride=2)


# --- calls that are known -----------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [torch_conv_ext.conv2d, torch_conv_ext.conv_transpose2d])
def test_known_calls_are_the_same_arguments(function: Any) -> None:
    """After a call with integers, equal numbers of other types are the error that they were before it, wrong
    sizes too; and a list that has changed is another argument.
    """
    x, w, bias = torch.randn(1, 2, 7, 6), torch.randn(2, 2, 3, 3), torch.randn(2)
    for stride in (1, (1, 1)):
        function(x, w, bias, stride)
        function(x, w, bias, stride)
    for wrong in (1.0, True, (1.0, 1), (1, True)):
        with pytest.raises(TypeError, match="'stride' must be tuple of ints"):
            function(x, w, bias, wrong)
    with pytest.raises(RuntimeError, match="expected bias to be 1-dimensional with 2 elements"):
        function(x, w, torch.randn(3), (1, 1))
    changing = [1, 1]
    first = function(x, w, bias, changing)
    changing[0] = 2
    assert function(x, w, bias, changing).shape != first.shape
    sides: Any = ([0, 0], [0, 0])
    first = function(x, w, bias, 1, sides)
    sides[0][0] = 1
    assert function(x, w, bias, 1, sides).shape != first.shape


def test_known_calls_are_bounded() -> None:
    """Sizes that are new with every call: as many are kept as the limit says, and results stay right."""
    known = functional._CONV2D
    w = torch.randn(1, 1, 1, 1)
    for width in range(1, known.LIMIT + 10):
        x = torch.randn(1, 1, 1, width)
        torch.testing.assert_close(torch_conv_ext.conv2d(x, w), x * w)
        assert len(known._calls) <= known.LIMIT
