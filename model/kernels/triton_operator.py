"""WKV-7 in Triton as operators of torch: launches the kernels of `triton_chunks`, and differentiates.

For the backward pass the inputs are kept as they are, and one float32 state every 64 tokens. It takes one stretch of
time after another, from the last to the first; the state every 16 tokens is there for one stretch only. Everything
is deterministic: no atomics, and no tuning by the clock, because a job must come out the same, bit for bit, every
time.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from model.kernels import triton_chunks as kernels
from model.kernels import two_parts

SPAN: int = kernels.SPAN.value
CHUNK: int = kernels.CHUNK.value
CHUNKS: int = kernels.CHUNKS.value
MATRICES: int = kernels.MATRICES.value
LARGEST_STATES = 2**27  # bytes, of one of the two sets of states that there are for the chunks of a stretch


def options(kernel: str, head_size: int) -> dict[str, int]:
    """How a kernel is launched for a head size: its constants, warps of 32 threads, and stages of its loop."""
    warps = {16: 1, 32: 2, 64: 4, 128: 8}[head_size]  # what holds a state in registers
    if kernel == "scan":  # the only serial part: small programs, that load maps ahead
        return {"N": head_size, "VALUES": 16, "num_warps": warps, "num_stages": 3 if head_size < 128 else 2}
    if kernel in ("matrices", "matrix_gradients"):  # no state
        warps = 1
    return {"N": head_size, "num_warps": warps, "num_stages": 1}  # to load ahead, registers are missing


class Stretch(NamedTuple):
    """Spans one after another, of all sequences and heads: what kernels are launched for."""

    like: Tensor  # (B, T, H, N), all of it
    first: int
    spans: int

    @classmethod
    def whole(cls, like: Tensor) -> Self:
        return cls(like, 0, _spans(like.shape[1]))

    @classmethod
    def parts(cls, like: Tensor) -> Iterator[Self]:
        """From the last to the first, about equal, none with more states of chunks than there is room for."""
        B, T, H, N = like.shape
        spans = _spans(T)
        of_a_span = B * H * CHUNKS * N * N * 4
        count = -(-spans // max(1, LARGEST_STATES // max(1, of_a_span)))
        borders = [spans * i // count for i in range(count + 1)]
        for first, end in zip(borders[-2::-1], borders[:0:-1], strict=True):
            yield cls(like, first, end - first)

    def new(self, *shape: int) -> Tensor:
        """Room for something of that shape for every head."""
        B, _, H, _ = self.like.shape
        return self.like.new_empty((B, H, *shape), dtype=torch.float32)

    def states(self, of_each: int) -> Tensor:
        """Room for some states of each span."""
        N = self.like.shape[-1]
        return self.new(self.spans * of_each, N, N)

    def of_tokens(self) -> Tensor:
        """Room for what is as large as an input."""
        return self.new(self.spans * SPAN, self.like.shape[-1])


@torch.library.custom_op("fsq::wkv7", mutates_args=())
def wkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    s0: Tensor,
    steps: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, sT and the state before every span, all float32; all inputs must be contiguous.

    With `steps` (T0, T1) sequences come in two parts, as `model.kernels.wkv7` has them, and sT is the state between;
    the states before spans are those of the first part, then those of the second.
    """
    y, sT, before = _new_results(r, s0, steps)
    parts = zip(*(two_parts.blocks(x, len(s0), steps) for x in (r, w, k, v, a, b, y)), strict=True)
    first, *second = zip(_before_each(before, s0, r, steps), parts, strict=True)
    with torch.cuda.device_of(r):
        _forward(s0, first[0], sT, *first[1])
        for states, part in second:
            _forward(sT, states, torch.empty_like(sT), *part)
    return y, sT, before


