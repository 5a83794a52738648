"""Text of whatever origin, as messages show it."""

from __future__ import annotations

from worker.job import shown

LONGEST_PATH = 200  # characters of a place, as shown
LONGEST_MESSAGE = 800  # characters of what is wrong there, as shown

Location = tuple[str | int, ...]  # of a value within a file: keys, and places in lists


def dotted(location: Location) -> str:
    """The path into a file as people write it: stages.0.steps."""
    return one_line(".".join(str(part) for part in location), LONGEST_PATH)


def printable(text: str) -> str:
    """Text of several lines as a terminal may get it: what could steer it is escaped."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str, limit: int = LONGEST_MESSAGE) -> str:
    """Text as a line of a message: unprintable characters escaped, the end cut."""
    return text if len(text) <= limit and text.isprintable() else shown(text, limit)
