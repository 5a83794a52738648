"""The files that rounds need."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from db.session import Database
from db.tables import RoundState
from model import ModelShape, random_state_dict
from model.checkpoint import digest
from tests.worker.diagnosis.findings import add_job, is_problem, named, on_sqlite, problems
from worker.diagnosis import inputs


@pytest.fixture
def checkpoint_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_file(random_state_dict(ModelShape.random(1, 64, 32), seed=0), path)
    return path


def needing(path: Path) -> dict[str, Any]:
    return {"model": {"path": str(path), "digest": digest(path)}}


def test_inputs__checkpoint_in_order(database: Database, checkpoint_file: Path) -> None:
    add_job(database, name="a", facts=needing(checkpoint_file))
    add_job(database, name="b", facts=needing(checkpoint_file), state=RoundState.WAITING)
    found = list(inputs.examine(database))
    assert problems(found) == []
    assert "the same as at submission; needed by a, b" in named(found, "checkpoint tiny.safetensors").found


@on_sqlite
@pytest.mark.parametrize("state", [RoundState.ACTIVE, RoundState.WAITING, RoundState.FINISHED])
def test_inputs__checkpoint_missing(database: Database, checkpoint_file: Path, state: RoundState) -> None:
    add_job(database, facts=needing(checkpoint_file), state=state)
    checkpoint_file.unlink()
    found = list(inputs.examine(database))
    if state is RoundState.FINISHED:
        assert problems(found) == []
    else:
        assert is_problem(found[0], "does not exist", "needed by r", "fsq cancel")


@on_sqlite
def test_inputs__checkpoint_cut_short_and_changed(database: Database, checkpoint_file: Path) -> None:
    add_job(database, facts=needing(checkpoint_file))
    whole = checkpoint_file.read_bytes()
    checkpoint_file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert is_problem(next(inputs.examine(database)), "has changed", "put back")
    checkpoint_file.write_bytes(whole[: len(whole) // 2])
    assert is_problem(next(inputs.examine(database)), "cut short", "put the file back")


@on_sqlite
def test_inputs__data_file_missing(database: Database, tmp_path: Path) -> None:
    (tmp_path / "there.jsonl").touch()
    tasks = {
        "one": {"data": {"path": str(tmp_path / "there.jsonl")}},
        "two": {"data": {"path": None, "train": str(tmp_path / "gone.jsonl"), "val": str(tmp_path)}},
        "generated": {"data": None},
        "hub": {"data": {"path": None, "hub": {"repo": "a/b"}}},
    }
    add_job(database, spec={"tasks": tasks})
    found = named(list(inputs.examine(database)), "data files")
    assert is_problem(
        found, f"{tmp_path / 'gone.jsonl'}: {os.strerror(errno.ENOENT)} (round r)", "put the files back"
    )
    assert f"{tmp_path}: {os.strerror(errno.EISDIR)}" in found.found
    assert "there.jsonl" not in found.found
