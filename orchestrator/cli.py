"""The command line, and the composition root: the only place that wires the worker to the engine.

Whatever a command needs is imported when it runs, so that `fsq --help` and `fsq status` answer at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.errors import BadRound, FsqError, OutOfReach, Problem, as_text
from orchestrator.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from db.session import Database
    from orchestrator.display import Display
    from orchestrator.round_file import RoundFile
    from orchestrator.spec import ResolvedRound
    from worker.preparation import InputProblem
    from worker.service import WorkerService

app = typer.Typer(
    help="Serial early-prune search for post-training RWKV-7 with Future-Seed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
db_app = typer.Typer(help="The database.", no_args_is_help=True)
app.add_typer(db_app, name="db")
tasks_app = typer.Typer()
app.add_typer(tasks_app, name="tasks")

RoundPath = Annotated[Path, typer.Argument(metavar="ROUND.yaml", help="The round file.")]
RoundName = Annotated[str, typer.Argument(metavar="ROUND", help="The round's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]


class Vocabulary(StrEnum):
    WORLD = "world"
    BYTES = "bytes"


class Format(StrEnum):
    JSONL = "jsonl"
    SUMMARY = "summary"
    CSV = "csv"


@app.command()
def run(path: RoundPath, device: Device = "auto") -> None:
    """Submit a round and work on it, here and now, until it is done. Run again, it continues."""
    with _database() as database:
        resolved, round_id = _submit(database, path)
        _refuse_to_wait(database, resolved.spec.round)
        with _working(database, device, round_id) as service:
            service.run_until_idle()
        _finish(database, resolved.spec.round)


@app.command()
def submit(
    path: RoundPath,
    dry_run: Annotated[bool, typer.Option(help="Only check; store nothing.")] = False,
    after: Annotated[
        str | None, typer.Option(metavar="ROUND", help="Start once this round has finished.")
    ] = None,
) -> None:
    """Submit a round for a worker (`fsq work`) to run. The same round again changes nothing."""
    with _database() as database:
        if dry_run:
            resolved, _ = _prepared(database, path, after)
            typer.echo(f"{path.name} is in order: at most {len(list(resolved.largest_plan()))} jobs.")
        else:
            _submit(database, path, after)


@app.command()
def work(
    drain: Annotated[bool, typer.Option(help="End when the queue is empty.")] = False, device: Device = "auto"
) -> None:
    """Run queued jobs, of all rounds, on this machine's device until interrupted."""
    with _database() as database, _working(database, device, None) as service:
        if drain:
            service.run_until_idle()
        else:
            service.run_forever()


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="[ROUND]", help="One round; default: all.")] = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option(help="Refresh every second until interrupted.")] = False,
) -> None:
    """Show the rounds, or the jobs and decisions of one."""
    from orchestrator import status as views

    with _database() as database:
        if watch:
            views.watch(database, name)
            return
        with database.read() as session:
            view = views.of_round(session, name) if name else views.of_all(session)
        typer.echo(json.dumps(view) if as_json else views.as_text(view))


@app.command()
def plan(path: RoundPath, as_json: AsJson = False) -> None:
    """Show what a round would do: jobs, cost, no-ops, what is known already, how fine its accuracies are."""
    from orchestrator import forecast

    with _database() as database:
        resolved, _ = _prepared(database, path)
        with database.read() as session:
            view = forecast.of_round(session, resolved)
    typer.echo(json.dumps(view) if as_json else forecast.as_text(view))


@app.command()
def export(
    name: RoundName,
    form: Annotated[Format, typer.Option("--format", help="jsonl, summary or csv.")] = Format.JSONL,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A folder: writes records and summary there.")
    ] = None,
) -> None:
    """Write a round's records or summary, at any time, also while it runs."""
    from orchestrator import exports

    with _database() as database, database.read() as session:
        if output is not None:
            for written in exports.write_files(session, name, output):
                typer.echo(written)
        else:
            for line in exports.lines(session, name, form):
                typer.echo(line)


@app.command()
def cancel(name: RoundName) -> None:
    """End a round: nothing more is started, what is decided stays."""
    from orchestrator import engine

    with _database() as database, database.write() as session:
        ended = engine.cancel(session, name, by=_me(), now=_now())
    typer.echo(f"{name}: cancelled" if ended else f"{name}: had ended already")


