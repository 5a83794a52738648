"""Asks a client, be it of a database or of a server, for everything that a report is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

from orchestrator.charts.data import Curve
from orchestrator.client import Client, of_each_round
from orchestrator.records import Record
from orchestrator.views import RoundView


class RunKey(NamedTuple):
    """What names a run within its round."""

    task: str
    stage: str
    variant: str
    seed: int

    @classmethod
    def of(cls, record: Record) -> Self:
        """Of a job, or of what a decision names first."""
        stage = record.get("decided_stage") or record["stage"]
        return cls(record["task"], stage, record["config"], record["seed"])


@dataclass(frozen=True)
class RoundResults:
    """A round and its records, as lines of `fsq export`."""

    view: RoundView
    lines: tuple[str, ...]

    @cached_property
    def records(self) -> tuple[Record, ...]:
        return tuple(json.loads(line) for line in self.lines)

    @cached_property
    def jobs(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if record["stage"] != "decision")

    @cached_property
    def decisions(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if record["stage"] == "decision")

    @cached_property
    def verdicts(self) -> dict[RunKey, Record]:
        """The decision on each run, also where it rests on several seeds at once."""
        return {
            RunKey(record["task"], record["decided_stage"], record["config"], seed): record
            for record in self.decisions
            for seed in record.get("seeds") or [record["seed"]]
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the records file that `fsq export -o` writes."""
        return hashlib.sha256("".join(f"{line}\n" for line in self.lines).encode()).hexdigest()


def gather(
    client: Client, names: Sequence[str] = (), warn: Callable[[str], None] | None = None
) -> list[RoundResults]:
    """These rounds, or all there are; see `client.of_each_round`."""

    def read(name: str) -> RoundResults:
        return RoundResults(client.round(name), tuple(client.lines(name, "jsonl")))

    return list(of_each_round(client, names, read, warn))


def curves(client: Client, rounds: Sequence[RoundResults]) -> list[Curve]:
    """The learning curves of each task's last stage that has some; of equal runs one."""
    found: dict[str, Curve] = {}
    for one in rounds:
        jobs = [job for job in client.jobs(one.view.round) if job.step is not None]
        order = one.view.stages
        last = {
            task: max((job.stage for job in jobs if job.task == task), key=order.index)
            for task in {job.task for job in jobs}
        }
        for job in jobs:
            if job.stage == last[job.task] and job.fingerprint not in found:
                found[job.fingerprint] = Curve.of(job, client.evaluations(job.id))
    return list(found.values())
