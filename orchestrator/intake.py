"""How rounds come in: read, validated, their inputs prepared, stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from db.session import Database
from orchestrator import engine
from orchestrator.errors import BadRound, Problem
from orchestrator.messages import Location, dotted
from orchestrator.rounds import round_file, stored_round
from orchestrator.rounds.reading import validate
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.rounds.round_file import RoundFile
from orchestrator.rounds.spec import RoundSpec
from orchestrator.views import forecast
from orchestrator.views.forecast import Forecast
from orchestrator.views.shapes import SubmissionView
from worker.job import RoundFacts

Prepare = Callable[[RoundSpec, RoundFile], RoundFacts]  # raises BadRound, OutOfReach


@dataclass(frozen=True)
class Intake:
    """Takes rounds in for one database; `prepare` fetches and inspects a round's inputs.

    roots: the folders in which paths of a round must lie; None: anywhere. snapshot_bytes: room for snapshots where
    rounds run, None where it is not known here.
    """

    database: Database
    prepare: Prepare
    roots: Sequence[Path] | None = None
    snapshot_bytes: int | None = None

    def read(
        self, file: RoundFile, folder: Path, after: str | None = None, *, today: date | None = None
    ) -> ResolvedRound:
        """Validates a round and prepares its inputs; relative paths are taken from `folder`.

        Raises BadRound with everything that is wrong, NotFound for a round that it refers to, or OutOfReach where
        the network failed.
        """
        today = today or datetime.now().astimezone().date()
        spec = validate(file, after, today=today, known=self._known).resolved(folder)
        if self.roots is not None:
            _confine(spec, file, self.roots)
        return ResolvedRound(spec, self.prepare(spec, file))

    def read_path(self, path: Path, after: str | None = None) -> tuple[ResolvedRound, RoundFile]:
        """Reads the round file at a path, with relative paths taken from its folder; raises what `read` does."""
        file = round_file.read(path)
        return self.read(file, path.resolve().parent, after), file

    def submit(self, resolved: ResolvedRound, text: str, *, by: str) -> SubmissionView:
        """Stores a round, once, with the file's text; raises what `engine.submit` does."""
        name = resolved.spec.round
        with self.database.write() as session:
            is_new = engine.submit(session, resolved, text, by=by, now=datetime.now(UTC)).is_new
            state = stored_round.find(session, name).state
        return SubmissionView(round=name, state=state, is_new=is_new)

    def forecast(self, resolved: ResolvedRound) -> Forecast:
        """What the round would do; raises NotFound."""
        with self.database.read() as session:
            return forecast.of_round(session, resolved, self.snapshot_bytes)

    def _known(self, name: str) -> Mapping[str, Any]:
        with self.database.read() as session:
            return stored_round.find(session, name).spec


def _confine(spec: RoundSpec, file: RoundFile, roots: Sequence[Path]) -> None:
    """Raises BadRound where a path leads out of the roots, symbolic links followed, whether or not it exists."""
    allowed = [root.resolve() for root in roots]
    problems = [
        Problem(
            dotted(place),
            file.line_of(place),
            "this server reads data and checkpoints from its own folders only (FSQ_DATA_ROOTS); this path leads "
            "out of them",
        )
        for place, path in _paths(spec.model_dump())
        if not _lies_in(path, allowed)
    ]
    if problems:
        raise BadRound(file.name, problems)


def _lies_in(path: Path, roots: Sequence[Path]) -> bool:
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError):  # links that go round in a circle
        return False
    return any(resolved.is_relative_to(root) for root in roots)


def _paths(value: Any, place: Location = ()) -> Iterator[tuple[Location, Path]]:
    """Every path in a round, whatever kind of task it belongs to, with its place."""
    if isinstance(value, Path):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _paths(inner, (*place, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _paths(inner, (*place, index))
