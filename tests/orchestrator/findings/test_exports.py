"""Files of any form, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from db.session import Database, open_current
from orchestrator.cli import app
from orchestrator.errors import BadInput, FsqError
from orchestrator.files import write_whole
from orchestrator.findings import exports
from orchestrator.findings.records import records
from tests.orchestrator.factories import Rig, resolve


def test_exports__one_file_of_any_form(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_all({})
    ask = partial(exports.lines, database)
    rig.submit(resolve(tmp_path, round="r2", optimizer={"lr": 1e-3}))
    (header,) = ask("r2", "csv")  # nothing has ended
    written = exports.write_file(ask, "r1", "csv", tmp_path / "x.csv")
    assert written.read_text().startswith(header)
    table = list(csv.DictReader(written.read_text().splitlines()))
    assert [row["config"] for row in table] == [line["config"] for line in records(database, "r1")]
    names = {path.name for path in exports.write_files(ask, "r1", tmp_path / "out", is_csv=True)}
    assert names == {"_r1_records.jsonl", "_r1_records.csv", "_summary_r1.txt"}


def test_export__a_path_is_a_file_or_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSQ_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for folder in ("home", "folder.csv"):
        Path(folder).mkdir()
    database = open_current(f"sqlite:///{tmp_path / 'home' / 'fsq.db'}")
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_all({})
    texts = {form: [*exports.lines(database, "r1", form)] for form in ("jsonl", "csv", "summary")}
    database.close()
    both = {"_r1_records.jsonl": "jsonl", "_summary_r1.txt": "summary"}
    expected: dict[str, dict[str, str]] = {
        "-o x.csv": {"x.csv": "csv"},
        "-o x.TXT": {"x.TXT": "summary"},
        "-o new/x.jsonl": {"new/x.jsonl": "jsonl"},
        "-o report.md --format summary": {"report.md": "summary"},
        "-o there": {"there": "jsonl"},
        "-o there --format csv": {"there": "csv"},
        "-o v1.0": {f"v1.0/{name}": form for name, form in both.items()},
        "-o folder.csv": {f"folder.csv/{name}": form for name, form in both.items()},
        "-o -": {},
    }
    for arguments, written in expected.items():
        Path("there").write_text("old")
        done = CliRunner().invoke(app, ["export", "r1", *arguments.split()])
        assert done.exit_code == 0
        assert done.stdout.splitlines() == (list(written) or texts["jsonl"])
        for path, form in written.items():
            assert Path(path).read_text().splitlines() == texts[form]
    no_path = CliRunner().invoke(app, ["export", "r1", "-o", f"{'x' * 300}.csv"])
    assert isinstance(no_path.exception, BadInput)


def test_write_whole__what_cannot_be_written_and_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file" / "x.csv", tmp_path, Path(), Path("/")):
        with pytest.raises(FsqError, match="cannot be written"):
            write_whole(wrong, b"x")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", b"x")
    assert os.read(reader, 9) == b"x"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


def test_exports__files_and_csv(database: Database, tmp_path: Path) -> None:
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_all({("quick", "l1"): 0.5})
    jsonl, text = exports.write_files(partial(exports.lines, database), "r1", tmp_path / "out")
    table = list(csv.DictReader(exports.lines(database, "r1", "csv")))
    lines = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert jsonl.name == "_r1_records.jsonl"
    assert text.name == "_summary_r1.txt"
    assert lines == list(records(database, "r1"))
    assert [row["config"] for row in table] == [line["config"] for line in lines]
    summary = text.read_text()
    for expected in (
        "r1: finished",
        "l1                              0 quick      50.00%  +30.00 pp",
        "no_op (1): s4/noop",
    ):
        assert expected in summary, summary
