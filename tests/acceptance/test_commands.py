"""Each command that other tests run within their own process, in one of its own: it imports all that it needs."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.acceptance.conftest import FSQ

EXIT_CODES = {
    "audit": 0,
    "cancel none": 3,
    "check-docs empty.md": 0,
    "export none": 3,
    "import empty.jsonl": 0,
    "plot none -o none.svg": 3,
    "report": 0,
    "retry none": 3,
    "tasks": 0,
    "token list": 0,
    "variants": 0,
    "workers": 0,
}


@pytest.mark.parametrize("command", EXIT_CODES)
def test_command__in_a_process_of_its_own(command: str, environment: dict[str, str], tmp_path: Path) -> None:
    for name in ("empty.md", "empty.jsonl"):
        (tmp_path / name).touch()
    done = subprocess.run(
        [FSQ, *command.split()], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == EXIT_CODES[command], done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("command", ["status", "workers", "variants", "tasks"])
def test_command__whose_output_cannot_be_written(command: str, environment: dict[str, str]) -> None:
    """Short output is written at the end only, long output before."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [FSQ, command], env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "fsq: the output cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [("status", 0), ("workers", 0), ("work --drain", 0), ("status none", 3), ("--bogus", 2)],
)
def test_command__without_any_output(command: str, code: int, environment: dict[str, str]) -> None:
    closed = ["sh", "-c", f'exec "$0" {command} >&-', FSQ]
    done = subprocess.run(closed, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_command__whose_reader_has_seen_enough(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [FSQ, "status"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == ("", 1)


def test_debug__tells_where_and_keeps_the_exit_code(environment: dict[str, str]) -> None:
    done = subprocess.run(
        [FSQ, "--debug", "status", "none"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("fsq: there is no round named 'none' (`fsq status` lists them)\n")


def test_version(environment: dict[str, str]) -> None:
    done = subprocess.run([FSQ, "--version"], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"fsq {version('fsq')}\n"


def test_status__an_empty_home_is_the_usual_one(environment: dict[str, str], tmp_path: Path) -> None:
    usual = {
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "FSQ_HOME": "",
        "FSQ_DATABASE_URL": "",
    }
    done = subprocess.run(
        [FSQ, "status"], env=environment | usual, cwd=tmp_path, capture_output=True, check=True
    )
    assert done.returncode == 0
    assert [path.name for path in tmp_path.iterdir() if path.name != "data"] == []


def test_help__is_not_cut_off_at_80_columns(environment: dict[str, str]) -> None:
    env = environment | {"COLUMNS": "80"}
    done = subprocess.run([FSQ, "--help"], env=env, capture_output=True, text=True, check=True)
    assert "check-docs  Find numbers and references in documents" in done.stdout
    assert "..." not in done.stdout.replace("[ARGS]...", "")
