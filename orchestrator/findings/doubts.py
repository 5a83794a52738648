"""What makes the decisions of a round doubtful: the caveats that its records carry, for those who show decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from db.tables import Decision, Job
from orchestrator import stored_jobs
from orchestrator.evidence import Evidence
from orchestrator.findings import caveats
from orchestrator.findings.caveats import Caveat
from orchestrator.findings.round_statistics import Arm, seeds_of
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.search import JobKey
from orchestrator.stored_jobs import StoredJob
from worker.job import BASELINE, WITHOUT_A_NUMBER


@dataclass(frozen=True)
class Doubts:
    """The caveats of one task's decisions, as the records carry them."""

    resolved: ResolvedRound
    jobs: Mapping[JobKey, StoredJob]  # the variants' and the baseline's
    measured: Counter[Arm]  # how many seeds decisions rest on
    unnumbered: Counter[Arm]  # and how many ended in a verdict without a number

    def on(self, key: JobKey, rests_on: Evidence | None) -> list[Caveat]:
        """What makes a decision doubtful; nothing where there is no number to doubt."""
        runs = [key._replace(seed=seed) for seed in rests_on.by_seed] if rests_on else [key]
        jobs = [self.jobs[run] for run in runs if run in self.jobs]
        # decided on all seeds, and on nothing: which of them counted is not known
        is_open = rests_on is None and caveats.are_decided_together(self.resolved, key.stage)
        seeds = None if is_open else self._seeds(key)
        return caveats.of_jobs(self.resolved, jobs, self.jobs, evidence=rests_on, seeds=seeds)

    def _seeds(self, key: JobKey) -> caveats.Seeds | None:
        """How many seeds of a variant were measured; None where one ended in a verdict without a number."""
        arm = Arm(key.task, key.stage, key.variant)
        if self.unnumbered[arm]:
            return None
        return seeds_of(arm, self.resolved.search, self.measured, self.unnumbered)


def on_task(
    session: Session,
    round_id: int,
    resolved: ResolvedRound,
    task: str,
    variants: Collection[str],
    seeds: Collection[int] | None = None,
) -> Doubts:
    """On the decisions about these variants that rest on runs of these seeds, or on all."""
    of_it = [Job.round_id == round_id, Job.task == task, Job.variant.in_([BASELINE, *variants])]
    of_seeds = [] if seeds is None else [Job.seed.in_(seeds)]
    jobs = {job.key: job for job in stored_jobs.jobs(session, *of_it, *of_seeds)}
    decided = select(Decision.stage, Decision.variant, Decision.evidence).where(
        Decision.round_id == round_id, Decision.task == task, Decision.variant.in_(variants)
    )
    measured: Counter[Arm] = Counter()
    for stage, variant, stored in session.execute(decided):
        if stored:
            measured[Arm(task, stage, variant)] += len(Evidence.from_json(stored).seeds)
    source = aliased(Job)
    # of a cached one, the outcome of the run that it stands for
    outcome = func.coalesce(source.outcome, Job.outcome)
    counted = (
        select(Job.stage, Job.variant, func.count())
        .outerjoin(source, source.id == Job.cached_from_id)
        .where(*of_it, outcome.in_(WITHOUT_A_NUMBER))
        .group_by(Job.stage, Job.variant)
    )
    unnumbered = Counter(
        {Arm(task, stage, variant): count for stage, variant, count in session.execute(counted)}
    )
    return Doubts(resolved, jobs, measured, unnumbered)
