"""Records and summaries as text, on a stream or in files."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy.orm import Session

from orchestrator import engine
from orchestrator.errors import FsqError
from orchestrator.records import Record, records, to_jsonl
from orchestrator.summary import summary


def lines(session: Session, name: str, form: str) -> Iterator[str]:
    """A round's records (`jsonl`, `csv`) or `summary`, line by line; raises NotFound."""
    row = engine.find(session, name)
    if form == "jsonl":
        yield from (to_jsonl(record) for record in records(session, row))
    elif form == "csv":
        yield from _csv(list(records(session, row)))
    else:
        state = f"{row.state} ({row.reason})" if row.reason else row.state
        text = summary(engine.resolve(row), state, list(records(session, row)))
        yield from text.splitlines()


def write_files(session: Session, name: str, folder: Path) -> Sequence[Path]:
    """Writes `_<round>_records.jsonl` and `_summary_<round>.txt`; returns their paths. Raises NotFound, FsqError."""
    contents = {
        folder / f"_{name}_records.jsonl": "jsonl",
        folder / f"_summary_{name}.txt": "summary",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, form in contents.items():
            unfinished = path.with_suffix(f".{os.getpid()}.tmp")
            unfinished.write_text(
                "".join(f"{line}\n" for line in lines(session, name, form)), encoding="utf-8"
            )
            unfinished.replace(path)
    except OSError as error:
        raise FsqError(f"{error.filename or folder} cannot be written: {error.strerror}") from error
    return tuple(contents)


def _csv(rows: Sequence[Record]) -> Iterator[str]:
    """One header with every key that occurs; caveats joined by spaces."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"caveats": " ".join(row["caveats"])} for row in rows)
    yield from buffer.getvalue().splitlines()
