import functools
import logging
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_samples import gradients, in_two_parts, relative_error, two_passes, wkv_inputs
from torch import Tensor

from model.errors import KernelError, ShapeError
from model.kernels import available_backends, build, compiled, default_backend, selection, wkv7

NAMES = ("y", "sT", "dr", "dw", "dk", "dv", "da", "db", "ds0")
KINDS = ("random", "slow decay", "repeated keys", "strongest decay", "beyond any model")
FAST = ("chunked", "compiled")


def results(inputs: list[Tensor], backend: str, dtype: torch.dtype) -> list[Tensor]:
    """y, sT and all gradients of a loss that depends on both."""
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    y, sT = wkv7(*leaves, backend=backend)
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(dtype) for x in (y, sT)]
    loss = (y * weights[0]).sum() + (sT * weights[1]).sum()
    return [y.detach(), sT.detach(), *torch.autograd.grad(loss, leaves)]


@functools.cache
def expected_results(B: int, T: int, H: int, N: int, kind: str, seed: int = 0) -> list[Tensor]:
    return results(wkv_inputs(B, T, H, N, kind=kind, seed=seed), "reference", torch.float64)


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for name, x, y in zip(NAMES, found, expected, strict=False):
        assert relative_error(x, y) < tolerance, name


@pytest.fixture(params=FAST)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name not in available_backends():
        pytest.skip(f"backend {name} is not available on this machine")
    return name


