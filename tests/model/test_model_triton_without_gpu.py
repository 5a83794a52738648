"""What can be held of the Triton backend on a machine without a GPU; each check has a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.kernels import on_gpu

pytest.importorskip("triton", reason="no Triton on this platform")

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
# bytes that a program may have, by compute capability
SHARED_MEMORY = {"80": 163 * 1024, "90": 227 * 1024, "120": 99 * 1024}
# bytes of stack: what does not fit the registers; how much slower that is on 120 was not measured
STACK = {"80": 64, "90": 64, "120": 256}


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**inherited, "PYTHONPATH": str(CHECKOUT), **environment},
    )


def test_triton__is_right_in_the_interpreter() -> None:
    checks = run(
        "-m", "pytest", "-p", "no:cacheprovider", HERE / "test_model_triton.py", TRITON_INTERPRET="1"
    )
    assert checks.returncode == 0, checks.stdout + checks.stderr
    assert "passed" in checks.stdout


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each kernel takes, by compute capability."""
    cache = tmp_path_factory.mktemp("triton")
    done = run(HERE / "compile_triton.py", *SHARED_MEMORY, TRITON_CACHE_DIR=str(cache))
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_triton__compiles_and_fits(capability: str, compiled: dict[str, dict[str, Any]]) -> None:
    assert len(compiled[capability]) == 10
    for name, taken in compiled[capability].items():
        assert taken["shared"] <= SHARED_MEMORY[capability], name
        assert taken["stack"] <= STACK[capability], f"{name} does not fit the registers"
        assert taken["registers"] > 16, f"{name} computes nothing"  # so does a kernel that cannot run


@pytest.mark.parametrize(
    ("capability", "why"),
    [
        ((7, 5), "need compute capability 8.0, and this GPU has 7.5"),
        ((8, 0), ""),
        ((9, 0), ""),
        ((10, 0), "tensor memory"),
        ((11, 0), "tensor memory"),
        ((12, 0), ""),
    ],
)
def test_triton__gpus_it_does_not_fit_are_told_apart(capability: tuple[int, int], why: str) -> None:
    assert (why in on_gpu._unfit(capability)) if why else on_gpu._unfit(capability) == ""


def test_triton__is_not_loaded_until_it_is_used() -> None:
    statements = (
        "import sys, model.kernels; model.kernels.available_backends(); assert 'triton' not in sys.modules"
    )
    done = run("-c", statements)
    assert done.returncode == 0, done.stderr
