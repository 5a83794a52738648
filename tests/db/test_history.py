"""Imported records: each once, in order, apart from everything else; on both databases."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import func, select

from db import history
from db.history import Imported
from db.session import Database
from db.tables import ImportedRecord, Job

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def record(number: int, **changes: object) -> Imported:
    base = Imported(round="20", file="a.jsonl", line=number, content=f'{{"n": {number}}}')
    return base._replace(**changes)


def add(database: Database, *records: Imported) -> int:
    with database.write() as session:
        return history.add(session, records, now=NOW)


def test_add__each_once(database: Database) -> None:
    assert add(database) == 0
    assert add(database, record(1), record(2), record(2)) == 2
    assert add(database, record(2), record(3, file="copy.jsonl"), record(1, line=7)) == 1

    with database.read() as session:
        assert list(history.all_of(session)) == [record(1), record(2), record(3, file="copy.jsonl")]
        assert session.scalar(select(func.count()).select_from(Job)) == 0


def test_add__the_same_content_of_two_rounds_is_two_records(database: Database) -> None:
    assert add(database, record(1), record(1, round="21")) == 2

    with database.read() as session:
        assert history.rounds(session) == {"20": 1, "21": 1}
        assert list(history.all_of(session, ["21"])) == [record(1, round="21")]


def test_add__many_at_once(database: Database) -> None:
    records = [record(number) for number in range(2_000)]
    assert add(database, *records) == 2_000
    assert add(database, *records) == 0
    with database.read() as session:
        assert [each.line for each in history.all_of(session)] == list(range(2_000))


def test_add__whatever_json_holds(database: Database) -> None:
    odd = record(1, content='{"a": "\\u0000\\ud800", "b": NaN, "c": 1e400}')
    assert add(database, odd) == 1
    with database.read() as session:
        assert list(history.all_of(session)) == [odd]
        assert session.scalar(select(ImportedRecord.imported_at)) == NOW
