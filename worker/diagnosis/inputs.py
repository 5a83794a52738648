"""The files that rounds still need: checkpoints that are those of the submission, data that can be read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import select

from db.session import Database
from db.tables import Round, RoundState
from model import CheckpointError, checkpoint
from worker.diagnosis.finding import Finding

UNFINISHED = (RoundState.WAITING, RoundState.ACTIVE)


class Needed(NamedTuple):
    """A checkpoint and the digest that it had when rounds were submitted with it."""

    path: Path
    digest: str


def examine(database: Database) -> Iterator[Finding]:
    """Reads every checkpoint of rounds that have not ended, whole, and looks at their data files."""
    with database.read() as session:
        query = select(Round.name, Round.facts, Round.spec).where(Round.state.in_(UNFINISHED))
        rounds = [tuple(row) for row in session.execute(query.order_by(Round.id))]
    yield from checkpoints((name, facts) for name, facts, _ in rounds)
    yield data_files((name, spec) for name, _, spec in rounds)


def checkpoints(rounds: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[Finding]:
    """One finding for each checkpoint, whatever the number of (name, facts) that need it."""
    needed: dict[Needed, list[str]] = {}
    for name, facts in rounds:
        model = facts["model"]
        if model["path"] is not None:
            needed.setdefault(Needed(Path(model["path"]), model["digest"]), []).append(name)
    if not needed:
        yield Finding.fine("checkpoints", "no round that has not ended needs a file")
    for file, names in needed.items():
        yield _checkpoint(file, f"needed by {_listed(names)}")


def _checkpoint(file: Needed, needed_by: str) -> Finding:
    what = f"checkpoint {file.path.name}"
    try:
        checkpoint.inspect(file.path)
        digest = checkpoint.digest(file.path)
        size = file.path.stat().st_size
    except (CheckpointError, OSError) as error:
        return Finding.problem(
            what,
            f"{error}; {needed_by}",
            "put the file back (on the machine that works on the round), or `fsq cancel` the round",
        )
    if digest != file.digest:
        return Finding.problem(
            what,
            f"{file.path} has changed: SHA-256 {digest[:12]}, at submission {file.digest[:12]}; {needed_by}",
            "put back the file of the submission, or `fsq cancel` the round and submit it under another name",
        )
    return Finding.fine(what, f"all {size / 2**20:.1f} MiB read, the same as at submission; {needed_by}")


def data_files(rounds: Iterable[tuple[str, Mapping[str, Any]]]) -> Finding:
    """Whether the data files that the rounds (name, spec) name are there and can be read."""
    paths = {Path(path): name for name, spec in rounds for path in _data_of(spec)}
    unreadable = []
    for path, name in paths.items():
        try:
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:
            unreadable.append(f"{path}: {error.strerror} (round {name})")
    if not unreadable:
        return Finding.fine("data files", f"{len(paths)} needed, all can be read")
    return Finding.problem(
        "data files",
        "; ".join(unreadable),
        "put the files back (on the machine that works on the round), or `fsq cancel` the round",
    )


def _data_of(spec: Mapping[str, Any]) -> Iterator[str]:
    for task in spec["tasks"].values():
        data = task.get("data") or {}
        yield from (data[key] for key in ("path", "train", "val") if data.get(key))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
