"""The time that all workers agree on."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

_NOW = select(func.clock_timestamp())


def clock(session: Session) -> datetime:
    """The PostgreSQL server's time, or this machine's."""
    if session.get_bind().dialect.name == "postgresql":
        at: datetime = session.execute(_NOW).scalar_one()
        return at.astimezone(UTC)
    return datetime.now(UTC)
