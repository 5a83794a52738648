"""`fsq status`: of this machine's own database it is read in another way, which must say the same."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import text

from db import glance
from db.session import open_current
from orchestrator import interventions, start
from orchestrator.start import rounds_at_a_glance
from orchestrator.wiring import read_settings
from tests.acceptance.conftest import FSQ, Fsq
from tests.orchestrator.factories import Rig, resolve, result


@pytest.fixture
def path(home: Path, tmp_path: Path) -> Path:
    """A database with finished, cancelled, active and waiting rounds, one of them without any job."""
    database = open_current(f"sqlite:///{home / 'fsq.db'}")
    rig = Rig(database)
    rig.submit(resolve(tmp_path))
    rig.run_all({("quick", "l1"): 0.5, ("med", "l1"): 0.5})
    rig.submit(resolve(tmp_path, round="cancelled", seeds=[1]))
    rig.submit(resolve(tmp_path, round="active", seeds=[2]))
    rig.submit(resolve(tmp_path, round="waits", after={"round": "active"}, seeds=[3]))
    with database.write() as session:
        interventions.cancel(session, "cancelled", by="me", now=datetime.now(UTC))
    rig.run_next(result(0.2))
    database.close()
    return home / "fsq.db"


def test_status__says_the_same_however_it_is_read(fsq: Fsq, path: Path) -> None:
    shown = fsq("status").stdout
    assert [line.split()[:2] for line in shown.splitlines()] == [
        ["r1", "finished"],
        ["cancelled", "cancelled"],
        ["active", "active"],
        ["waits", "waiting"],
    ]
    assert fsq("status", env={"FSQ_DATABASE_URL": f"sqlite:///{path}"}).stdout == shown
    other = open_current(f"sqlite:///{path}")
    with other.write() as session:  # others go on reading, from the log beside it
        session.execute(text("UPDATE rounds SET reason = 'no'"))
        assert glance.rounds(path) is not None
        assert fsq("status").stdout == shown
        session.rollback()
    other.close()


def test_glance__starts_without_what_is_slow_to_import(path: Path, environment: dict[str, str]) -> None:
    assert _looked_at(environment).startswith("r1 ")
    path.unlink()
    assert _looked_at(environment).startswith("no rounds yet")
    assert not path.exists()


def _looked_at(environment: dict[str, str]) -> str:
    script = (
        "import sys; from orchestrator.start import main; sys.argv = ['fsq', 'status']; main(); "
        "print([name for name in ('sqlalchemy', 'pydantic', 'typer', 'torch') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("\n[]\n")
    return done.stdout


def test_glance__interrupted(fsq: Fsq, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(start, "rounds_at_a_glance", interrupted)
    done = fsq("status")
    assert done.returncode == 130
    assert done.stderr == ""


def test_glance__shows_what_it_can_where_letters_are_missing(path: Path, environment: dict[str, str]) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE rounds SET reason = 'r\u00e9' WHERE name = 'cancelled'")
    env = environment | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([FSQ, "status"], env=env, capture_output=True, text=True, check=True)
    assert "r?" in done.stdout


def test_glance__only_of_a_database_with_this_schema(path: Path, tmp_path: Path) -> None:
    found = glance.rounds(path)
    assert found is not None
    assert [one.round for one in found] == ["r1", "cancelled", "active", "waits"]
    assert glance.rounds(tmp_path / "none.db") == []
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "no.db").write_bytes(os.urandom(4096))
    assert glance.rounds(tmp_path / "no.db") is None
    assert glance.rounds(tmp_path / "no.db" / "in-no-folder.db") is None
    database = open_current(f"sqlite:///{path}")
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    database.close()
    assert glance.rounds(path) is None


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"FSQ_HOME": ""},
        {"FSQ_HOME": "below"},
        {"fsq_home": "lower"},
        {"FSQ_SERVER": "", "FSQ_DATABASE_URL": ""},
    ],
)
def test_glance__looks_where_the_settings_say(
    variables: dict[str, str], path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for name in [name for name in os.environ if name.upper().startswith("FSQ_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert rounds_at_a_glance() == []
    file = Path(read_settings().database.removeprefix("sqlite:///"))
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, file)
    assert rounds_at_a_glance() == glance.rounds(path)


@pytest.mark.parametrize("variable", ["FSQ_SERVER", "fsq_server", "FSQ_DATABASE_URL"])
def test_glance__is_not_for_a_server_or_another_database(
    variable: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSQ_HOME", str(path.parent))
    assert rounds_at_a_glance() is not None
    monkeypatch.setenv(variable, "anything")
    assert rounds_at_a_glance() is None
