"""The functions of one build of `wkv7.c` on torch tensors, float32 on the CPU. Nothing is differentiated here."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from model.errors import KernelError

SPAN = 64  # steps between checkpoints, as in wkv7.c

Steps = Sequence[int] | None


class Kernels:
    """Forward and backward for the head size that a library was built for; inputs are contiguous.

    With `steps` (T0, T1) sequences come in two parts, as `model.kernels.wkv7` has them, and sT is the state between.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._forward = _function(library.wkv7_forward, tensors=11)
        self._backward = _function(library.wkv7_backward, tensors=19)

    def forward(self, x: Sequence[Tensor], steps: Steps = None) -> tuple[Tensor, Tensor]:
        """Return y and sT from r w k v a b s0."""
        y, sT = new_outputs(x)
        self._run_forward(x, steps, y, sT, None, None)
        return y, sT

    def forward_for_backward(
        self, x: Sequence[Tensor], steps: Steps = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return y, sT and what `backward` needs besides the inputs: u, the states before spans but the first."""
        (y, sT), (u, checkpoints) = new_outputs(x), new_checkpoints(x, steps)
        self._run_forward(x, steps, y, sT, u, checkpoints)
        return y, sT, u, checkpoints

    def _run_forward(
        self,
        x: Sequence[Tensor],
        steps: Steps,
        y: Tensor,
        sT: Tensor,
        u: Tensor | None,
        checkpoints: Tensor | None,
    ) -> None:
        if y.numel() == 0:
            sT.copy_(x[6])
            return
        self._forward(*_sizes(x, steps), *_at(*x, y, sT, u, checkpoints), torch.get_num_threads())

    def backward(
        self,
        saved: Sequence[Tensor],
        dy: Tensor,
        dsT: Tensor | None,
        *,
        sT: Tensor | None = None,
        steps: Steps = None,
    ) -> tuple[Tensor, ...]:
        """Return the gradients of r w k v a b s0; no `dsT` is zero.

        `saved` are those, u and the checkpoints. `sT`, `dy` and `dsT` are copied where they are not contiguous.
        Raises `KernelError` for sequences in two parts without `sT`.
        """
        if steps is not None and sT is None:
            raise KernelError(
                "backward pass of sequences in two parts: sT, the state between them, is needed"
            )
        gradients = new_gradients(saved)
        if dy.numel() == 0:
            ds0 = gradients[-1]
            ds0.zero_() if dsT is None else ds0.copy_(dsT)
            return gradients
        sT, dsT = (None if state is None else contiguous(state)[0] for state in (sT, dsT))
        tensors = (*saved[:7], sT, *saved[7:], *contiguous(dy), dsT, *gradients)
        self._backward(*_sizes(saved, steps), *_at(*tensors), torch.get_num_threads())
        return gradients


def _sizes(x: Sequence[Tensor], steps: Steps) -> tuple[int, int, int, int]:
    """B, T of the first and of the second part, and H, from r w k v a b s0."""
    B, H = x[6].shape[:2]
    T, rest = (x[0].shape[1], 0) if steps is None else steps
    return B, T, rest, H


def _at(*x: Tensor | None) -> list[int | None]:
    """Where tensors lie."""
    return [None if tensor is None else tensor.data_ptr() for tensor in x]


def _checkpoints(B: int, T: int, H: int) -> int:
    """How many states there are before spans of all sequences but each one's first, which is there already."""
    return B * H * max(0, -(-T // SPAN) - 1)


def new_outputs(x: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Memory for y and sT, from r w k v a b s0."""
    return _new(x[0]), _new(x[6])


def new_checkpoints(x: Sequence[Tensor], steps: Steps = None) -> tuple[Tensor, Tensor]:
    """Memory for u, and for the states before spans but the first, from r w k v a b s0."""
    B, T, rest, H = _sizes(x, steps)
    count, N = _checkpoints(B, T, H) + _checkpoints(B, rest, H), x[6].shape[-1]
    return _new(x[0]), x[0].new_empty(count, N, N)


def new_gradients(x: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Memory for the gradients of r w k v a b s0, from those."""
    return tuple([_new(tensor) for tensor in x[:7]])


def _new(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def contiguous(*x: Tensor) -> list[Tensor]:
    """Return the tensors as they are, and copies of those that do not lie in memory as they are to be read."""
    return [tensor.resolve_neg().contiguous() for tensor in x]


def _function(function: Any, tensors: int) -> Any:
    """A function of wkv7.c, which takes B, T, rest, H, so many tensors, and the number of threads."""
    function.argtypes = (*[ctypes.c_int64] * 4, *[ctypes.c_void_p] * tensors, ctypes.c_int)
    function.restype = None
    return function
