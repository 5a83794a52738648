"""This machine: its health, its database, and the service that it offers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.commands.options import AsJson, LogFormat
from orchestrator.wiring import open_database, preparation, read_settings


def doctor(as_json: AsJson = False) -> None:
    """Check everything that fsq depends on.

    Says what to do about what is wrong. Checked are home, disk, database and its schema, clock, workers with their
    locks and leases, the checkpoints and data of rounds that have not ended, device and kernels. Checkpoints are
    read whole, which may take a while. Ends with exit code 1 where there is a problem.
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


def upgrade() -> None:
    """Bring the database to the schema of this version."""
    from db.migrations import upgrade as migrate
    from db.session import Database

    database = Database(read_settings().database)
    typer.echo(f"the database is at revision {migrate(database)}")
