"""Rounds: what they would do, submitting and running them."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.options import (
    AsJson,
    Device,
    LogFormat,
    RoundName,
    RoundPath,
    json_text,
    refuse_a_server,
    to_stderr,
)
from orchestrator.errors import BadInput, FsqError
from orchestrator.wiring import (
    child_on,
    client_of,
    display_for_work,
    intake_of,
    open_client,
    open_database,
    outlook_of,
    read_settings,
    warm_child,
    whoami,
)

if TYPE_CHECKING:
    from db.session import Database
    from orchestrator.views.shapes import SubmissionView
    from worker.process import Child


def run(path: RoundPath, device: Device = "auto") -> None:
    """Submit a round and work on it, here and now, until it is done. Run again, it continues."""
    refuse_a_server("run", ", or use `fsq submit`")
    with warm_child(device) as child, open_database() as database:
        submitted = client_of(database).submit(path, None)
        _say_submitted(submitted)
        if submitted.state == "cancelled":
            typer.echo(f"it was cancelled; `fsq retry {submitted.round}` lets it go on", err=True)
        _refuse_to_wait(database, submitted.round)
        _work_on(database, child, submitted.round)
        _finish(database, submitted.round)
        if submitted.state == "cancelled":
            raise typer.Exit(1)


def calibrate(
    path: RoundPath,
    runs: Annotated[
        int, typer.Option(min=4, help="Runs of the baseline, each with its own seed; even.")
    ] = 10,
    searches: Annotated[
        int, typer.Option(min=1, help="Simulated searches, from which each percentage is estimated.")
    ] = 200,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure what a round's protocol can tell apart.

    Runs arms that differ in nothing but their seed: the baseline of every task under so many seeds, here and now;
    what is known is not run again. Then searches over these runs show how often each rule promotes and confirms
    nothing, the smallest effect the round can find, and what its threshold would need.
    """
    refuse_a_server("calibrate")
    if runs % 2:
        raise BadInput(f"--runs is {runs}: expected an even number, half of them those of a control arm")
    with warm_child(device) as child, open_database() as database:
        intake = intake_of(database)
        resolved, _ = intake.read_path(path)
        from orchestrator.calibration import power, protocol
        from orchestrator.calibration.runs import runs_of
        from orchestrator.rounds.stored_round import find

        calibrating = protocol.calibrating(resolved, runs)
        name = calibrating.spec.round
        _say_submitted(intake.submit(calibrating, protocol.text_of(calibrating), by=whoami()))
        _work_on(database, child, name, on_stderr=as_json)
        with database.read() as session:
            measured = runs_of(session, find(session, name).id, calibrating)
    found = [power.of_task(resolved, task, found, searches) for task, found in measured.items()]
    if as_json:
        typer.echo(json_text({"round": resolved.spec.round, "tasks": found}))
    for one in () if as_json else found:
        typer.echo(power.as_text(one, resolved))
    for task in resolved.search.tasks:
        if task not in measured:
            typer.echo(f"{task}: too few runs were measured (`fsq status {name}` says why)", err=True)
    if len(measured) < len(resolved.search.tasks):
        raise typer.Exit(1)


