"""What `fsq plan` says of a round before it runs: its jobs, their cost, and how much its numbers can tell."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from db import queue
from db.tables import Job, JobState, Round
from orchestrator import engine
from orchestrator.build_report import report_lines
from orchestrator.durations import duration
from orchestrator.errors import Conflict, NotFound, no_such_round
from orchestrator.findings import caveats
from orchestrator.findings.caveats import EXPLANATIONS, Caveat
from orchestrator.findings.past_runs import spreads
from orchestrator.planner import JobKey
from orchestrator.points import points
from orchestrator.rounds import selections, stored_round
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.rules import Scope
from orchestrator.statistics.seeds import least_sign_p
from orchestrator.statistics.variants import smallest_effect
from orchestrator.views.outlook import job_seconds
from orchestrator.views.shapes import View
from worker.job import MEASURED, BuildReport, JobSpec, Outcome


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
        is_new = engine.submitted(session, resolved) is None
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
        warnings=(
            *_length_warnings(resolved),
            *_grid_warnings(resolved),
            *_snapshot_warnings(resolved, snapshot_bytes),
            *_selection_warnings(resolved),
            *_seed_warnings(resolved),
            *_spread_warnings(session, resolved),
        ),
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


ENOUGH_SEEDS = 5  # the fewest with which a sign test can come below 0.05
SNAPSHOT_BYTES = 12  # for each parameter: its weight, and AdamW's two moments
NUMBERS = {1: "one paired seed", 2: "two paired seeds", 3: "three paired seeds", 4: "four paired seeds"}


def _length_warnings(resolved: ResolvedRound) -> Iterator[str]:
    """Where a stage is shorter than the one before it, whose runs it can then not continue."""
    for earlier, later in pairwise(resolved.spec.selecting):
        for unit in ("steps", "seconds"):
            before, after = getattr(earlier, unit), getattr(later, unit)
            if before is not None and after is not None and after < before:
                yield (
                    f"{later.name} has fewer {unit} ({after:g}) than {earlier.name} ({before:g}): a later stage is "
                    "meant to be longer, and continues its runs"
                )


def _grid_warnings(resolved: ResolvedRound) -> Iterator[str]:
    """Where a stage would go on with runs of one before, were it evaluated at the same steps."""
    for stage in resolved.spec.selecting:
        before = resolved.spec.begun_as(stage.name)
        if before is not None and resolved.spec.continued_by(stage.name) is None:
            yield (
                f"{stage.name} trains from the start: it is evaluated every {stage.eval_every} steps, and "
                f"{before.name} every {before.eval_every}; with the same eval_every it continues its runs"
            )


def _snapshot_warnings(resolved: ResolvedRound, room: int | None) -> Iterator[str]:
    """Where a baseline and one variant cannot both wait for their next stage."""
    size = SNAPSHOT_BYTES * resolved.facts.model.n_params
    continues = len(resolved.spec.not_continued(resolved.search.stages)) < len(resolved.search.stages)
    if continues and room is not None and 2 * size > room:
        yield (
            f"later stages train from the start: the snapshots of a baseline and one variant take "
            f"{2 * size / 2**30:.1f} GiB, and there is room for {room / 2**30:.1f} (FSQ_SNAPSHOT_GIB)"
        )


def _selection_warnings(resolved: ResolvedRound) -> Iterator[str]:
    """Where a variant is measured again on what it was chosen on."""
    for variant, places in resolved.facts.selected_on.items():
        seeds = sorted({seed for _, seed in places})
        yield (
            f"{variant} was the best of several on the same examples with seed{'s' if len(seeds) > 1 else ''} "
            f"{', '.join(map(str, seeds))}: measured there again it proves nothing new; give this round other seeds"
        )


def _seed_warnings(resolved: ResolvedRound) -> Iterator[str]:
    """Where there are too few seeds for any outcome to be significant by their signs."""
    search = resolved.search
    used = {f"stages {', '.join(search.stages)}": len(search.seeds)}
    if search.confirmation is not None:
        used[f"stage {search.confirmation.stage}"] = len(search.confirmation.seeds)
    for where, n in used.items():
        if n < ENOUGH_SEEDS:
            yield (
                f"{where}: {NUMBERS[n]} can never reach p < {least_sign_p(n):g} by their signs, whatever they show; "
                f"five are the least for p < 0.05"
            )
    if len(search.seeds) < len(resolved.spec.seeds):
        yield (
            f"the rule {resolved.spec.prune.rule} takes {len(search.seeds)} seeds, and leaves out "
            f"{', '.join(str(seed) for seed in resolved.spec.seeds if seed not in search.seeds)}"
        )


def _spread_warnings(session: Session, resolved: ResolvedRound) -> Iterator[str]:
    """Where known runs that differ in nothing but their seed differ by more than the threshold can tell."""
    search = resolved.search
    for (task, stage), spread in spreads(session, resolved).items():
        seeds = (
            search.confirmation.seeds if search.confirmation and stage not in search.stages else search.seeds
        )
        found = smallest_effect(spread.sd, len(seeds))
        if found > abs(search.rule.min_delta):
            yield (
                f"{task} at {stage}: runs of the baseline differ by {points(spread.sd)[1:]} ({spread.runs} runs), so "
                f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} cannot tell less than {points(found)} from chance "
                f"(80 % power), and the threshold is {points(search.rule.min_delta)}; `fsq calibrate` says more"
            )


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
    pace = _pace(session, jobs[keys[0]])
    wanted = {key: job for key, job in jobs.items() if key not in known}
    ran = _that_ran(session, resolved, task)
    return TaskForecast(
        task=task,
        stages=stages,
        seconds_certain=_seconds(
            resolved, {key: job for key, job in wanted.items() if _is_certain(resolved, key)}, ran, pace
        ),
        seconds_at_most=_seconds(resolved, wanted, ran, pace),
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
    return queue.known_result(session, spec.fingerprint, queue.Answers(MEASURED)) is not None


PACED_BY = 100  # jobs of a kind, the last ones: a machine is faster at one time than at another


class Pace(NamedTuple):
    """How long earlier jobs took."""

    baseline: float  # seconds a step, evaluations included
    variant: float  # the same, of a run with Future-Seed
    job: float  # seconds from its claim to its end that were not training


def _pace(session: Session, spec: JobSpec) -> Pace | None:
    """Median pace of the last jobs of the same model on the same examples; None when there are none.

    Where only baselines have been measured, or only variants, the others are taken to be as fast.
    """
    alike = (
        select(Job.result, Job.started_at, Job.finished_at)
        .where(
            Job.state == JobState.DONE,
            Job.outcome == Outcome.OK,
            Job.payload["examples_digest"].as_string() == spec.examples_digest,
            Job.payload[("model_facts", "digest")].as_string() == spec.model_facts.digest,
        )
        .order_by(Job.id.desc())
        .limit(PACED_BY)
    )
    is_baseline = Job.payload["future_seed"].as_string().is_(None)
    baselines, variants = (session.execute(alike.where(kind)).all() for kind in (is_baseline, ~is_baseline))
    if not baselines and not variants:
        return None
    starts = [
        max(0.0, (finished - started).total_seconds() - result["metrics"]["seconds"])
        for result, started, finished in (*baselines, *variants)
        if not result["usage"]["continued_from"]
    ]
    return Pace(
        baseline=_seconds_a_step(baselines or variants),
        variant=_seconds_a_step(variants or baselines),
        job=median(starts or [0.0]),
    )


def _seconds_a_step(runs: Iterable[Any]) -> float:
    return float(median(run.result["metrics"]["seconds"] / run.result["metrics"]["steps"] for run in runs))


def _seconds(
    resolved: ResolvedRound, wanted: Mapping[JobKey, JobSpec], ran: Collection[JobKey], pace: Pace | None
) -> float | None:
    """Seconds of these jobs, after those that ran; None where the pace is not known and the budget does not say."""
    if pace is None and any(stage.seconds is None for stage in resolved.spec.stages):
        return None if wanted else 0.0
    pace = pace or Pace(float("inf"), float("inf"), 0.0)
    return sum(
        pace.job
        + job_seconds(
            resolved,
            key,
            pace.baseline if job.future_seed is None else pace.variant,
            lambda before: before in wanted or before in ran,
        )
        for key, job in wanted.items()
    )


def as_text(view: Forecast) -> str:
    """A forecast for people."""
    lines = [f"{view.round}: {view.n_layer} layers, {view.n_params:,} parameters"]
    lines += [f"  cannot be submitted: {view.conflict}"] if view.conflict else []
    lines += [f"  cannot be submitted yet: there is no round named {view.missing!r}"] if view.missing else []
    lines += [f"  variants of {source} come once it has ended, not counted here" for source in view.waits_for]
    lines += [f"  no-op on this model: {name} (decided at once, never trained)" for name in view.no_ops]
    lines += [f"  {name} computes the same as {first}: run once" for name, first in view.same_as.items()]
    lines += [f"  warning: {warning}" for warning in view.warnings]
    for task in view.tasks:
        lines += _task_text(task, view.min_delta)
    return "\n".join(lines)


def _task_text(task: TaskForecast, min_delta: float) -> list[str]:
    lines = [f"{task.task}:", *(f"  {line}" for line in report_lines(task.examples))]
    lines.append(f"  resolution one step is {points(task.resolution)}, the threshold {points(min_delta)}")
    for stage, jobs in task.stages.items():
        certain = "" if jobs.certain else "at most "
        known = f", {jobs.known} of which need no training" if jobs.known else ""
        lines.append(f"  {stage:<10} {certain}{jobs.jobs} jobs{known}")
    lines.append(f"  time       {_time(task.seconds_certain)}, at most {_time(task.seconds_at_most)}")
    lines += [f"  caveat     {caveat}: {EXPLANATIONS[caveat]}" for caveat in task.caveats]
    return lines


def _time(seconds: float | None) -> str:
    return "not known (nothing measured yet)" if seconds is None else duration(seconds)
