"""What several commands share: arguments, and how they answer."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.errors import BadInput
from orchestrator.wiring import read_settings

RoundPath = Annotated[Path, typer.Argument(metavar="ROUND.yaml", help="The round file.")]
RoundName = Annotated[str, typer.Argument(metavar="ROUND", help="The round's name.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


def refuse_a_server(command: str, advice: str = "") -> None:
    if read_settings().server:
        raise BadInput(f"`fsq {command}` works on this machine's database; unset FSQ_SERVER{advice}")


def refuse_a_server_alone(command: str) -> None:
    """As `refuse_a_server`, but where the server's database is named beside it."""
    if read_settings().knows_the_server_only:
        refuse_a_server(command, ", or set FSQ_DATABASE_URL to that of the server")


def to_stderr(message: str) -> None:
    typer.echo(message, err=True)


def json_text(value: Any) -> str:
    from pydantic_core import to_json

    return to_json(value).decode()
