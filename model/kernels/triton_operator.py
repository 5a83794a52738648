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
LARGEST_STATES = 2**27  # bytes, of one of the two sets of states that a backward pass has for every chunk


def warps(head_size: int) -> int:
    """Warps of 32 threads for each program: what holds a state of (N, N) in registers."""
    return {16: 1, 32: 2, 64: 4, 128: 8}[head_size]


def values(head_size: int) -> int:
    """Values that a program of `scan` takes: it is the only serial part, so its programs are many and small."""
    return min(head_size, 16)


def scan_stages(head_size: int) -> int:
    """Maps that `scan` has in flight: it does nothing but wait for the next one."""
    return 3 if head_size <= 64 else 2


def width(head_size: int) -> int:
    """Channels that a program without a state takes at a time."""
    return min(head_size, 32)


@torch.library.custom_op("fsq::wkv7", mutates_args=())
def wkv7(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, s0: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, sT and the state before every span, all float32; all inputs must be contiguous."""
    y, sT = r.new_empty(r.shape, dtype=torch.float32), torch.empty_like(s0)
    before = _states(r, _spans(r))
    with torch.cuda.device_of(r):
        for part in _parts(r):
            _forward(*(x[part] for x in (r, w, k, v, a, b, s0, y, sT, before)))
    return y, sT, before


def _forward(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    s0: Tensor,
    y: Tensor,
    sT: Tensor,
    before: Tensor,
) -> None:
    spans, heads, sizes = _launch(r)
    of_chunks, maps = _matrices(r, w, k, a, b), _maps(r)
    kernels.transitions[spans, heads, 2](w, k, v, a, b, of_chunks, maps, **sizes)
    _scan(maps, s0, before, sT, back=False)
    kernels.outputs[spans, heads](r, w, k, v, a, b, of_chunks, before, y, **sizes)


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
    spans, heads, sizes = _launch(r)
    of_chunks, maps, after = _matrices(r, w, k, a, b), _maps(r), _states(r, spans)
    kernels.adjoints[spans, heads, 2](r, w, a, b, dy, of_chunks, maps, **sizes)
    _scan(maps, dsT, after, ds0, back=True)
    del maps

    states, gradients = (_states(r, spans * CHUNKS) for _ in range(2))
    u, z, dc = (torch.empty_like(dy) for _ in range(3))
    kernels.chunk_states[spans, heads](w, k, v, a, b, of_chunks, before, states, u, **sizes)
    kernels.chunk_gradients[spans, heads](r, w, k, a, b, dy, of_chunks, after, gradients, z, dv, **sizes)

    chunks, d_of_chunks = spans * CHUNKS, of_chunks  # which nobody needs any more
    kernels.matrix_gradients[chunks, heads](v, dy, u, z, d_of_chunks, **_small(sizes))
    kernels.query_gradients[chunks, heads](r, w, k, a, b, dy, z, d_of_chunks, states, dr, da, dc, **sizes)
    kernels.key_gradients[chunks, heads](
        r, w, k, v, a, b, u, d_of_chunks, states, gradients, dc, dw, dk, db, **sizes
    )


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
    r, *_, before = ctx.saved_tensors
    dy = r.new_zeros(r.shape, dtype=torch.float32) if dy is None else dy.contiguous()
    dsT = torch.zeros_like(before[:, :, 0]) if dsT is None else dsT.contiguous()
    gradients: tuple[Tensor, ...] = wkv7_backward(*ctx.saved_tensors, dy, dsT)
    return gradients


wkv7.register_autograd(_differentiate, setup_context=_save)


def _launch(r: Tensor) -> tuple[int, int, dict[str, int]]:
    """Spans, heads of all sequences, and what most kernels take besides tensors.

    One stage: loading the next chunk ahead would take registers that are not there.
    """
    B, T, H, N = r.shape
    return _spans(r), B * H, {"T": T, "H": H, "N": N, "num_warps": warps(N), "num_stages": 1}


def _small(sizes: dict[str, int]) -> dict[str, int]:
    """The same for kernels that have no state: one warp, and all of its registers."""
    return {**sizes, "WIDTH": width(sizes["N"]), "num_warps": 1}


def _matrices(r: Tensor, w: Tensor, k: Tensor, a: Tensor, b: Tensor) -> Tensor:
    spans, heads, sizes = _launch(r)
    of_chunks = r.new_empty((heads, spans * CHUNKS, MATRICES, CHUNK, CHUNK), dtype=torch.float32)
    kernels.matrices[spans * CHUNKS, heads](r, w, k, a, b, of_chunks, **_small(sizes))
    return of_chunks


def _scan(maps: Tensor, first: Tensor, before: Tensor, last: Tensor, *, back: bool) -> None:
    B, H, spans, N, _ = before.shape
    sizes = {"N": N, "VALUES": values(N), "num_warps": warps(N), "num_stages": scan_stages(N)}
    kernels.scan[B * H, N // values(N)](maps, first, before, last, spans, BACK=back, **sizes)


def _parts(r: Tensor) -> list[slice]:
    """The sequences that a pass takes at a time, so that what it needs in between stays small."""
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
