"""WKV-7 in Triton as operators of torch: launches the kernels of `triton_chunks`, and differentiates.

For the backward pass the inputs are kept as they are, and one float32 state every 64 tokens; the state every 16
exists during a backward pass only. Everything is deterministic: no atomics, and no tuning by the clock, because a
job must come out the same, bit for bit, every time.
"""

from typing import Any

import torch
from torch import Tensor

from model.kernels import triton_chunks as kernels

SPAN: int = kernels.SPAN.value
CHUNK: int = kernels.CHUNK.value
CHUNKS: int = kernels.CHUNKS.value
MATRICES: int = kernels.MATRICES.value
LARGEST_STATES = 2**28  # bytes, of one of the two sets of states that a backward pass has for every chunk


def options(kernel: str, head_size: int) -> dict[str, int]:
    """How a kernel is launched for a head size: its constants, warps of 32 threads, and stages of its loop."""
    warps = {16: 1, 32: 2, 64: 4, 128: 8}[head_size]  # what holds a state in registers
    if kernel == "scan":  # the only serial part: small programs, that load maps ahead
        return {"N": head_size, "VALUES": 16, "num_warps": warps, "num_stages": 3 if head_size < 128 else 2}
    if kernel in ("matrices", "matrix_gradients"):  # no state
        warps = 1
    return {"N": head_size, "num_warps": warps, "num_stages": 1}  # to load ahead, registers are missing


@torch.library.custom_op("fsq::wkv7", mutates_args=())
def wkv7(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, s0: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, sT and the state before every span, all float32; all inputs must be contiguous."""
    y, sT = r.new_empty(r.shape, dtype=torch.float32), torch.empty_like(s0)
    before = _states(r, _spans(r))
    with torch.cuda.device_of(r):
        of_chunks, maps = _matrices(r, w, k, a, b), _maps(r)
        _spanwise("transitions", w, k, v, a, b, of_chunks, maps, like=r, times=2)
        _scan(maps, s0, before, sT, back=False)
        _spanwise("outputs", r, w, k, v, a, b, of_chunks, before, y, like=r)
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
    inputs = (r, w, k, v, a, b)
    dr, dw, dk, dv, da, db = (torch.empty_like(x) for x in inputs)
    ds0 = torch.empty_like(dsT)
    tensors = (*inputs, before, dy, dsT, dr, dw, dk, dv, da, db, ds0)
    with torch.cuda.device_of(r):
        for part in _parts(r):
            _backward(*(x[part] for x in tensors))
    return dr, dw, dk, dv, da, db, ds0


def _backward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    before: Tensor,
    dy: Tensor,
    dsT: Tensor,
    dr: Tensor,
    dw: Tensor,
    dk: Tensor,
    dv: Tensor,
    da: Tensor,
    db: Tensor,
    ds0: Tensor,
) -> None:
    of_chunks, maps, after = _matrices(r, w, k, a, b), _maps(r), _states(r, _spans(r))
    _spanwise("adjoints", r, w, a, b, dy, of_chunks, maps, like=r, times=2)
    _scan(maps, dsT, after, ds0, back=True)
    del maps

    states, gradients = (_states(r, _spans(r) * CHUNKS) for _ in range(2))
    u, z, dc = (torch.empty_like(dy) for _ in range(3))
    _spanwise("chunk_states", w, k, v, a, b, of_chunks, before, states, u, like=r)
    _spanwise("chunk_gradients", r, w, k, a, b, dy, of_chunks, after, gradients, z, dv, like=r)

    d_of_chunks = of_chunks  # which nobody needs any more
    _chunkwise("matrix_gradients", v, dy, u, z, d_of_chunks, like=r)
    _chunkwise("query_gradients", r, w, k, a, b, dy, z, d_of_chunks, states, dr, da, dc, like=r)
    _chunkwise("key_gradients", r, w, k, v, a, b, u, d_of_chunks, states, gradients, dc, dw, dk, db, like=r)


@wkv7.register_fake
def _(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, s0: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return r.new_empty(r.shape, dtype=torch.float32), torch.empty_like(s0), _states(r, _spans(r))


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
    saved = ctx.saved_tensors  # once: recomputed activations can be had no second time
    r, *_, before = saved
    dy = r.new_zeros(r.shape, dtype=torch.float32) if dy is None else dy.contiguous()
    dsT = torch.zeros_like(before[:, :, 0]) if dsT is None else dsT.contiguous()
    gradients: tuple[Tensor, ...] = wkv7_backward(*saved, dy, dsT)
    return gradients


wkv7.register_autograd(_differentiate, setup_context=_save)


def _matrices(r: Tensor, w: Tensor, k: Tensor, a: Tensor, b: Tensor) -> Tensor:
    B, _, H, _ = r.shape
    of_chunks = r.new_empty((B * H, _spans(r) * CHUNKS, MATRICES, CHUNK, CHUNK), dtype=torch.float32)
    _chunkwise("matrices", r, w, k, a, b, of_chunks, like=r)
    return of_chunks


def _spanwise(kernel: str, *tensors: Tensor, like: Tensor, times: int = 1) -> None:
    B, T, H, N = like.shape
    getattr(kernels, kernel)[_spans(like), B * H, times](*tensors, T=T, H=H, **options(kernel, N))


def _chunkwise(kernel: str, *tensors: Tensor, like: Tensor) -> None:
    B, T, H, N = like.shape
    getattr(kernels, kernel)[_spans(like) * CHUNKS, B * H](*tensors, T=T, H=H, **options(kernel, N))


def _scan(maps: Tensor, first: Tensor, before: Tensor, last: Tensor, *, back: bool) -> None:
    B, H, spans, N, _ = before.shape
    chosen = options("scan", N)
    kernels.scan[B * H, N // chosen["VALUES"]](maps, first, before, last, spans, BACK=back, **chosen)


def _parts(r: Tensor) -> list[slice]:
    """The sequences that a backward pass takes at a time, so that what it needs in between stays small."""
    B, _, H, N = r.shape
    each = _spans(r) * CHUNKS * H * N * N * 4
    size = max(1, LARGEST_STATES // each)
    return [slice(start, start + size) for start in range(0, B, size)]


def _spans(r: Tensor) -> int:
    return -(-r.shape[1] // SPAN)


def _maps(r: Tensor) -> Tensor:
    B, _, H, N = r.shape
    return r.new_empty((2, B * H, _spans(r), N, N), dtype=torch.float32)


def _states(like: Tensor, count: int) -> Tensor:
    B, _, H, N = like.shape
    return like.new_empty((B, H, count, N, N), dtype=torch.float32)
