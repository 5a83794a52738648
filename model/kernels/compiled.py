"""WKV-7 on the CPU in C (`wkv7.c`), float32: the fastest backend where there is a C compiler."""

import ctypes
import functools
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.errors import KernelError
from model.kernels import build, reference

_SPAN = 32  # steps between checkpoints, as in wkv7.c
_LARGEST_ERROR = 1e-4

_log = logging.getLogger(__name__)


def wkv7(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, s0: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute WKV-7 as `reference.wkv7` does, for float32 on the CPU.

    Results do not depend on the number of threads. Raises `KernelError` for other tensors, and where the kernels
    cannot be built.
    """
    if r.device.type != "cpu" or r.dtype != torch.float32:
        raise KernelError(
            f"backend compiled cannot compute {r.dtype} on {r.device}: expected float32 on the CPU"
        )
    outcome = _attempt(r.shape[-1])
    if isinstance(outcome, KernelError):
        raise outcome
    return _apply(outcome, r, w, k, v, a, b, s0)


def is_available(head_size: int) -> bool:
    """Return whether the kernels for a head size can be built here and pass their self-test; log once if not."""
    return not isinstance(_attempt(head_size), KernelError)


@functools.cache
def _attempt(head_size: int) -> ctypes.CDLL | KernelError:
    try:
        library = build.library(head_size)
        with ThreadPoolExecutor(1) as alone:  # out of reach of the hooks and modes of whoever calls first
            alone.submit(_self_test, library, head_size).result()
    except KernelError as error:
        _log.warning("WKV-7 runs without its compiled CPU kernels, which is several times slower: %s", error)
        return error
    return library


def _self_test(library: ctypes.CDLL, head_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(2, _SPAN + 3, 2, head_size, generator=generator) / head_size**0.5 for _ in range(6)]
    x[1] = -x[1].abs()
    x.append(torch.randn(2, 2, head_size, head_size, generator=generator))
    results = []
    with torch.inference_mode(False), torch.enable_grad():
        for dtype in (torch.float32, torch.float64):
            leaves = [tensor.to(dtype).requires_grad_() for tensor in x]
            y, sT = reference.wkv7(*leaves) if dtype == torch.float64 else _apply(library, *leaves)
            gradients = torch.autograd.grad(y.square().sum() + sT.square().sum(), leaves)
            results.append([y.detach(), sT.detach(), *gradients])
    for name, found, expected in zip(("y", "sT", *"rwkvab", "s0"), *results, strict=True):
        error = float((found - expected).abs().max() / expected.abs().max())
        if not error < _LARGEST_ERROR:
            raise KernelError(
                f"self-test of the compiled kernels failed: {name} is off by {error:.1e} of its maximum"
            )


class _Sequence(ctypes.Structure):
    """A (B, T, H, N) tensor, as wkv7.c takes it."""

    _fields_ = (("data", ctypes.c_void_p), ("batch_stride", ctypes.c_int64), ("step_stride", ctypes.c_int64))


class _WKV7(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, library: ctypes.CDLL, *x: Tensor) -> tuple[Tensor, Tensor]:
        *inputs, s0 = x
        inputs = [_with_dense_heads(tensor) for tensor in inputs]
        s0 = s0.contiguous()
        B, T, H, N = inputs[0].shape
        y, sT = s0.new_empty(B, T, H, N), torch.empty_like(s0)
        u = checkpoints = None
        if any(ctx.needs_input_grad):
            u, checkpoints = torch.empty_like(y), s0.new_empty(B, H, -(-T // _SPAN), N, N)
            ctx.library = library
            ctx.save_for_backward(*inputs, u, checkpoints)
        library.wkv7_forward(
            *_sizes(inputs[0]),
            _sequences(inputs),
            _pointer(s0),
            _sequence(y),
            _Sequence() if u is None else _sequence(u),
            None if checkpoints is None else _pointer(checkpoints),
            _pointer(sT),
            torch.get_num_threads(),
        )
        return y, sT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dsT: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, u, checkpoints = ctx.saved_tensors
        dy, dsT = _with_dense_heads(dy), dsT.contiguous()
        gradients = [torch.empty_like(u) for _ in inputs]
        ds0 = torch.empty_like(dsT)
        ctx.library.wkv7_backward(
            *_sizes(u),
            _sequences(inputs),
            _sequence(dy),
            _sequence(u),
            _pointer(checkpoints),
            _pointer(dsT),
            _sequences(gradients),
            _pointer(ds0),
            torch.get_num_threads(),
        )
        return None, *gradients, ds0


def _apply(library: ctypes.CDLL, *x: Tensor) -> tuple[Tensor, Tensor]:
    result: tuple[Tensor, Tensor] = _WKV7.apply(library, *x)  # type: ignore[no-untyped-call]
    return result


def _with_dense_heads(x: Tensor) -> Tensor:
    """Copy only what wkv7.c cannot step through: the last two dimensions must be contiguous."""
    _, _, H, N = x.shape
    dense = x.stride(-1) == 1 and (H == 1 or x.stride(-2) == N)
    return x if dense else x.contiguous()


def _sizes(x: Tensor) -> tuple[ctypes.c_int64, ...]:
    return tuple(map(ctypes.c_int64, x.shape[:3]))


def _pointer(x: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.data_ptr())


def _sequence(x: Tensor) -> _Sequence:
    return _Sequence(x.data_ptr(), x.stride(0), x.stride(1))


def _sequences(tensors: list[Tensor]) -> ctypes.Array[_Sequence]:
    return (_Sequence * len(tensors))(*map(_sequence, tensors))