def submit(
    path: RoundPath,
    dry_run: Annotated[bool, typer.Option(help="Only check; store nothing.")] = False,
    after: Annotated[
        str | None, typer.Option(metavar="ROUND", help="Start once this round has finished.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Submit a round for a worker (`fsq work`) to run. The same round again changes nothing."""
    with open_client() as client:
        if dry_run:
            forecast = client.forecast(path, after)
            forecast.refuse()
            jobs = sum(stage.jobs for task in forecast.tasks for stage in task.stages.values())
            further = "".join(
                f", and those of the variants that {name} yields" for name in forecast.waits_for
            )
            said = f"{path.name} is in order: at most {jobs} jobs{further}."
            typer.echo(forecast.model_dump_json() if as_json else said)
            return
        submitted = client.submit(path, after)
    _say_submitted(submitted)
    if as_json:
        typer.echo(submitted.model_dump_json())


def work(
    drain: Annotated[bool, typer.Option(help="End when the queue is empty.")] = False,
    device: Device = "auto",
    log_format: Annotated[
        LogFormat | None, typer.Option(help="text or json (FSQ_LOG_FORMAT); on a terminal, a live display.")
    ] = None,
) -> None:
    """Run queued jobs of all rounds on this machine's device. Goes on until interrupted."""
    from orchestrator import engine
    from orchestrator.working import Terminated, working

    if read_settings().knows_the_server_only:
        to_stderr(
            "FSQ_SERVER is set, but a worker takes its jobs from this machine's database (or FSQ_DATABASE_URL)"
        )
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
            with database.read() as session:
                is_held_up = engine.is_held_up(session)
            if service.queue.has_failed or is_held_up:
                raise typer.Exit(1)
        else:
            service.run_forever()


def plan(path: RoundPath, as_json: AsJson = False) -> None:
    """Show what a round would do, and what it would cost.

    Its jobs, no-ops, what is known already, and how fine its accuracies are.
    """
    from orchestrator.terminal.forecast import as_text

    with open_client() as client:
        view = client.forecast(path)
    typer.echo(view.model_dump_json() if as_json else as_text(view))


def cancel(name: RoundName, as_json: AsJson = False) -> None:
    """End a round: nothing more is started, what is decided stays."""
    with open_client() as client:
        view = client.cancel(name)
    said = f"{name}: cancelled" if view.changed else f"{name}: had ended already"
    typer.echo(view.model_dump_json() if as_json else said)


def retry(name: RoundName, as_json: AsJson = False) -> None:
    """Run again what failed, or let a cancelled round go on."""
    with open_client() as client:
        view = client.retry(name)
    said = f"{name}: goes on"
    if not view.changed and view.state == "blocked":
        said = f"{name}: still blocked; `fsq status {name}` says why"
    elif not view.changed:
        said = f"{name}: there is nothing to try again: no job failed (one that diverged has its verdict)"
    typer.echo(view.model_dump_json() if as_json else said)


def prefetch(path: RoundPath) -> None:
    """Download a round's inputs and build its examples. No accelerator waits for that later."""
    with open_database() as database:
        intake = intake_of(database, announce=typer.echo)
        resolved, _ = intake.read_path(path)
    typer.echo(f"{resolved.spec.round}: everything is on this machine; `fsq run {path}` needs no network")


def _refuse_to_wait(database: Database, name: str) -> None:
    """Nothing can be run here of a round that comes after another: says why; exit code 1 if it is blocked."""
    from db.tables import RoundState
    from orchestrator.rounds import stored_round

    with database.read() as session:
        row = stored_round.find(session, name)
        if row.state is RoundState.WAITING:
            typer.echo(f"{name}: {row.reason}; `fsq work --drain` runs both", err=True)
            raise typer.Exit(0)
        if row.state is RoundState.BLOCKED:
            typer.echo(f"{name}: blocked: {row.reason}", err=True)
            raise typer.Exit(1)


def _work_on(database: Database, child: Child, name: str, *, on_stderr: bool = False) -> None:
    """Works on a round until nothing of it is left to do, with a display."""
    from rich.console import Console

    from orchestrator.terminal.display import display_for
    from orchestrator.working import working

    display = display_for(Console(stderr=on_stderr), partial(outlook_of, database))
    with working(database, child, display, name) as service:
        service.run_until_idle()


def _say_submitted(submitted: SubmissionView) -> None:
    typer.echo(f"{submitted.round}: {'submitted' if submitted.is_new else 'known already'}", err=True)


def _finish(database: Database, name: str) -> None:
    """Leaves the results on disk and on the screen; exit code 1 when some job failed."""
    from orchestrator.findings import exports
    from orchestrator.findings.records import has_failures, records
    from orchestrator.reports import gathering, round_log

    results = read_settings().results
    written = exports.write_files(partial(exports.lines, database), name, results)
    failed = has_failures(records(database, name))
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
