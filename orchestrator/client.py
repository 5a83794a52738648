"""The same questions and commands, put to a database or, over HTTP, to a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from db.session import Database
from orchestrator.errors import BrokenRound
from orchestrator.views import lookup
from orchestrator.views.lookup import Found, Slice
from orchestrator.views.shapes import (
    ChangeView,
    DecisionView,
    EvaluationView,
    JobView,
    RoundLine,
    RoundView,
    SubmissionView,
    WorkerView,
)

if TYPE_CHECKING:
    from orchestrator.intake import Intake
    from orchestrator.views.forecast import Forecast

PAGE = 500
Item = TypeVar("Item")


class Client(Protocol):
    """What the command line asks for; every method raises FsqError for what goes wrong."""

    def rounds(self) -> Iterator[RoundLine]:
        """Every round, the newest first."""

    def round(self, name: str) -> RoundView: ...
    def jobs(self, name: str) -> Iterator[JobView]: ...
    def decisions(self, name: str) -> Iterator[DecisionView]: ...
    def evaluations(self, job_id: int) -> list[EvaluationView]: ...
    def workers(self) -> list[WorkerView]: ...
    def cancel(self, name: str) -> ChangeView: ...
    def retry(self, name: str) -> ChangeView: ...

    def lines(self, name: str, form: str) -> Iterator[str]:
        """A round's records (`jsonl`, `csv`) or `summary`, line by line."""

    def submit(self, path: Path, after: str | None) -> SubmissionView: ...
    def forecast(self, path: Path, after: str | None = None) -> Forecast: ...


def of_each_round(
    client: Client,
    names: Sequence[str],
    read: Callable[[str], Item],
    warn: Callable[[str], None] | None = None,
) -> Iterator[Item]:
    """What is read of these rounds, in this order, or of all there are, the oldest first; raises what `read` raises.

    warn: is told of those that are broken, where all are asked for; without it, they are raised.
    """
    wanted: Iterable[str] = dict.fromkeys(names) or [line.round for line in client.rounds()][::-1]
    for name in wanted:
        try:
            yield read(name)
        except BrokenRound as error:
            if names or warn is None:
                raise
            warn(f"left out: {error}")


@dataclass(frozen=True)
class DatabaseClient:
    """Talks to the database of this machine; `intake` makes what takes rounds in, which reading does not need.

    What searching takes is imported where it is needed, so that looking at lists starts sooner.
    """

    database: Database
    intake: Callable[[], Intake]
    user: str

    def rounds(self) -> Iterator[RoundLine]:
        return self._pages(lambda session, part: lookup.rounds(session, part))

    def round(self, name: str) -> RoundView:
        from orchestrator.views import progress

        with self.database.read() as session:
            return progress.round_(session, name)

    def jobs(self, name: str) -> Iterator[JobView]:
        return self._pages(lambda session, part: lookup.jobs(session, name, part))

    def decisions(self, name: str) -> Iterator[DecisionView]:
        from orchestrator.views import progress

        return self._pages(lambda session, part: progress.decisions(session, name, part))

    def evaluations(self, job_id: int) -> list[EvaluationView]:
        with self.database.read() as session:
            return lookup.evaluations(session, job_id)

    def workers(self) -> list[WorkerView]:
        with self.database.read() as session:
            return lookup.workers(session, datetime.now(UTC))

    def cancel(self, name: str) -> ChangeView:
        from orchestrator import interventions

        with self.database.write() as session:
            return interventions.cancel(session, name, by=self.user, now=datetime.now(UTC))

    def retry(self, name: str) -> ChangeView:
        from orchestrator import interventions

        with self.database.write() as session:
            return interventions.retry(session, name, by=self.user, now=datetime.now(UTC))

    def lines(self, name: str, form: str) -> Iterator[str]:
        from orchestrator.findings import exports

        return exports.lines(self.database, name, form)

    def submit(self, path: Path, after: str | None) -> SubmissionView:
        intake = self.intake()
        resolved, file = intake.read_path(path, after)
        return intake.submit(resolved, file.text, by=self.user)

    def forecast(self, path: Path, after: str | None = None) -> Forecast:
        intake = self.intake()
        resolved, _ = intake.read_path(path, after)
        return intake.forecast(resolved)

    def _pages(self, ask: Any) -> Iterator[Any]:
        """Every item of a list, in short transactions."""
        part = Slice(limit=PAGE)
        while True:
            with self.database.read() as session:
                found: Found = ask(session, part)
            yield from found.items
            if found.last is None:
                return
            part = Slice(found.last, PAGE)
