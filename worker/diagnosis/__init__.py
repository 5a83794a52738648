"""What `fsq doctor` looks at, and what it advises.

One module for each thing: machine, device, kernels, database (SQLite, PostgreSQL), clock, inputs of rounds, workers
and their leases. Nothing here mends anything; a check that breaks down is itself a finding, never a traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from db.errors import DatabaseError
from db.revision import HEAD
from db.session import Database, may_exist
from worker.diagnosis import clock, database, device, inputs, kernels, machine, workers
from worker.diagnosis.finding import Finding as Finding

Check = Callable[[], Iterable[Finding]]


def findings(home: Path, database_url: str) -> Iterator[Finding]:
    """Checks everything, slow things included: seconds, and as long as reading the checkpoints takes.

    Each finding comes as soon as it is known.
    """
    checks: dict[str, Check] = {
        "machine": partial(machine.examine, home, database.folder(database_url)),
        "database": partial(database.examine, database_url),
        "rounds": partial(_contents, home, database_url),
        "device": device.examine,
        "kernels": kernels.examine,
    }
    for what, check in checks.items():
        yield from _without_traceback(what, check)


def _contents(home: Path, url: str) -> Iterator[Finding]:
    """What the database holds; nothing where `database.examine` has told why that cannot be known."""
    if not may_exist(url):
        return
    opened = None
    try:
        opened = Database(url)
        if opened.revision() != HEAD:
            return
    except DatabaseError:
        return
    else:
        yield from _without_traceback("clock", partial(clock.examine, opened))
        yield from _without_traceback("workers", partial(workers.examine, opened, home))
        yield from _without_traceback("inputs", partial(inputs.examine, opened))
    finally:
        if opened is not None:
            opened.close()


def _without_traceback(what: str, check: Check) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # whatever is broken, the other checks still have something to say
        said = " ".join(str(error).split())
        yield Finding.problem(
            what,
            f"this check broke down: {type(error).__name__}: {said}",
            "mend what else is reported and run `fsq doctor` again; if this stays, report it",
        )
