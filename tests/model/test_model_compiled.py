"""The CPU kernel as an operator of torch: what it computes is in `test_model_kernels`."""

import os
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from model_samples import in_two_parts, wkv_inputs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from model.errors import KernelError
from model.kernels import available_backends, build, wkv7

if "compiled" not in available_backends():
    pytest.skip("backend compiled is not available on this machine", allow_module_level=True)

HEAD_SIZE = 16


def contiguous() -> list[Tensor]:
    return [x.float() for x in wkv_inputs(2, 70, 2, HEAD_SIZE)]


def short() -> list[Tensor]:
    """No state but s0 is kept for the backward pass."""
    return [x.float() for x in wkv_inputs(2, 37, 2, HEAD_SIZE)]


def scattered() -> list[Tensor]:
    """Nothing that the kernel could read as it lies."""
    *inputs, s0 = contiguous()
    return [*torch.stack(inputs, dim=-1).unbind(-1), s0.mT.contiguous().mT]


LAYOUTS = pytest.mark.parametrize("make", [contiguous, short, scattered])


def leaves_of(inputs: list[Tensor]) -> list[Tensor]:
    return [x.detach().requires_grad_() for x in inputs]


def results(leaves: list[Tensor], y: Tensor, sT: Tensor) -> list[Tensor]:
    return [y.detach(), sT.detach(), *torch.autograd.grad([y, sT], leaves, [y.detach(), sT.detach()])]


