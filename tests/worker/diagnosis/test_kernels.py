"""The self-test of the kernels."""

from __future__ import annotations

import pytest
import torch

from model import available_backends, wkv7
from model.kernels.selection import Choice
from tests.worker.diagnosis.findings import is_problem
from worker.diagnosis import kernels


def test_self_test__every_backend_is_right() -> None:
    found = kernels.self_test("kernels on cpu", "cpu", available_backends(), Choice("chunked", "it is there"))
    assert found.is_fine
    assert "chunked is used: it is there" in found.found
    assert all(backend in found.found for backend in available_backends())


def test_self_test__backend_that_is_not_there() -> None:
    assert kernels.self_test(
        "kernels on cpu", "cpu", ("reference", "none"), Choice("reference", "exact")
    ).is_fine
    found = kernels.self_test("kernels on cpu", "cpu", ("reference", "none"), Choice("none", "x"))
    assert is_problem(found, "unknown WKV-7 backend 'none'", "jobs cannot run")


def test_self_test__device_that_fails() -> None:
    """Torch has this device, and cannot compute on it: as with a driver or an accelerator that is broken."""
    found = kernels.self_test("kernels on meta", "meta", ("reference",), Choice("reference", "exact"))
    assert is_problem(found, "reference failed: RuntimeError", "jobs cannot run")


@pytest.mark.parametrize("name", ["y", "the state", *(f"the gradient of {x}" for x in kernels._NAMES)])
def test_verdict__one_wrong_result_is_named(name: str) -> None:
    exact = kernels.results(kernels._exact, kernels.sample())
    wrong = exact | {name: exact[name] * 1.01}
    assert kernels.largest_error(exact, exact)[0] == 0
    error, of = kernels.largest_error(wrong, exact)
    assert (round(error, 6), of) == (0.01, name)
    nan = exact | {name: exact[name] * float("nan")}
    assert kernels.largest_error(nan, exact) == (float("inf"), name)
    assert is_problem(
        kernels.verdict(
            "kernels on cpu",
            {"good": (0.0, "y"), "bad": kernels.largest_error(wrong, exact)},
            Choice("good", "x"),
        ),
        f"{name} of bad is wrong",
        "do not trust",
    )


def test_results__both_outputs_count_in_the_gradients() -> None:
    """A kernel whose last state lets no gradient through is found out."""

    def cut_off(*x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        r, w, k, v, a, b, s0 = x
        y, sT = wkv7(r, w, k, v, a, b, s0, backend="reference")
        return y, sT.detach()

    problem = kernels.sample()
    error, name = kernels.largest_error(
        kernels.results(cut_off, problem), kernels.results(kernels._exact, problem)
    )
    assert error > kernels.LARGEST_ERROR
    assert name.startswith("the gradient of ")
