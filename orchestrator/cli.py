"""The command line; with `start`, `commands` and `wiring`, the composition root."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import typer

from orchestrator.commands import catalogue, history, machine, results, rounds, tokens
from orchestrator.errors import FsqError


def _group(commands: dict[str, Callable[..., None]], **options: Any) -> typer.Typer:
    """Commands under their names, in this order."""
    group = typer.Typer(**options)
    for name, command in commands.items():
        group.command(name)(command)
    return group


app = _group(
    {
        "run": rounds.run,
        "calibrate": rounds.calibrate,
        "submit": rounds.submit,
        "work": rounds.work,
        "status": results.status,
        "workers": results.workers,
        "plan": rounds.plan,
        "export": results.export,
        "plot": results.plot,
        "report": results.report,
        "check-docs": results.check_docs,
        "cancel": rounds.cancel,
        "retry": rounds.retry,
        "import": history.import_,
        "audit": history.audit,
        "variants": catalogue.variants,
        "prefetch": rounds.prefetch,
        "doctor": machine.doctor,
        "serve": machine.serve,
    },
    help="Serial early-prune search for post-training RWKV-7 with Future-Seed.",
    epilog="With a command, --debug shows where in the program an error comes from. fsq --version: which one it is.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # to import what draws help in colours takes as long as all the rest
)
app.add_typer(
    _group(
        {"create": tokens.create, "list": tokens.list_tokens, "revoke": tokens.revoke},
        help="Tokens for the service over HTTP.",
        no_args_is_help=True,
    ),
    name="token",
)
app.add_typer(_group({"upgrade": machine.upgrade}, help="The database.", no_args_is_help=True), name="db")
app.add_typer(
    _group({"show": catalogue.show}, callback=catalogue.tasks, invoke_without_command=True), name="tasks"
)


def main() -> None:
    """Runs the command line; errors become one clear sentence and an exit code."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    if sys.argv[1:] == ["--version"]:
        print(f"fsq {version('fsq')}")
        return
    try:
        app(standalone_mode=True)
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        if debug:
            traceback.print_exc()
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
