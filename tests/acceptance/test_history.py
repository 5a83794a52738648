"""Importing and auditing through the real command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import Fsq, write_round

RECORD = {
    "task": "mbpp_low",
    "stage": "quick",
    "config": "baseline",
    "status": "ok",
    "best_val_loss": 5.25,
    "best_val_tok_acc": 0.125,
}


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A folder with a round of the predecessor whose last line was cut."""
    folder = tmp_path / "records"
    folder.mkdir()
    lines = [json.dumps(RECORD), json.dumps(RECORD | {"config": "scalar_l12"}), json.dumps(RECORD)[:40]]
    (folder / "_round27_x_records.jsonl").write_text("\n".join(lines))
    return folder


def test_import__twice_and_strict(fsq: Fsq, records: Path) -> None:
    strict = fsq("import", records, "--strict")
    assert (strict.returncode, strict.stdout) == (2, "")
    assert strict.stderr.endswith("fsq: nothing was imported: --strict, and 1 lines would be skipped\n")

    first = fsq("import", records)
    assert (first.returncode, first.stdout) == (
        0,
        "_round27_x_records.jsonl: 2 added, 0 known already, 1 skipped\n"
        "1 files: 2 records added, 0 known already, 1 lines skipped\n",
    )
    assert first.stderr.startswith("_round27_x_records.jsonl:3: skipped: the file ends within this line: ")

    again = json.loads(fsq("import", records, "--json").stdout)
    assert again["total"] == {"files": 1, "added": 0, "known": 2, "skipped": 1}


def test_import__what_is_not_there(fsq: Fsq, tmp_path: Path) -> None:
    done = fsq("import", tmp_path / "gone.jsonl")
    assert (done.returncode, done.stderr) == (
        2,
        f"fsq: {tmp_path}/gone.jsonl: there is no such file or folder\n",
    )


def test_audit__files_and_imported_records_alike(fsq: Fsq, records: Path) -> None:
    assert fsq("import", records).returncode == 0
    of_files, imported, of_round = (
        json.loads(fsq("audit", *arguments, "--json").stdout)
        for arguments in ([records], ["--imported"], ["--imported", "27"])
    )
    assert of_files == imported == of_round
    (found,) = [each for each in of_files["findings"] if each["check"] == "no_ops"]
    assert found["records"] == ["_round27_x_records.jsonl:2", "_round27_x_records.jsonl:1"]
    assert fsq("audit", "--imported", "28").returncode == 3
    own = fsq("audit")
    assert (own.returncode, own.stderr) == (
        0,
        "fsq: no own round has records; 2 imported ones are judged with --imported\n",
    )
    of_own = fsq("audit", "27")
    assert (of_own.returncode, of_own.stderr) == (
        3,
        "fsq: there is no round named '27' (`fsq status` lists them); imported records of it are judged with "
        "--imported\n",
    )
    assert fsq("audit", "28").returncode == 3
    assert fsq("audit", "28.jsonl").returncode == 2


def test_audit__own_rounds_by_their_jobs_and_their_export(fsq: Fsq, tmp_path: Path) -> None:
    """The same is found in a round and in the records that it exports; and importing these answers no round."""
    round_ = write_round(tmp_path)
    assert fsq("run", round_).returncode == 0
    own = json.loads(fsq("audit", "small", "--json").stdout)
    assert own == json.loads(fsq("audit", "--json").stdout)
    (grid,) = [each for each in own["findings"] if each["check"] == "coarse_grid"]
    assert grid["records"][0] == "job 2"  # the first with a delta, which is what the caveat is about
    assert own["judged"]["decisions_checked"] > 0
    assert not [each for each in own["findings"] if each["check"] in ("contradicted_rule", "labels")]

    assert fsq("export", "small", "-o", tmp_path).returncode == 0
    exported = json.loads(fsq("audit", tmp_path / "_small_records.jsonl", "--json").stdout)
    assert [each["text"] for each in exported["findings"]] == [each["text"] for each in own["findings"]]

    elsewhere = {"FSQ_HOME": str(tmp_path / "elsewhere")}
    assert fsq("import", tmp_path / "_small_records.jsonl", env=elsewhere).returncode == 0
    tasks = json.loads(fsq("plan", round_, "--json", env=elsewhere).stdout)["tasks"]
    assert [stage["known"] for task in tasks for stage in task["stages"].values()] == [0, 0]
    assert json.loads(fsq("status", "--json", env=elsewhere).stdout) == {"rounds": []}


def test_audit__a_round_before_a_folder_of_its_name(
    fsq: Fsq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fsq("submit", write_round(tmp_path)).returncode == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()
    done = fsq("audit", "small")
    assert (done.returncode, done.stderr) == (0, "")
    as_folder = fsq("audit", "small/")
    assert (as_folder.returncode, as_folder.stderr) == (
        2,
        "fsq: small holds no file that ends in .jsonl or .csv\n",
    )


def test_audit__an_imported_round_before_a_folder_of_its_name(
    fsq: Fsq, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fsq("import", records).returncode == 0
    monkeypatch.chdir(records)
    (records / "27").mkdir()
    assert fsq("audit", "--imported", "27").stdout == fsq("audit", records).stdout


def test_audit__a_folder_where_there_is_no_database(
    fsq: Fsq, records: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(records.parent)
    judged = fsq("audit", records).stdout
    done = fsq("audit", "records")
    assert (done.returncode, done.stdout) == (0, judged)
    assert not home.exists()
    for name, value in (
        ("FSQ_SERVER", "http://127.0.0.1:1"),
        ("FSQ_DATABASE_URL", "postgresql://127.0.0.1:1/x"),
    ):
        done = fsq("audit", "records", env={name: value})
        assert (done.returncode, done.stdout) == (0, judged), name
        assert "taken for a file or folder" in done.stderr


def test_audit__forms(fsq: Fsq, records: Path) -> None:
    nothing = fsq("audit")
    assert (nothing.stdout[:20], nothing.stderr) == ("0 findings on 0 runs", "")
    assert "\nno_ops (1): Variants that computed the same" in fsq("audit", records).stdout
    assert "\n## No ops\n" in fsq("audit", records, "--markdown").stdout
    assert "so it seeds none" not in fsq("audit", records, "--layers", "24").stdout


def test_help__without_what_is_slow_to_import() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from orchestrator.cli import app; "
        "[CliRunner().invoke(app, [*words, '--help']) for words in ([], ['import'], ['audit'])]; "
        "print([name for name in ('scipy', 'numpy', 'torch', 'sqlalchemy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