def _forward(
    s0: Tensor,
    before: Tensor,
    sT: Tensor,
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    y: Tensor,
) -> None:
    whole = Stretch.whole(r)
    of_chunks, maps = _matrices(whole, r, w, k, a, b), _maps(whole)
    _spanwise("transitions", whole, w, k, v, a, b, of_chunks, maps, times=2)
    _scan(maps, s0, before, sT, back=False)
    _spanwise("outputs", whole, r, w, k, v, a, b, of_chunks, before, y)


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
    steps: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of all inputs of `wkv7`, in their dtypes."""
    dr, dw, dk, dv, da, db = (torch.empty_like(x) for x in (r, w, k, v, a, b))
    tensors = (r, w, k, v, a, b, dy, dr, dw, dk, dv, da, db)
    parts = zip(*(two_parts.blocks(x, len(dsT), steps) for x in tensors), strict=True)
    states = _before_each(before, dsT, r, steps)
    first, *second = zip(states, parts, strict=True)
    # goes from stretch to stretch, and becomes the gradient of s0
    ds = torch.zeros_like(dsT) if second else dsT.clone()
    with torch.cuda.device_of(r):
        for before_part, part in second:
            _backward_stretches(before_part, ds, *part)
            ds += dsT
        _backward_stretches(first[0], ds, *first[1])
    return dr, dw, dk, dv, da, db, ds


def _backward_stretches(before: Tensor, ds: Tensor, *tensors: Tensor) -> None:
    """Of one part of the sequences."""
    for stretch in Stretch.parts(tensors[0]):
        _backward(stretch, before, ds, *tensors)


def _backward(
    stretch: Stretch,
    before: Tensor,
    ds: Tensor,
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    dy: Tensor,
    dr: Tensor,
    dw: Tensor,
    dk: Tensor,
    dv: Tensor,
    da: Tensor,
    db: Tensor,
) -> None:
    of_chunks, maps, after = _matrices(stretch, r, w, k, a, b), _maps(stretch), stretch.states(1)
    _spanwise("adjoints", stretch, r, w, a, b, dy, of_chunks, maps, times=2)
    _scan(maps, ds, after, ds, back=True)
    del maps

    states, gradients = stretch.states(CHUNKS), stretch.states(CHUNKS)
    u, z = stretch.of_tokens(), stretch.of_tokens()
    _spanwise("chunk_states", stretch, w, k, v, a, b, of_chunks, before, states, u)
    _spanwise("chunk_gradients", stretch, r, w, k, a, b, dy, of_chunks, after, gradients, z, dv)
    del after

    d_of_chunks, dc = of_chunks, stretch.of_tokens()  # nobody needs of_chunks any more
    _chunkwise("matrix_gradients", stretch, v, dy, u, z, d_of_chunks)
    _chunkwise("query_gradients", stretch, r, w, k, a, b, dy, z, d_of_chunks, states, dr, da, dc)
    of_keys = (dw, dk, db)
    _chunkwise("key_gradients", stretch, r, w, k, v, a, b, u, d_of_chunks, states, gradients, dc, *of_keys)


@wkv7.register_fake
def _(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    s0: Tensor,
    steps: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    return _new_results(r, s0, steps)


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
    steps: Sequence[int] | None = None,
) -> tuple[Tensor, ...]:
    return (*(torch.empty_like(x) for x in (r, w, k, v, a, b)), torch.empty_like(dsT))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # or the states, which nobody differentiates, get zeros of their size
    ctx.save_for_backward(*inputs[:6], output[2])
    ctx.steps, ctx.states = inputs[7], inputs[6].shape


def _differentiate(ctx: Any, dy: Tensor | None, dsT: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # once: recomputed activations can be had no second time
    r, *_, before = saved
    dy = r.new_zeros(r.shape, dtype=torch.float32) if dy is None else dy.contiguous()
    dsT = before.new_zeros(ctx.states) if dsT is None else dsT.contiguous()
    gradients: tuple[Tensor, ...] = wkv7_backward(*saved, dy, dsT, ctx.steps)
    return *gradients, None


wkv7.register_autograd(_differentiate, setup_context=_save)


def _new_results(r: Tensor, s0: Tensor, steps: Sequence[int] | None) -> tuple[Tensor, Tensor, Tensor]:
    """Room for y, sT and the state before every span, (B H spans, N, N)."""
    B, H, N = s0.shape[:3]
    y = r.new_empty(r.shape, dtype=torch.float32)
    return y, torch.empty_like(s0), s0.new_empty(B * H * sum(_spans_of_each(r, steps)), N, N)


def _before_each(before: Tensor, like: Tensor, r: Tensor, steps: Sequence[int] | None) -> list[Tensor]:
    """The states before spans, (B, H, spans, N, N) for each part."""
    B, H, N = like.shape[:3]
    spans = _spans_of_each(r, steps)
    of_parts = before.split([B * H * count for count in spans])
    return [states.view(B, H, count, N, N) for states, count in zip(of_parts, spans, strict=True)]


def _spans_of_each(r: Tensor, steps: Sequence[int] | None) -> list[int]:
    return [_spans(T) for T in ((r.shape[1],) if steps is None else steps)]


def _matrices(stretch: Stretch, *inputs: Tensor) -> Tensor:
    of_chunks = stretch.new(stretch.spans * CHUNKS, MATRICES, CHUNK, CHUNK)
    _chunkwise("matrices", stretch, *inputs, of_chunks)
    return of_chunks


def _maps(stretch: Stretch) -> Tensor:
    B, _, H, N = stretch.like.shape
    return stretch.like.new_empty((2, B, H, stretch.spans, N, N), dtype=torch.float32)


def _spanwise(kernel: str, stretch: Stretch, *tensors: Tensor, times: int = 1) -> None:
    _launch(kernel, stretch, stretch.spans, times, *tensors)


def _chunkwise(kernel: str, stretch: Stretch, *tensors: Tensor) -> None:
    _launch(kernel, stretch, stretch.spans * CHUNKS, 1, *tensors)


def _launch(kernel: str, stretch: Stretch, count: int, times: int, *tensors: Tensor) -> None:
    B, T, H, N = stretch.like.shape
    start = stretch.first * SPAN
    getattr(kernels, kernel)[count, B * H, times](*tensors, T=T, H=H, START=start, **options(kernel, N))


def _scan(maps: Tensor, first: Tensor, before: Tensor, last: Tensor, *, back: bool) -> None:
    """Over the spans of a stretch; `first` may be `last`: each program reads its part of it before it writes that."""
    B, H, spans, N, _ = before.shape
    chosen = options("scan", N)
    kernels.scan[B * H, N // chosen["VALUES"]](maps, first, before, last, spans, BACK=back, **chosen)


def _spans(T: int) -> int:
    return -(-T // SPAN)
