"""Records of the past: taking them in, and judging them."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands.options import AsJson, json_text, refuse_a_server, to_stderr
from orchestrator.errors import NotFound, OutOfReach
from orchestrator.history.predecessor import LAYERS
from orchestrator.wiring import open_client, open_database, read_settings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from orchestrator.history.entries import Entry


def import_(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Record files (.jsonl, .csv), or folders of them.")
    ],
    strict: Annotated[bool, typer.Option(help="Import nothing when any line would be skipped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take in record files as history.

    Those of the predecessor, or exported by fsq. Importing again adds nothing. Imported records are never answers:
    no round is planned or answered from them. Every line that is skipped is told on stderr, with its reason.
    """
    from orchestrator.history import importing, reading

    refuse_a_server("import")
    with open_database() as database:
        counts = importing.import_files(
            database, reading.files(paths), to_stderr, now=datetime.now(UTC), strict=strict
        )
    if as_json:
        typer.echo(json_text({"files": counts, "total": importing.totals(counts)}))
        return
    for count in counts:
        typer.echo(count)
    typer.echo(
        "{files} files: {added} records added, {known} known already, {skipped} lines skipped".format(
            **importing.totals(counts)
        )
    )


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
        int,
        typer.Option(min=1, help="Layers of the predecessor's model, for its variants named after a layer."),
    ] = LAYERS,
    markdown: Annotated[bool, typer.Option("--markdown", help="For a document, with all records.")] = False,
    as_json: AsJson = False,
) -> None:
    """Judge rounds, own or imported: what cannot be believed.

    Says which records show it, and looks for duplicates, no-ops and ties, deltas without a matched baseline, coarse
    grids, chance level, reversals, regression to the mean, seeds that disagree, decisions against the stated rule,
    and labels that mislead.
    """
    from orchestrator.audit import judging, reporting
    from orchestrator.history.entries import History

    judged = judging.audit(History.of(_entries(what or [], imported=imported)), layers)
    if not (what or imported or judged.judged["rounds"]) and (others := _imported_rounds()):
        records = sum(others.values())
        to_stderr(f"fsq: no own round has records; {records} imported ones are judged with --imported")
    if as_json:
        typer.echo(json_text(reporting.as_json(judged)))
    elif markdown:
        typer.echo(reporting.as_markdown(judged), nl=False)
    else:
        typer.echo(reporting.as_text(judged))


def _entries(what: list[str], *, imported: bool) -> Iterator[Entry]:
    """The records that names of rounds, files and folders stand for."""
    from orchestrator.history import reading, sources

    paths, names = sources.told_apart(what, partial(_known_rounds, imported=imported))
    if paths:
        yield from sources.of_files(reading.files(paths), to_stderr)
    if imported:
        refuse_a_server("audit --imported")
        with open_database() as database:
            yield from sources.of_imported(database, names)
    elif names or not paths:
        yield from _own(names)


def _known_rounds(*, imported: bool) -> Collection[str]:
    """The rounds that can be judged, own or imported; none where there is no database, or it does not answer."""
    from db.errors import DatabaseUnreachable
    from db.session import may_exist

    chosen = read_settings()
    if not (chosen.server or may_exist(chosen.database)):
        return ()
    try:
        if imported:
            return _imported_rounds()
        with open_client() as client:
            return {line.round for line in client.rounds()}
    except (OutOfReach, DatabaseUnreachable) as error:
        to_stderr(f"warning: {error}; what exists here is taken for a file or folder")
        return ()


def _own(names: Sequence[str]) -> Iterator[Entry]:
    """The records of own rounds, these or all; raises NotFound, which tells of imported ones of that name."""
    from orchestrator.history import sources

    with open_client() as client:
        if not names:
            yield from sources.of_rounds(client, warn=to_stderr)
        for name in dict.fromkeys(names):
            try:
                yield from sources.of_rounds(client, [name])
            except NotFound as error:
                if name not in _imported_rounds():
                    raise
                raise NotFound(f"{error}; imported records of it are judged with --imported") from None


def _imported_rounds() -> Mapping[str, int]:
    """How many records of each round were imported; where a server is asked, none can be."""
    from orchestrator.history import sources

    if read_settings().server:
        return {}
    with open_database() as database:
        return sources.imported_rounds(database)
