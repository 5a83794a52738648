"""The schema that the migrations make is the one that the tables describe, on both databases."""

from __future__ import annotations

import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    MetaData,
    Table,
    bindparam,
    create_engine,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError

from alembic import command
from db import migrations
from db.errors import DatabaseUnreachable, SchemaMismatch
from db.revision import HEAD
from db.session import Database, _open, open_current
from db.tables import Base, Decision, Evaluation, Job, Round, RoundState
from orchestrator.evidence import Evidence
from tests.db.test_queue import EVALUATION, NOW


def config_on(connection: Connection) -> Config:
    """Alembic's, for migrations one by one."""
    config = migrations._config()
    config.attributes["connection"] = connection
    return config


def test_head__is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(migrations._config()).get_current_head() == HEAD


def test_upgrade__gives_the_tables_schema(database_url: str) -> None:
    database = Database(database_url)
    assert database.revision() is None
    assert migrations.upgrade(database) == HEAD
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    assert migrations.upgrade(database) == HEAD  # twice changes nothing
    database.close()


REVISIONS = [script.revision for script in ScriptDirectory.from_config(migrations._config()).walk_revisions()]


@pytest.mark.parametrize("revision", sorted(set(REVISIONS) - {HEAD}))
def test_upgrade__keeps_every_row_of_an_earlier_version(database_url: str, revision: str) -> None:
    """Whatever refers to the row of a table that is copied, too."""
    database = Database(database_url)
    with database.engine.begin() as connection:
        command.upgrade(config_on(connection), revision)
        tables = tables_of(connection)
        for table in tables:
            connection.execute(insert(table), {column.name: sample(column) for column in table.columns})
        before = {table.name: rows_of(connection, table) for table in tables}
    assert all(len(rows) == 1 for rows in before.values())

    assert migrations.upgrade(database) == HEAD

    with database.engine.connect() as connection:
        assert {table.name: rows_of(connection, table) for table in tables} == before
    with database.read() as session:
        assert session.scalars(select(Round)).one().state is RoundState.FINISHED
    with pytest.raises(IntegrityError), database.write() as session:  # watched over again
        session.execute(insert(Evaluation), EVALUATION | {"job_id": 99})
    database.close()


def test_upgrade__of_a_file_that_another_holds(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(database_url)
    if database.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL's migrations wait for each other")
    monkeypatch.setattr("db.session.BUSY_TIMEOUT_SECONDS", 0.05)
    holder = sqlite3.connect(str(database.engine.url.database), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnreachable, match="database is locked"):
        migrations.upgrade(database)
    holder.close()
    database.close()


def tables_of(connection: Connection) -> list[Table]:
    """All that hold something, those that others refer to first."""
    found = MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def sample(column: Column[Any]) -> Any:
    """What the column of a row may hold; of a decision without a delta, which no migration adds evidence to."""
    named = {"state": "finished" if column.table.name == "rounds" else "done", "d_acc": None}
    if column.name in named:
        return named[column.name]
    kinds: dict[type, Any] = {int: 1, float: 0.5, str: "text", datetime: NOW}
    return kinds.get(column.type.python_type, {"a": 1})


def rows_of(connection: Connection, table: Table) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in connection.execute(select(*table.columns))]


USAGE = {"device": "cpu", "kernel": "c", "micro_batch": 4, "padding_share": 0.0, "peak_memory_bytes": None}
LIFTED = {"version": "0.1.0", "result_version": 6}


