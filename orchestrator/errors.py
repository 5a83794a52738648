"""What can go wrong between a user's wish and the database, each with the exit code it ends the program with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class FsqError(Exception):
    """Base of all errors a user is told about; `exit_code` is the command line's."""

    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a round file."""

    path: str  # into the file: tasks.mbpp_fix.val
    line: int | None
    message: str

    def __str__(self) -> str:
        line = f"line {self.line}" if self.line else ""
        where = ", ".join(part for part in (line, self.path) if part)
        return f"{where}: {self.message}" if where else self.message


class BadRound(FsqError):
    """A round that cannot be accepted; carries every problem found."""

    exit_code = 2

    def __init__(self, name: str, problems: Sequence[Problem]) -> None:
        self.name = name
        self.problems = tuple(problems)
        super().__init__(as_text(name, problems))


def as_text(name: str, problems: Sequence[Problem]) -> str:
    """A line for each problem, after the name of what has it."""
    return "\n".join(f"{name}: {problem}" if name else str(problem) for problem in problems)


class BadInput(FsqError):
    """Something that was asked for makes no sense, or is not safe."""

    exit_code = 2


class OutOfReach(FsqError):
    """The hub or the network failed: nothing is wrong with the round, and it may be tried again."""

    exit_code = 5


class Refused(FsqError):
    """The server does not let this user do that."""

    exit_code = 4


class NotFound(FsqError):
    """Something named does not exist."""

    exit_code = 3


class BrokenRound(FsqError):
    """A stored round that cannot be worked out here, such as one whose prune rule is not installed, or raises."""

    exit_code = 2

    def __init__(self, message: str, name: str | None = None) -> None:
        super().__init__(message)
        self.round = name  # where it is known


def no_such_round(name: str) -> NotFound:
    """What to say of a round that is not there."""
    return NotFound(f"there is no round named {name!r} (`fsq status` lists them)")


class Conflict(FsqError):
    """The name is taken by something else."""

    exit_code = 4
