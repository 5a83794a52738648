"""The command line; with wiring, the composition root.

Whatever a command needs is imported when it runs, so that `fsq --help` and `fsq status` answer at once.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.errors import Conflict, FsqError, NotFound
from orchestrator.wiring import (
    Terminated,
    child_on,
    client_of,
    display_for_work,
    intake_of,
    open_client,
    open_database,
    outlook_of,
    preparation,
    read_settings,
    refusal,
    warm_child,
    whoami,
    working,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from db.session import Database
    from orchestrator.client import Client
    from orchestrator.history.entries import Entry
    from orchestrator.views import SubmissionView
    from worker.process import Child

app = typer.Typer(
    help="Serial early-prune search for post-training RWKV-7 with Future-Seed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
token_app = typer.Typer(help="Tokens for the service over HTTP.", no_args_is_help=True)
app.add_typer(token_app, name="token")
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


class TokenScope(StrEnum):
    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class Format(StrEnum):
    JSONL = "jsonl"
    SUMMARY = "summary"
    CSV = "csv"


@app.command()
def run(path: RoundPath, device: Device = "auto") -> None:
    """Submit a round and work on it, here and now, until it is done. Run again, it continues."""
    _refuse_a_server("run", ", or use `fsq submit`")
    with warm_child(device) as child, open_database() as database:
        submitted = client_of(database).submit(path, None)
        _say_submitted(submitted)
        _refuse_to_wait(database, submitted.round)
        _work_on(database, child, submitted.round)
        _finish(database, submitted.round)


@app.command()
def calibrate(
    path: RoundPath,
    runs: Annotated[int, typer.Option(min=4, help="Of the baseline, each under a seed of its own.")] = 10,
    searches: Annotated[
        int, typer.Option(min=1, help="Over these runs, for every share that is told.")
    ] = 200,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure what a round's protocol can tell: what it does with arms that differ in nothing but their seed.

    Runs the baseline of every task under so many seeds, here and now; what is known is not run again. Then searches
    over these runs show how often each rule promotes and confirms nothing, the smallest effect the round can find,
    and what its threshold would need.
    """
    _refuse_a_server("calibrate")
    with warm_child(device) as child, open_database() as database:
        intake = intake_of(database)
        resolved, _ = intake.read_path(path)
        from orchestrator.calibration import findings, protocol
        from orchestrator.calibration.runs import runs_of
        from orchestrator.engine import find

        calibrating = protocol.calibrating(resolved, runs)
        name = calibrating.spec.round
        _say_submitted(intake.submit(calibrating, protocol.text_of(calibrating), by=whoami()))
        _work_on(database, child, name, on_stderr=as_json)
        with database.read() as session:
            measured = runs_of(session, find(session, name).id, calibrating)
    found = [findings.of_task(resolved, task, found, searches) for task, found in measured.items()]
    if as_json:
        typer.echo(_json({"round": resolved.spec.round, "tasks": found}))
    for one in () if as_json else found:
        typer.echo(findings.as_text(one, resolved))
    for task in resolved.search.tasks:
        if task not in measured:
            typer.echo(f"{task}: too few runs were measured (`fsq status {name}` says why)", err=True)
    if len(measured) < len(resolved.search.tasks):
        raise typer.Exit(1)


@app.command()
def submit(
    path: RoundPath,
    dry_run: Annotated[bool, typer.Option(help="Only check; store nothing.")] = False,
    after: Annotated[
        str | None, typer.Option(metavar="ROUND", help="Start once this round has finished.")
    ] = None,
) -> None:
    """Submit a round for a worker (`fsq work`) to run. The same round again changes nothing."""
    with open_client() as client:
        if dry_run:
            forecast = client.forecast(path, after)
            jobs = sum(stage.jobs for task in forecast.tasks for stage in task.stages.values())
            typer.echo(f"{path.name} is in order: at most {jobs} jobs.")
        else:
            _say_submitted(client.submit(path, after))


@app.command()
def work(
    drain: Annotated[bool, typer.Option(help="End when the queue is empty.")] = False,
    device: Device = "auto",
    log_format: Annotated[
        LogFormat | None, typer.Option(help="text or json (FSQ_LOG_FORMAT); on a terminal, a live display.")
    ] = None,
) -> None:
    """Run queued jobs, of all rounds, on this machine's device until interrupted."""
    with (
        open_database() as database,
        suppress(Terminated),
        working(
            database,
            child_on(device),
            display_for_work(database, log_format.value if log_format else None),
            None,
        ) as service,
    ):
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
    with open_client() as client:
        if watch:
            from orchestrator.display import refresh

            refresh(lambda: _status(client, name, as_json=as_json))
        typer.echo(_status(client, name, as_json=as_json))


