"""Whatever is wrong with a round: one clear sentence for each mistake, exit code 2, nothing stored."""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.acceptance.conftest import Fsq, write_round

SUDOKU = {"kind": "sudoku", "size": 4, "blanks": 4, "train": 40, "val": 10, "batch_size": 4}


class Exploit:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.target}",)


def refused(fsq: Fsq, home: Path, path: Path) -> str:
    """Submits a round that must be refused and gives the error."""
    done = fsq("submit", path)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    database = home / "fsq.db"
    if database.exists():
        with closing(sqlite3.connect(database)) as connection:
            assert connection.execute("SELECT count(*) FROM rounds").fetchone() == (0,)
    return done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stagess": []}, "unknown key 'stagess'; did you mean 'stages'?"),
        ({"variants": ["head_l9"]}, "unknown variant 'head_l9'; did you mean"),
        ({"variants": []}, "variants: "),
        ({"tasks": {"t": SUDOKU | {"kind": "soduko"}}}, "no task kind 'soduko'"),
        ({"seeds": "all"}, "seeds: expected a list, not 'all'"),
        ({"stages": [{"name": "quick", "steps": -1}]}, "stages.0.steps: expected greater than 0, not -1"),
        (
            {"stages": [{"name": "quick", "seconds": -1.0}]},
            "stages.0.seconds: expected greater than 0, not -1.0",
        ),
        ({"model": {"checkpoint": "nowhere.pth"}}, "nowhere.pth"),
        ({"tasks": {"t": {"kind": "arc", "data": {"path": "nowhere.jsonl"}}}}, "nowhere.jsonl"),
        ({"tasks": {"t": SUDOKU | {"train": 2000, "mask_region": "prefix"}}}, "of 2000 train examples"),
    ],
)
def test_submit__mistakes(
    fsq: Fsq, home: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert message in refused(fsq, home, write_round(tmp_path, **changes))


def test_submit__reports_inputs_all_at_once(fsq: Fsq, home: Path, tmp_path: Path) -> None:
    tasks = {
        "a": {"kind": "arc", "data": {"path": "x.jsonl"}},
        "b": {"kind": "arc", "data": {"path": "y.jsonl"}},
    }
    errors = refused(fsq, home, write_round(tmp_path, model={"checkpoint": "z.pth"}, tasks=tasks))
    assert len(errors.splitlines()) == 3
    for place in ("model.checkpoint", "tasks.a", "tasks.b"):
        assert place in errors


def test_submit__too_few_rows_names_the_counts(fsq: Fsq, home: Path, tmp_path: Path) -> None:
    rows = [
        {"id": str(i), "question": f"Which {i}?", "choices": {"text": [f"x{i}", "y"], "label": ["A", "B"]}}
        for i in range(30)
    ]
    (tmp_path / "arc.jsonl").write_text("\n".join(json.dumps(row | {"answerKey": "A"}) for row in rows))
    task = {"kind": "arc", "data": {"path": "arc.jsonl"}, "train": 900, "val": 3}
    errors = refused(fsq, home, write_round(tmp_path, tasks={"arc": task}))
    assert "of 900 train examples" in errors
    assert "rows read" in errors


@pytest.mark.parametrize("name", ["text.pth", "empty.pth", "text.safetensors", "cut.pth"])
def test_submit__checkpoint_that_is_none(fsq: Fsq, home: Path, tmp_path: Path, name: str) -> None:
    torch.save({"emb.weight": torch.zeros(300, 64)}, tmp_path / "whole.pth")
    contents = {"empty.pth": b"", "cut.pth": (tmp_path / "whole.pth").read_bytes()[:500]}
    (tmp_path / name).write_bytes(contents.get(name, b"no checkpoint at all"))
    model = {"checkpoint": name, "tokenizer": "bytes"}
    errors = refused(fsq, home, write_round(tmp_path, model=model))
    assert name in errors
    assert len(errors.splitlines()) == 1


def test_submit__pickle_with_code_does_not_run(fsq: Fsq, home: Path, tmp_path: Path) -> None:
    target = tmp_path / "executed"
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Exploit(target)))
    torch.save({"emb.weight": Exploit(target)}, tmp_path / "zipped.pth")
    for name in ("bare.pth", "zipped.pth"):
        errors = refused(fsq, home, write_round(tmp_path, model={"checkpoint": name, "tokenizer": "bytes"}))
        assert name in errors
        assert not target.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"round: &a x\nmodel: *a", "anchors and aliases"),
        (b"x" * 10_000_000, "the file has 10,000,000 bytes"),
        (b"round: \xff", "not UTF-8 text"),
        (b"round: [", "not valid YAML"),
    ],
)
def test_submit__file_that_is_no_round(
    fsq: Fsq, home: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    assert message in refused(fsq, home, path)


def test_submit__name_taken(fsq: Fsq, tmp_path: Path) -> None:
    assert fsq("submit", write_round(tmp_path)).returncode == 0
    done = fsq("submit", write_round(tmp_path, seeds=[1]))
    assert done.returncode == 4
    assert "a round named 'small' exists and differs" in done.stderr


def test_exit_codes(fsq: Fsq, tmp_path: Path) -> None:
    assert fsq("status", "nothing").returncode == 3
    assert fsq("export", "nothing").returncode == 3
    assert fsq("submit", tmp_path / "nowhere.yaml").returncode == 2
    assert fsq("frobnicate").returncode == 2
    assert fsq("work", "--drain", "--device", "tpu").returncode == 2
    done = fsq("status", env={"FSQ_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"})
    assert done.returncode == 5
    assert "does not answer" in done.stderr


def test_submit__dry_run_stores_nothing(fsq: Fsq, home: Path, tmp_path: Path) -> None:
    done = fsq("submit", "--dry-run", write_round(tmp_path))
    assert done.returncode == 0
    assert "is in order: at most 6 jobs" in done.stdout
    assert fsq("status", "small").returncode == 3


def test_submit__dry_run_of_a_name_that_is_taken(fsq: Fsq, tmp_path: Path) -> None:
    assert fsq("submit", write_round(tmp_path)).returncode == 0
    assert fsq("submit", "--dry-run", write_round(tmp_path)).returncode == 0
    changed = write_round(tmp_path, seeds=[7])
    dry, real, planned = (
        fsq(*command, changed) for command in (("submit", "--dry-run"), ("submit",), ("plan",))
    )
    assert (dry.returncode, real.returncode, planned.returncode) == (4, 4, 0)
    assert dry.stderr == real.stderr
    assert "cannot be submitted: a round named 'small' exists and differs" in planned.stdout


@pytest.mark.parametrize(
    ("name", "value", "code", "message"),
    [
        ("FSQ_PORT", "abc", 2, "fsq: FSQ_PORT: Input should be a valid integer"),
        ("FSQ_DATA_ROOTS", "/data", 2, "fsq: FSQ_DATA_ROOTS: expected a list in JSON"),
        ("FSQ_LEASE_SECONDS", "0", 2, "fsq: FSQ_LEASE_SECONDS: Input should be greater than or equal to 2"),
        ("FSQ_DATABASE_URL", "sqlite://", 5, "it names no file"),
    ],
)
def test_settings__that_are_wrong(fsq: Fsq, name: str, value: str, code: int, message: str) -> None:
    done = fsq("export", "r", env={name: value})
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("folder", ["a%20b", "a?b #c"])
def test_home__whatever_its_folder_is_called(fsq: Fsq, tmp_path: Path, folder: str) -> None:
    home = tmp_path / folder
    assert fsq("workers", env={"FSQ_HOME": f"~/{folder}", "HOME": str(tmp_path)}).returncode == 0
    assert fsq("status", env={"FSQ_HOME": str(home)}).returncode == 0
    assert (home / "fsq.db").is_file()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("a")] == [folder]
