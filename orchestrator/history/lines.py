"""The lines of a file of any size, each of bounded length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

MAX_LINE = 1_000_000  # bytes


class Line(NamedTuple):
    """A line without its end."""

    number: int
    content: bytes
    is_whole: bool  # ended in a line feed; the last line of a file that was cut does not


class Skipped(NamedTuple):
    """A line that was not taken, and why."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: skipped: {self.reason}"


def read_lines(stream: BinaryIO, name: str) -> Iterator[Line | Skipped]:
    """Every line that is not blank; one that is too long is skipped without being held in memory."""
    number = 0
    while piece := stream.readline(MAX_LINE + 1):
        number += 1
        is_whole = piece.endswith(b"\n")
        if len(piece) > MAX_LINE and not is_whole:
            while piece and not piece.endswith(b"\n"):
                piece = stream.readline(MAX_LINE)
            yield Skipped(name, number, f"the line has more than {MAX_LINE:,} bytes")
            continue
        content = piece.removeprefix(b"\xef\xbb\xbf") if number == 1 else piece
        if content.strip():
            yield Line(number, content.rstrip(b"\r\n"), is_whole)
