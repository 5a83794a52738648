"""The functions of one build of `wkv7.c` on torch tensors, float32 on the CPU. Nothing is differentiated here."""

import ctypes
from collections.abc import Iterable

import torch
from torch import Tensor

SPAN = 64  # steps between checkpoints, as in wkv7.c


class _Sequence(ctypes.Structure):
    """A (B, T, H, N) tensor, as wkv7.c takes it."""

    _fields_ = (("data", ctypes.c_void_p), ("batch_stride", ctypes.c_int64), ("step_stride", ctypes.c_int64))


_Six = _Sequence * 6  # r w k v a b, or their gradients
_SIZES = (ctypes.c_int64,) * 3
_MEMORY = ctypes.c_void_p


class Kernels:
    """Forward and backward for the head size that a library was built for.

    Tensors may lie in memory as they like: those that wkv7.c cannot step through are copied.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._forward, self._backward = library.wkv7_forward, library.wkv7_backward
        end = (_MEMORY, ctypes.c_int)
        self._forward.argtypes = (*_SIZES, _Six, _MEMORY, _Sequence, _Sequence, _MEMORY, *end)
        self._backward.argtypes = (*_SIZES, _Six, _MEMORY, _Sequence, _Sequence, _MEMORY, _MEMORY, _Six, *end)
        self._forward.restype = self._backward.restype = None

    def forward(self, *x: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and sT from r w k v a b s0."""
        y, sT = new_outputs(*x)
        self._run_forward(x, y, _Sequence(), None, sT)
        return y, sT

    def forward_for_backward(self, *x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return y, sT and what `backward` needs besides the inputs: u, the states before spans but the first."""
        (y, sT), (u, checkpoints) = new_outputs(*x), new_checkpoints(*x)
        self._run_forward(x, y, _sequence(u), checkpoints.data_ptr(), sT)
        return y, sT, u, checkpoints

    def _run_forward(
        self, x: tuple[Tensor, ...], y: Tensor, u: _Sequence, checkpoints: int | None, sT: Tensor
    ) -> None:
        if y.numel() == 0:
            sT.copy_(x[6])
            return
        inputs, s0 = [with_dense_heads(tensor) for tensor in x[:6]], x[6].contiguous()
        self._forward(
            *y.shape[:3],
            _sequences(inputs),
            s0.data_ptr(),
            _sequence(y),
            u,
            checkpoints,
            sT.data_ptr(),
            torch.get_num_threads(),
        )

    def backward(self, *x: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of r w k v a b s0, from those, u, the checkpoints, dy and dsT."""
        *inputs, u, dy = [with_dense_heads(tensor) for tensor in (*x[:6], x[7], x[9])]
        s0, checkpoints, dsT = (states.contiguous() for states in (x[6], x[8], x[10]))
        *gradients, ds0 = new_gradients(*x)
        if u.numel() == 0:
            return *gradients, ds0.copy_(dsT)
        self._backward(
            *u.shape[:3],
            _sequences(inputs),
            s0.data_ptr(),
            _sequence(dy),
            _sequence(u),
            checkpoints.data_ptr(),
            dsT.data_ptr(),
            _sequences(gradients),
            ds0.data_ptr(),
            torch.get_num_threads(),
        )
        return *gradients, ds0


def new_outputs(*x: Tensor) -> tuple[Tensor, Tensor]:
    """Memory for y and sT, from r w k v a b s0."""
    return _new(x[0]), _new(x[6])


def new_checkpoints(*x: Tensor) -> tuple[Tensor, Tensor]:
    """Memory for u, and for the states before spans but the first, which begins with s0."""
    B, T, H, N = x[0].shape
    return _new(x[0]), x[0].new_empty(B, H, max(0, -(-T // SPAN) - 1), N, N)


def new_gradients(*x: Tensor) -> tuple[Tensor, ...]:
    """Memory for the gradients of r w k v a b s0, from what `backward` takes."""
    return tuple(map(_new, x[:7]))


def _new(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def with_dense_heads(x: Tensor) -> Tensor:
    """Copy only what wkv7.c cannot step through: the last two dimensions must be contiguous."""
    if x.is_contiguous() or (x.stride(3) == 1 and (x.shape[2] == 1 or x.stride(2) == x.shape[3])):
        return x
    return x.contiguous()


def _sequence(x: Tensor) -> _Sequence:
    return _Sequence(x.data_ptr(), *x.stride()[:2])


def _sequences(tensors: Iterable[Tensor]) -> ctypes.Array[_Sequence]:
    return _Six(*map(_sequence, tensors))
