"""Machine-readable reasons to doubt a number, each explained in one sentence."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple, Self

from orchestrator.evidence import Evidence
from orchestrator.points import ROUNDING
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.rules import Scope
from orchestrator.search import JobKey, SearchSpec
from orchestrator.statistics.examples import is_clear
from orchestrator.stored_jobs import StoredJob
from worker.job import (
    BASELINE,
    BuildReport,
    Metric,
    Metrics,
    Usage,
    is_of_last_evaluation,
    is_of_whole_answers,
)


class Caveat(StrEnum):
    BELOW_RESOLUTION = "below_resolution"
    AT_CHANCE = "at_chance"
    DEGENERATE = "degenerate"
    LEAK = "leak"
    UNMATCHED_STEPS = "unmatched_steps"
    UNMATCHED_BASELINE = "unmatched_baseline"
    MIXED_VERSIONS = "mixed_versions"
    SINGLE_SEED = "single_seed"
    NOT_SIGNIFICANT = "not_significant"
    SELECTED_OF_N = "selected_of_n"
    SELECTED_SEEDS = "selected_seeds"
    NOTHING_NEW = "nothing_new"
    SHRUNK_MICRO_BATCH = "shrunk_micro_batch"
    TRUNCATED = "truncated"
    STOPPED_EARLY = "stopped_early"


EXPLANATIONS = {
    Caveat.BELOW_RESOLUTION: "the threshold is smaller than one answer token of the validation set",
    Caveat.AT_CHANCE: "the baseline is not above always giving the most frequent answer, or a uniform guess",
    Caveat.DEGENERATE: "every predicted token is the same",
    Caveat.LEAK: "in some examples the answer stands word for word in the prompt",
    Caveat.UNMATCHED_STEPS: "variant and baseline differ by more than 2 % in training steps",
    Caveat.UNMATCHED_BASELINE: "the stage has no baseline of its own",
    Caveat.MIXED_VERSIONS: "variant and baseline were measured by versions of fsq that compute other numbers",
    Caveat.SINGLE_SEED: "one seed only, or all seeds are the same run: the spread between seeds is unknown",
    Caveat.NOT_SIGNIFICANT: "the paired interval of the delta contains 0 or does not exist, or p is above 0.025",
    Caveat.SELECTED_OF_N: "the variant was chosen among several on the same seed and data",
    Caveat.SELECTED_SEEDS: "only seeds that an earlier stage promoted: over seeds, the mean says too much",
    Caveat.NOTHING_NEW: "variant and baseline did best in steps that the stage before had run: this one adds nothing",
    Caveat.SHRUNK_MICRO_BATCH: "the micro-batch was halved for lack of memory; the effective batch is unchanged",
    Caveat.TRUNCATED: "some prompts were cut to their limit",
    Caveat.STOPPED_EARLY: "the run was stopped, too low to reach the threshold, so there is a verdict and no delta",
}

STEPS_TOLERANCE = 0.02


class Measured(NamedTuple):
    """One arm's run at one seed."""

    metrics: Metrics
    usage: Usage
    baseline: Metrics | None  # that of the same seed, None for a baseline itself
    is_of_one_version: bool = True  # what computed it, and the baseline
    taken_over: tuple[int, int] = (0, 0)  # steps from an earlier stage: its own, and the baseline's

    @classmethod
    def of(cls, job: StoredJob, baseline: StoredJob | None) -> Self | None:
        """A run beside its baseline; None where it was not measured."""
        metrics, usage = job.metrics, job.usage
        if metrics is None or usage is None:
            return None
        if baseline is None or baseline.metrics is None:
            return cls(metrics, usage, None)
        is_of_one_version = job.result_version == baseline.result_version
        of_baseline = 0 if baseline.usage is None else baseline.usage.continued_from
        return cls(metrics, usage, baseline.metrics, is_of_one_version, (usage.continued_from, of_baseline))


def baseline_of(key: JobKey, baselines: Mapping[JobKey, StoredJob]) -> StoredJob | None:
    """The run that one is measured against; None for a baseline itself."""
    return None if key.variant == BASELINE else baselines.get(key._replace(variant=BASELINE))


class Seeds(NamedTuple):
    """How many seeds of a variant were measured."""

    here: int  # at the stage in question
    first: int  # at the first stage


