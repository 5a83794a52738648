"""Records and summaries as text, on a stream or in files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from db.session import Database
from orchestrator.files import write_whole
from orchestrator.findings.records import EVERY_LINE, Record, records, to_jsonl
from orchestrator.findings.summary import summary
from orchestrator.rounds import stored_round


def lines(database: Database, name: str, form: str) -> Iterator[str]:
    """A round's records (`jsonl`, `csv`) or `summary`, line by line; raises NotFound."""
    if form == "jsonl":
        yield from (to_jsonl(record) for record in records(database, name))
    elif form == "csv":
        yield from _csv(list(records(database, name)))
    else:
        with database.read() as session:
            row = stored_round.find(session, name)
            resolved = stored_round.resolve(row)
        state = f"{row.state} ({row.reason})" if row.reason else row.state
        yield from summary(resolved, state, list(records(database, name))).splitlines()


Ask = Callable[[str, str], Iterable[str]]  # gives the lines of a round in a form, such as `lines` does


def write_file(ask: Ask, name: str, form: str, path: Path) -> Path:
    """Writes a round in one form, and returns the path; raises what `ask` raises, and FsqError."""
    write_whole(path, "".join(f"{line}\n" for line in ask(name, form)).encode())
    return path


def write_files(ask: Ask, name: str, folder: Path, *, is_csv: bool = False) -> Sequence[Path]:
    """Writes `_<round>_records.jsonl`, `.csv` if asked for, and `_summary_<round>.txt`; returns their paths.

    Raises what `ask` raises, and FsqError.
    """
    contents = {folder / f"_{name}_records.jsonl": "jsonl", folder / f"_summary_{name}.txt": "summary"}
    if is_csv:
        contents[folder / f"_{name}_records.csv"] = "csv"
    return [write_file(ask, name, form, path) for path, form in contents.items()]


def _csv(rows: Sequence[Record]) -> Iterator[str]:
    """One header with the keys of every line, then every other that occurs; caveats joined by spaces."""
    columns = list(dict.fromkeys(chain(EVERY_LINE, *rows)))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"caveats": " ".join(row["caveats"])} for row in rows)
    yield from buffer.getvalue().splitlines()