@app.command()
def variants(as_json: AsJson = False) -> None:
    """List the built-in catalogue of Future-Seed variants."""
    from orchestrator.listings import variant_table
    from orchestrator.variants import CATALOGUE

    listed = {name: settings.model_dump(exclude_defaults=True) for name, settings in CATALOGUE.items()}
    typer.echo(json.dumps(listed) if as_json else variant_table(listed))


@app.command()
def prefetch(path: RoundPath) -> None:
    """Download a round's data and checkpoint and build its examples, before any accelerator time."""
    with _database() as database:
        resolved, _ = _prepared(database, path, announce=typer.echo)
    typer.echo(f"{resolved.spec.round}: everything is on this machine; `fsq run {path}` needs no network")


@tasks_app.callback(invoke_without_command=True)
def tasks(context: typer.Context, as_json: AsJson = False) -> None:
    """List the task kinds and their options; `fsq tasks show KIND` shows an example."""
    if context.invoked_subcommand is not None:
        return
    from orchestrator.listings import task_table
    from worker.job import task_kinds

    listed = task_kinds()
    typer.echo(json.dumps(listed) if as_json else task_table(listed))


@tasks_app.command()
def show(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="A task kind (`fsq tasks` lists them).")],
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The data: jsonl, csv, txt or parquet.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the task; again for each."),
    ] = None,
    tokenizer: Annotated[Vocabulary, typer.Option(help="world or bytes.")] = Vocabulary.WORLD,
    as_json: AsJson = False,
) -> None:
    """Build a task's examples and print the build report and one of them.

    Builds 80 training and 20 validation examples, unless --set train=N --set val=N say otherwise.
    """
    from orchestrator.build_report import report_lines
    from orchestrator.reading import parse_task
    from orchestrator.round_file import parse_settings
    from worker.preparation import InputProblem
    from worker.sample import sample

    options = {"train": 80, "val": 20, **parse_settings(settings or [])}
    if data is not None:
        options["data"] = {"path": str(data)}
    try:
        built = sample(parse_task(kind, options), tokenizer)
    except InputProblem as problem:
        raise _refusal("", [problem]) from None
    if as_json:
        typer.echo(json.dumps({"report": built.report.model_dump(mode="json"), "example": built.example}))
        return
    for line in report_lines(built.report):
        typer.echo(line)
    typer.echo(f"\n{built.example}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check database, disk, device and kernels, and say what to do about what is wrong."""
    from worker import diagnosis

    settings = Settings()
    findings = diagnosis.examine(settings.home, settings.database)
    if as_json:
        typer.echo(json.dumps([finding._asdict() for finding in findings]))
    else:
        for finding in findings:
            advice = f"\n        {finding.advice}" if finding.advice else ""
            typer.echo(f"{'ok' if finding.is_fine else 'PROBLEM':<8}{finding.what}: {finding.found}{advice}")
    raise typer.Exit(0 if all(finding.is_fine for finding in findings) else 1)


@db_app.command()
def upgrade() -> None:
    """Bring the database to the schema of this version."""
    from db.migrations import upgrade as migrate
    from db.session import Database

    database = Database(Settings().database)
    typer.echo(f"the database is at revision {migrate(database)}")


def main() -> None:
    """Runs the command line; errors become one clear sentence and an exit code."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        code = _exit_code(error)
        if debug or code is None:
            raise
        typer.echo(f"fsq: {error}", err=True)
        raise SystemExit(code) from None


def _exit_code(error: Exception) -> int | None:
    """The exit code of an error that a user is told about; None for a defect of fsq itself."""
    from db.errors import DatabaseError
    from worker.errors import DeviceBusy, NoSuchDevice

    if isinstance(error, FsqError):
        return error.exit_code
    codes = {DatabaseError: 5, DeviceBusy: 4, NoSuchDevice: 2}
    return next((code for kind, code in codes.items() if isinstance(error, kind)), None)


@contextmanager
def _database() -> Iterator[Database]:
    """The database, brought to this version's schema when it is new; raises SchemaMismatch when it is not."""
    from db.session import open_current

    database = open_current(Settings().database)
    try:
        yield database
    finally:
        database.close()


def _prepared(
    database: Database, path: Path, after: str | None = None, **listeners: Callable[[str], None]
) -> tuple[ResolvedRound, RoundFile]:
    """Reads a round, fetches and inspects its inputs; raises BadRound with everything that is wrong, or
    OutOfReach where that is the network alone."""
    from orchestrator import engine
    from orchestrator.reading import read_round
    from orchestrator.spec import ResolvedRound
    from worker.preparation import Unusable, prepare

    def known(name: str) -> dict[str, Any]:
        with database.read() as session:
            return engine.find(session, name).spec

    spec, file = read_round(path, after, today=datetime.now().astimezone().date(), known=known)
    try:
        facts = prepare(spec.model, spec.tasks, Settings().cache, warn=_warn, **listeners)
    except Unusable as unusable:
        raise _refusal(path.name, unusable.problems, file) from None
    return ResolvedRound(spec, facts), file


def _refusal(name: str, found: Sequence[InputProblem], file: RoundFile | None = None) -> FsqError:
    """What to tell of inputs that cannot be used: OutOfReach where that is the network alone, else BadRound."""
    problems = [
        Problem(".".join(problem.place), file.line_of(problem.place) if file else None, str(problem))
        for problem in found
    ]
    if all(problem.is_infrastructure for problem in found):
        return OutOfReach(as_text(name, problems))
    return BadRound(name, problems)


def _refuse_to_wait(database: Database, name: str) -> None:
    """Nothing can be run here of a round that comes after another: says why; exit code 1 if it is blocked."""
    from db.tables import RoundState
    from orchestrator import engine

    with database.read() as session:
        row = engine.find(session, name)
        if row.state is RoundState.WAITING:
            typer.echo(f"{name}: {row.reason}; `fsq work --drain` runs both", err=True)
            raise typer.Exit(0)
        if row.state is RoundState.BLOCKED:
            typer.echo(f"{name}: blocked: {row.reason}", err=True)
            raise typer.Exit(1)


def _submit(database: Database, path: Path, after: str | None = None) -> tuple[ResolvedRound, int]:
    from orchestrator import engine

    resolved, file = _prepared(database, path, after)
    with database.write() as session:
        submission = engine.submit(session, resolved, file.text, by=_me(), now=_now())
    name = resolved.spec.round
    typer.echo(f"{name}: submitted" if submission.is_new else f"{name}: known already", err=True)
    return resolved, submission.round_id


@contextmanager
def _working(database: Database, device: str, round_id: int | None) -> Iterator[WorkerService]:
    """A worker whose finished jobs advance their rounds, with a display of what it does."""
    import signal

    from rich.console import Console

    from orchestrator import engine
    from orchestrator.display import display_for
    from orchestrator.outlook import outlook
    from orchestrator.planner import JobKey
    from worker.devices import choose
    from worker.service import RunningJob, WorkerService
    from worker.snapshot_files import keep_snapshots, remove_snapshots

    def ask(job: RunningJob) -> Any:
        with database.read() as session:
            return outlook(session, job.round, JobKey(job.task, job.stage, job.variant, job.seed))

    def advance(session: Session, job_id: int) -> engine.Advance:
        return engine.advance_job(session, job_id, now=_now())

    def announce(advanced: engine.Advance) -> None:
        remove_snapshots(home, advanced.closed_trajectories)
        display.decided(advanced.decisions)

    home = Settings().home
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    display: Display = display_for(Console(), ask)
    try:
        with database.write() as session:
            engine.advance_all(session, now=_now())
            live = engine.live_trajectories(session)
        keep_snapshots(home, live)
        yield WorkerService(database, home, choose(device), advance, announce, display, round_id)
    except KeyboardInterrupt:
        display.close()
        typer.echo("interrupted; the running job goes back to the queue", err=True)
        raise
    finally:
        display.close()


def _me() -> str:
    """Who gives the command."""
    import getpass
    import os
    import socket

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _finish(database: Database, name: str) -> None:
    """Leaves the results on disk and on the screen; exit code 1 when some job failed."""
    from orchestrator import engine, exports
    from orchestrator.records import records
    from orchestrator.summary import has_failures

    with database.read() as session:
        written = exports.write_files(session, name, Settings().results)
        failed = has_failures(list(records(session, engine.find(session, name))))
    typer.echo(written[-1].read_text(encoding="utf-8"), nl=False)
    typer.echo(f"\nrecords and summary: {' '.join(str(path) for path in written)}")
    if failed:
        raise typer.Exit(1)


def _warn(message: str) -> None:
    typer.echo(f"fsq: {message}", err=True)


def _now() -> datetime:
    return datetime.now(UTC)
