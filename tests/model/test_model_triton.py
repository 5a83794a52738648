"""The Triton backend against the recurrence in float64: on a GPU, or in Triton's interpreter.

The interpreter must be asked for before Triton is imported, so it has a process of its own:
`test_model_triton_without_gpu` runs this file there.
"""

import functools
import inspect
import os
from typing import Any

import pytest
import torch
from model_samples import gradients, in_two_parts, relative_error, two_passes, wkv_inputs
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from model.errors import KernelError
from model.kernels import available_backends, wkv7

if "triton" not in available_backends():
    pytest.skip("neither a GPU nor TRITON_INTERPRET=1", allow_module_level=True)

from model.kernels import on_gpu, triton_operator

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if INTERPRETED:
    from triton.language.core import is_builtin
    from triton.runtime import interpreter

    @functools.cache
    def builtins_of(part: Any) -> list[str]:
        return [name for name, member in inspect.getmembers(part) if is_builtin(member)]

    def patch_builtin(part: Any, builder: Any, scope: Any) -> None:
        for name in builtins_of(part):
            if is_builtin(member := getattr(part, name)):
                interpreter._patch_attr(part, name, member, builder, scope)

    # Triton's own goes through all members of the language at every call of a function: half of the tests' time.
    interpreter._patch_builtin = patch_builtin

DEVICE = "cpu" if INTERPRETED else "cuda"
# Scores of later tokens with earlier ones are computed, overflow, and are not used: NumPy warns of that.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")

NAMES = ("y", "sT", "dr", "dw", "dk", "dv", "da", "db", "ds0")
KINDS = ("random", "slow decay", "repeated keys", "strongest decay")
TOLERANCE = 5e-6  # float32 and three products of TF32; the largest error seen in the interpreter is 8e-7
SHAPES = [(1, 40, 1, 32), (2, 1000, 3, 64), (1, 4096, 2, 64), (1, 300, 2, 16), (1, 300, 1, 128)]
SHAPES = SHAPES[:1] if INTERPRETED else SHAPES