def _status(client: Client, name: str | None, *, as_json: bool) -> str:
    """One round, or all with the newest last."""
    from orchestrator import status as texts

    if name is None:
        rounds = list(client.rounds())[::-1]
        return _json({"rounds": rounds}) if as_json else texts.rounds_text(rounds)
    found = client.round(name)
    jobs, decisions = list(client.jobs(name)), list(client.decisions(name))
    if as_json:
        return _json(found.model_dump(mode="json") | {"jobs": jobs, "decisions": decisions})
    return texts.round_text(found, jobs, decisions)


@app.command()
def workers(
    as_json: AsJson = False,
    alive_on: Annotated[
        str | None,
        typer.Option(
            metavar="HOST", help="Exit with 1 unless a worker on this host was seen in the last minute."
        ),
    ] = None,
) -> None:
    """Show the workers and what they run."""
    from orchestrator.status import workers_text
    from orchestrator.views import WorkerState

    with open_client() as client:
        found = client.workers()
    typer.echo(_json({"workers": found}) if as_json else workers_text(found))
    if alive_on and not any(
        one.host == alive_on and one.state in (WorkerState.ALIVE, WorkerState.PAUSED) for one in found
    ):
        raise typer.Exit(1)


@app.command()
def plan(path: RoundPath, as_json: AsJson = False) -> None:
    """Show what a round would do: jobs, cost, no-ops, what is known already, how fine its accuracies are."""
    from orchestrator.forecast import as_text

    with open_client() as client:
        view = client.forecast(path)
    typer.echo(view.model_dump_json() if as_json else as_text(view))


@app.command()
def export(
    name: RoundName,
    form: Annotated[Format, typer.Option("--format", help="jsonl, summary or csv.")] = Format.JSONL,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A folder: writes records and summary there.")
    ] = None,
) -> None:
    """Write a round's records or summary, at any time, also while it runs."""
    from orchestrator.exports import write_files

    with open_client() as client:
        if output is not None:
            for written in write_files(client.lines, name, output):
                typer.echo(written)
        else:
            for line in client.lines(name, form):
                typer.echo(line)


@app.command()
def plot(
    name: RoundName,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help=".png, .svg or .html.")],
) -> None:
    """Draw a round: the deltas of its variants and their learning curves."""
    from orchestrator.plotting import plot as draw

    with open_client() as client:
        draw(client, name, output)
    typer.echo(output)


class ReportFormat(StrEnum):
    TEXT = "text"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"
    HTML = "html"


@app.command()
def report(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[ROUND]...", help="The rounds; default: all.")
    ] = None,
    form: Annotated[
        ReportFormat, typer.Option("--format", help="text, markdown, csv, json or html.")
    ] = ReportFormat.TEXT,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Writes there instead of to stdout.")
    ] = None,
    charts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draws the report too: .png, .svg or .html.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keeps an entry for each round in this Markdown log.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Writes the manifest of experiments (JSON).")
    ] = None,
) -> None:
    """Say what rounds found together: for each task and variant the pooled delta, and how far to believe it."""
    from orchestrator.reports import publishing

    with open_client() as client:
        for line in publishing.publish(
            client,
            names or [],
            form.value,
            output,
            charts=charts,
            log=log,
            manifest=manifest,
            warn=_to_stderr,
        ):
            typer.echo(line, nl=False)


@app.command("check-docs")
def check_docs(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Markdown files.")],
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Results are taken from this manifest; default: from the rounds."),
    ] = None,
) -> None:
    """Find references to results that do not exist, and numbers that differ from the records.

    Ends with exit code 1 where there are some. docs/reports.md tells how a document refers to a result.
    """
    from orchestrator.reports import checking

    documents = checking.read(paths)
    found = checking.findings(documents, checking.known(documents, manifest, open_client))
    for finding in found:
        typer.echo(finding)
    if found:
        raise typer.Exit(1)
    count = sum(len(document.references) for document in documents)
    typer.echo(f"{count} references, and all of them agree with the records")


@app.command()
def cancel(name: RoundName) -> None:
    """End a round: nothing more is started, what is decided stays."""
    with open_client() as client:
        ended = client.cancel(name).changed
    typer.echo(f"{name}: cancelled" if ended else f"{name}: had ended already")


