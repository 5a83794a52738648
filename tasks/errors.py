"""Every error of this package: `TaskError` for callers, `RowError` between a task and the builder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class TaskError(Exception):
    """A task cannot give its examples; the message says what, where and what to do."""


class DataError(TaskError):
    """The data themselves are wrong: file missing or unreadable, columns missing, a line malformed."""


class BuildError(TaskError):
    """The data are fine but give too few examples under the limits of the config."""


class UnknownTaskKind(TaskError):
    """No task is registered under this kind."""


class BrokenTaskKind(TaskError):
    """A task is registered under this kind, but its plug-in cannot be used."""


class DataUnavailable(TaskError):
    """Network, hub or disk failed: nothing is known about the data, and trying again may help."""


class RowError(Exception):
    """One row cannot become an example; the builder drops it and counts `reason`, a short text."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = shown(reason)


def shown(name: object, limit: int = 60) -> str:
    """A name from a file in a message: unprintable characters escaped, the end cut."""
    text = str(name)
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    return safe if len(text) <= limit else f"{safe}..."


def in_words(error: BaseException) -> str:
    """An error of a plug-in, its kind first; its own text need not be had."""
    kind = type(error).__name__
    try:
        return f"{kind}: {error}"
    except Exception:
        return kind


@contextmanager
def blaming_kind(
    kind: str, what: str, *, passing: tuple[type[Exception], ...] = (RowError, TaskError)
) -> Iterator[None]:
    """Raises BrokenTaskKind for what the code of a task kind raises that is no word on its rows or data."""
    try:
        yield
    except (Exception, SystemExit) as error:  # of a plug-in: anything
        if isinstance(error, (*passing, MemoryError)):
            raise
        raise BrokenTaskKind(f"task kind {kind!r} failed {what}: {shown(in_words(error), 300)}") from error