def test_upgrade__reads_what_earlier_versions_stored_otherwise(database_url: str) -> None:
    database = Database(database_url)
    with database.engine.begin() as connection:
        command.upgrade(config_on(connection), "0007")
        connection.execute(
            text(
                "INSERT INTO rounds (id, name, digest, source, spec, facts, state, created_at) "
                "VALUES (1, 'old', 'd', 's', '{}', '{}', 'finished', :now)"
            ).bindparams(bindparam("now", NOW, DateTime)),
        )
        of_job = {
            "round_id": 1,
            "task": "t",
            "stage": "quick",
            "fingerprint": "f",
            "payload": {},
            "state": "done",
        }
        results = [
            {"outcome": "ok", "usage": USAGE | LIFTED},
            {"outcome": "ok", "usage": USAGE} | LIFTED,
            {"outcome": "crashed", "usage": None},
            None,
        ]
        jobs = [
            of_job | {"seed": seed, "variant": "v", "result": result, "created_at": NOW, "not_before": NOW}
            for seed, result in enumerate(results)
        ]
        connection.execute(insert(Job), jobs)
        told = {"d_acc_ci": [0.0, 0.1], "p_value": 0.1, "seeds": [{"seed": 1, "d_acc": 0.05}]}
        of_decision = {"round_id": 1, "task": "t", "stage": "quick", "decision": "promoted", "reason": ""}
        decisions = [
            of_decision
            | {"seed": seed, "variant": "v", "d_acc": d_acc, "evidence": evidence, "created_at": NOW}
            for seed, (d_acc, evidence) in enumerate([(0.25, None), (0.05, told), (None, None)])
        ]
        connection.execute(insert(Decision), decisions)

    assert migrations.upgrade(database) == HEAD

    with database.read() as session:
        lifted, as_before, crashed, running = session.scalars(select(Job.result).order_by(Job.id))
        assert lifted == as_before == {"outcome": "ok", "usage": USAGE} | LIFTED
        assert (crashed, running) == (results[2], None)
        bare, stays, none = session.scalars(select(Decision.evidence).order_by(Decision.id))
        assert (bare, stays, none) == ({"seeds": [{"seed": 0, "d_acc": 0.25}]}, told, None)
        assert Evidence.from_json(bare).d_acc_ci is None
    database.close()


def test_downgrade__leaves_nothing(database: Database) -> None:
    with database.engine.begin() as connection:
        command.downgrade(config_on(connection), "base")
    assert inspect(database.engine).get_table_names() == ["alembic_version"]


def test_open_current__refuses_the_schema_of_a_newer_version(database: Database, database_url: str) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaMismatch, match=r"does not know.*9999.*install the newer fsq"):
        open_current(database_url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "the database URL cannot be used"),
        ("mystery://u:secret@host/name", r"mystery://u:\*\*\*@host/name cannot be used"),
        ("mysql://u:secret@host/name", r"cannot be used: expected sqlite:///FILE or postgresql://"),
        ("postgresql+psycopg://nobody@127.0.0.1:1/none", "does not answer"),
        ("sqlite:////proc/fsq/fsq.db", "the folder of the database URL"),
        ("sqlite://", "it names no file"),
        ("sqlite:///:memory:", "it names no file"),
    ],
)
def test_open_current__unreachable(url: str, message: str) -> None:
    with pytest.raises(DatabaseUnreachable, match=message):
        open_current(url)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_open_current__refuses_a_database_that_cannot_hold_all_text(
    postgres_server: str, encoding: str
) -> None:
    name = f"narrow_{os.urandom(6).hex()}"
    engine = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with engine.connect() as server:
        options = f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        server.execute(text(f"CREATE DATABASE {name} {options}"))
        url = make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
        try:
            with pytest.raises(
                DatabaseUnreachable, match=f"encoding is {encoding}.*createdb --encoding UTF8"
            ):
                open_current(url)
        finally:
            server.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


def test_open_current__several_at_once_on_an_empty_database(database_url: str) -> None:
    """As when two workers are started for the first time."""
    together = threading.Barrier(4)

    def start() -> str | None:
        together.wait()
        database = open_current(database_url)
        revision = database.revision()
        database.close()
        return revision

    with ThreadPoolExecutor(4) as pool:
        assert {started.result() for started in [pool.submit(start) for _ in range(4)]} == {HEAD}


def test_open__a_new_file_by_many_at_once(tmp_path: Path) -> None:
    """Turning WAL on is refused now and then, without waiting, while others do the same."""

    def start(path: Path, together: threading.Barrier) -> None:
        together.wait()
        engine = _open(f"sqlite:///{path}")
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE IF NOT EXISTS seen (at INTEGER)"))
        engine.dispose()

    with ThreadPoolExecutor(6) as pool:
        for number in range(120):
            together = threading.Barrier(6)
            for started in [pool.submit(start, tmp_path / f"{number}.db", together) for _ in range(6)]:
                started.result()
