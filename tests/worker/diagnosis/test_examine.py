"""Everything `fsq doctor` looks at, together."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from db.session import Database
from tests.worker.diagnosis.findings import is_problem, named, problems
from worker import diagnosis


def test_examine__nothing_wrong(database: Database, database_url: str, tmp_path: Path) -> None:
    found = list(diagnosis.findings(tmp_path / "home", database_url))
    assert problems(found) == []
    whats = {finding.what for finding in found}
    common = {
        "python",
        "home",
        "hub",
        "database",
        "database writing",
        "migrations",
        "clock",
        "clock of the records",
    }
    common |= {
        "workers",
        "leases",
        "checkpoints",
        "data files",
        "device",
        "kernels on cpu",
        "compiled kernels",
    }
    of_sqlite = {"database file system", "database folder", "database integrity", "database journal"}
    of_postgresql = {
        "database version",
        "database distance",
        "database connections",
        "clock of the server",
    }
    is_sqlite = database.engine.dialect.name == "sqlite"
    assert whats - {finding.what for finding in found if finding.what.startswith("disk")} == common | (
        of_sqlite if is_sqlite else of_postgresql
    )


def test_examine__fresh_machine_stays_fresh(tmp_path: Path) -> None:
    path = tmp_path / "elsewhere" / "fsq.db"
    found = list(diagnosis.findings(tmp_path / "home", f"sqlite:///{path}"))
    assert problems(found) == []
    assert "none yet" in named(found, "database").found
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "url",
    ["nonsense", "sqlite:////proc/no/fsq.db", "postgresql+nodriver://h/d", "postgresql://127.0.0.1:1/d"],
)
def test_examine__url_that_leads_nowhere(url: str, tmp_path: Path) -> None:
    found = list(diagnosis.findings(tmp_path, url))
    assert is_problem(named(found, "database"), "FSQ_DATABASE_URL")
    assert named(found, "kernels on cpu").is_fine
    assert "leases" not in {finding.what for finding in found}


def test_examine__check_that_breaks_down_is_a_finding(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    """A table is gone: no check can foresee every damage, and none may end the others."""
    with database.write() as session:
        session.execute(text("DROP TABLE evaluations"))
        session.execute(text("ALTER TABLE workers RENAME TO lost"))
    found = list(diagnosis.findings(tmp_path, database_url))
    broken = named([finding for finding in found if not finding.is_fine], "workers")
    assert is_problem(broken, "broke down", "workers", "run `fsq doctor` again")
    assert named(found, "checkpoints").is_fine
