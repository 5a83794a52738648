"""The composition root, with start, cli and commands: what wires worker, engine, database and server together.

Whatever is wired is imported when it is, so that commands which need little start at once.
"""

from __future__ import annotations

import gc
import getpass
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

import typer

from orchestrator.errors import BadInput, BadRound, BrokenRound, FsqError, OutOfReach, Problem, as_text

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from db.session import Database
    from orchestrator.client import Client
    from orchestrator.intake import Intake, Prepare
    from orchestrator.logs import Form
    from orchestrator.rounds.round_file import RoundFile
    from orchestrator.rounds.spec import RoundSpec
    from orchestrator.settings import Settings
    from orchestrator.terminal.display import Display
    from orchestrator.views.outlook import Outlook
    from worker.job import RoundFacts
    from worker.limits import Limits
    from worker.preparation import InputProblem
    from worker.process import Child
    from worker.running import RunningJob
    from worker.service import WorkerService


def read_settings() -> Settings:
    """The settings of this process, from its environment; raises BadInput with the names of those that are wrong."""
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from orchestrator.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        said = [
            f"FSQ_{str(one['loc'][0]).upper()}: {one['msg']}, not {one['input']!r}" for one in error.errors()
        ]
        raise BadInput("; ".join(said)) from None
    except SettingsError as error:  # it names the field
        field = next((name for name in Settings.model_fields if f'"{name}"' in str(error)), "")
        raise BadInput(f'FSQ_{field.upper()}: expected a list in JSON, such as ["one", "two"]') from None


@contextmanager
def open_database() -> Iterator[Database]:
    """The database, brought to this version's schema when it is new; raises SchemaMismatch when it is not."""
    from db.session import open_current

    database = open_current(read_settings().database)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def open_client() -> Iterator[Client]:
    """The server that FSQ_SERVER names, or else this machine's database."""
    chosen = read_settings()
    if chosen.server:
        from orchestrator.http_client import HttpClient

        with HttpClient(chosen.server, chosen.token) as client:
            yield client
    else:
        with open_database() as database:
            yield client_of(database)


def client_of(database: Database) -> Client:
    from orchestrator.client import DatabaseClient

    return DatabaseClient(database, partial(intake_of, database), whoami())


def intake_of(database: Database, **listeners: Callable[[str], None]) -> Intake:
    from orchestrator.intake import Intake

    return Intake(database, preparation(**listeners), snapshot_bytes=read_settings().snapshot_bytes)


def preparation(**listeners: Callable[[str], None]) -> Prepare:
    """Has the inputs of rounds fetched and inspected on this machine."""

    def prepare(spec: RoundSpec, file: RoundFile) -> RoundFacts:
        from worker import preparation

        try:
            return preparation.prepare(
                spec.model,
                spec.tasks,
                read_settings().cache,
                held_out=spec.held_out(),
                warn=_warn,
                **listeners,
            )
        except preparation.Unusable as unusable:
            raise refusal(file.name, unusable.problems, file) from None

    return prepare


def refusal(name: str, found: Sequence[InputProblem], file: RoundFile | None = None) -> FsqError:
    """What to tell of inputs that cannot be used: OutOfReach where that is the network alone, else BadRound."""
    problems = [
        Problem(".".join(problem.place), file.line_of(problem.place) if file else None, str(problem))
        for problem in found
    ]
    if all(problem.is_infrastructure for problem in found):
        return OutOfReach(as_text(name, problems))
    return BadRound(name, problems)


def outlook_of(database: Database, job: RunningJob) -> Outlook:
    """What can be said about the round of a job as it starts; nothing for want of a database, or of its rule."""
    from db.errors import DatabaseUnreachable
    from orchestrator.search import JobKey
    from orchestrator.views.outlook import Outlook, outlook

    try:
        with database.read() as session:
            return outlook(session, job.round, JobKey(job.task, job.stage, job.variant, job.seed))
    except (DatabaseUnreachable, BrokenRound):
        return Outlook(baseline={}, done=0, at_most=0, seconds_left=None)


class Terminated(KeyboardInterrupt):
    """SIGTERM: whoever runs this machine wants it to stop, in order."""


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut short the handing back
    raise Terminated


def child_on(device: str) -> Child:
    """The training process on a device, not yet started; raises NoSuchDevice."""
    from worker.devices import choose
    from worker.process import Child

    chosen = read_settings()
    return Child(choose(device), chosen.home, limits_of(chosen))


