"""Accuracies that a guess or a constant answer gives as well."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from orchestrator.audit.comparisons import arm_name, base_task, grouped, setting_of
from orchestrator.audit.finding import Check, Finding, percent, share
from orchestrator.audit.grids import implied_questions
from orchestrator.findings.caveats import EXPLANATIONS, Caveat
from orchestrator.history.entries import History, LedgerRow, Run
from orchestrator.history.predecessor import ARC_MC, EVALUATIONS, Guess, guess_of

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
    """Of the predecessor's tasks whose names say what a guess gives; own records have a caveat where it matters."""
    measured = [run for run in runs if run.is_measured and not run.is_own]
    groups = grouped(measured, lambda run: (base_task(run.task), guess_of(run.task)))
    for (task, guess), group in groups.items():
        if guess is not None:
            yield from _near_a_guess(task, group, guess)


def _near_a_guess(task: str, group: Sequence[Run], guess: Guess) -> Iterator[Finding]:
    baselines = [run.score for run in group if run.is_baseline]
    if not baselines:
        return
    questions = None if guess.is_best else implied_questions(run.score for run in group)
    luck = expected_best(questions, guess.share, EVALUATIONS) if questions else None
    if min(baselines) > (guess.share if guess.is_best else max(NEAR * guess.share, luck or 0.0)):
        return
    text = (
        f"{task}: baselines reach {_range(baselines)}; {guess.answer} is right in {percent(guess.share, 2)}"
    )
    if luck is not None:
        text += f", the best of {EVALUATIONS} evaluations of {questions} guesses {percent(luck)} on average"
    losses = [run.loss for run in group if run.loss is not None]
    if losses and task == ARC_MC:
        text += f"; best losses are {min(losses):.3f} to {max(losses):.3f}, and ln 4 is {math.log(4):.3f}"
    figures = {
        "guess": guess.share,
        "lowest": min(baselines),
        "highest": max(baselines),
        "best_by_luck": luck,
    }
    yield Finding(Check.AT_CHANCE, text, [run.source for run in group], figures)


def _range(values: Sequence[float]) -> str:
    low, high = percent(min(values), 2), percent(max(values), 2)
    return low if low == high else f"{low} to {high}"


def _constant_arms(runs: Sequence[Run]) -> Iterator[Finding]:
    """Arms trained differently, as their losses say, that all give the same answers.

    Equal accuracies of own records are no more than a tie: whether the answer was constant, they say themselves.
    """
    with_loss = [run for run in runs if run.is_measured and run.loss is not None]
    for group in grouped(with_loss, lambda run: (setting_of(run), run.stage)).values():
        losses = {run.loss for run in group}
        is_tie = any(run.is_own and Caveat.DEGENERATE not in run.caveats for run in group)
        if len(losses) >= FEWEST_ARMS and len({run.accuracy for run in group}) == 1 and not is_tie:
            first = group[0]
            yield Finding(
                Check.AT_CHANCE,
                f"{arm_name(first)}: all {len(group)} arms have the accuracy "
                f"{percent(first.score, 4)}, with {len(losses)} different losses: a constant answer",
                [run.source for run in group],
                {"arms": len(group), "accuracy": first.accuracy},
            )


def _constant_families(rows: Sequence[LedgerRow]) -> Iterator[Finding]:
    for family, group in grouped(rows, lambda row: row.family).items():
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
