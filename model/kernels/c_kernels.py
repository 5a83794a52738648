"""The functions of one build of `wkv7.c` on torch tensors, float32 on the CPU. Nothing is differentiated here."""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

SPAN = 64  # steps between checkpoints, as in wkv7.c

Steps = Sequence[int] | None


class Part(NamedTuple):
    """Sequences of T steps: how large, and how many bytes into tensors of tokens and into checkpoints they begin."""

    B: int
    T: int
    H: int
    in_tokens: int
    in_checkpoints: int

    def at(self, *x: Tensor) -> list[int]:
        """Where the part lies in tensors of tokens."""
        return [tensor.data_ptr() + self.in_tokens for tensor in x]


class Kernels:
    """Forward and backward for the head size that a library was built for; inputs are contiguous.

    With `steps` (T0, T1) sequences come in two parts, as `model.kernels.wkv7` has them, and sT is the state between.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._forward = _function(library.wkv7_forward, tensors=11)
        self._backward = _function(library.wkv7_backward, tensors=18)

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
        *inputs, s0 = x
        if y.numel() == 0:
            sT.copy_(s0)
            return
        end: Tensor | None = sT
        for part in _parts(x, steps):
            kept: list[int] | tuple[None, None] = (None, None)
            if u is not None and checkpoints is not None:
                kept = [*part.at(u), checkpoints.data_ptr() + part.in_checkpoints]
            states = s0.data_ptr(), *part.at(y), None if end is None else end.data_ptr()
            self._forward(*part[:3], *part.at(*inputs), *states, *kept, torch.get_num_threads())
            s0, end = sT, None  # nobody asks for the state after the second part

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

        `saved` are those, u and the checkpoints; of sequences in two parts `sT` is needed, too. `sT`, `dy` and `dsT`
        are copied where they are not contiguous.
        """
        *inputs, s0, u, checkpoints = saved
        *of_inputs, ds0 = gradients = new_gradients(saved)
        if dy.numel() == 0:
            ds0.zero_() if dsT is None else ds0.copy_(dsT)
            return gradients
        (dy,) = contiguous(dy)
        if dsT is not None:
            (dsT,) = contiguous(dsT)

        first, *second = _parts(saved, steps)
        if second and sT is not None:
            (between,), of_between = contiguous(sT), _new(s0)
            self._run_backward(second[0], inputs, between, u, checkpoints, dy, None, of_inputs, of_between)
            dsT = of_between if dsT is None else of_between.add_(dsT)
        self._run_backward(first, inputs, s0, u, checkpoints, dy, dsT, of_inputs, ds0)
        return gradients

    def _run_backward(
        self,
        part: Part,
        inputs: Sequence[Tensor],
        s0: Tensor,
        u: Tensor,
        checkpoints: Tensor,
        dy: Tensor,
        dsT: Tensor | None,
        of_inputs: Sequence[Tensor],
        ds0: Tensor,
    ) -> None:
        saved = *part.at(*inputs), s0.data_ptr(), *part.at(u), checkpoints.data_ptr() + part.in_checkpoints
        given = *part.at(dy), None if dsT is None else dsT.data_ptr()
        results = *part.at(*of_inputs), ds0.data_ptr()
        self._backward(*part[:3], *saved, *given, *results, torch.get_num_threads())


def _parts(x: Sequence[Tensor], steps: Steps) -> list[Part]:
    """The parts of sequences, from r w k v a b s0."""
    r, s0 = x[0], x[6]
    (B, H, N), size = s0.shape[:3], s0.element_size()
    parts, tokens, states = [], 0, 0
    for T in (r.shape[1],) if steps is None else steps:
        parts.append(Part(B, T, H, size * tokens, size * states))
        tokens += B * T * H * N
        states += _checkpoints(B, T, H) * N * N
    return parts


def _checkpoints(B: int, T: int, H: int) -> int:
    """How many states there are before spans of all sequences but each one's first, which is there already."""
    return B * H * max(0, -(-T // SPAN) - 1)


def new_outputs(x: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Memory for y and sT, from r w k v a b s0."""
    return _new(x[0]), _new(x[6])


def new_checkpoints(x: Sequence[Tensor], steps: Steps = None) -> tuple[Tensor, Tensor]:
    """Memory for u, and for the states before spans but the first, from r w k v a b s0."""
    r, s0 = x[0], x[6]
    B, H, N = s0.shape[:3]
    count = sum(_checkpoints(B, T, H) for T in ((r.shape[1],) if steps is None else steps))
    return _new(r), r.new_empty(count, N, N)


def new_gradients(x: Sequence[Tensor]) -> tuple[Tensor, ...]:
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
