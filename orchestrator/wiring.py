"""The composition root, with start, cli, commands and working: wires worker, engine, database and server together.

Whatever is wired is imported when it is, so that commands which need little start at once.
"""

from __future__ import annotations

import getpass
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import typer

from orchestrator.errors import BadInput, BadRound, BrokenRound, FsqError, OutOfReach, Problem, as_text

if TYPE_CHECKING:
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
