"""The self-test of the WKV-7 kernels: every backend against the recurrence in float64, gradients included."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from worker.diagnosis.finding import Finding

if TYPE_CHECKING:
    from torch import Tensor

    from model.kernels.selection import Choice

    Results = dict[str, Tensor]  # y, sT and the gradients d/dr ... d/ds0

HEAD_SIZE = 64  # of the released models
LARGEST_ERROR = 1e-4  # of the largest exact value
_NAMES = ("r", "w", "k", "v", "a", "b", "s0")


def examine() -> Iterator[Finding]:
    """Tests what works on the CPU, and on the CUDA device where there is one."""
    import torch

    from model import available_backends
    from model.kernels.selection import choose

    with as_in_training():
        for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
            choice = choose(device, torch.float32, HEAD_SIZE)
            yield self_test(f"kernels on {device}", device, available_backends(), choice)
        yield compiled_kernels()


@contextmanager
def as_in_training() -> Iterator[None]:
    """Torch computes reproducibly or not at all, as it does for jobs."""
    import torch

    from worker.child.reproducible import be_reproducible
    from worker.process import environment

    mode = torch.get_deterministic_debug_mode()
    fills = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    workspace = "CUBLAS_WORKSPACE_CONFIG"  # without it CUDA's matrix products refuse then
    os.environ.setdefault(workspace, environment()[workspace])
    be_reproducible()
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        torch.utils.deterministic.fill_uninitialized_memory = fills  # type: ignore[attr-defined]


def self_test(what: str, device: str, backends: tuple[str, ...], choice: Choice) -> Finding:
    """Compares every backend that can compute on the device; `choice` is the one that jobs will use."""
    from model import KernelError

    inputs = sample()
    exact = results(_exact, inputs)
    errors: dict[str, tuple[float, str]] = {}
    for backend in backends:
        try:
            computed = results(_on(device, backend), inputs)
        except KernelError as error:
            if backend == choice.backend:
                return Finding.problem(what, str(error), "jobs cannot run on this device: report this")
            continue
        except RuntimeError as error:  # what torch raises when a device or its driver fails
            said = f"{backend} failed: {type(error).__name__}: {' '.join(str(error).split())}"
            return Finding.problem(
                what, said, "jobs cannot run on this device: restart the machine, or report this"
            )
        errors[backend] = largest_error(computed, exact)
    return verdict(what, errors, choice)


def verdict(what: str, errors: dict[str, tuple[float, str]], choice: Choice) -> Finding:
    """What the largest error of each backend, and the result that has it, mean."""
    shown = ", ".join(f"{backend} {error:.0e}" for backend, (error, _) in errors.items())
    found = (
        f"largest relative error of y, state and gradients: {shown}; {choice.backend} is used: {choice.why}"
    )
    wrong = [
        f"{name} of {backend} is wrong" for backend, (error, name) in errors.items() if error >= LARGEST_ERROR
    ]
    if wrong:
        advice = "do not trust results of this machine; report the backend"
        return Finding.problem(what, "; ".join([found, *wrong]), advice)
    return Finding.fine(what, found)


def sample() -> list[Tensor]:
    """A small problem with a state to start from, in float64."""
    import torch

    B, T, H, N = 2, 40, 2, HEAD_SIZE
    generator = torch.Generator().manual_seed(0)
    r, k, v = (torch.randn(B, T, H, N, generator=generator, dtype=torch.float64) for _ in range(3))
    w = -0.6 * torch.rand(B, T, H, N, generator=generator, dtype=torch.float64)
    a = torch.nn.functional.normalize(
        torch.randn(B, T, H, N, generator=generator, dtype=torch.float64), dim=-1
    )
    s0 = torch.randn(B, H, N, N, generator=generator, dtype=torch.float64)
    return [r, w, k, v, -a, 0.5 * a, s0]


def results(compute: Callable[..., tuple[Tensor, Tensor]], inputs: list[Tensor]) -> Results:
    """Outputs and final state, and the gradients of a loss in which both count."""
    import torch

    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    y, sT = compute(*leaves)
    gradients = torch.autograd.grad(y.square().mean() + sT.square().mean(), leaves)
    named = zip(
        ("y", "the state", *(f"the gradient of {name}" for name in _NAMES)), (y, sT, *gradients), strict=True
    )
    return {name: x.detach().double().cpu() for name, x in named}


def largest_error(computed: Results, exact: Results) -> tuple[float, str]:
    """The largest error of any result, relative to its largest value, and which result has it."""
    errors = {
        name: ((computed[name] - exact[name]).abs().max() / exact[name].abs().max()).item() for name in exact
    }
    return max((float("inf") if error != error else error, name) for name, error in errors.items())


def _exact(*x: Tensor) -> tuple[Tensor, Tensor]:
    from model import wkv7

    r, w, k, v, a, b, s0 = x
    return wkv7(r, w, k, v, a, b, s0, backend="reference")


def _on(device: str, backend: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """The backend in float32 on a device; gradients flow back to where the inputs came from."""
    from model import wkv7

    def compute(*x: Tensor) -> tuple[Tensor, Tensor]:
        r, w, k, v, a, b, s0 = (tensor.float().to(device) for tensor in x)
        return wkv7(r, w, k, v, a, b, s0, backend=backend)

    return compute


def compiled_kernels() -> Finding:
    """Whether the fast kernels for the CPU can be built; right results come without them, only later."""
    from model import KernelError, wkv7

    r, w, k, v, a, b, s0 = (x.float() for x in sample())
    try:
        wkv7(r, w, k, v, a, b, s0, backend="compiled")
    except KernelError as error:
        return Finding.fine(
            "compiled kernels",
            f"not available: {error}",
            "jobs on the CPU take several times as long without them",
        )
    return Finding.fine("compiled kernels", "available")