class Recorded(TorchDispatchMode):
    """The operators of ours that were run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "fsq":
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@LAYOUTS
@pytest.mark.parametrize("with_gradients", [True, False])
def test_operator__is_as_torch_wants_it(make: Any, with_gradients: bool) -> None:
    inputs = [x.detach().requires_grad_(with_gradients) for x in make()]
    outcome = torch.library.opcheck(torch.ops.fsq.wkv7_compiled.default, tuple(inputs))
    assert set(outcome.values()) == {"SUCCESS"}


@LAYOUTS
def test_operator__parts_are_as_torch_wants_them(make: Any) -> None:
    inputs = tuple(make())
    _, sT, u, checkpoints = torch.ops.fsq.wkv7_compiled_for_backward(*inputs)
    of_outputs = torch.randn_like(inputs[0]), torch.randn_like(inputs[6])
    torch.library.opcheck(torch.ops.fsq.wkv7_compiled_for_backward.default, inputs)
    backward = torch.ops.fsq.wkv7_compiled_backward.default
    torch.library.opcheck(backward, (*inputs, u, checkpoints, sT, *of_outputs))
    torch.library.opcheck(backward, (*inputs, u, checkpoints, None, of_outputs[0], None))


@LAYOUTS
def test_operator__same_bits_however_tensors_lie(make: Any) -> None:
    there, dense = leaves_of(make()), leaves_of([x.contiguous() for x in make()])
    found = results(there, *wkv7(*there, backend="compiled"))
    expected = results(dense, *wkv7(*dense, backend="compiled"))
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.parametrize("needs_gradient", [True, False])
def test_operator__keeps_nothing_that_no_backward_pass_needs(needs_gradient: bool) -> None:
    inputs = contiguous()
    inputs[6].requires_grad_(needs_gradient)
    with Recorded() as recorded:
        y, _ = wkv7(*inputs, backend="compiled")
    assert y.requires_grad == needs_gradient
    kept = "fsq::wkv7_compiled_for_backward" if needs_gradient else "fsq::wkv7_compiled"
    assert recorded.names == [kept]
    with Recorded() as recorded, torch.no_grad():
        wkv7(*inputs, backend="compiled")
    assert recorded.names == ["fsq::wkv7_compiled"]


def test_operator__parts_need_the_state_between() -> None:
    inputs = [x.float() for x in in_two_parts(2, (30, 40), 2, HEAD_SIZE)]
    kept = torch.ops.fsq.wkv7_compiled_for_backward(*inputs, steps=(30, 40))
    backward = torch.ops.fsq.wkv7_compiled_backward
    with pytest.raises(KernelError, match="the state between"):
        backward(*inputs, *kept[2:], None, kept[0], None, steps=(30, 40))


def test_operator__keeps_inputs_where_they_lie() -> None:
    saved: list[Tensor] = []
    leaves = leaves_of(contiguous())

    def keep(x: Tensor) -> Tensor:
        saved.append(x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        wkv7(*leaves, backend="compiled")
    *inputs, u, checkpoints = saved
    assert [x.data_ptr() for x in inputs] == [x.data_ptr() for x in leaves]
    assert u.shape == leaves[0].shape
    assert checkpoints.shape == (4, HEAD_SIZE, HEAD_SIZE)  # before token 64; s0 is before token 0


@pytest.mark.parametrize("tokens", [64, 70, 128])
@pytest.mark.parametrize(("heads", "head_size"), [(1, 16), (4, 16), (5, 16), (17, 16), (5, 128)])
def test_operator__each_head_is_by_itself_whatever_the_number_of_threads(
    heads: int, head_size: int, tokens: int
) -> None:
    """Heads are taken in groups, as many as the threads ask for."""
    leaves = leaves_of([x.float() for x in wkv_inputs(2, tokens, heads, head_size)])
    alone = []
    for head in range(heads):
        of_head = [x[:, :, head : head + 1] for x in leaves[:6]] + [leaves[6][:, head : head + 1]]
        of_head = leaves_of(of_head)
        alone.append(results(of_head, *wkv7(*of_head, backend="compiled")))
    per_token = (0, *range(2, 8))  # among the results; the others are states
    expected = [
        torch.cat(parts, dim=2 if n in per_token else 1) for n, parts in enumerate(zip(*alone, strict=True))
    ]
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            found = results(leaves, *wkv7(*leaves, backend="compiled"))
            assert all(map(torch.equal, found, expected)), count
    finally:
        torch.set_num_threads(threads)


def test_operator__large_results_are_as_small_ones() -> None:
    """Those are written past the cache."""
    leaves = leaves_of([x.float() for x in wkv_inputs(1, 1100, 8, 64)])
    found = results(leaves, *wkv7(*leaves, backend="compiled"))
    for heads in (slice(0, 4), slice(4, 8)):
        half = leaves_of([*(x[:, :, heads] for x in leaves[:6]), leaves[6][:, heads]])
        for whole, part in zip(found, results(half, *wkv7(*half, backend="compiled")), strict=True):
            assert torch.equal(whole[:, heads] if whole.shape[1] == 8 else whole[:, :, heads], part)


@pytest.mark.parametrize("make", [contiguous, short])
def test_operator__an_output_that_nobody_uses_has_no_gradient(make: Any) -> None:
    leaves = leaves_of(make())
    for used in (0, 1):
        outputs = wkv7(*leaves, backend="compiled")
        others = wkv7(*leaves, backend="compiled")
        of_outputs = [torch.zeros_like(x) for x in others]
        of_outputs[used] = outputs[used].detach()
        found = torch.autograd.grad(outputs[used], leaves, of_outputs[used])
        assert all(map(torch.equal, found, torch.autograd.grad(others, leaves, of_outputs)))


@pytest.mark.parametrize(("B", "T", "H"), [(0, 5, 2), (2, 0, 2), (2, 5, 0)])
def test_operator__nothing_to_compute(B: int, T: int, H: int) -> None:
    leaves = leaves_of([*(torch.zeros(B, T, H, HEAD_SIZE) for _ in range(6)), torch.ones(B, H, 16, 16)])
    y, sT = torch.ops.fsq.wkv7_compiled(*leaves)
    assert torch.equal(sT, leaves[6])
    gradients = torch.autograd.grad(y, leaves, y.detach(), retain_graph=True)
    assert not gradients[6].any()
    gradients = torch.autograd.grad([y, sT], leaves, [y.detach(), sT.detach()])
    assert all(x.shape == leaf.shape for x, leaf in zip(gradients, leaves, strict=True))
    assert torch.equal(gradients[6], leaves[6])


def test_operator__saved_tensors_may_be_elsewhere() -> None:
    leaves = leaves_of(contiguous())
    expected = results(leaves, *wkv7(*leaves, backend="compiled"))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.double(), lambda x: x.float()):
        outputs = wkv7(*leaves, backend="compiled")
    assert all(torch.equal(x, y) for x, y in zip(results(leaves, *outputs), expected, strict=True))


def test_operator__under_activation_checkpointing() -> None:
    leaves = leaves_of(contiguous())
    expected = results(leaves, *wkv7(*leaves, backend="compiled"))
    outputs = checkpoint(lambda *x: wkv7(*x, backend="compiled"), *leaves, use_reentrant=False)
    assert all(torch.equal(x, y) for x, y in zip(results(leaves, *outputs), expected, strict=True))


def test_operator__the_head_size_picks_the_library() -> None:
    for head_size in (4, 8, HEAD_SIZE):
        inputs = [x.float() for x in wkv_inputs(1, 3, 1, head_size)]
        y, sT = torch.ops.fsq.wkv7_compiled(*inputs)
        expected_y, expected_sT = wkv7(*inputs, backend="reference")
        assert torch.allclose(y, expected_y, atol=1e-5)
        assert torch.allclose(sT, expected_sT, atol=1e-5)


def test_operator__is_not_differentiated_twice() -> None:
    leaves = leaves_of(contiguous())
    y, _ = wkv7(*leaves, backend="compiled")
    (gradient,) = torch.autograd.grad(y.square().sum(), leaves[0], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_operator__has_no_forward_mode() -> None:
    """Nor does it pretend to have it, with a derivative of zero."""
    r, *others = contiguous()
    with pytest.raises(KernelError, match="no forward-mode derivative"):
        torch.func.jvp(lambda x: wkv7(x, *others, backend="compiled")[0], (r,), (r,))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_operator__under_vmap_has_gradients_of_what_is_outside() -> None:
    scale = torch.ones(HEAD_SIZE, requires_grad=True)
    batches = [torch.stack([x, 0.9 * x]) for x in short()]

    def y_of(r: Tensor, *others: Tensor) -> Tensor:
        return wkv7(r * scale, *others, backend="compiled")[0]

    (found,) = torch.autograd.grad(torch.func.vmap(y_of)(*batches).square().sum(), scale)
    one_by_one = sum(y_of(*x).square().sum() for x in zip(*batches, strict=True))
    (expected,) = torch.autograd.grad(one_by_one, scale)
    assert torch.allclose(found, expected, rtol=1e-4)


def test_operator__takes_what_is_negated_where_it_is_read() -> None:
    """As torch has the imaginary part of a conjugate: its memory is not what it says."""
    inputs = contiguous()
    y, sT = wkv7(*inputs, backend="compiled")
    negated = [torch._neg_view(-x) for x in inputs]
    assert all(x.is_neg() for x in negated)
    leaves, same = leaves_of(inputs), leaves_of(negated)
    assert all(map(torch.equal, wkv7(*negated, backend="compiled"), (y, sT)))
    for which in (leaves, same):
        torch.autograd.backward(wkv7(*which, backend="compiled"), [torch._neg_view(-y), torch._neg_view(-sT)])
    expected = torch.autograd.grad(wkv7(*(again := leaves_of(inputs)), backend="compiled"), again, [y, sT])
    for x, negative, gradient in zip(leaves, same, expected, strict=True):
        assert x.grad is not None
        assert negative.grad is not None
        assert torch.equal(x.grad, gradient)
        assert torch.equal(negative.grad, gradient)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_operator__takes_gradients_in_batches() -> None:
    leaves = leaves_of(short())
    y, _ = wkv7(*leaves, backend="compiled")
    of_y = torch.randn(3, *y.shape)
    batched = torch.autograd.grad(y, leaves, of_y, is_grads_batched=True, retain_graph=True)
    for n, gradient in enumerate(of_y):
        for found, expected in zip(
            batched, torch.autograd.grad(y, leaves, gradient, retain_graph=True), strict=True
        ):
            assert torch.equal(found[n], expected)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_operator__is_seen_by_whoever_looks_at_operators(where: str) -> None:
    leaves = leaves_of(contiguous())
    with Recorded() if where == "forward" else nullcontext() as forward:
        y, _ = wkv7(*leaves, backend="compiled")
    with Recorded() if where == "backward" else nullcontext() as backward:
        y.sum().backward()
    names = [one.names for one in (forward, backward) if one is not None]
    assert names == [
        ["fsq::wkv7_compiled_for_backward" if where == "forward" else "fsq::wkv7_compiled_backward"]
    ]


STEPS = (70, 137)


def two_parts() -> list[Tensor]:
    """Both keep states for the backward pass."""
    return [x.float() for x in in_two_parts(2, STEPS, 2, HEAD_SIZE)]


def test_operator__in_two_parts_is_as_torch_wants_it() -> None:
    inputs = two_parts()
    leaves = tuple(leaves_of(inputs))
    torch.library.opcheck(torch.ops.fsq.wkv7_compiled.default, (*leaves, STEPS))
    torch.library.opcheck(torch.ops.fsq.wkv7_compiled_for_backward.default, (*inputs, STEPS))
    y, sT, u, checkpoints = torch.ops.fsq.wkv7_compiled_for_backward(*inputs, STEPS)
    backward = torch.ops.fsq.wkv7_compiled_backward.default
    assert torch.equal(
        backward(*inputs, u, checkpoints, sT.mT.contiguous().mT, y, sT, STEPS)[0],
        backward(*inputs, u, checkpoints, sT, y, sT, STEPS)[0],
    )
    for of_sT in (None, torch.randn_like(sT)):
        torch.library.opcheck(backward, (*inputs, u, checkpoints, sT, torch.randn_like(y), of_sT, STEPS))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_operator__in_two_parts_same_bits_by_whatever_way() -> None:
    leaves = leaves_of(two_parts())
    expected = results(leaves, *wkv7(*leaves, backend="compiled", steps=STEPS))
    with Recorded() as recorded:
        y, sT = wkv7(*leaves, backend="compiled", steps=STEPS)
        found = results(leaves, y, sT)
    assert recorded.names == ["fsq::wkv7_compiled_for_backward", "fsq::wkv7_compiled_backward"]
    assert all(map(torch.equal, found, expected))
    y, sT = wkv7(*leaves, backend="compiled", steps=STEPS)
    given = [torch.stack([x.detach(), 0 * x.detach()]) for x in (y, sT)]
    batched = torch.autograd.grad([y, sT], leaves, given, is_grads_batched=True)
    assert all(map(torch.equal, [x[0] for x in batched], expected[2:]))
    with torch.no_grad():
        assert all(map(torch.equal, wkv7(*leaves, backend="compiled", steps=STEPS), expected[:2]))


def test_operator__does_not_load_the_compiler_of_torch() -> None:
    """`torch.library.custom_op` would, at the first call, and take two seconds for it."""
    program = (
        "import sys, torch; from model.kernels import compiled; x = torch.ones(1, 3, 1, 16, requires_grad=True);"
        "y, _ = compiled.wkv7(x, -x, x, x, x, x, torch.zeros(1, 1, 16, 16)); y.sum().backward();"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("compiler", "run", "head_size"),
    [
        (["cc", "-march=native"], [], 16),
        (["cc", "-march=native", "-DLARGE=0"], [], 64),
        (["cc", "-march=native"], [], 24),
        (["cc"], [], 64),
        (["cc", "-DLARGE=0"], [], 64),
        (["cc"], [], 12),
        (["aarch64-linux-gnu-gcc", "-static"], ["qemu-aarch64"], 64),
        (["aarch64-linux-gnu-gcc", "-static"], ["qemu-aarch64"], 4),
    ],
    ids=[
        "native",
        "native, past the cache",
        "native, half a line",
        "plain",
        "plain, past the cache",
        "plain, odd vectors",
        "ARM",
        "ARM, one vector",
    ],
)
def test_source__is_right_without_torch(
    compiler: list[str], run: list[str], head_size: int, tmp_path: Path
) -> None:
    """On ARM in an emulator: `apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user`."""
    for tool in (compiler[0], *run):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    program = tmp_path / "check"
    source, headers = Path(__file__).with_name("wkv7_check.c"), build._SOURCE.parent
    flags = ["-O2", "-fopenmp", f"-DN={head_size}", f"-I{headers}", "-Wall", "-Werror"]
    subprocess.run([*compiler, *flags, str(source), "-o", str(program), "-lm"], check=True)
    subprocess.run([*run, str(program)], check=True, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
