"""WKV-7, the only kernel: one function, several backends that compute the same numbers.

S_t = S_{t-1} diag(exp(w_t)) + (S_{t-1} a_t) b_t^T + v_t k_t^T        y_t = S_t r_t
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from model.errors import KernelError, ShapeError
from model.kernels import chunked, compiled, on_gpu, reference, selection, two_parts


class _Backend(NamedTuple):
    """What computes the recurrence, and what it can do."""

    compute: Callable[..., tuple[Tensor, Tensor]]
    is_available: Callable[[], bool] = lambda: True
    takes_steps: bool = False  # else it knows sequences in one part only
    takes_bfloat16: bool = False  # else that is widened first, and so read and kept as twice as much


_BACKENDS = {
    "reference": _Backend(reference.wkv7),
    "chunked": _Backend(chunked.wkv7),
    "compiled": _Backend(compiled.wkv7, partial(compiled.is_available, 64), takes_steps=True),
    "triton": _Backend(on_gpu.wkv7, on_gpu.is_available, takes_steps=True, takes_bfloat16=True),
}


def wkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    s0: Tensor | None = None,
    backend: str | None = None,
    steps: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the WKV-7 recurrence over a batch of sequences.

    `r w k v a b` are (B, T, H, N), `w` the log-decay (<= 0); `s0` is (B, H, N, N) indexed [value, key], default
    zero. Computes in float32, or in float64 if `r` is, whatever dtype comes in. Returns `y` (B, T, H, N) and the
    final state `sT` (B, H, N, N) in that dtype; both are differentiable with respect to all seven inputs, once on the
    backends `compiled` and `triton`. A backward pass belongs outside of `torch.autocast`, as torch advises: within it
    `reference` and `chunked` compute gradients in bfloat16.

    Sequences may be given in two parts, `steps` (T0, T1): tensors are then (1, B T0 + B T1, H, N), the first part of
    every sequence, then the second of every one, which goes on where the first ends. `s0` says how many there are,
    and the state returned is that between the parts, which nobody may write to before the backward pass.

    Raises `ShapeError` for shapes that do not fit, `KernelError` for a backend that is unknown, not available
    here, or not able to compute these tensors.
    """
    _check_shapes(r, w, k, v, a, b, s0, steps)
    B, _, H, N = r.shape
    dtype = torch.float64 if r.dtype == torch.float64 else torch.float32
    s0 = torch.zeros(B, H, N, N, dtype=dtype, device=r.device) if s0 is None else s0.to(dtype)
    if backend is not None and backend not in _BACKENDS:
        raise KernelError(f"unknown WKV-7 backend {backend!r}: expected one of {', '.join(_BACKENDS)}")
    if r.numel() == 0:  # no token, or no sequence: the sum of nothing, which every input has a gradient of
        return (r + w + k + v + a + b).to(dtype), s0
    chosen = _BACKENDS[backend or default_backend(r.device, dtype, N)]
    as_they_are = {dtype, torch.bfloat16} if chosen.takes_bfloat16 else {dtype}
    r, w, k, v, a, b = (x if x.dtype in as_they_are else x.to(dtype) for x in (r, w, k, v, a, b))
    x = r, w, k, v, a, b, s0
    if not torch.is_autocast_enabled(r.device.type):
        return _compute(chosen, x, steps)
    with torch.autocast(r.device.type, enabled=False):
        return _compute(chosen, x, steps)


def _compute(backend: _Backend, x: Sequence[Tensor], steps: Sequence[int] | None) -> tuple[Tensor, Tensor]:
    if steps is None:
        return backend.compute(*x)
    if backend.takes_steps:
        return backend.compute(*x, steps)
    return two_parts.wkv7(backend.compute, x, steps)


def available_backends() -> tuple[str, ...]:
    """Return the names of the backends that work on this machine."""
    return tuple(name for name, backend in _BACKENDS.items() if backend.is_available())


def default_backend(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, head_size: int = 64
) -> str:
    """Return the name of the fastest backend for tensors of this kind; `selection` says why."""
    return selection.choose(device, dtype, head_size).backend


def _check_shapes(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    s0: Tensor | None,
    steps: Sequence[int] | None,
) -> None:
    if r.dim() != 4:
        raise ShapeError(f"r has shape {tuple(r.shape)}: expected four dimensions (B, T, H, N)")
    shape = r.shape
    for name, x in zip("wkvab", (w, k, v, a, b), strict=True):
        if x.shape != shape:
            raise ShapeError(f"{name} has shape {tuple(x.shape)}: expected {tuple(r.shape)}, the shape of r")
    B, _, H, N = shape
    if steps is not None:
        B = 0 if s0 is None else s0.shape[0]
        tokens = B * sum(steps)
        if s0 is None or len(steps) != 2 or min(steps) < 1 or shape[:2] != (1, tokens):
            raise ShapeError(
                f"r has shape {tuple(shape)}: expected (1, {tokens}, H, N) for parts of {steps} steps from "
                f"s0 with {B} states"
            )
    if s0 is not None and s0.shape != (B, H, N, N):
        raise ShapeError(f"s0 has shape {tuple(s0.shape)}: expected (B, H, N, N) = {(B, H, N, N)}")