def results(inputs: list[Tensor], backend: str) -> list[Tensor]:
    """y, sT and all gradients of a loss that depends on both."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    y, sT = wkv7(*leaves, backend=backend)
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in (y, sT)]
    loss = (y * weights[0]).sum() + (sT * weights[1]).sum()
    return [x.detach().cpu() for x in (y, sT, *torch.autograd.grad(loss, leaves))]


def on_device(inputs: list[Tensor], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [x.to(DEVICE, dtype) for x in inputs]


@functools.cache
def inputs_and_results(B: int, T: int, H: int, N: int, kind: str) -> tuple[list[Tensor], list[Tensor]]:
    inputs = wkv_inputs(B, T, H, N, kind=kind)
    return inputs, results(inputs, "reference")


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    errors = {name: relative_error(x, y) for name, x, y in zip(NAMES, found, expected, strict=True)}
    assert all(error < tolerance for error in errors.values()), errors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("B", "T", "H", "N"), SHAPES)
def test_triton__agrees_with_the_reference(B: int, T: int, H: int, N: int, kind: str) -> None:
    inputs, expected = inputs_and_results(B, T, H, N, kind)
    assert_same(results(on_device(inputs), "triton"), expected, TOLERANCE)


@pytest.mark.parametrize(
    ("B", "T", "H", "N", "kind"),
    [(1, 67, 1, 64, "repeated keys"), (1, 5, 2, 32, "random"), (1, 64, 1, 16, "random")],
    ids=["several spans", "less than a chunk", "a whole span"],
)
def test_triton__agrees_for_any_length(B: int, T: int, H: int, N: int, kind: str) -> None:
    inputs, expected = inputs_and_results(B, T, H, N, kind)
    assert_same(results(on_device(inputs), "triton"), expected, TOLERANCE)


def test_triton__decays_that_no_model_has() -> None:
    """Nothing overflows; the gradient of w, which all but vanishes, is exact as far as its largest term is."""
    inputs, expected = inputs_and_results(1, 40, 1, 16, "beyond any model")
    found = results(on_device(inputs), "triton")
    dw, exact = found.pop(3), expected[3]
    others = expected[:3] + expected[4:]
    assert all(relative_error(x, y) < TOLERANCE for x, y in zip(found, others, strict=True))
    assert float((dw - exact).abs().max()) < TOLERANCE * float((inputs[0] * expected[2]).abs().max())


def test_triton__bfloat16_as_it_is() -> None:
    inputs = [x.bfloat16() for x in wkv_inputs(1, 20, 1, 16)]
    inputs[1], inputs[6] = inputs[1].float(), inputs[6].float()  # as the model has them
    expected = results([x.double() for x in inputs], "reference")
    found = results([x.to(DEVICE) for x in inputs], "triton")
    assert [x.dtype for x in found] == [torch.float32, torch.float32, *(x.dtype for x in inputs)]
    one_bit = 2**-7  # of bfloat16: a GPU rounds to the nearest, the interpreter cuts off
    assert all(
        relative_error(x, y) < (TOLERANCE if x.dtype == torch.float32 else one_bit)
        for x, y in zip(found, expected, strict=True)
    )


def test_triton__two_passes_are_one() -> None:
    inputs = on_device(wkv_inputs(1, 50, 1, 32))
    whole, last = wkv7(*inputs, backend="triton")
    first, state = wkv7(*(x[:, :23] for x in inputs[:6]), inputs[6], backend="triton")
    second, end = wkv7(*(x[:, 23:] for x in inputs[:6]), state, backend="triton")
    assert relative_error(torch.cat([first, second], dim=1), whole) < TOLERANCE
    assert relative_error(end, last) < TOLERANCE


def test_triton__strided_inputs_and_no_state() -> None:
    packed = torch.stack(on_device(wkv_inputs(2, 5, 1, 16)[:6]), dim=3)
    scattered = [packed[:, :, :, i] for i in range(6)]
    y, sT = wkv7(*scattered, backend="triton")
    zero = torch.zeros(2, 1, 16, 16, device=DEVICE)
    expected_y, expected_sT = wkv7(*(x.contiguous() for x in scattered), zero, backend="triton")
    assert torch.equal(y, expected_y)
    assert torch.equal(sT, expected_sT)


def test_triton__more_heads_than_a_launch_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = [x.requires_grad_() for x in on_device(wkv_inputs(3, 5, 2, 16))]

    def results() -> list[Tensor]:
        y, sT = wkv7(*leaves, backend="triton")
        return [y, sT, *torch.autograd.grad([y.sum() + sT.sum()], leaves)]

    at_once = results()
    monkeypatch.setattr(on_gpu, "MOST_HEADS", 4)
    assert all(map(torch.equal, at_once, results()))


@pytest.mark.parametrize("most_heads", [on_gpu.MOST_HEADS, 2])
@pytest.mark.parametrize("of", ["both", "y", "state"])
def test_triton__sequences_in_two_parts(of: str, most_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_gpu, "MOST_HEADS", most_heads)
    steps = (70, 5)
    exact = [x.requires_grad_() for x in in_two_parts(2, steps, 2, 16)]
    leaves = [x.requires_grad_() for x in on_device([x.detach() for x in exact])]
    found, expected = wkv7(*leaves, backend="triton", steps=steps), two_passes(exact, steps)
    of_found, of_expected = gradients(leaves, found, of), gradients(exact, expected, of)
    for x, y in zip((*found, *of_found), (*expected, *of_expected), strict=True):
        assert float((x.detach().cpu() - y.detach()).abs().max()) <= TOLERANCE * float(y.detach().abs().max())


@pytest.mark.parametrize("of", ["y", "sT"])
def test_triton__gradient_of_one_output_alone(of: str) -> None:
    found, expected = (
        torch.autograd.grad(
            wkv7(*leaves, backend=backend)[of == "sT"].sum(),
            leaves,
            materialize_grads=True,
            allow_unused=True,
        )
        for backend, leaves in (
            ("triton", [x.requires_grad_() for x in on_device(wkv_inputs(1, 20, 1, 16))]),
            ("reference", [x.requires_grad_() for x in wkv_inputs(1, 20, 1, 16)]),
        )
    )
    assert found[0].any() == (of == "y")  # sT does not depend on r
    for x, y in zip(found, expected, strict=True):
        assert float((x.cpu() - y).abs().max()) <= TOLERANCE * float(y.abs().max())


def test_triton__same_bits_however_time_is_parted(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = on_device(wkv_inputs(1, 2 * triton_operator.SPAN + 5, 1, 16))
    whole = results(inputs, "triton")
    monkeypatch.setattr(triton_operator, "LARGEST_STATES", 2 * triton_operator.CHUNKS * 16 * 16 * 4)
    assert [part.spans for part in triton_operator.Stretch.parts(inputs[0])] == [2, 1]
    apart = results(inputs, "triton")
    assert all(torch.equal(x, y) for x, y in zip(whole, apart, strict=True))


@pytest.mark.parametrize(
    ("spans", "at_once", "expected"),
    [
        (3, 3, [(0, 3)]),
        (3, 2, [(1, 2), (0, 1)]),
        (3, 0, [(2, 1), (1, 1), (0, 1)]),
        (10, 4, [(6, 4), (3, 3), (0, 3)]),
    ],
)
def test_stretch__parts_from_the_last_to_the_first(
    spans: int, at_once: int, expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    B, H, N = 2, 3, 16
    of_a_span = B * H * triton_operator.CHUNKS * N * N * 4
    monkeypatch.setattr(triton_operator, "LARGEST_STATES", at_once * of_a_span)
    parts = triton_operator.Stretch.parts(torch.empty(B, spans * triton_operator.SPAN, H, N))
    assert [(stretch.first, stretch.spans) for stretch in parts] == expected


def test_triton__same_bits_when_activations_are_recomputed() -> None:
    def gradients(*, recompute: bool) -> tuple[Tensor, ...]:
        leaves = [x.requires_grad_() for x in on_device(wkv_inputs(1, 20, 1, 16))]
        compute = functools.partial(wkv7, backend="triton")
        y, sT = checkpoint(compute, *leaves, use_reentrant=False) if recompute else compute(*leaves)
        return torch.autograd.grad(y.square().sum() + sT.sum(), leaves)

    pairs = zip(gradients(recompute=False), gradients(recompute=True), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)


def test_triton__is_an_operator_as_torch_wants_it() -> None:
    inputs = [x.requires_grad_() for x in on_device(wkv_inputs(1, 3, 1, 16))]
    torch.library.opcheck(triton_operator.wkv7, inputs)
    inputs = [x.float().requires_grad_() for x in on_device(in_two_parts(1, (3, 2), 1, 16))]
    torch.library.opcheck(triton_operator.wkv7, [*inputs, (3, 2)])


def test_triton__refuses_what_it_cannot_compute() -> None:
    with pytest.raises(KernelError, match=f"cannot compute torch.float64 on {DEVICE}"):
        wkv7(*on_device(wkv_inputs(1, 4, 1, 16), torch.float64), backend="triton")
    with pytest.raises(KernelError, match=r"head size 24: expected one of \(16, 32, 64, 128\)"):
        wkv7(*on_device(wkv_inputs(1, 4, 1, 24)), backend="triton")
