"""Reads the files that a config names: JSON lines, CSV, plain lines and Parquet.

Nothing here knows a task. A table is either whole, for the task to divide, or belongs to one split.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

from tasks.config import Data
from tasks.errors import DataError, DataUnavailable, shown
from tasks.rows import suggestion
from tasks.splits import Split

RawRow = dict[str, object]

MAX_BYTES = 2**31  # of a file, and of what a Parquet file unfolds to; rows are held in memory
MAX_ROWS = 5_000_000  # of a Parquet file, where equal rows take no space
MAX_DEPTH = 100  # lists and objects in each other
MAX_PATH = 300  # characters of a path that a message shows


@dataclass(frozen=True, slots=True)
class Table:
    """Rows as they stand in the source; split None: not yet divided."""

    name: str
    rows: list[RawRow]
    split: Split | None = None


class Source(Protocol):
    """Data that can be identified before they are parsed."""

    @property
    def fingerprint(self) -> str:
        """Equal fingerprints, equal rows."""

    def read(self) -> list[Table]:
        """All tables, none of them empty."""


def open_source(data: Data) -> Source:
    """The source that `data` names; DataError where a file cannot be read."""
    if data.hub is not None:
        from tasks.hub import HubSource

        return HubSource(data.hub)
    files = {None: data.path, Split.TRAIN: data.train, Split.VAL: data.val}
    return FileSource({split: path for split, path in files.items() if path is not None})


def revision_of(data: Data | None) -> str | None:
    """The commit that the hub data are at now; None for other data. Raises DataError, DataUnavailable."""
    if data is None or data.hub is None:
        return None
    from tasks.hub import HubSource

    return HubSource(data.hub).commit


class FileSource:
    """One undivided file, or one file for each split; contents are read once, when it is opened."""

    def __init__(self, files: dict[Split | None, Path]) -> None:
        self._files = files
        self._contents = {split: _read_bytes(path) for split, path in files.items()}

    @property
    def fingerprint(self) -> str:
        """Splits, formats and SHA-256 of the contents; names and folders do not matter."""
        parts = [
            f"{split or 'all'}{self._files[split].suffix}:sha256:{hashlib.sha256(content).hexdigest()}"
            for split, content in self._contents.items()
        ]
        return ",".join(parts)

    def read(self) -> list[Table]:
        """A table for each file; DataError names the line that cannot be read."""
        return [
            Table(str(path), _parse(path, self._contents[split]), split)
            for split, path in self._files.items()
        ]


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise DataError(f"{path}: expected a file, found a pipe, socket or device")
        _check_size(path, status.st_size)
        return path.read_bytes()
    except FileNotFoundError:
        near = suggestion([path.name], _siblings(path))
        raise DataError(f"{shown(path, MAX_PATH)}: no such file{near}") from None
    except ValueError:  # a zero byte in the name
        raise DataError(f"{shown(path, MAX_PATH)} is no name of a file") from None
    except OSError as error:
        if isinstance(error, (IsADirectoryError, NotADirectoryError, PermissionError)) or (
            error.errno == errno.ENAMETOOLONG
        ):
            raise DataError(f"{shown(path, MAX_PATH)}: cannot be read as a file: {error.strerror}") from error
        raise DataUnavailable(f"{path}: reading failed: {error.strerror}") from error


def _siblings(path: Path) -> list[str]:
    return sorted(p.name for p in islice(path.parent.iterdir(), 1000)) if path.parent.is_dir() else []


def _check_size(path: Path, size: int) -> None:
    if size > MAX_BYTES:
        raise DataError(f"{path}: has {size:,} bytes, more than {MAX_BYTES:,}: give a part of it")


def _parse(path: Path, content: bytes) -> list[RawRow]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: unknown format {path.suffix or '(no ending)'}: expected {', '.join(_READERS)}"
        )
    rows = list(reader(path, content))
    if not rows:
        raise DataError(f"{path}: holds no rows")
    return rows


def _lines(path: Path, content: bytes) -> Iterator[tuple[int, str]]:
    """Numbered lines without line ends; only LF and CRLF end a line. Blank lines are left out."""
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield number, _decode(path, line.removesuffix(b"\r"), number)


def _decode(path: Path, text: bytes, line: int) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        found = f"byte 0x{text[error.start]:02x}"
        at = line + text.count(b"\n", 0, error.start)
        raise DataError(f"{path} line {at}: not UTF-8 text ({found})") from None


def _jsonl(path: Path, content: bytes) -> Iterator[RawRow]:
    for number, line in _lines(path, content):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path} line {number}: not valid JSON: {error.msg} (column {error.colno})"
            ) from None
        except (RecursionError, ValueError) as error:  # nested too deeply, a number of thousands of digits
            raise DataError(f"{path} line {number}: unreadable JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path} line {number}: expected a JSON object, found {type(row).__name__}")
        if line.count("[") + line.count("{") > MAX_DEPTH and _is_deep(row):
            raise DataError(f"{path} line {number}: nested more than {MAX_DEPTH} levels deep")
        yield row


def _is_deep(row: RawRow) -> bool:
    """Whether a row has more levels than whatever goes through it can follow."""
    level: list[object] = [row]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return any(isinstance(value, (dict, list)) for value in level)


def _txt(path: Path, content: bytes) -> Iterator[RawRow]:
    for _, line in _lines(path, content):
        yield {"text": line}


def _csv(path: Path, content: bytes) -> Iterator[RawRow]:
    text = _decode(path, content.removeprefix(b"\xef\xbb\xbf"), 1)
    with _wide_fields(len(text)):
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            header = next(filter(None, reader), [])  # whatever blank lines come before it
            if twice := sorted({name for name in header if name and header.count(name) > 1}):
                raise DataError(f"{path} line {reader.line_num}: two columns are named {twice[0]!r}")
            for cells in reader:
                if not cells:
                    continue
                if len(cells) != len(header):
                    found = f"{len(cells)} cells, the header has {len(header)}"
                    raise DataError(f"{path} line {reader.line_num}: {found}")
                yield dict(zip(header, cells, strict=True))
        except csv.Error as error:
            raise DataError(f"{path} line {reader.line_num}: not valid CSV: {error}") from None


@contextmanager
def _wide_fields(size: int) -> Iterator[None]:
    """The csv module refuses cells over 128 KiB unless told otherwise."""
    before = csv.field_size_limit(max(size, csv.field_size_limit()))
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path, content: bytes) -> Iterator[RawRow]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow: pip install 'fsq[hub]'") from None
    size = 0
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        if file.metadata.num_rows > MAX_ROWS:
            found = f"{file.metadata.num_rows:,} rows, more than {MAX_ROWS:,}"
            raise DataError(f"{path}: has {found}: give a part of it")
        for batch in file.iter_batches(batch_size=1024):
            columns = (
                column.dictionary_decode() if pyarrow.types.is_dictionary(column.type) else column
                for column in batch.columns
            )
            size += sum(column.nbytes for column in columns)
            _check_size(path, size)
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, LookupError, OSError, OverflowError, ValueError) as error:
        reason = shown(str(error).partition("\n")[0], MAX_PATH)
        raise DataError(f"{path}: not a readable Parquet file: {reason}") from None


_READERS: dict[str, Callable[[Path, bytes], Iterator[RawRow]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".txt": _txt,
    ".parquet": _parquet,
}
