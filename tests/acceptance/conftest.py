"""Running the real command line on real databases, each test with a home folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from orchestrator.start import main

Fsq = Callable[..., "subprocess.CompletedProcess[str]"]

FSQ = Path(sys.executable).with_name("fsq")
LASTING = {"calibrate", "doctor", "run", "serve", "work"}  # commands that start processes or handle signals
# variables that are not read at import, so they may differ from one command of a process to the next
READ_WHEN_USED = {"FSQ_DATABASE_URL", "FSQ_HOME", "FSQ_SERVER", "FSQ_TOKEN", "PATH", "OMP_WAIT_POLICY"}
WITHOUT_HUB = {"export", "status"}  # commands to which the hub's variables, HF_..., say nothing

VARYING = {"started_at", "finished_at", "seconds", "device"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    return environment_in(home)


def environment_in(home: Path) -> dict[str, str]:
    """All that a command knows: its home, and where programs are."""
    return {"FSQ_HOME": str(home), "PATH": os.environ["PATH"], "OMP_WAIT_POLICY": "PASSIVE"}


@pytest.fixture
def fsq(environment: dict[str, str]) -> Fsq:
    """Runs `fsq ...` and gives what it printed; the environment is otherwise empty.

    Commands that only ask or tell run in this process, which has imported already what takes a process of their own
    a second or two; test_commands.py runs each in one of its own.
    """

    def call(*arguments: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        env = environment | more.pop("env", {})
        told = {name for name in env if not (words[0] in WITHOUT_HUB and name.startswith("HF_"))}
        if words[0] not in LASTING and not more and told <= READ_WHEN_USED:
            return _here(words, env)
        return subprocess.run(
            [str(FSQ), *words], capture_output=True, text=True, env=env, timeout=300, check=False, **more
        )

    return call


def _here(words: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """A command within this process, as `subprocess.run` tells of it."""
    out, err = StringIO(), StringIO()
    code: Any = 0
    with (
        patch.dict(os.environ, env, clear=True),
        patch.object(sys, "argv", ["fsq", *words]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        except Exception:
            traceback.print_exc()
            code = 1
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


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