@app.command()
def retry(name: RoundName) -> None:
    """Run again what could not be measured in a round, or let a cancelled one go on."""
    with open_client() as client:
        changed = client.retry(name).changed
    typer.echo(f"{name}: goes on" if changed else f"{name}: there is nothing to try again")


@app.command("import")
def import_(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Record files (.jsonl, .csv), or folders of them.")
    ],
    strict: Annotated[bool, typer.Option(help="Import nothing when any line would be skipped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take in record files of the predecessor, or exported by fsq, as history.

    Importing again adds nothing. Imported records are never answers: no round is planned or answered from them.
    Every line that is skipped is told on stderr, with its reason.
    """
    from orchestrator.history import importing, reading

    _refuse_a_server("import")
    with open_database() as database:
        counts = importing.import_files(
            database, reading.files(paths), _to_stderr, now=datetime.now(UTC), strict=strict
        )
    if as_json:
        typer.echo(_json({"files": counts, "total": importing.totals(counts)}))
        return
    for count in counts:
        typer.echo(count)
    typer.echo(
        "{files} files: {added} records added, {known} known already, {skipped} lines skipped".format(
            **importing.totals(counts)
        )
    )


@app.command()
def audit(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ROUND|PATH]...", help="Rounds, record files or folders; default: all own rounds."
        ),
    ] = None,
    imported: Annotated[
        bool, typer.Option("--imported", help="Judge imported records: all, or those of the ROUNDs.")
    ] = False,
    layers: Annotated[
        int, typer.Option(min=1, help="Layers of the model, for variants named after a layer.")
    ] = 12,
    markdown: Annotated[bool, typer.Option("--markdown", help="For a document, with all records.")] = False,
    as_json: AsJson = False,
) -> None:
    """Judge own or imported rounds: what in them cannot be believed, and which records say so.

    Looks for duplicates, no-ops and ties, deltas without a matched baseline, coarse grids, chance level, reversals,
    regression to the mean, seeds that disagree, decisions against the stated rule, and labels that mislead.
    """
    from orchestrator.audit import judging, reporting
    from orchestrator.history.entries import History

    judged = judging.audit(History.of(_entries(what or [], imported=imported)), layers)
    if as_json:
        typer.echo(_json(reporting.as_json(judged)))
    elif markdown:
        typer.echo(reporting.as_markdown(judged), nl=False)
    else:
        typer.echo(reporting.as_text(judged))


def _entries(what: list[str], *, imported: bool) -> Iterator[Entry]:
    """The records that names of rounds, files and folders stand for."""
    from orchestrator.history import reading, sources

    paths, names = sources.told_apart(what)
    if paths:
        yield from sources.of_files(reading.files(paths), _to_stderr)
    if imported:
        _refuse_a_server("audit --imported")
        with open_database() as database:
            yield from sources.of_imported(database, names)
    elif names or not paths:
        with open_client() as client:
            yield from sources.of_rounds(client, names or [row.round for row in client.rounds()][::-1])


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
    with open_database() as database:
        intake = intake_of(database, announce=typer.echo)
        resolved, _ = intake.read_path(path)
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
        raise refusal("", [problem]) from None
    if as_json:
        typer.echo(json.dumps({"report": built.report.model_dump(mode="json"), "example": built.example}))
        return
    for line in report_lines(built.report):
        typer.echo(line)
    typer.echo(f"\n{built.example}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check everything that fsq depends on, and say what to do about what is wrong.

    That is: home, disk, database and its schema, clock, workers with their locks and leases, the checkpoints and
    data of rounds that have not ended, device and kernels. Checkpoints are read whole, which may take a while. Ends
    with exit code 1 where there is a problem.
    """
    from worker import diagnosis

    settings = read_settings()
    findings = []
    for finding in diagnosis.findings(settings.home, settings.database):
        findings.append(finding)
        if not as_json:
            advice = f"\n        {finding.advice}" if finding.advice else ""
            typer.echo(f"{'ok' if finding.is_fine else 'PROBLEM':<8}{finding.what}: {finding.found}{advice}")
    if as_json:
        typer.echo(json.dumps([finding._asdict() for finding in findings]))
    raise typer.Exit(0 if all(finding.is_fine for finding in findings) else 1)


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on (FSQ_HOST); default: loopback.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="FSQ_PORT; default: 8765.")] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name by which clients call the server; again for each."),
    ] = None,
    data_root: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="A folder that rounds sent over HTTP may read; again for each."),
    ] = None,
    log_format: Annotated[LogFormat | None, typer.Option(help="text or json.")] = None,
) -> None:
    """Serve the REST API and the web pages. Off loopback it wants tokens (`fsq token create`)."""
    given = {
        "host": host,
        "port": port,
        "allowed_hosts": allow_host,
        "data_roots": data_root,
        "log_format": log_format,
    }
    from orchestrator.api.server import serve as serve_forever

    settings = read_settings().model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )
    with open_database() as database:
        serve_forever(database, preparation(), settings)