def of_jobs(
    resolved: ResolvedRound,
    jobs: Collection[StoredJob],
    baselines: Mapping[JobKey, StoredJob],
    *,
    evidence: Evidence | None = None,
    seeds: Seeds | None = None,
    metric: Metric | None = None,
) -> list[Caveat]:
    """Everything that makes one run doubtful, or a decision on several; nothing where there is no number to doubt.

    jobs: of one arm, each of another seed; baselines: by their own keys; all else as of an arm.
    """
    if any(job.partial is not None for job in jobs):
        return [Caveat.STOPPED_EARLY]
    runs = {
        job.key: run for job in jobs if (run := Measured.of(job, baseline_of(job.key, baselines))) is not None
    }
    if not runs:
        return []
    task, stage, variant, _ = next(iter(runs))
    by_seed = {key.seed: run for key, run in runs.items()}
    return of_arm(resolved, task, stage, variant, by_seed, evidence=evidence, seeds=seeds, metric=metric)


def of_arm(
    resolved: ResolvedRound,
    task: str,
    stage: str,
    variant: str,
    runs: Mapping[int, Measured],
    *,
    evidence: Evidence | None = None,
    seeds: Seeds | None = None,
    metric: Metric | None = None,
) -> list[Caveat]:
    """Everything that makes an arm's numbers doubtful, of one run or of all that a decision rests on.

    runs: by seed, at least one; evidence: what the delta rests on, if decided; seeds: how many the variant has, if
    that is known; metric: of the delta shown, None for the rule's.
    """
    report = resolved.report(task, stage)
    by = metric or resolved.spec.prune.metric
    found = [*of_data(report)]
    for run in runs.values():
        found += of_run(run.usage, run.metrics, resolved.spec.tasks[task].examples_a_step, by)
        found += of_baseline(run.baseline or run.metrics, report, by)
        found += [] if run.baseline is None else of_pair(run.metrics, run.baseline)
        found += [] if run.is_of_one_version else [Caveat.MIXED_VERSIONS]
    if any(run.baseline is not None for run in runs.values()):
        found += of_protocol(resolved, task, stage, evidence, seeds)
        found += of_selection(resolved, task, stage, variant, runs)
        found += of_seeds(resolved, stage, seeds)
        found += of_progress(resolved, stage, runs.values(), by)
        found += of_evidence(evidence) if by == resolved.spec.prune.metric else []
    elif variant != BASELINE:
        found.append(Caveat.UNMATCHED_BASELINE)
    return sorted(set(found))


def of_data(report: BuildReport) -> Iterator[Caveat]:
    """What the examples themselves make doubtful."""
    if max(report.train.leak, report.val.leak) > 0:
        yield Caveat.LEAK
    if max(report.train.truncated, report.val.truncated) > 0:
        yield Caveat.TRUNCATED


def of_protocol(
    resolved: ResolvedRound,
    task: str,
    stage: str,
    evidence: Evidence | None = None,
    seeds: Seeds | None = None,
) -> Iterator[Caveat]:
    """What the round's own settings make doubtful about any delta of a task at a stage, or about one decided."""
    if abs(resolved.spec.prune.min_delta) < resolution(resolved, task, stage) - ROUNDING:
        yield Caveat.BELOW_RESOLUTION
    if resolved.report(task, stage).val.kept < 2:
        yield Caveat.NOT_SIGNIFICANT
    measured = seeds.here if seeds else len(resolved.search.seeds)
    decided = len(evidence.seeds) if evidence and are_decided_together(resolved, stage) else measured
    asked = resolved.spec.tasks[task]
    if decided == 1 or asked.batch_size >= asked.train:  # a seed is the order of the examples
        yield Caveat.SINGLE_SEED


def are_decided_together(resolved: ResolvedRound, stage: str) -> bool:
    """Whether one decision is taken on all seeds of a variant at a stage."""
    return resolved.search.rule.scope is not Scope.SEED or resolved.confirms(stage)


def resolution(resolved: ResolvedRound, task: str, stage: str) -> float:
    """The smallest step of the rule's metric on a task, a fraction."""
    val = resolved.report(task, stage).val
    return 1 / (val.kept if is_of_whole_answers(resolved.spec.prune.metric) else val.n_tokens)


