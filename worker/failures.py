"""What a training process died of, told from its exit code and the end of its log.

Exceptions that fsq knows never come here: they carry their outcome (`worker.errors`). A user's own table, a YAML
mapping `pattern: outcome`, is asked before the built-in one.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from worker.errors import BadFailureTable
from worker.job import Outcome

LOG_TAIL = 64 * 2**10  # bytes looked at
ALLOWED = (Outcome.INFRA_FAILED, Outcome.OOM, Outcome.DIVERGED, Outcome.CRASHED)


class Pattern(NamedTuple):
    """A regular expression, and what a log line that it is found in means."""

    expression: re.Pattern[str]
    outcome: Outcome


def _pattern(expression: str, outcome: Outcome) -> Pattern:
    return Pattern(re.compile(expression, re.IGNORECASE), outcome)


BUILT_IN = (
    _pattern(
        r"no space left on device|disk quota exceeded|read-only file system|stale file handle"
        r"|input/output error|too many open files|resource temporarily unavailable",
        Outcome.INFRA_FAILED,
    ),
    _pattern(  # Triton builds with it what loads its kernels
        r"failed to find c compiler"
        r"|calledprocesserror: command '\['([^']*/)?([\w.]+-)*(g?cc|[gc]\+\+|clang(\+\+)?)(-\d+)?'",
        Outcome.INFRA_FAILED,
    ),
    _pattern(
        r"temporary failure in name resolution|network is unreachable|connection (reset|refused|timed out)",
        Outcome.INFRA_FAILED,
    ),
    _pattern(  # before the driver's row: some drivers say what is missing, and their name
        r"out ?of ?memory|can't allocate memory|cannot allocate memory|std::bad_alloc|^memoryerror"
        r"|cublas_status_alloc_failed",
        Outcome.OOM,
    ),
    _pattern(
        r"no cuda-capable device|cuda gpus? (is|are) available|cuda-capable device\(s\)|cuda (driver|unknown error)"
        r"|the nvidia driver on your system|cudagetdevicecount|cublas_status_not_initialized"
        r"|not compiled with cuda|uncorrectable ecc|fallen off the bus"
        r"|cuda error: (unspecified launch failure|unknown error|system not yet initialized|initialization error"
        r"|invalid device ordinal|device (busy|unavailable))|cudnn_status_not_init",
        Outcome.INFRA_FAILED,
    ),
)


# as worker.child.serving writes them: no last words
_OWN_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [A-Z]+: ")
_LAST_WORDS = re.compile(r"^(Traceback \(most recent call last\)|terminate called|Fatal Python error)", re.M)


def outcome_of(exit_code: int, log: str, own: Sequence[Pattern] = ()) -> Outcome:
    """What the last line of its log that any pattern knows means; `crashed` when none does.

    A process that a signal from outside ended had no last words.
    """
    if exit_code < 0 and exit_code != -signal.SIGABRT:
        return Outcome.CRASHED
    starts = [found.start() for found in _LAST_WORDS.finditer(log)]
    lines = [line for line in log[starts[-1] if starts else 0 :].splitlines() if not _OWN_LINE.match(line)]
    for line in reversed(lines):
        for pattern in (*own, *BUILT_IN):
            if pattern.expression.search(line):
                return pattern.outcome
    return Outcome.CRASHED


def read_table(path: Path) -> tuple[Pattern, ...]:
    """A user's own patterns, in their order; raises BadFailureTable."""
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadFailureTable(f"the table of failures {path} cannot be read: {error}") from error
    if not isinstance(table, dict):
        raise BadFailureTable(f"the table of failures {path} is no mapping of patterns to outcomes")
    return tuple(_checked(path, expression, outcome) for expression, outcome in table.items())


def _checked(path: Path, expression: object, outcome: object) -> Pattern:
    if outcome not in list(ALLOWED):
        raise BadFailureTable(f"{path}: {outcome!r} is none of {', '.join(ALLOWED)}")
    try:
        return _pattern(str(expression), Outcome(str(outcome)))
    except re.error as error:
        raise BadFailureTable(
            f"{path}: {str(expression)!r} is no regular expression ({error}); quote it"
        ) from None