def plain(inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The definition for one sequence and head, with loops over the state and nothing vectorised."""
    r, w, k, v, a, b, s0 = (x.tolist() for x in inputs)
    N = len(s0)
    S, outputs = s0, []
    for t in range(len(r)):
        u = [sum(S[i][j] * a[t][j] for j in range(N)) for i in range(N)]
        decay = torch.tensor(w[t], dtype=torch.float64).exp().tolist()
        S = [[S[i][j] * decay[j] + u[i] * b[t][j] + v[t][i] * k[t][j] for j in range(N)] for i in range(N)]
        outputs.append([sum(S[i][j] * r[t][j] for j in range(N)) for i in range(N)])
    return torch.tensor(outputs), torch.tensor(S)


def test_reference__is_the_definition() -> None:
    inputs = wkv_inputs(1, 5, 1, 4)
    y, sT = wkv7(*inputs, backend="reference")
    expected_y, expected_sT = plain([*(x[0, :, 0] for x in inputs[:6]), inputs[6][0, 0]])
    assert relative_error(y[0, :, 0], expected_y) < 1e-6
    assert relative_error(sT[0, 0], expected_sT) < 1e-6


def test_reference__gradients_are_those_of_finite_differences() -> None:
    leaves = [x.requires_grad_() for x in wkv_inputs(1, 3, 1, 4)]
    assert torch.autograd.gradcheck(lambda *x: wkv7(*x, backend="reference"), leaves)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("B", "T", "H", "N"), [(2, 77, 2, 64), (1, 1, 1, 64), (1, 300, 2, 32)])
def test_wkv7__agrees_with_the_reference(backend: str, kind: str, B: int, T: int, H: int, N: int) -> None:
    inputs = wkv_inputs(B, T, H, N, kind=kind)
    assert_same(results(inputs, backend, torch.float32), expected_results(B, T, H, N, kind), 1e-4)


@pytest.mark.parametrize("kind", ["random", "repeated keys"])
def test_wkv7__stays_exact_over_4096_tokens(backend: str, kind: str) -> None:
    inputs = wkv_inputs(1, 4096, 1, 32, kind=kind)
    assert_same(results(inputs, backend, torch.float32), expected_results(1, 4096, 1, 32, kind), 1e-4)


@settings(max_examples=25)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 70),
    H=st.integers(1, 3),
    N=st.sampled_from([4, 8, 16]),
    seed=st.integers(0, 99),
)
def test_wkv7__agrees_with_the_reference_for_any_size(B: int, T: int, H: int, N: int, seed: int) -> None:
    inputs = wkv_inputs(B, T, H, N, seed=seed)
    expected = results(inputs, "reference", torch.float64)
    for name in set(FAST) & set(available_backends()):
        assert_same(results(inputs, name, torch.float32), expected, 1e-4)


def test_wkv7__no_initial_state_means_zero(backend: str) -> None:
    inputs = [x.float() for x in wkv_inputs(2, 19, 2, 16)]
    without = wkv7(*inputs[:6], backend=backend)
    zero = wkv7(*inputs[:6], torch.zeros_like(inputs[6]), backend=backend)
    assert all(torch.equal(x, y) for x, y in zip(without, zero, strict=True))


def test_wkv7__two_passes_are_one(backend: str) -> None:
    inputs = [x.float() for x in wkv_inputs(2, 50, 2, 32)]
    whole, last = wkv7(*inputs, backend=backend)
    first, state = wkv7(*(x[:, :23] for x in inputs[:6]), inputs[6], backend=backend)
    second, end = wkv7(*(x[:, 23:] for x in inputs[:6]), state, backend=backend)
    assert relative_error(torch.cat([first, second], dim=1), whole) < 1e-5
    assert relative_error(end, last) < 1e-5


@pytest.mark.parametrize("of", ["both", "y", "state"])
@pytest.mark.parametrize("steps", [(5, 3), (64, 70), (130, 70), (130, 1)])
@pytest.mark.parametrize("name", ["reference", *FAST])
def test_wkv7__sequences_in_two_parts(name: str, steps: tuple[int, int], of: str) -> None:
    if name not in available_backends():
        pytest.skip(f"backend {name} is not available on this machine")
    exact = [x.requires_grad_() for x in in_two_parts(3, steps, 2, 16)]
    leaves = [x.detach().float().requires_grad_() for x in exact]
    found, expected = wkv7(*leaves, backend=name, steps=steps), two_passes(exact, steps)
    assert_same([x.detach() for x in found], [x.detach() for x in expected], 1e-5)
    pairs = zip(gradients(leaves, found, of), gradients(exact, expected, of), strict=True)
    for input_, (gradient, exact_gradient) in zip("rwkvabs", pairs, strict=True):
        if input_ == "r" and of == "state":
            assert not gradient.any()
            assert not exact_gradient.any()
        else:
            assert relative_error(gradient, exact_gradient) < 1e-4, input_


def test_wkv7__parts_that_do_not_fit() -> None:
    inputs = in_two_parts(2, (3, 2), 1, 8)
    for steps in ((3, 3), (5, 0), (5,), (3, 1, 1)):
        with pytest.raises(
            ShapeError, match=r"r has shape \(1, 10, 1, 8\): expected \(1, \d+, H, N\) for parts"
        ):
            wkv7(*inputs, steps=steps)
    with pytest.raises(ShapeError, match="s0 with 0 states"):
        wkv7(*inputs[:6], steps=(3, 2))
    with pytest.raises(ShapeError, match=r"s0 has shape \(2, 1, 8, 4\)"):
        wkv7(*inputs[:6], inputs[6][..., :4], steps=(3, 2))


def test_wkv7__takes_tensors_as_they_lie_in_memory(backend: str) -> None:
    packed = torch.stack([x.float() for x in wkv_inputs(2, 21, 2, 16)[:6]], dim=3)
    scattered = [packed[:, :, :, i] for i in range(6)]
    y, sT = wkv7(*scattered, backend=backend)
    expected_y, expected_sT = wkv7(*(x.contiguous() for x in scattered), backend=backend)
    assert relative_error(y, expected_y) < 1e-6
    assert relative_error(sT, expected_sT) < 1e-6


@pytest.mark.parametrize("backend_name", ["reference", "chunked", "compiled"])
def test_wkv7__gradient_of_the_final_state_alone(backend_name: str) -> None:
    if backend_name not in available_backends():
        pytest.skip(f"backend {backend_name} is not available on this machine")
    leaves = [x.float().requires_grad_() for x in wkv_inputs(1, 20, 1, 16)]
    _, sT = wkv7(*leaves, backend=backend_name)
    dr, *others = torch.autograd.grad(sT.sum(), leaves, allow_unused=True)
    assert dr is None or not dr.any()
    assert all(gradient is not None and gradient.any() for gradient in others)


def test_wkv7__no_tokens_leave_the_state(backend: str) -> None:
    inputs = [x.float() for x in wkv_inputs(2, 0, 2, 16)]
    y, sT = wkv7(*inputs, backend=backend)
    assert y.shape == (2, 0, 2, 16)
    assert torch.equal(sT, inputs[6])


def test_wkv7__no_sequences(backend: str) -> None:
    inputs = [x.float().requires_grad_() for x in wkv_inputs(0, 20, 2, 16)]
    y, sT = wkv7(*inputs, backend=backend)
    assert (y.shape, sT.shape) == ((0, 20, 2, 16), (0, 2, 16, 16))
    (y.sum() + sT.sum()).backward()
    assert [x.grad is not None and x.grad.shape == x.shape for x in inputs] == [True] * 7


def test_wkv7__computes_in_float32_whatever_comes_in(backend: str) -> None:
    inputs = [x.bfloat16() for x in wkv_inputs(1, 20, 1, 16)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, sT = wkv7(*inputs, backend=backend)
    expected_y, expected_sT = wkv7(*(x.double() for x in inputs), backend="reference")
    assert y.dtype == sT.dtype == torch.float32
    assert relative_error(y, expected_y) < 1e-6
    assert relative_error(sT, expected_sT) < 1e-6


def test_wkv7__same_bits_every_time_and_for_any_number_of_threads(backend: str) -> None:
    inputs = wkv_inputs(3, 100, 2, 32)
    first = results(inputs, backend, torch.float32)
    again = results(inputs, backend, torch.float32)
    torch.set_num_threads(2)
    try:
        threaded = results(inputs, backend, torch.float32)
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    if backend == "compiled":
        assert all(torch.equal(x, y) for x, y in zip(first, threaded, strict=True))


def test_wkv7__shapes_that_do_not_fit() -> None:
    r, w, k, v, a, b, s0 = wkv_inputs(1, 4, 2, 8)
    with pytest.raises(ShapeError, match=r"k has shape \(1, 3, 2, 8\): expected \(1, 4, 2, 8\)"):
        wkv7(r, w, k[:, :3], v, a, b)
    with pytest.raises(ShapeError, match=r"s0 has shape \(1, 2, 4, 8\)"):
        wkv7(r, w, k, v, a, b, s0[:, :, :4])
    with pytest.raises(ShapeError, match="four dimensions"):
        wkv7(r[0], w, k, v, a, b)


def test_wkv7__unknown_backend() -> None:
    with pytest.raises(KernelError, match="'cuda': expected one of reference, chunked, compiled, triton"):
        wkv7(*wkv_inputs(1, 4, 1, 8), backend="cuda")
    with pytest.raises(KernelError):
        wkv7(*wkv_inputs(0, 4, 1, 8), backend="cuda")


def test_wkv7__compiled_refuses_what_it_cannot_compute() -> None:
    with pytest.raises(KernelError, match="float64 on cpu: expected float32"):
        wkv7(*wkv_inputs(1, 4, 1, 8), backend="compiled")
    for head_size in (6, 132):
        with pytest.raises(
            KernelError, match=f"head size {head_size}: the compiled kernels take multiples of 4"
        ):
            wkv7(*(x.float() for x in wkv_inputs(1, 4, 1, head_size)), backend="compiled")


def test_wkv7__triton_refuses_what_it_cannot_compute() -> None:
    with pytest.raises(KernelError, match="float32 on cpu: expected float32 or bfloat16 on cuda"):
        wkv7(*(x.float() for x in wkv_inputs(1, 4, 1, 16)), backend="triton")


def test_default_backend__follows_what_the_tensors_need() -> None:
    assert default_backend("cpu", torch.float64) == "chunked"
    assert default_backend("cuda", torch.float64) == "chunked"
    assert default_backend("cuda", head_size=24) == "chunked"
    assert default_backend("cuda") == ("triton" if torch.cuda.is_available() else "chunked")
    assert default_backend("cpu") == ("compiled" if "compiled" in available_backends() else "chunked")


@pytest.fixture
def _compiler() -> None:
    """To be asked for before `fresh_build`, in which the question builds the kernels."""
    if "compiled" not in available_backends():
        pytest.skip("backend compiled is not available on this machine")


@pytest.fixture
def fresh_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache directory without kernels, and no memory of earlier builds."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled, "_attempt", compiled._attempt.__wrapped__)
    monkeypatch.setattr(selection, "choose", selection.choose.__wrapped__)
    return tmp_path


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have other vectors")
@pytest.mark.usefixtures("_compiler", "fresh_build")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="no objdump, which comes with compilers")
@pytest.mark.parametrize("flags", [("-mno-avx512f",), ("-mno-avx512f", "-mno-avx")], ids=["AVX2", "SSE"])
def test_compiled__for_narrower_vectors(flags: tuple[str, ...]) -> None:
    """Binaries as smaller processors get them are as right as this one's."""
    narrow = build.library(64, flags)
    compiled._self_test(narrow, 64)
    assert b"zmm" not in subprocess.check_output(["objdump", "-d", narrow._name])


def test_compiled__says_so_where_there_is_no_compiler(
    fresh_build: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with caplog.at_level(logging.WARNING):
        assert default_backend("cpu") == "chunked"
        assert "compiled" not in available_backends()
    assert "no C compiler 'no-such-compiler': install gcc" in caplog.text
    with pytest.raises(KernelError, match="no-such-compiler"):
        wkv7(*(x.float() for x in wkv_inputs(1, 4, 1, 8)), backend="compiled")


def test_compiled__says_so_where_the_compiler_fails(
    fresh_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = fresh_build / "cc"
    compiler.write_text('#!/bin/sh\ntest "$1" = --version && exit 0\necho "out of cheese" >&2; exit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    with pytest.raises(KernelError, match="out of cheese"):
        build.library(64)
    assert not list((fresh_build / "fsq" / "kernels").iterdir())


@pytest.mark.usefixtures("_compiler")
def test_compiled__a_wrong_binary_does_not_pass_its_self_test(
    fresh_build: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = fresh_build / "wkv7.c"
    source.write_text(build._SOURCE.read_text().replace("sum[i][g] += factor", "sum[i][g] -= factor"))
    assert source.read_text() != build._SOURCE.read_text()
    monkeypatch.setattr(build, "_SOURCE", source)
    assert not compiled.is_available(8)
    assert "self-test of the compiled kernels failed" in caplog.text


@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize("size", [0, 5000])
def test_library__damaged_is_built_anew(fresh_build: Path, size: int) -> None:
    """Loading half a file ends the process."""
    build.library(4)
    folder = fresh_build / "fsq" / "kernels"
    (binary,) = folder.iterdir()
    whole = binary.read_bytes()
    binary.unlink()  # not overwritten: it is loaded
    binary.write_bytes(whole[:size])
    build.library(4)
    assert whole in [path.read_bytes() for path in folder.iterdir()]


@pytest.mark.usefixtures("_compiler")
def test_library__a_compiler_with_arguments(fresh_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "env -u NOTHING cc")
    build.library(4)


@pytest.mark.usefixtures("_compiler")
def test_library__is_built_once(fresh_build: Path) -> None:
    build.library(4)
    binaries = list((fresh_build / "fsq" / "kernels").iterdir())
    for binary in binaries:
        os.utime(binary, (1, 1))
    build.library(4)
    assert binaries
    assert all(binary.stat().st_mtime == 1 for binary in (fresh_build / "fsq" / "kernels").iterdir())


def test_wkv7__of_heads_without_size() -> None:
    inputs = [torch.zeros(2, 3, 2, 0)] * 6
    y, sT = wkv7(*inputs)
    assert (y.shape, sT.shape) == ((2, 3, 2, 0), (2, 2, 0, 0))
