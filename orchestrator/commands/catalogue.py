"""What a round can be made of: variants and task kinds."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.options import AsJson
from orchestrator.wiring import refusal


class Vocabulary(StrEnum):
    WORLD = "world"
    BYTES = "bytes"


def variants(as_json: AsJson = False) -> None:
    """List the built-in catalogue of Future-Seed variants."""
    from orchestrator.rounds.catalogue import CATALOGUE
    from orchestrator.terminal.listings import variant_table

    listed = {name: settings.model_dump(exclude_defaults=True) for name, settings in CATALOGUE.items()}
    typer.echo(json.dumps(listed) if as_json else variant_table(listed))


def tasks(context: typer.Context, as_json: AsJson = False) -> None:
    """List the task kinds and their options. `fsq tasks show KIND` shows an example."""
    if context.invoked_subcommand is not None:
        return
    from orchestrator.terminal.listings import task_table
    from worker.job import task_kinds

    listed = task_kinds()
    typer.echo(json.dumps(listed) if as_json else task_table(listed))


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
    from orchestrator.messages import printable
    from orchestrator.rounds.reading import parse_task
    from orchestrator.rounds.round_file import parse_settings
    from orchestrator.terminal.build_report import report_lines
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
    typer.echo(f"\n{printable(built.example)}")
