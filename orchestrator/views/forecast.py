"""What `fsq plan` says of a round before it runs: its jobs, their cost, and how much its numbers can tell."""

from __future__ import annotations

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from db import queue
from db.tables import Job, JobState, Round
from orchestrator.errors import Conflict, NotFound, no_such_round
from orchestrator.findings import caveats
from orchestrator.findings.caveats import Caveat
from orchestrator.rounds import selections, stored_round
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.rules import Scope
from orchestrator.search import JobKey
from orchestrator.views.cost import pace_of, seconds_of
from orchestrator.views.shapes import View
from orchestrator.views.warnings import warnings
from worker.job import REUSABLE, BuildReport, JobSpec


class StageForecast(View):
    """The jobs of a task at a stage."""

    jobs: int
    known: int = Field(
        description="Answered from earlier results, or those of equal jobs of this task, without accelerator time."
    )
    certain: bool = Field(
        description="False: as many only if everything before is promoted, or not settled sooner."
    )


class TaskForecast(View):
    """What one task will take, and how much its numbers can tell."""

    task: str
    stages: dict[str, StageForecast]
    seconds_certain: float | None = Field(
        description="Of the first stage; null before anything was measured."
    )
    seconds_at_most: float | None
    resolution: float = Field(description="The smallest step of the rule's metric, a fraction.")
    caveats: tuple[Caveat, ...]
    examples: BuildReport


class Forecast(View):
    """What a round would do."""

    round: str
    n_layer: int
    n_params: int
    min_delta: float
    no_ops: tuple[str, ...]
    waits_for: tuple[str, ...] = Field(description="Rounds that will yield further variants.")
    variants: tuple[str, ...]
    same_as: dict[str, str] = Field(description="Variants that compute the same as an earlier one.")
    warnings: tuple[str, ...] = Field(description="What the round can never show.")
    conflict: str | None = Field(None, description="Why it cannot be submitted: its name is taken.")
    missing: str | None = Field(None, description="The round that it comes after, where there is none yet.")
    tasks: tuple[TaskForecast, ...]

    def refuse(self) -> None:
        """Raises what submitting the round now would: Conflict or NotFound."""
        if self.conflict is not None:
            raise Conflict(self.conflict)
        if self.missing is not None:
            raise no_such_round(self.missing)


def of_round(session: Session, resolved: ResolvedRound, snapshot_bytes: int | None = None) -> Forecast:
    """The forecast of a round on this database; variants that other rounds have yet to yield are not in it.

    snapshot_bytes: room for the snapshots that later stages continue, None where it is not known. Raises NotFound
    where variants are to come from a round that is not known, BadRound where they cannot come.
    """
    is_new, conflict, missing = False, None, None
    try:
        is_new = stored_round.submitted(session, resolved) is None
    except Conflict as error:
        conflict = str(error)
    if is_new:
        missing = _missing(session, resolved)
        if missing is None:
            selections.check(session, resolved.spec)
    unended = selections.unended(session, resolved.spec)
    if resolved.spec.selections and not unended:
        resolved = selections.with_selected(session, resolved)
    return Forecast(
        round=resolved.spec.round,
        n_layer=resolved.facts.model.n_layer,
        n_params=resolved.facts.model.n_params,
        min_delta=resolved.spec.prune.min_delta,
        no_ops=tuple(sorted(resolved.search.no_ops)),
        waits_for=tuple(unended),
        variants=resolved.search.variants,
        same_as=resolved.same_as,
        warnings=warnings(session, resolved, snapshot_bytes),
        conflict=conflict,
        missing=missing,
        tasks=tuple(_task(session, resolved, task) for task in resolved.search.tasks),
    )


def _missing(session: Session, resolved: ResolvedRound) -> str | None:
    """The round that this one is to come after, if there is none of that name."""
    after = resolved.spec.after
    if after is None:
        return None
    try:
        stored_round.find(session, after.round)
    except NotFound:
        return after.round
    return None


def _task(session: Session, resolved: ResolvedRound, task: str) -> TaskForecast:
    report = resolved.facts.tasks[task]
    keys = [key for key in resolved.largest_plan() if key.task == task]
    jobs = {key: resolved.job(key) for key in keys}
    first = {jobs[key].fingerprint: key for key in reversed(keys)}
    known = {key for key in keys if first[jobs[key].fingerprint] != key or _is_known(session, jobs[key])}
    stages = {
        stage: StageForecast(
            jobs=sum(key.stage == stage for key in keys),
            known=sum(key.stage == stage for key in known),
            certain=stage == resolved.search.stages[0] and resolved.search.rule.scope is not Scope.VARIANT,
        )
        for stage in resolved.search.all_stages
    }
    pace = pace_of(session, jobs[keys[0]])
    wanted = {key: job for key, job in jobs.items() if key not in known}
    ran = _that_ran(session, resolved, task)
    return TaskForecast(
        task=task,
        stages=stages,
        seconds_certain=seconds_of(
            resolved, {key: job for key, job in wanted.items() if _is_certain(resolved, key)}, ran, pace
        ),
        seconds_at_most=seconds_of(resolved, wanted, ran, pace),
        resolution=caveats.resolution(resolved, task, resolved.search.stages[0]),
        caveats=tuple(
            sorted(
                {
                    *caveats.of_data(report),
                    *caveats.of_protocol(resolved, task, resolved.search.stages[0]),
                }
            )
        ),
        examples=report,
    )


def _that_ran(session: Session, resolved: ResolvedRound, task: str) -> set[JobKey]:
    """The jobs of a task that this round has run already: what goes on with them costs the difference."""
    query = (
        select(Job.task, Job.stage, Job.variant, Job.seed)
        .join(Round)
        .where(Round.name == resolved.spec.round, Job.task == task)
        .where(Job.state == JobState.DONE, Job.cached_from_id.is_(None))
    )
    return {JobKey(*key) for key in session.execute(query)}


def _is_certain(resolved: ResolvedRound, key: JobKey) -> bool:
    """Whether a job runs whatever is found before it."""
    search = resolved.search
    is_first = key.stage == search.stages[0]
    return is_first and (search.rule.scope is not Scope.VARIANT or key.seed == search.seeds[0])


def _is_known(session: Session, spec: JobSpec) -> bool:
    return queue.known_result(session, spec.fingerprint, queue.Answers(REUSABLE)) is not None
