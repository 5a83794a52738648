"""Files of records as a stream of what they say, and of what was skipped and why."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.errors import BadInput
from orchestrator.history.entries import LEDGER_KEY, OWN_KEY, Entry, NotARecord, entry_of, round_of
from orchestrator.history.lines import Line, Skipped, read_lines
from orchestrator.messages import one_line
from orchestrator.rounds.round_file import plain_json

ENDINGS = (".jsonl", ".csv")


class Found(NamedTuple):
    """A record, where it stood, and what it says."""

    file: str
    line: int
    round: str
    content: str  # as JSON in ASCII with sorted keys
    entry: Entry


def files(paths: Iterable[Path]) -> Sequence[Path]:
    """The files that paths name: themselves, and of folders those that end in .jsonl or .csv; raises BadInput.

    Of a folder that fsq exported into, the tables beside the JSON lines are left out: they hold the same records.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = [each for each in path.iterdir() if each.suffix in ENDINGS and each.is_file()]
            if not inside:
                raise BadInput(f"{path} holds no file that ends in {' or '.join(ENDINGS)}")
            found += sorted((each for each in inside if not _repeats_another(each)), key=_in_order)
        elif path.is_file():
            found.append(path)
        else:
            raise BadInput(f"{path}: there is no such file or folder")
    return list(dict.fromkeys(found))


def _repeats_another(path: Path) -> bool:
    if path.suffix != ".csv" or not path.with_suffix(".jsonl").is_file():
        return False
    try:
        with path.open("rb") as stream:
            return OWN_KEY.encode() in stream.readline(2**16).rstrip().split(b",")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error


def _in_order(path: Path) -> list[tuple[int, str]]:
    """Round 98 before round 100."""
    pieces = re.split(r"(\d+)", path.name)
    return [(int(piece), piece) if piece.isdecimal() and len(piece) < 10 else (-1, piece) for piece in pieces]


def read_file(path: Path) -> Iterator[Found | Skipped]:
    """What stands in a file of records, line by line, without holding more than one; raises BadInput."""
    name = shown(path)
    try:
        with path.open("rb") as stream:
            lines = read_lines(stream, name)
            yield from _ledger(lines, name) if path.suffix == ".csv" else _records(lines, name)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error


def shown(path: Path) -> str:
    """The name of a file as findings cite it."""
    return one_line(os.fsencode(path.name).decode("utf-8", "replace"), 255)


def _records(lines: Iterable[Line | Skipped], name: str) -> Iterator[Found | Skipped]:
    for line in lines:
        if isinstance(line, Skipped):
            yield line
            continue
        try:
            yield _found(plain_json(line.content.decode(), numberless=True), name, line.number)
        except UnicodeDecodeError:
            yield Skipped(name, line.number, "not UTF-8 text")
        except NotARecord as error:
            yield Skipped(name, line.number, str(error))
        except ValueError as error:
            cut = "" if line.is_whole else "the file ends within this line: "
            yield Skipped(name, line.number, cut + one_line(f"not valid JSON: {error}", 200))


def _ledger(lines: Iterable[Line | Skipped], name: str) -> Iterator[Found | Skipped]:
    """The rows of a table whose first line names its columns."""
    columns: list[str] = []
    for line in lines:
        if isinstance(line, Skipped):
            yield line
            continue
        try:
            text = line.content.decode()
            if not text.isprintable():
                raise NotARecord("a character that no line of a table has")
            cells = next(csv.reader([text], strict=True), [])
            if not columns and OWN_KEY in cells:
                reason = "fsq's own table: its records are in the .jsonl that is exported beside it"
                yield Skipped(name, line.number, reason)
                return
            if not columns:
                columns = _columns(cells)
            elif len(cells) == len(columns):
                row = {key: value for key, value in zip(columns, cells, strict=True) if value != ""}
                yield _found(row, name, line.number)
            else:
                cut = "" if line.is_whole else "the file ends within this line: "
                raise NotARecord(f"{cut}{len(cells)} cells, the first line names {len(columns)} columns")
        except UnicodeDecodeError:
            yield Skipped(name, line.number, "not UTF-8 text")
        except (NotARecord, csv.Error) as error:
            yield Skipped(name, line.number, one_line(str(error), 200))


def _columns(cells: Sequence[str]) -> list[str]:
    if LEDGER_KEY not in cells or len(set(cells)) < len(cells):
        raise NotARecord(
            f"expected the names of a ledger's columns, {LEDGER_KEY} among them; records are read from JSON lines"
        )
    return list(cells)


def _found(data: Any, name: str, line: int) -> Found:
    round_ = round_of(data, name)
    entry = entry_of(data, round_, f"{name}:{line}")
    return Found(name, line, round_, json.dumps(data, sort_keys=True), entry)
