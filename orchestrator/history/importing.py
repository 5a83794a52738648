"""`fsq import`: what files of records say, stored once and told of in full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from db import history
from db.history import Imported
from db.session import Database
from orchestrator.errors import BadInput
from orchestrator.history.lines import Skipped
from orchestrator.history.reading import Found, read_file, shown

BATCH = 500  # records stored in one transaction
MOST_TOLD = 20  # skipped lines of a file that are told one by one


@dataclass
class FileCounts:
    """What became of a file's lines."""

    file: str
    added: int = 0
    known: int = 0  # there already, from this file or another
    skipped: int = 0

    def __str__(self) -> str:
        return f"{self.file}: {self.added} added, {self.known} known already, {self.skipped} skipped"


def import_files(
    database: Database, paths: Sequence[Path], tell: Callable[[str], None], *, now: datetime, strict: bool
) -> list[FileCounts]:
    """Stores every record of these files that is not there yet, and tells of every line that is skipped.

    strict: stores nothing when any line would be skipped. Raises BadInput, then and for unreadable files.
    """
    if strict:
        _refuse_what_would_be_skipped(paths, tell)
    return [_import(database, path, tell, now) for path in paths]


def totals(counts: Iterable[FileCounts]) -> dict[str, int]:
    """The sums over files."""
    summed: Counter[str] = Counter({"files": 0, "added": 0, "known": 0, "skipped": 0})
    for count in counts:
        numbers: dict[str, Any] = asdict(count) | {"files": 1}
        numbers.pop("file")
        summed.update(numbers)
    return dict(summed)


def told(lines: Iterable[Found | Skipped], tell: Callable[[str], None]) -> Iterator[Found | Skipped]:
    """The lines of a file, while the first of those skipped are told one by one and the rest by their number."""
    skipped = 0
    name = ""
    for line in lines:
        if isinstance(line, Skipped):
            skipped += 1
            name = line.file
            if skipped <= MOST_TOLD:
                tell(str(line))
        yield line
    if skipped > MOST_TOLD:
        tell(f"{name}: {skipped - MOST_TOLD} more lines skipped")


def _refuse_what_would_be_skipped(paths: Sequence[Path], tell: Callable[[str], None]) -> None:
    skipped = sum(isinstance(line, Skipped) for path in paths for line in told(read_file(path), tell))
    if skipped:
        raise BadInput(f"nothing was imported: --strict, and {skipped} lines would be skipped")


def _import(database: Database, path: Path, tell: Callable[[str], None], now: datetime) -> FileCounts:
    counts = FileCounts(shown(path))
    lines = told(read_file(path), tell)
    while batch := list(islice(lines, BATCH)):
        found = [line for line in batch if isinstance(line, Found)]
        records = [Imported(line.round, line.file, line.line, line.content) for line in found]
        with database.write() as session:
            added = history.add(session, records, now=now)
        counts.added += added
        counts.known += len(records) - added
        counts.skipped += len(batch) - len(records)
    return counts