@contextmanager
def warm_child(device: str) -> Iterator[Child]:
    """A training process as `child_on` has it, started already: torch is imported while its first job is prepared."""
    child = child_on(device)
    child.warm_up()
    try:
        yield child
    finally:
        child.stop()


@contextmanager
def working(database: Database, child: Child, display: Display, name: str | None) -> Iterator[WorkerService]:
    """A worker whose finished jobs advance their rounds, with a display of what it does."""
    from concurrent.futures import ThreadPoolExecutor

    from db.clock import clock
    from db.errors import DatabaseUnreachable
    from orchestrator import engine
    from orchestrator.rounds import stored_round
    from orchestrator.verdicts import Verdict
    from worker import failures
    from worker.queue_client import QueueClient
    from worker.service import WorkerService
    from worker.snapshot_files import keep_snapshots, remove_snapshots, trajectories

    def go_on(
        session: Session, work: Callable[..., engine.Advance], id_: int, now: datetime
    ) -> engine.Advance:
        """Advances a round as far as it can be worked out; a broken one holds up no other."""
        try:
            advanced = work(session, id_, now=now)
        except BrokenRound as error:
            advanced = replace(engine.NOTHING, broken=error)
        if advanced.broken is not None:
            engine.hold_up(session, advanced.broken, now=now)
            display.troubled(f"{advanced.broken}; nothing more of it is decided")
        return advanced

    def advance(session: Session, job_id: int, now: datetime) -> engine.Advance:
        return go_on(session, engine.advance_job, job_id, now)

    def announce(advanced: engine.Advance) -> None:
        # the next job need not wait for the disk: it takes milliseconds to let a large file go
        aside.submit(remove_snapshots, home, advanced.closed_trajectories)
        display.decided(advanced.decisions)
        queue.has_failed |= any(taken.decision.verdict is Verdict.UNDECIDED for taken in advanced.decisions)

    def tidy() -> None:
        if found := trajectories(home):
            with suppress(DatabaseUnreachable), database.read() as session:
                keep_snapshots(home, engine.live_trajectories(session, found))

    chosen = read_settings()
    home, limits = chosen.home, limits_of(chosen)
    own_patterns = failures.read_table(chosen.failure_table) if chosen.failure_table else ()
    aside = ThreadPoolExecutor(1, "snapshots")
    signal.signal(signal.SIGTERM, _terminate)
    try:
        with database.read() as session:
            active = engine.active_rounds(session)
            round_id = None if name is None else stored_round.find(session, name).id
        # what a crash between a completion and its decision left undone
        for id_ in active if round_id is None else {round_id}.intersection(active):
            with database.write() as session:
                go_on(session, engine.advance, id_, clock(session))
        tidy()
        queue = QueueClient(database, home, limits, advance, announce, display.troubled, round_id)
        gc.freeze()  # what is imported stays: a look through it for garbage would hold up a job's end
        yield WorkerService(queue, child, display, limits, tidy, own_patterns)
        tidy()
    except KeyboardInterrupt:
        display.close()
        display.interrupted("interrupted; the running job goes back to the queue")
        raise
    finally:
        try:
            aside.shutdown()
        finally:
            display.close()


def limits_of(settings: Settings) -> Limits:
    """How patient a worker is, as the settings have it."""
    from worker.limits import Limits

    return Limits(
        lease=timedelta(seconds=settings.lease_seconds),
        max_attempts=settings.max_attempts,
        max_infra_attempts=settings.max_infra_attempts,
        cool_down=timedelta(seconds=settings.cool_down_seconds),
        max_failures_in_a_row=settings.max_failures_in_a_row,
        stall_seconds=settings.stall_seconds,
        grace_seconds=settings.grace_seconds,
        patience_seconds=settings.database_patience_seconds,
        activation_bytes=int(settings.activation_gib * 2**30),
        snapshot_bytes=settings.snapshot_bytes,
        log_bytes=int(settings.log_mib * 2**20),
    )


def whoami() -> str:
    """Who gives the command."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def display_for_work(database: Database, log_format: Form | None) -> Display:
    """A live display on a terminal, log lines elsewhere or where a format is asked for."""
    if log_format is None and sys.stdout is not None and sys.stdout.isatty():
        from rich.console import Console

        from orchestrator.terminal.display import display_for

        return display_for(Console(), partial(outlook_of, database))
    from orchestrator import logs
    from orchestrator.terminal.log_display import LogDisplay

    logs.configure(log_format or read_settings().log_format)
    return LogDisplay()


def _warn(message: str) -> None:
    typer.echo(f"fsq: {message}", err=True)
