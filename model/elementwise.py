"""Elementwise steps with gradients written by hand: the same numbers as autograd's, in half as many passes.

In small models on the CPU such passes, not matrix products, take most of the time.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.parts import Parts

_SMALLEST_NORM = 1e-12  # as torch.nn.functional.normalize has it


def mix(x: Tensor, before: Tensor, parts: Parts, *weights: Tensor) -> tuple[Tensor, ...]:
    """Return x + (shifted - x) * weight for each weight, shifted being what stands one token earlier ("token shift").

    `x` is (B, T, C) or as its `parts` have it, `before` (B, C) of its dtype stands before the first token, weights
    are (1, 1, C).
    """
    mixed: tuple[Tensor, ...] = _Mix.apply(x, before, parts, *weights)  # type: ignore[no-untyped-call]
    return mixed


def unit_vectors(x: Tensor) -> Tensor:
    """Return x divided by its norm over the last dimension, the norm being at least 1e-12."""
    units: Tensor = _UnitVectors.apply(x)  # type: ignore[no-untyped-call]
    return units


def squared_relu(x: Tensor) -> Tensor:
    """Return max(x, 0) ** 2."""
    squares: Tensor = _SquaredReLU.apply(x)  # type: ignore[no-untyped-call]
    return squares


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, before: Tensor, parts: Parts, *weights: Tensor) -> tuple[Tensor, ...]:
        difference = torch.empty_like(x)
        starts = [before] if parts.steps is None else [before, parts.last(x, before)]
        for start, now, out in zip(starts, parts.blocks(x), parts.blocks(difference), strict=True):
            torch.sub(start, now[:, 0], out=out[:, 0])
            torch.sub(now[:, :-1], now[:, 1:], out=out[:, 1:])
        ctx.save_for_backward(difference, *weights)
        ctx.parts = parts
        return tuple(torch.addcmul(x, difference, weight) for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        difference, *weights = ctx.saved_tensors
        of_shifted = gradients[0] * weights[0]
        for gradient, weight in zip(gradients[1:], weights[1:], strict=True):
            of_shifted.addcmul_(gradient, weight)
        of_x = gradients[0] - of_shifted
        for gradient in gradients[1:]:
            of_x += gradient
        of_weights = [(gradient * difference).sum((0, 1), keepdim=True) for gradient in gradients]
        of_starts = []
        for now, shifted in zip(ctx.parts.blocks(of_x), ctx.parts.blocks(of_shifted), strict=True):
            now[:, :-1] += shifted[:, 1:]
            of_starts.append(shifted[:, 0])
        of_before, *of_last = of_starts
        for what in of_last:
            of_before = ctx.parts.add_to_last(of_x, of_before, what)
        return of_x, of_before, None, *of_weights


class _UnitVectors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        smallest = max(_SMALLEST_NORM, torch.finfo(x.dtype).tiny)  # in float16 the other would be 0
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(smallest).reciprocal_()
        units: Tensor = x * scale
        ctx.save_for_backward(units, scale)
        return units

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        units, scale = ctx.saved_tensors
        along = (gradient * units).sum(dim=-1, keepdim=True)
        return torch.addcmul(gradient, units, along, value=-1.0).mul_(scale)


class _SquaredReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        positive = torch.relu(x)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        half: Tensor = gradient * positive
        return half.mul_(2.0)