def of_evidence(evidence: Evidence | None) -> Iterator[Caveat]:
    """`not_significant`, where no interval, or p-value, rules out that there is no gain or loss."""
    if evidence is None:  # nothing is decided yet
        return
    if evidence.d_acc_ci is None or not is_clear(evidence.d_acc_ci, evidence.p_value):
        yield Caveat.NOT_SIGNIFICANT


def of_run(
    usage: Usage, metrics: Metrics, batch_size: int, metric: Metric = "best_val_tok_acc"
) -> Iterator[Caveat]:
    """What one run makes doubtful about its own accuracy."""
    if metrics.distinct_at(metric) == 1:
        yield Caveat.DEGENERATE
    if usage.micro_batch < batch_size:
        yield Caveat.SHRUNK_MICRO_BATCH


def of_baseline(
    baseline: Metrics, report: BuildReport, metric: Metric = "best_val_tok_acc"
) -> Iterator[Caveat]:
    """Whether a baseline has learned anything that a constant answer does not have, by tokens."""
    val = report.val
    chance = max(val.majority_accuracy, val.constant_accuracy, val.uniform_accuracy)
    by_last = is_of_last_evaluation(metric)
    if (baseline.final_val_tok_acc if by_last else baseline.best_val_tok_acc) <= chance + ROUNDING:
        yield Caveat.AT_CHANCE


def of_pair(variant: Metrics, baseline: Metrics) -> Iterator[Caveat]:
    """What two runs together make doubtful about their difference."""
    if abs(variant.steps - baseline.steps) > STEPS_TOLERANCE * max(variant.steps, baseline.steps):
        yield Caveat.UNMATCHED_STEPS


def of_selection(
    resolved: ResolvedRound, task: str, stage: str, variant: str, seeds: Collection[int]
) -> Iterator[Caveat]:
    """Whether an arm is there because it did best on the same seed and data, in this round or in one before it."""
    search, facts = resolved.search, resolved.facts
    if stage in search.stages[1:] and len(search.rivals) > 1:
        yield Caveat.SELECTED_OF_N
    on_same_data = resolved.report(task, stage).digest == facts.tasks[task].digest
    if on_same_data and {(task, seed) for seed in seeds} & set(facts.selected_on.get(variant, ())):
        yield Caveat.SELECTED_OF_N


def of_seeds(resolved: ResolvedRound, stage: str, seeds: Seeds | None) -> Iterator[Caveat]:
    """Whether the variant's seeds are there because they did well, each judged by itself."""
    if seeds is not None and are_selected(resolved.search, stage, seeds):
        yield Caveat.SELECTED_SEEDS


def of_progress(
    resolved: ResolvedRound, stage: str, runs: Iterable[Measured], metric: Metric
) -> Iterator[Caveat]:
    """Whether a stage found nothing that the one before it, whose runs it goes on with, had not found."""
    if stage not in resolved.search.stages[1:]:
        return
    before = _same_steps_before(resolved, stage)
    arms = [
        (metrics, max(before, taken_over))
        for run in runs
        for metrics, taken_over in zip((run.metrics, run.baseline), run.taken_over, strict=True)
        if metrics is not None
    ]
    if all(_was_best_by(steps, metrics, metric) for metrics, steps in arms):
        yield Caveat.NOTHING_NEW


def _was_best_by(step: int, metrics: Metrics, metric: Metric) -> bool:
    """Whether a run went on after a step, and did no better."""
    best = metrics.step_of(metric)
    return metrics.steps > step and best is not None and best <= step


def _same_steps_before(resolved: ResolvedRound, stage: str) -> int:
    """How many steps the stage before had whose evaluations are a run's of this one too, taken over or not.

    0 where that is not certain: by the clock, on another grid of evaluations, or by a schedule of another length.
    """
    before, eval_every = resolved.spec.stage_it_follows(stage), resolved.spec.stage(stage).eval_every
    if before is None or before.steps is None or before.seconds is not None:
        return 0
    is_on_grid = before.eval_every == eval_every and before.steps % eval_every == 0
    return before.steps if is_on_grid else 0


def are_selected(search: SearchSpec, stage: str, seeds: Seeds) -> bool:
    """Whether some seeds of a variant did not come as far as this stage, by a rule that judges each by itself."""
    return search.rule.scope is Scope.SEED and stage in search.stages[1:] and seeds.here < seeds.first
