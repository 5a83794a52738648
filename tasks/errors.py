"""Every error of this package: `TaskError` for callers, `RowError` between a task and the builder."""

from __future__ import annotations


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
    """One row cannot become an example; the builder drops it and counts `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def in_words(error: BaseException) -> str:
    """An error of a plug-in, its kind first; its own text need not be had."""
    kind = type(error).__name__
    try:
        return f"{kind}: {error}"
    except Exception:
        return kind
