"""Accuracies that only take a few values, and the number of questions that this implies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction

from orchestrator.audit.comparisons import base_task, grouped
from orchestrator.audit.finding import Check, Finding, listed
from orchestrator.findings.caveats import Caveat
from orchestrator.history.entries import History, LedgerRow, Run
from orchestrator.points import points

MOST_QUESTIONS = 500  # a grid of more cannot be told from none, and its steps are small
ACCURATE = 1e-12  # how far binary fractions, and differences of two, lie from the fraction meant
THRESHOLD = 0.001  # +0.10 pp: what fsq promotes from by default


def judge(history: History) -> Iterator[Finding]:
    """Coarse grids of the tasks of the records, and of the families of the ledger."""
    yield from _stated(history.runs)
    yield from _implied(history.runs)
    yield from _of_rows(history.ledger)


def implied_questions(accuracies: Iterable[float]) -> int | None:
    """The least number n for which all of these are multiples of 1/n; None where that is more than MOST_QUESTIONS.

    The number of questions is n or a multiple of it. At least two different values other than 0 and 1 are needed to
    tell a grid: one value may be a ratio by itself.
    """
    values = {abs(value) for value in accuracies} - {0.0, 1.0}
    if len(values) < 2:
        return None
    questions = 1
    for value in values:
        fraction = Fraction(value).limit_denominator(MOST_QUESTIONS)
        if abs(float(fraction) - value) > ACCURATE:
            return None
        questions = math.lcm(questions, fraction.denominator)
        if questions > MOST_QUESTIONS:
            return None
    return questions


def _implied(runs: Sequence[Run]) -> Iterator[Finding]:
    unstated = [run for run in runs if run.is_measured and run.n_tokens is None]
    groups = grouped(unstated, lambda run: (run.trainer, base_task(run.task)))
    for (_, task), group in groups.items():
        questions = implied_questions(run.score for run in group)
        if questions is not None:
            values = sorted({round(run.score * questions) for run in group})
            yield _finding(
                f"{task}: all {len(group)} accuracies are multiples of 1/{questions} "
                f"({listed([f'{value}/{questions}' for value in values])})",
                questions,
                [run.source for run in group],
                {},
            )


def _stated(runs: Sequence[Run]) -> Iterator[Finding]:
    """Own records say how many answer tokens there were."""
    stated = [run for run in runs if run.is_measured and Caveat.BELOW_RESOLUTION in run.caveats]
    groups = grouped(stated, lambda run: (run.round, run.task, run.n_tokens))
    for (round_, task, n), group in groups.items():
        if not n:
            continue
        text = f"round {round_} {task}: the validation set has {n} answer tokens"
        yield _finding(text, n, [run.source for run in group], {}, threshold=None)


def _of_rows(rows: Sequence[LedgerRow]) -> Iterator[Finding]:
    for family, group in grouped(rows, lambda row: row.family).items():
        deltas = [row.quick_delta for row in group]
        deltas += [row.med_delta for row in group if row.med_delta is not None]
        questions = implied_questions(deltas)
        if questions is None:
            continue
        counts = Counter(round(delta * questions) for delta in deltas)
        spelled = ", ".join(
            f"{units:+d}: {count}".replace("+0:", "0:") for units, count in sorted(counts.items())
        )
        yield _finding(
            f"ledger: all {len(deltas)} deltas of {family} are multiples of 1/{questions} (in such steps, {spelled})",
            questions,
            [row.source for row in group],
            {"zero": counts[0], "plus_1": counts[1], "plus_2": counts[2], "minus_1": counts[-1]},
        )


def _finding(
    text: str,
    questions: int,
    records: Sequence[str],
    figures: Mapping[str, int],
    threshold: float | None = THRESHOLD,
) -> Finding:
    """threshold: None for the round's own, which its records say is smaller."""
    step = 1 / questions
    beside = (
        "and the records say that the threshold is finer than one step"
        if threshold is None
        else f"{step / threshold:.1f} times a threshold of {points(threshold)}"
    )
    return Finding(
        Check.COARSE_GRID,
        f"{text}; one of {questions} is {100 * step:.2f} pp, {beside}",
        records,
        {"questions": questions, "step": step, **figures},
    )
