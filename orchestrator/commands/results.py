"""Results: where rounds stand, what they found, and what documents say of it."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.options import AsJson, RoundName, json_text, to_stderr
from orchestrator.errors import BadInput
from orchestrator.wiring import open_client

if TYPE_CHECKING:
    from orchestrator.client import Client


class Format(StrEnum):
    JSONL = "jsonl"
    SUMMARY = "summary"
    CSV = "csv"


BY_ENDING = {".jsonl": Format.JSONL, ".csv": Format.CSV, ".txt": Format.SUMMARY}


class ReportFormat(StrEnum):
    TEXT = "text"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"
    HTML = "html"


def status(
    name: Annotated[str | None, typer.Argument(metavar="[ROUND]", help="One round; default: all.")] = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option(help="Refresh every second until interrupted.")] = False,
) -> None:
    """Show the rounds, or the jobs and decisions of one."""
    with open_client() as client:
        if watch:
            from orchestrator.terminal.display import refresh

            refresh(lambda: _status(client, name, as_json=as_json))
        typer.echo(_status(client, name, as_json=as_json))


def _status(client: Client, name: str | None, *, as_json: bool) -> str:
    """One round, or all with the newest last."""
    from orchestrator.terminal import status as texts

    if name is None:
        rounds = list(client.rounds())[::-1]
        return json_text({"rounds": rounds}) if as_json else texts.rounds_text(rounds)
    found = client.round(name)
    jobs, decisions = list(client.jobs(name)), list(client.decisions(name))
    if as_json:
        return json_text(found.model_dump(mode="json") | {"jobs": jobs, "decisions": decisions})
    return texts.round_text(found, jobs, decisions)


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
    from orchestrator.terminal.status import workers_text
    from orchestrator.views.shapes import WorkerState

    with open_client() as client:
        found = client.workers()
    typer.echo(json_text({"workers": found}) if as_json else workers_text(found))
    if alive_on and not any(
        one.host == alive_on and one.state in (WorkerState.ALIVE, WorkerState.PAUSED) for one in found
    ):
        raise typer.Exit(1)


def export(
    name: RoundName,
    form: Annotated[
        Format | None,
        typer.Option("--format", help="jsonl, summary or csv; default: jsonl, or by the file's ending."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="A file (.jsonl, .csv, .txt; another ending with --format), or a folder for records and summary.",
        ),
    ] = None,
) -> None:
    """Write a round's records or summary, also while it runs."""
    from orchestrator.findings.exports import write_file, write_files

    with open_client() as client:
        if output is None or output == Path("-"):
            for line in client.lines(name, form or Format.JSONL):
                typer.echo(line)
        elif _is_file(output, form):
            ending = BY_ENDING.get(output.suffix.lower(), Format.JSONL)
            typer.echo(write_file(client.lines, name, form or ending, output))
        else:
            for written in write_files(client.lines, name, output, is_csv=form is Format.CSV):
                typer.echo(written)


def _is_file(path: Path, form: Format | None) -> bool:
    """Whether a path to write to means a file: there is one, or its ending says so, any ending beside a format.

    Raises BadInput for what can be no path.
    """
    try:
        if path.exists():
            return not path.is_dir()
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    return path.suffix.lower() in BY_ENDING or (form is not None and path.suffix != "")


def plot(
    name: RoundName,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help=".png, .svg or .html.")],
) -> None:
    """Draw a round: its variants' deltas and learning curves."""
    from orchestrator.charts.plotting import plot as draw

    with open_client() as client:
        draw(client, name, output)
    typer.echo(output)


def report(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[ROUND]...", help="The rounds; default: all.")
    ] = None,
    form: Annotated[
        ReportFormat | None, typer.Option("--format", help="text (the default), markdown, csv, json or html.")
    ] = None,
    as_json: AsJson = False,
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
    """Say what rounds found together.

    For each task and variant the pooled delta, and how far to believe it.
    """
    from orchestrator.reports import publishing

    if as_json and form not in (None, ReportFormat.JSON):
        raise BadInput("--json and another --format do not go together")
    chosen = ReportFormat.JSON if as_json else form or ReportFormat.TEXT
    with open_client() as client:
        for line in publishing.publish(
            client,
            names or [],
            chosen.value,
            output,
            charts=charts,
            log=log,
            manifest=manifest,
            warn=to_stderr,
        ):
            typer.echo(line, nl=False)


def check_docs(
    paths: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Markdown files.")],
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Results are taken from this manifest; default: from the rounds."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find numbers and references in documents that are wrong.

    Numbers that differ from the records, and references to results that do not exist. Ends with exit code 1 where
    there are some. docs/reports.md tells how a document refers to a result.
    """
    from orchestrator.reports import checking

    documents = checking.read(paths)
    found = checking.findings(documents, checking.known(documents, manifest, open_client))
    count = sum(len(document.references) for document in documents)
    if as_json:
        typer.echo(json_text({"references": count, "findings": found}))
    elif found:
        typer.echo("\n".join(map(str, found)))
    else:
        typer.echo(f"{count} references, and all of them agree with the records")
    if found:
        raise typer.Exit(1)
