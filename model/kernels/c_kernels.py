"""The functions of one build of `wkv7.c` on torch tensors, float32 on the CPU. Nothing is differentiated here."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

SPAN = 64  # steps between checkpoints, as in wkv7.c


class Kernels:
    """Forward and backward for the head size that a library was built for; inputs are contiguous."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._forward = _function(library.wkv7_forward, tensors=11)
        self._backward = _function(library.wkv7_backward, tensors=18)

    def forward(self, *x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and sT from r w k v a b s0."""
        y, sT = new_outputs(*x)
        if y.numel() == 0:
            return y, sT.copy_(x[6])
        _run(self._forward, *x, y, sT, None, None)
        return y, sT

    def forward_for_backward(self, *x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return y, sT and what `backward` needs besides the inputs: u, the states before spans but the first."""
        (y, sT), (u, checkpoints) = new_outputs(*x), new_checkpoints(*x)
        if y.numel() == 0:
            return y, sT.copy_(x[6]), u, checkpoints
        _run(self._forward, *x, y, sT, u, checkpoints)
        return y, sT, u, checkpoints

    def backward(self, saved: Sequence[Tensor], dy: Tensor, dsT: Tensor | None) -> tuple[Tensor, ...]:
        """Return the gradients of r w k v a b s0; `saved` are those, u and the checkpoints, no `dsT` is zero.

        The gradients given are copied where they are not contiguous.
        """
        gradients = new_gradients(*saved)
        if gradients[0].numel() == 0:
            gradients[6].zero_() if dsT is None else gradients[6].copy_(dsT)
            return gradients
        of_outputs = contiguous(dy) + ([None] if dsT is None else contiguous(dsT))
        _run(self._backward, *saved, *of_outputs, *gradients)
        return gradients


def new_outputs(*x: Tensor) -> tuple[Tensor, Tensor]:
    """Memory for y and sT, from r w k v a b s0."""
    return _new(x[0]), _new(x[6])


def new_checkpoints(*x: Tensor) -> tuple[Tensor, Tensor]:
    """Memory for u, and for the states before spans but the first, which begins with s0."""
    B, T, H, N = x[0].shape
    return _new(x[0]), x[0].new_empty(B, H, max(0, -(-T // SPAN) - 1), N, N)


def new_gradients(*x: Tensor) -> tuple[Tensor, ...]:
    """Memory for the gradients of r w k v a b s0, from those."""
    return tuple([_new(tensor) for tensor in x[:7]])


def _new(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def contiguous(*x: Tensor) -> list[Tensor]:
    """Return the tensors as they are, and copies of those that do not lie in memory as they are to be read."""
    return [tensor.resolve_neg().contiguous() for tensor in x]


def _function(function: Any, tensors: int) -> Any:
    """A function of wkv7.c, which takes B, T, H, so many tensors, and the number of threads."""
    function.argtypes = (*[ctypes.c_int64] * 3, *[ctypes.c_void_p] * tensors, ctypes.c_int)
    function.restype = None
    return function


def _run(function: Any, r: Tensor, *tensors: Tensor | None) -> None:
    addresses = [x if x is None else x.data_ptr() for x in (r, *tensors)]
    function(*r.shape[:3], *addresses, torch.get_num_threads())
