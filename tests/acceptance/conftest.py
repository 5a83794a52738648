"""Running the real command line in real processes, each test with a home folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

Fsq = Callable[..., "subprocess.CompletedProcess[str]"]

FSQ = Path(sys.executable).with_name("fsq")

VARYING = {"started_at", "finished_at", "seconds", "device"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    return {"FSQ_HOME": str(home), "PATH": os.environ["PATH"], "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.fixture
def fsq(environment: dict[str, str]) -> Fsq:
    """Runs `fsq ...` and gives what it printed; the environment is otherwise empty."""

    def call(*arguments: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        command = [str(FSQ), *map(str, arguments)]
        env = environment | more.pop("env", {})
        return subprocess.run(
            command, capture_output=True, text=True, env=env, timeout=300, check=False, **more
        )

    return call


def write_round(folder: Path, **changes: Any) -> Path:
    """A round of one task with a no-op among three variants: seconds on one core."""
    data: dict[str, Any] = {
        "round": "small",
        "model": {"random": {"layers": 3, "dim": 64, "vocab": 256}, "tokenizer": "bytes", "dtype": "float32"},
        "stages": [
            {"name": "quick", "steps": 4, "eval_every": 2},
            {"name": "med", "steps": 8, "eval_every": 2},
        ],
        "optimizer": {"lr": 1e-3},
        "prune": {"min_delta": 0.0},
        "tasks": {"s4": {"kind": "sudoku", "size": 4, "blanks": 4, "train": 40, "val": 10, "batch_size": 4}},
        "variants": {
            "l1": {"layer_start": 1, "norm": False},
            "l2": {"layer_start": 2},
            "noop": {"layer_start": 9},
        },
    }
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(data | changes, sort_keys=False))
    return path


def records_of(fsq: Fsq, name: str = "small", **more: Any) -> list[dict[str, Any]]:
    done = fsq("export", name, **more)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def lasting(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without times and devices."""
    return [{key: value for key, value in record.items() if key not in VARYING} for record in records]
