"""WKV-7 on the CPU in C (`wkv7.c`), float32, as operators of torch: the fastest backend where there is a C compiler.

They are registered piece by piece, not by `torch.library.custom_op`: at its first call that imports
`torch._dynamo`, which takes two seconds, and what it generates doubles the time that a tiny call takes.
"""

import ctypes
import functools
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from model.errors import KernelError
from model.kernels import build, reference
from model.kernels.c_kernels import (
    SPAN,
    Kernels,
    Steps,
    contiguous,
    new_checkpoints,
    new_gradients,
    new_outputs,
)

_LARGEST_ERROR = 1e-4

_log = logging.getLogger(__name__)


def wkv7(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, s0: Tensor, steps: Steps = None
) -> tuple[Tensor, Tensor]:
    """Compute WKV-7 as `reference.wkv7` does, for float32 on the CPU; with `steps`, of sequences in two parts.

    Results do not depend on the number of threads. Raises `KernelError` for other tensors, and where the kernels
    cannot be built.
    """
    if r.device.type != "cpu" or r.dtype != torch.float32:
        raise KernelError(
            f"backend compiled cannot compute {r.dtype} on {r.device}: expected float32 on the CPU"
        )
    kernels = _kernels(r)  # fails here, or not at all
    if forward_ad._current_level >= 0:
        raise KernelError("backend compiled has no forward-mode derivative: use backend='chunked'")
    x = contiguous(r, w, k, v, a, b, s0)
    result: tuple[Tensor, Tensor] = _with_autograd(kernels, x, steps) if _are_plain(*x) else _wkv7(*x, steps)
    return result


def is_available(head_size: int) -> bool:
    """Return whether the kernels for a head size can be built here and pass their self-test; log once if not."""
    return not isinstance(_attempt(head_size), KernelError)


def _kernels(x: Tensor) -> Kernels:
    """The kernels for the head size of a (B, T, H, N) tensor."""
    outcome = _attempt(x.shape[-1])
    if isinstance(outcome, KernelError):
        raise outcome
    return outcome


@functools.cache
def _attempt(head_size: int) -> Kernels | KernelError:
    try:
        library = build.library(head_size)
        with ThreadPoolExecutor(1) as alone:  # out of reach of the hooks and modes of whoever calls first
            alone.submit(_self_test, library, head_size).result()
    except KernelError as error:
        _log.warning("WKV-7 runs without its compiled CPU kernels, which is several times slower: %s", error)
        return error
    return Kernels(library)


def _self_test(library: ctypes.CDLL, head_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(2, SPAN + 3, 2, head_size, generator=generator) / head_size**0.5 for _ in range(6)]
    x[1] = -x[1].abs()
    x.append(torch.randn(2, 2, head_size, head_size, generator=generator))
    for name, found, expected in zip(
        ("y", "sT", *"rwkvab", "s0"), _results(Kernels(library), x), _expected(x), strict=True
    ):
        error = float((found - expected).abs().max() / expected.abs().max())
        if not error < _LARGEST_ERROR:
            raise KernelError(
                f"self-test of the compiled kernels failed: {name} is off by {error:.1e} of its maximum"
            )


def _results(kernels: Kernels, x: Sequence[Tensor]) -> list[Tensor]:
    """y, sT and the gradients of the sum of their squares."""
    y, sT, *kept = kernels.forward_for_backward(x)
    return [y, sT, *kernels.backward([*x, *kept], 2 * y, 2 * sT)]


def _expected(x: Sequence[Tensor]) -> list[Tensor]:
    with torch.inference_mode(False), torch.enable_grad():
        leaves = [tensor.double().requires_grad_() for tensor in x]
        y, sT = reference.wkv7(*leaves)
        gradients = torch.autograd.grad(y.square().sum() + sT.square().sum(), leaves)
    return [y.detach(), sT.detach(), *gradients]


# ---- operators ----

_library = torch.library.Library("fsq", "FRAGMENT")


def _operator(
    name: str,
    takes: str,
    returns: int,
    kernel: Callable[..., tuple[Tensor, ...]],
    fake: Callable[..., tuple[Tensor, ...]],
) -> Any:
    """Register an operator from its kernel on the CPU and, for compilers, one that only makes the outputs.

    After the tensors it takes the steps of sequences in two parts.
    """
    arguments = ", ".join(f"Tensor? {x[:-1]}" if x.endswith("?") else f"Tensor {x}" for x in takes.split())
    results = ", ".join(["Tensor"] * returns)
    _library.define(f"{name}({arguments}, int[]? steps=None) -> ({results})")
    _library.impl(name, _on_tensors(kernel, len(takes.split())), "CPU")
    torch.library.register_fake(f"fsq::{name}", _on_tensors(fake, len(takes.split())), lib=_library)
    return getattr(torch.ops.fsq, name).default