@token_app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, or what for.")],
    scope: Annotated[
        TokenScope, typer.Option(help="What it allows; each includes the one before.")
    ] = TokenScope.READ,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="Such as 12h, 30d, 52w; default: never.")
    ] = None,
) -> None:
    """Make a token and print it: it cannot be shown again."""
    from db import tokens
    from orchestrator.durations import parse_duration

    now = datetime.now(UTC)
    expires_at = now + parse_duration(expires) if expires else None
    with open_database() as database, database.write() as session:
        if any(token.name == name for token in tokens.all_of(session)):
            raise Conflict(f"there has been a token {name!r} already; give this one another name")
        text = tokens.create(session, name, scope, now=now, expires_at=expires_at)
    typer.echo(text)


@token_app.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """Show the tokens there are, without their secrets."""
    from db import tokens
    from orchestrator.listings import token_table

    with open_database() as database, database.read() as session:
        listed = [
            {
                "name": token.name,
                "scope": token.scope,
                "created_at": token.created_at.isoformat(),
                "expires_at": token.expires_at and token.expires_at.isoformat(),
                "is_valid": tokens.is_valid(token, datetime.now(UTC)),
            }
            for token in tokens.all_of(session)
        ]
    typer.echo(json.dumps(listed) if as_json else token_table(listed))


@token_app.command()
def revoke(name: Annotated[str, typer.Argument(metavar="NAME", help="The token's name.")]) -> None:
    """Make a token worthless, at once."""
    from db import tokens

    with open_database() as database, database.write() as session:
        if not tokens.revoke(session, name, now=datetime.now(UTC)):
            raise NotFound(f"there is no token named {name!r} (`fsq token list` shows them)")
    typer.echo(f"{name}: revoked")


@db_app.command()
def upgrade() -> None:
    """Bring the database to the schema of this version."""
    from db.migrations import upgrade as migrate
    from db.session import Database

    database = Database(read_settings().database)
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
    from worker.errors import BadFailureTable, DeviceBusy, NoSuchDevice

    if isinstance(error, FsqError):
        return error.exit_code
    codes = {DatabaseError: 5, DeviceBusy: 4, NoSuchDevice: 2, BadFailureTable: 2}
    return next((code for kind, code in codes.items() if isinstance(error, kind)), None)


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


def _work_on(database: Database, child: Child, name: str, *, on_stderr: bool = False) -> None:
    """Works on a round until nothing of it is left to do, with a display."""
    from rich.console import Console

    from orchestrator.display import display_for

    display = display_for(Console(stderr=on_stderr), partial(outlook_of, database))
    with working(database, child, display, name) as service:
        service.run_until_idle()


def _refuse_a_server(command: str, advice: str = "") -> None:
    if read_settings().server:
        raise FsqError(f"`fsq {command}` works on this machine's database; unset FSQ_SERVER{advice}")


def _to_stderr(message: str) -> None:
    typer.echo(message, err=True)


def _say_submitted(submitted: SubmissionView) -> None:
    typer.echo(f"{submitted.round}: {'submitted' if submitted.is_new else 'known already'}", err=True)


def _json(value: Any) -> str:
    from pydantic_core import to_json

    return to_json(value).decode()


def _finish(database: Database, name: str) -> None:
    """Leaves the results on disk and on the screen; exit code 1 when some job failed."""
    from orchestrator import exports
    from orchestrator.records import records
    from orchestrator.reports import gathering, round_log
    from orchestrator.summary import has_failures

    results = read_settings().results
    written = exports.write_files(partial(exports.lines, database), name, results)
    failed = has_failures(list(records(database, name)))
    typer.echo(written[-1].read_text(encoding="utf-8"), nl=False)
    typer.echo(f"\nrecords and summary: {' '.join(str(path) for path in written)}")
    log = results / round_log.NAME
    try:
        round_log.update(log, gathering.gather(client_of(database), [name]))
    except FsqError as error:  # somebody else's changes to a file: no fault of the round
        typer.echo(f"fsq: the log was not written: {error}", err=True)
    else:
        typer.echo(f"log: {log}")
    if failed:
        raise typer.Exit(1)
