"""Sequences in two parts: the first of each, then the second of each, which goes on where the first ends."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def blocks(x: Tensor, batch: int, steps: Sequence[int] | None) -> list[Tensor]:
    """Views (B, T, ...) of the parts of a contiguous (1, B T0 + B T1, ...); the tensor itself without steps."""
    if steps is None:
        return [x]
    parts = x.squeeze(0).split([batch * T for T in steps])
    return [part.unflatten(0, (batch, T)) for part, T in zip(parts, steps, strict=True)]


def wkv7(
    backend: Callable[..., tuple[Tensor, Tensor]], x: Sequence[Tensor], steps: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Compute y and the state between the parts by a backend that knows one part only; x are r w k v a b s0."""
    *inputs, s0 = x
    first, second = zip(*(blocks(tensor, len(s0), steps) for tensor in inputs), strict=True)
    y, between = backend(*first, s0)
    rest, _ = backend(*second, between)
    return torch.cat([y.flatten(0, 1), rest.flatten(0, 1)]).unsqueeze(0), between
