"""The tables: rounds with their jobs, evaluations, decisions and events; workers, tokens, and imported history."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from db.states import JobState as JobState
from db.states import RoundState as RoundState


class UtcDateTime(TypeDecorator[datetime]):
    """Aware datetimes in UTC on every database; SQLite alone would forget the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and value.replace(tzinfo=value.tzinfo or UTC).astimezone(UTC)


AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)  # of a job that need not wait, whatever any clock says


def _enum(kind: type[StrEnum]) -> Enum:
    """Stored as its value in a plain text column: a new member needs no change of schema."""
    return Enum(
        kind,
        native_enum=False,
        create_constraint=False,
        length=16,
        values_callable=lambda e: [m.value for m in e],
    )


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  (read by SQLAlchemy on the class)
        datetime: UtcDateTime,
        dict[str, Any]: JSON().with_variant(JSONB(), "postgresql"),
        list[int]: JSON().with_variant(JSONB(), "postgresql"),
        RoundState: _enum(RoundState),
        JobState: _enum(JobState),
        str: Text,
    }


class Round(Base):
    """A submitted round."""

    __tablename__ = "rounds"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    digest: Mapped[str]  # of what was asked for and what its inputs contained; equal digest: the same round
    source: Mapped[str]  # the file as submitted
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)  # keeps its order, which is the order of the tasks
    facts: Mapped[dict[str, Any]]
    state: Mapped[RoundState] = mapped_column(default=RoundState.ACTIVE, index=True)
    after_id: Mapped[int | None] = mapped_column(ForeignKey("rounds.id"), index=True)  # its parent
    reason: Mapped[str | None]  # why it waits, is blocked, or decides nothing more
    # its variants, once taken from others
    selected: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON)
    n_events: Mapped[int] = mapped_column(default=0, server_default="0")
    # whether something of what follows has yet to be stored: it was too much for one transaction
    is_behind: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]

    jobs: Mapped[list[Job]] = relationship(back_populates="round", order_by="Job.id")
    decisions: Mapped[list[Decision]] = relationship(back_populates="round", order_by="Decision.id")


class Worker(Base):
    """A process that runs jobs on one device."""

    __tablename__ = "workers"

    id: Mapped[int] = mapped_column(primary_key=True)
    host: Mapped[str]
    pid: Mapped[int]
    device: Mapped[str]
    device_lock: Mapped[str] = mapped_column(index=True)  # host and lock file; whoever holds it now is alone
    started_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    stopped_at: Mapped[datetime | None]
    paused: Mapped[str | None]  # why it takes no jobs at the moment


class Job(Base):
    """One training run, and its lease while a worker has it."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("round_id", "task", "stage", "variant", "seed"),
        Index("ix_jobs_claim", "state", "id"),  # the oldest queued job, without sorting
        Index("ix_jobs_claim_of_round", "round_id", "state", "id"),
        Index("ix_jobs_next", "state", "not_before"),
        Index("ix_jobs_progress", "round_id", "state", "outcome"),
        # without the state, SQLite would walk all that is done
        Index("ix_jobs_known", "fingerprint", "state"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id", ondelete="CASCADE"))
    task: Mapped[str]
    stage: Mapped[str]
    variant: Mapped[str]
    seed: Mapped[int]
    fingerprint: Mapped[str]
    trajectory: Mapped[str | None] = mapped_column(index=True)  # whose snapshot it goes on from
    payload: Mapped[dict[str, Any]]
    state: Mapped[JobState] = mapped_column(default=JobState.QUEUED)
    attempts: Mapped[int] = mapped_column(default=0)
    # attempts without progress, in a row: its own, and those that the infrastructure failed
    fruitless: Mapped[int] = mapped_column(default=0, server_default="0")
    infra_failures: Mapped[int] = mapped_column(default=0, server_default="0")
    reached: Mapped[int] = mapped_column(default=0, server_default="0")  # last step evaluated in any attempt
    not_before: Mapped[datetime]  # earliest time of the next attempt

    worker_id: Mapped[int | None] = mapped_column(ForeignKey("workers.id"))
    # rises with every claim; a stale holder cannot write
    fencing_token: Mapped[int] = mapped_column(default=0)
    lease_expires_at: Mapped[datetime | None]

    outcome: Mapped[str | None]
    reason: Mapped[str | None]
    result: Mapped[dict[str, Any] | None]
    cached_from_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    round: Mapped[Round] = relationship(back_populates="jobs")
    cached_from: Mapped[Job | None] = relationship(remote_side="Job.id")


class Evaluation(Base):
    """One evaluation of a running or finished job."""

    __tablename__ = "evaluations"

    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    seconds: Mapped[float]
    tokens: Mapped[int] = mapped_column(BigInteger)
    train_loss: Mapped[float]
    val_loss: Mapped[float]
    val_tok_acc: Mapped[float]
    val_seq_acc: Mapped[float]
    distinct_predictions: Mapped[int]
    correct: Mapped[list[int]]


class Event(Base):
    """Something that happened in a round; see db.events."""

    __tablename__ = "events"

    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[datetime]
    kind: Mapped[str]
    job_id: Mapped[int | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    data: Mapped[dict[str, Any]]


class Token(Base):
    """A right to use the service over HTTP; the secret itself is never stored."""

    __tablename__ = "tokens"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    digest: Mapped[str]  # SHA-256 of the secret, which has 256 random bits
    scope: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Decision(Base):
    """What was concluded for a variant at a stage."""

    __tablename__ = "decisions"
    __table_args__ = (
        UniqueConstraint("round_id", "task", "stage", "variant", "seed"),
        Index("ix_decisions_progress", "round_id", "decision"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    round_id: Mapped[int] = mapped_column(ForeignKey("rounds.id", ondelete="CASCADE"))
    task: Mapped[str]
    stage: Mapped[str]
    variant: Mapped[str]
    seed: Mapped[int]
    decision: Mapped[str]
    reason: Mapped[str]
    d_acc: Mapped[float | None]
    d_loss: Mapped[float | None]
    evidence: Mapped[dict[str, Any] | None]  # what d_acc rests on, seed by seed; None where there is no d_acc
    created_at: Mapped[datetime]

    round: Mapped[Round] = relationship(back_populates="decisions")


class ImportedRecord(Base):
    """A record of another program, or of another database of this one: history, and never an answer.

    Nothing that plans, claims or looks for known results reads this table.
    """

    __tablename__ = "imported_records"

    id: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(unique=True)  # of round and content: the same record comes in once
    round: Mapped[str] = mapped_column(index=True)  # as the record, or else the name of its file, has it
    file: Mapped[str]  # the name of the file it stood in
    line: Mapped[int] = mapped_column(BigInteger)
    content: Mapped[str]  # the record as JSON in ASCII, which every database keeps as it is
    imported_at: Mapped[datetime]


# the tables themselves: a query for columns of these is less work for SQLAlchemy than one for attributes of classes
ROUNDS, JOBS, EVALUATIONS, DECISIONS, EVENTS, WORKERS = (
    Base.metadata.tables[name] for name in ("rounds", "jobs", "evaluations", "decisions", "events", "workers")
)
