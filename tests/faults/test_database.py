"""A database that is locked, read all the time, or gone for a while."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from db.tables import Worker
from tests.faults.conftest import NewNight
from tests.faults.harness import Night, Undisturbed
from tests.faults.postgres import PostgresServer
from tests.faults.rounds import MIDDLE, write_round


def test_sqlite__locked_for_a_while(night: Night, calm: Undisturbed, tmp_path: Path) -> None:
    """Meanwhile the child finishes its job."""
    name = night.submit(write_round(tmp_path))
    worker = night.work()
    night.wait_for(lambda: worker.count("evaluated") >= MIDDLE)
    with closing(sqlite3.connect(night.home / "fsq.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        night.wait_for(lambda: "ended: ok" in night.log("quick/baseline"))
        assert worker.count("job ended") == 0

    worker.finish()
    night.assert_equals(calm, name)


@pytest.mark.chaos
def test_sqlite__locked_for_longer_than_anybody_waits(
    night: Night, calm: Undisturbed, tmp_path: Path
) -> None:
    """Takes three quarters of a minute."""
    name = night.submit(write_round(tmp_path))
    worker = night.work()
    night.wait_for(lambda: worker.count("evaluated") >= MIDDLE)
    with closing(sqlite3.connect(night.home / "fsq.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        night.wait_for(lambda: "database is locked; trying again" in worker.text())

    worker.finish()
    night.assert_equals(calm, name)
    assert worker.count("the database is back") == 1


def test_sqlite__read_as_fast_as_can_be_while_a_round_runs(
    night: Night, calm: Undisturbed, tmp_path: Path
) -> None:
    name = night.submit(write_round(tmp_path))
    command = [sys.executable, "-m", "tests.faults.reader", night.url, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        # a round may be over before a reader has imported what it needs
        assert reader.stdout.readline() == "reading\n"
        night.work().finish()
        answered, _ = reader.communicate()

    assert reader.returncode == 0
    assert int(answered) > 50
    night.assert_equals(calm, name)


def test_postgresql__gone_while_idle_and_while_a_job_runs(
    new_night: NewNight, calm: Undisturbed, postgres_server: str, tmp_path: Path
) -> None:
    """It stops without a word and comes back after a while, with what had been committed."""
    server = PostgresServer(postgres_server)
    night = new_night(server.new_database())
    with night.database():  # it has its tables before two of us would make them
        pass
    worker = night.start("work", "--log-format", "json")
    night.wait_for(lambda: is_registered(night))
    server.stop()
    night.wait_for(lambda: "does not answer" in worker.text())
    server.start()

    name = night.submit(write_round(tmp_path))
    night.wait_for(lambda: worker.count("evaluated") >= MIDDLE)
    server.stop()
    night.wait_for(lambda: "ended: ok" in night.log("quick/baseline"))
    server.start()

    night.wait_for(night.is_finished)
    assert worker.stop() == 0
    assert worker.count("job started") == 4  # nothing was run twice for it
    night.assert_equals(calm, name)


def is_registered(night: Night) -> bool:
    with night.database() as database, database.read() as session:
        return session.query(Worker).count() > 0
