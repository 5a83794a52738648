"""Asks a client, be it of a database or of a server, for everything that a report is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from orchestrator.charts.data import Curve
from orchestrator.charts.of_round import last_reached
from orchestrator.client import Client, of_each_round
from orchestrator.findings.records import Record, is_decision
from orchestrator.rounds.consistency import CONTROL_ARM
from orchestrator.search import JobKey
from orchestrator.views.shapes import RoundView


@dataclass(frozen=True)
class RoundResults:
    """A round and its records, as lines of `fsq export`."""

    view: RoundView
    lines: tuple[str, ...]

    @property
    def control(self) -> str | None:
        """The arm that is the baseline under another seed."""
        return None if self.view.noise_floor is None else CONTROL_ARM

    @cached_property
    def records(self) -> tuple[Record, ...]:
        return tuple(json.loads(line) for line in self.lines)

    @cached_property
    def jobs(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if not is_decision(record))

    @cached_property
    def decisions(self) -> tuple[Record, ...]:
        return tuple(record for record in self.records if is_decision(record))

    @cached_property
    def verdicts(self) -> dict[JobKey, Record]:
        """The decision on each run, also where it rests on several seeds at once."""
        return {
            JobKey(record["task"], record["decided_stage"], record["config"], seed): record
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
        for job in last_reached(one.view.stages, list(client.jobs(one.view.round))):
            if job.fingerprint not in found:
                found[job.fingerprint] = Curve.of(job, client.evaluations(job.id))
    return list(found.values())
