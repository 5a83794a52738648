"""WKV-7 in Triton as operators of torch: launches the kernels of `triton_chunks`, and differentiates.

For the backward pass the inputs are kept as they are, and one float32 state every 64 tokens; the state every 16
exists during a backward pass only. Everything is deterministic: no atomics, and no tuning by the clock, because a
job must come out the same, bit for bit, every time.
"""

from typing import Any

import torch
from torch import Tensor

from model.kernels import triton_chunks as kernels

SPAN, CHUNK, MATRICES = kernels.SPAN.value, kernels.CHUNK.value, kernels.MATRICES.value


def warps(head_size: int) -> int:
    """Warps of 32 threads for each program: what holds a state of (N, N) in registers."""
    return {16: 1, 32: 2, 64: 4, 128: 8}[head_size]


def values(head_size: int) -> int:
    """Values that a program of `scan` takes: it is the only serial part, so its programs are many and small."""
    return min(head_size, 16)


@torch.library.custom_op("fsq::wkv7", mutates_args=())
def wkv7(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, s0: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, sT and the state before every span, all float32; all inputs must be contiguous."""
    B, T, H, N = r.shape
    maps, offsets, before = (_states(r, _spans(T)) for _ in range(3))
    y, sT = r.new_empty(r.shape, dtype=torch.float32), torch.empty_like(s0)
    with torch.cuda.device_of(r):
        grid, sizes = (_spans(T), B * H), {"T": T, "H": H, "N": N, "num_warps": warps(N)}
        of_chunks = _matrices(r, w, k, a, b)
        kernels.transitions[grid](w, k, v, a, b, of_chunks, maps, offsets, **sizes)
        _scan(maps, offsets, s0, before, sT, back=False)
        kernels.outputs[grid](r, w, k, v, a, b, of_chunks, before, y, **sizes)
    return y, sT, before


@torch.library.custom_op("fsq::wkv7_backward", mutates_args=())
def wkv7_backward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    before: Tensor,
    dy: Tensor,
    dsT: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of all inputs of `wkv7`, in their dtypes."""
    B, T, H, N = r.shape
    inputs = (r, w, k, v, a, b)
    dr, dw, dk, dv, da, db = (torch.empty_like(x) for x in inputs)
    maps, offsets, after = (_states(r, _spans(T)) for _ in range(3))
    ds0 = torch.empty_like(dsT)
    with torch.cuda.device_of(r):
        grid, sizes = (_spans(T), B * H), {"T": T, "H": H, "N": N, "num_warps": warps(N)}
        of_chunks = _matrices(r, w, k, a, b)
        kernels.adjoints[grid](r, w, a, b, dy, of_chunks, maps, offsets, **sizes)
        _scan(maps, offsets, dsT, after, ds0, back=True)
        del maps, offsets
        within = _states(r, _spans(T) * (SPAN // CHUNK))
        kernels.chunk_states[grid](w, k, v, a, b, of_chunks, before, within, **sizes)
        kernels.gradients[grid](*inputs, dy, of_chunks, within, after, dr, dw, dk, dv, da, db, **sizes)
    return dr, dw, dk, dv, da, db, ds0


@wkv7.register_fake
def _(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, s0: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return r.new_empty(r.shape, dtype=torch.float32), torch.empty_like(s0), _states(r, _spans(r.shape[1]))


@wkv7_backward.register_fake
def _(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    before: Tensor,
    dy: Tensor,
    dsT: Tensor,
) -> tuple[Tensor, ...]:
    return (*(torch.empty_like(x) for x in (r, w, k, v, a, b)), torch.empty_like(dsT))


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # or the states, which nobody differentiates, get zeros of their size
    ctx.save_for_backward(*inputs[:6], output[2])


def _differentiate(ctx: Any, dy: Tensor | None, dsT: Tensor | None, _: None) -> tuple[Tensor, ...]:
    r, *_, before = ctx.saved_tensors
    dy = r.new_zeros(r.shape, dtype=torch.float32) if dy is None else dy.contiguous()
    dsT = torch.zeros_like(before[:, :, 0]) if dsT is None else dsT.contiguous()
    gradients: tuple[Tensor, ...] = wkv7_backward(*ctx.saved_tensors, dy, dsT)
    return gradients


wkv7.register_autograd(_differentiate, setup_context=_save)


def _matrices(r: Tensor, w: Tensor, k: Tensor, a: Tensor, b: Tensor) -> Tensor:
    B, T, H, N = r.shape
    chunks = _spans(T) * (SPAN // CHUNK)
    of_chunks = r.new_empty((B, H, chunks, MATRICES, CHUNK, CHUNK), dtype=torch.float32)
    kernels.matrices[(chunks, B * H)](r, w, k, a, b, of_chunks, T=T, H=H, N=N, num_warps=1)
    return of_chunks


def _scan(maps: Tensor, offsets: Tensor, first: Tensor, before: Tensor, last: Tensor, *, back: bool) -> None:
    B, H, spans, N, _ = maps.shape
    grid = (B * H, N // values(N))
    kernels.scan[grid](
        maps, offsets, first, before, last, spans, N=N, VALUES=values(N), BACK=back, num_warps=warps(N)
    )


def _spans(T: int) -> int:
    return -(-T // SPAN)


def _states(like: Tensor, count: int) -> Tensor:
    B, _, H, N = like.shape
    return like.new_empty((B, H, count, N, N), dtype=torch.float32)
