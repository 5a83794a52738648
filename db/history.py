"""Imported records: kept apart from rounds and jobs, each once."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from db.tables import ImportedRecord


class Imported(NamedTuple):
    """A record and where it stood."""

    round: str
    file: str
    line: int
    content: str  # JSON in ASCII with sorted keys

    @property
    def digest(self) -> str:
        """What makes it the same record wherever it stands: its round and its content."""
        return hashlib.sha256(f"{self.round}\n{self.content}".encode()).hexdigest()


def add(session: Session, records: Sequence[Imported], *, now: datetime) -> int:
    """Stores the records that are not there yet; returns how many that were."""
    unique = {record.digest: record for record in records}
    if not unique:
        return 0
    rows = [{"digest": digest, "imported_at": now, **record._asdict()} for digest, record in unique.items()]
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    insert = dialect.insert(ImportedRecord).on_conflict_do_nothing(index_elements=["digest"])
    return len(session.scalars(insert.returning(ImportedRecord.id), rows).all())


def all_of(session: Session, rounds: Collection[str] = ()) -> Iterator[Imported]:
    """Every imported record, or those of these rounds, in the order in which they came."""
    columns = (ImportedRecord.round, ImportedRecord.file, ImportedRecord.line, ImportedRecord.content)
    query = select(*columns).order_by(ImportedRecord.id)
    if rounds:
        query = query.where(ImportedRecord.round.in_(rounds))
    for row in session.execute(query.execution_options(yield_per=500)):
        yield Imported(*row)


def rounds(session: Session) -> dict[str, int]:
    """How many records there are of each imported round."""
    query = select(ImportedRecord.round, func.count()).group_by(ImportedRecord.round)
    return {name: count for name, count in session.execute(query)}  # noqa: C416
