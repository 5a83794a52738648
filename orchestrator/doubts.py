"""What makes the decisions of a round doubtful: the caveats that its records carry, for those who show decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property

from sqlalchemy.orm import Session

from db.tables import Job
from orchestrator import caveats, results
from orchestrator.caveats import Caveat
from orchestrator.evidence import Evidence
from orchestrator.planner import JobKey
from orchestrator.spec import ResolvedRound
from worker.job import BASELINE, Metrics, Usage

Run = tuple[Metrics, Usage]


@dataclass(frozen=True)
class Doubts:
    """The caveats of one task's decisions, as the records carry them."""

    resolved: ResolvedRound
    task: str
    runs: Mapping[JobKey, Run]
    stopped: Collection[JobKey]  # early, far below the baseline

    def on(self, key: JobKey, rests_on: Evidence | None) -> list[Caveat]:
        """What makes a decision doubtful; nothing where there is no number to doubt."""
        if key in self.stopped:
            return [Caveat.STOPPED_EARLY]
        baseline, run = self.runs.get(key._replace(variant=BASELINE)), self.runs.get(key)
        if run is None or baseline is None:
            return []
        first = self.resolved.search.stages[0]
        seeds = caveats.Seeds(self._seeds(key), self._seeds(key._replace(stage=first)))
        of_it = (self.resolved, self.task, key.stage, *run, baseline[0])
        return caveats.of_arm(*of_it, evidence=rests_on, seeds=seeds)

    def _seeds(self, key: JobKey) -> int:
        """How many seeds of a variant were measured at a stage."""
        return self._measured[key.stage, key.variant]

    @cached_property
    def _measured(self) -> Counter[tuple[str, str]]:
        return Counter((key.stage, key.variant) for key in self.runs)


def on_task(
    session: Session, round_id: int, resolved: ResolvedRound, task: str, variants: Collection[str]
) -> Doubts:
    """What the jobs of these variants and the baselines measured."""
    of_it = (Job.round_id == round_id, Job.task == task, Job.variant.in_([BASELINE, *variants]))
    runs: dict[JobKey, Run] = {}
    stopped: set[JobKey] = set()
    for job in results.jobs(session, *of_it):
        if job.metrics and job.usage:
            runs[job.key] = job.metrics, job.usage
        elif job.partial:
            stopped.add(job.key)
    return Doubts(resolved, task, runs, stopped)
