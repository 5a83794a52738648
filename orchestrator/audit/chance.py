"""Accuracies that a guess or a constant answer gives as well."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

from orchestrator.audit.comparisons import Arm, arm_of, base_task, name_of
from orchestrator.audit.findings import Check, Finding, percent, share
from orchestrator.audit.grids import implied_questions
from orchestrator.caveats import EXPLANATIONS, Caveat
from orchestrator.history.entries import History, LedgerRow, Run
from orchestrator.history.predecessor import EVALUATIONS, GUESS

FEWEST_ARMS = 3  # with one accuracy, for it to count as constant
FEWEST_ROWS = 5  # of a family of the ledger
NEAR = 1.5  # a baseline within so many times a guess is near it


def judge(history: History) -> Iterator[Finding]:
    """Tasks at the level of a guess, tasks whose accuracy does not react, and what own records say themselves."""
    yield from _guesses(history.runs)
    yield from _constant_arms(history.runs)
    yield from _constant_families(history.ledger)
    yield from _caveats(history.runs)


def expected_best(questions: int, guess: float, evaluations: int) -> float:
    """The mean of the best accuracy in several independent evaluations by guessing: E[max of binomials] / n."""
    below, mean = 0.0, 0.0
    for right in range(questions):
        below += math.comb(questions, right) * guess**right * (1 - guess) ** (questions - right)
        mean += 1 - min(below, 1.0) ** evaluations
    return mean / questions


def _guesses(runs: Sequence[Run]) -> Iterator[Finding]:
    for begin, (guess, what) in GUESS.items():
        group = [run for run in runs if run.is_measured and run.task.startswith(begin)]
        baselines = [run.accuracy or 0.0 for run in group if run.is_baseline]
        if not baselines:
            continue
        questions = implied_questions(run.accuracy or 0.0 for run in group)
        luck = expected_best(questions, guess, EVALUATIONS) if questions else None
        if min(baselines) > max(NEAR * guess, luck or 0.0):
            continue
        text = (
            f"{base_task(group[0].task)}: baselines reach {_range(baselines)}; "
            f"a guess ({what}) is right in {percent(guess, 2)}"
        )
        if luck is not None:
            text += (
                f", the best of {EVALUATIONS} evaluations of {questions} guesses {percent(luck)} on average"
            )
        losses = [run.loss for run in group if run.loss is not None]
        if losses and begin == "arc_mc":
            text += f"; best losses are {min(losses):.3f} to {max(losses):.3f}, and ln 4 is {math.log(4):.3f}"
        figures = {"guess": guess, "lowest": min(baselines), "highest": max(baselines), "best_by_luck": luck}
        yield Finding(Check.AT_CHANCE, text, [run.source for run in group], figures)


def _range(values: Sequence[float]) -> str:
    low, high = percent(min(values), 2), percent(max(values), 2)
    return low if low == high else f"{low} to {high}"


def _constant_arms(runs: Sequence[Run]) -> Iterator[Finding]:
    """Arms trained differently, as their losses say, that all give the same answers."""
    groups: dict[tuple[Arm, str], list[Run]] = defaultdict(list)
    for run in runs:
        if run.is_measured and run.loss is not None:
            groups[arm_of(run), run.stage].append(run)
    for group in groups.values():
        losses = {run.loss for run in group}
        if len(losses) >= FEWEST_ARMS and len({run.accuracy for run in group}) == 1:
            first = group[0]
            yield Finding(
                Check.AT_CHANCE,
                f"{name_of(first)} {first.stage}: all {len(group)} arms have the accuracy "
                f"{percent(first.accuracy or 0.0, 4)}, with {len(losses)} different losses: a constant answer",
                [run.source for run in group],
                {"arms": len(group), "accuracy": first.accuracy},
            )


def _constant_families(rows: Sequence[LedgerRow]) -> Iterator[Finding]:
    families: dict[str, list[LedgerRow]] = defaultdict(list)
    for row in rows:
        families[row.family].append(row)
    for family, group in families.items():
        if len(group) >= FEWEST_ROWS and all(row.quick_delta == 0 for row in group):
            yield Finding(
                Check.AT_CHANCE,
                f"ledger: {family} never reacted: the best delta is exactly zero in all {len(group)} rows",
                [row.source for row in group],
                {"rows": len(group)},
            )


def _caveats(runs: Sequence[Run]) -> Iterator[Finding]:
    for caveat in (Caveat.AT_CHANCE, Caveat.DEGENERATE):
        marked = [run for run in runs if caveat in run.caveats]
        if marked:
            text = (
                f"{share(len(marked), len(runs))} records carry the caveat {caveat}: {EXPLANATIONS[caveat]}"
            )
            yield Finding(Check.AT_CHANCE, text, [run.source for run in marked], {"records": len(marked)})