def _on_tensors(function: Callable[..., tuple[Tensor, ...]], count: int) -> Callable[..., tuple[Tensor, ...]]:
    """A function of tensors and steps as torch calls it: without the steps where there are none."""
    return lambda *x: function(x[:count], *x[count:])


_wkv7 = _operator(
    "wkv7_compiled",
    "r w k v a b s0",
    2,
    lambda x, steps=None: _kernels(x[0]).forward(contiguous(*x), steps),
    lambda x, steps=None: new_outputs(x),
)
_wkv7_for_backward = _operator(
    "wkv7_compiled_for_backward",
    "r w k v a b s0",
    4,
    lambda x, steps=None: _kernels(x[0]).forward_for_backward(contiguous(*x), steps),
    lambda x, steps=None: (*new_outputs(x), *new_checkpoints(x, steps)),
)
_wkv7_backward = _operator(
    "wkv7_compiled_backward",
    "r w k v a b s0 u checkpoints sT? dy dsT?",
    7,
    lambda x, steps=None: _kernels(x[0]).backward(contiguous(*x[:9]), x[10], x[11], sT=x[9], steps=steps),
    lambda x, steps=None: new_gradients(x),
)


class _Operators:
    """The kernels by way of torch's dispatcher, for whoever looks at operators, or has other tensors than memory."""

    def forward(self, x: Sequence[Tensor], steps: Steps) -> tuple[Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            return _wkv7(*x, steps)  # type: ignore[no-any-return]

    def forward_for_backward(
        self, x: Sequence[Tensor], steps: Steps
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch._C._AutoDispatchBelowAutograd():
            return _wkv7_for_backward(*x, steps)  # type: ignore[no-any-return]

    def backward(
        self, saved: Sequence[Tensor], dy: Tensor, dsT: Tensor | None, *, sT: Tensor | None, steps: Steps
    ) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            return _wkv7_backward(*saved, sT, dy, dsT, steps)  # type: ignore[no-any-return]


_OPERATORS = _Operators()
_PLAIN = {Tensor, torch.nn.Parameter}


def _are_plain(*x: Tensor) -> bool:
    """Whether nothing but their memory is to be known of tensors, and nobody looks at operators.

    To go round the dispatcher then makes the quickstart's step 2 % shorter.
    """
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.peek_interpreter_stack() is None
        and _PLAIN.issuperset(map(type, x))
        and all(map(torch._C._has_storage, x))
    )


class _Wkv7(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, way: Kernels | _Operators, steps: Steps, *x: Tensor) -> tuple[Tensor, Tensor]:
        y, sT, *kept = way.forward_for_backward(x, steps)
        if steps is not None:  # the second part begins with it
            kept.append(sT)
        ctx.save_for_backward(*x, *kept)
        ctx.way, ctx.steps = way, steps
        ctx.set_materialize_grads(False)
        return y, sT

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dsT: Tensor | None) -> tuple[Tensor | None, ...]:
        # the wrapper that refuses to differentiate twice takes a tenth of a short sequence's backward pass
        return (_gradients_once if torch.is_grad_enabled() else _gradients)(ctx, dy, dsT)


def _gradients(ctx: Any, dy: Tensor | None, dsT: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # which may have to be computed first, by autograd's leave
    dy = torch.zeros_like(saved[0]) if dy is None else dy
    given = (*saved, dy) if dsT is None else (*saved, dy, dsT)
    way = ctx.way if _are_plain(*given) else _OPERATORS
    sT = None if ctx.steps is None else saved[9]
    return None, None, *way.backward(saved[:9], dy, dsT, sT=sT, steps=ctx.steps)


_gradients_once = once_differentiable(_gradients)


def _with_autograd(way: Kernels | _Operators, x: Sequence[Tensor], steps: Steps) -> tuple[Tensor, Tensor]:
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in x):
        return _Wkv7.apply(way, steps, *x)  # type: ignore[no-any-return, no-untyped-call]
    return way.forward(x, steps)


_library.impl(
    "wkv7_compiled",
    _on_tensors(lambda x, steps=None: _with_autograd(_OPERATORS, x, steps), 7),
    "Autograd",
)
