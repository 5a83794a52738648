"""What is to be judged: files, imported records, and rounds of one's own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path

from db import history
from db.session import Database
from orchestrator.client import Client, of_each_round
from orchestrator.errors import NotFound
from orchestrator.findings.records import is_decision
from orchestrator.history.entries import Entry, entry_of
from orchestrator.history.importing import told
from orchestrator.history.lines import Skipped
from orchestrator.history.reading import ENDINGS, read_file
from orchestrator.rounds.round_file import plain_json


def told_apart(words: Sequence[str], rounds: Callable[[], Collection[str]]) -> tuple[list[Path], list[str]]:
    """Which words are paths, and which are names of rounds: a path looks like one, or exists and is no round.

    rounds: the known ones; called only where a word may be either.
    """
    paths: list[Path] = []
    names: list[str] = []
    known = cache(rounds)
    for word in words:
        looks_like_one = "/" in word or word.endswith(ENDINGS)
        if looks_like_one or (Path(word).exists() and word not in known()):
            paths.append(Path(word))
        else:
            names.append(word)
    return paths, names


def of_files(paths: Sequence[Path], tell: Callable[[str], None]) -> Iterator[Entry]:
    """The records of files; what is skipped is told. Raises BadInput."""
    for path in paths:
        for line in told(read_file(path), tell):
            if not isinstance(line, Skipped):
                yield line.entry


def imported_rounds(database: Database) -> Mapping[str, int]:
    """How many records there are of each imported round."""
    with database.read() as session:
        return history.rounds(session)


def of_imported(database: Database, names: Collection[str] = ()) -> Iterator[Entry]:
    """Imported records, all or those of some rounds; raises NotFound."""
    with database.read() as session:
        known = history.rounds(session)
        for name in names:
            if name not in known:
                raise NotFound(f"no records of a round {name!r} were imported")
        for record in history.all_of(session, names):
            data = plain_json(record.content, numberless=True)
            yield entry_of(data, record.round, f"{record.file}:{record.line}")


def of_rounds(
    client: Client, names: Sequence[str] = (), warn: Callable[[str], None] | None = None
) -> Iterator[Entry]:
    """The records of own rounds, these or all, each named by its job; see `client.of_each_round`."""
    return chain.from_iterable(of_each_round(client, names, partial(_of_round, client), warn))


def _of_round(client: Client, name: str) -> list[Entry]:
    jobs = {(job.task, job.stage, job.config, job.seed): job.id for job in client.jobs(name)}
    found = []
    for text in client.lines(name, "jsonl"):
        data = plain_json(text)
        stage = data.get("decided_stage") or data["stage"]
        job = jobs.get((data["task"], stage, data["config"], data["seed"]))
        where = f"job {job}" if job else f"{name}/{data['task']}/{data['config']}"
        found.append(entry_of(data, name, f"{where} (decision)" if is_decision(data) else where))
    return found
