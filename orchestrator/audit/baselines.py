"""Variants without a baseline of the same stage, seed, batch size and length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.audit.comparisons import (
    Setting,
    arm_name,
    baselines,
    comparisons,
    grouped,
    in_words,
    result_of,
    setting_of,
)
from orchestrator.audit.finding import Check, Finding, listed, percent, share
from orchestrator.findings.caveats import STEPS_TOLERANCE
from orchestrator.history.entries import History, Run
from orchestrator.points import points


def judge(history: History) -> Iterator[Finding]:
    """Deltas that compare unlike with unlike, or cannot be taken at all."""
    known = baselines(history.runs)
    variants = [run for run in history.runs if run.is_measured and run.is_variant]
    lonely = [run for run in variants if (setting_of(run), run.stage) not in known]
    if lonely:
        yield Finding(
            Check.UNMATCHED_BASELINE,
            f"{share(len(lonely), len(variants))} measured variants have no baseline of their own stage",
            [run.source for run in lonely],
            {"unmatched": len(lonely), "variants": len(variants)},
        )
    for group in grouped(lonely, lambda run: (setting_of(run), run.stage)).values():
        yield _unmatched(group, known, history.runs)
    yield from _unequal_steps(history.runs)
    yield from _unlike_baselines(history.runs)


def _unmatched(group: Sequence[Run], known: dict[tuple[Setting, str], Run], runs: Sequence[Run]) -> Finding:
    """What a group's deltas look like against the only baseline that there is."""
    first = group[0]
    what = f"{arm_name(first)}: {listed([run.config for run in group])}"
    earlier = [run for (setting, _), run in known.items() if setting == setting_of(first)]
    if earlier:
        base = earlier[-1]
        deltas = [run.score - base.score for run in group]
        low, high = points(min(deltas)), points(max(deltas))
        shown = low if low == high else f"{low} to {high}"
        return Finding(
            Check.UNMATCHED_BASELINE,
            f"{what} can only be held against the shorter {base.stage} baseline, which makes {shown} of them",
            [*(run.source for run in group), base.source],
            {"lowest": min(deltas), "highest": max(deltas), "baseline_stage": base.stage},
        )
    others = [
        run
        for run in runs
        if run.is_baseline and (run.round, run.task, run.stage) == (first.round, first.task, first.stage)
    ]
    why = "only baselines of another seed or batch size, or failed ones" if others else "no baseline at all"
    return Finding(
        Check.UNMATCHED_BASELINE, f"{what}: {why}", [run.source for run in (*group, *others)], {"deltas": 0}
    )


def _unequal_steps(runs: Sequence[Run]) -> Iterator[Finding]:
    for each in comparisons(runs):
        variant, baseline = each.variant.steps, each.baseline.steps
        if variant is None or baseline is None:
            continue
        if abs(variant - baseline) > STEPS_TOLERANCE * max(variant, baseline):
            yield Finding(
                Check.UNMATCHED_BASELINE,
                f"{in_words(each.variant)} was trained for {variant} steps, its baseline for {baseline}",
                each.records,
                {"steps": variant, "baseline_steps": baseline},
            )


def _unlike_baselines(runs: Sequence[Run]) -> Iterator[Finding]:
    """Two baselines of one setting and stage that differ: it is open which one a delta is against."""
    measured = [run for run in runs if run.is_baseline and run.is_measured]
    for group in grouped(measured, lambda run: (setting_of(run), run.stage)).values():
        if len({result_of(run) for run in group}) > 1:
            accuracies = listed([percent(run.score, 2) for run in group])
            text = f"{arm_name(group[0])} has baselines that differ: {accuracies}"
            yield Finding(Check.UNMATCHED_BASELINE, text, [run.source for run in group])
