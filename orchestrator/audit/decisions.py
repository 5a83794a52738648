"""Decisions that do not follow from the records by the rule that they state."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from orchestrator.audit.comparisons import (
    Comparison,
    base_task,
    comparisons,
    first_stages,
    grouped,
    in_words,
    name_of,
    seed_in_words,
    setting_of,
)
from orchestrator.audit.finding import Check, Finding
from orchestrator.history.entries import Decision, History, Run
from orchestrator.history.predecessor import (
    COOLDOWN_FROM,
    COOLDOWN_ROUNDS,
    FLAGGED,
    PROBE,
    Gate,
    gate_of,
    has_policy,
)
from orchestrator.points import ROUNDING, points
from orchestrator.verdicts import Verdict

STATED = re.compile(
    r"([+-]?\d+(?:\.\d+)?)\s*(?:pp)?\s*(reaches|is below|<=|<|>=|>)\s*"
    r"(?:([a-z_]+)[ =])?\s*([+-]?\d+(?:\.\d+)?)\s*(?:pp|$)"
)
Key = tuple[str, str, str, str]
RESTED = frozenset({Verdict.PRUNED, FLAGGED})  # statuses with which the predecessor started cooldowns


class Statement(NamedTuple):
    """The comparison in a reason: quick_drop -4.17pp < -0.50pp."""

    figure: float  # percentage points, as are all here
    relation: str
    gate: str  # its name, where the reason has one
    threshold: float
    half_digit: float  # how far the figure may be from what was measured and still be it, rounded
    has_unit: bool  # else the numbers may have been written as fractions

    def holds(self, delta: float) -> bool:
        """Whether the comparison is true of a delta."""
        if self.relation in ("<", "is below"):
            return delta < self.threshold - 100 * ROUNDING
        if self.relation == "<=":
            return delta <= self.threshold + 100 * ROUNDING
        if self.relation == ">":
            return delta > self.threshold + 100 * ROUNDING
        return delta >= self.threshold - 100 * ROUNDING

    def is_of(self, delta: float) -> bool:
        """Whether the figure is this delta."""
        return abs(self.figure - delta) <= self.half_digit + 100 * ROUNDING

    def read_for(self, delta: float) -> Statement:
        """What it states of a delta: its numbers are fractions where only so the figure is that delta."""
        if self.has_unit or self.is_of(delta):
            return self
        of_fractions = self._replace(
            figure=100 * self.figure, threshold=100 * self.threshold, half_digit=100 * self.half_digit
        )
        return of_fractions if of_fractions.is_of(delta) else self

    @property
    def is_against(self) -> bool:
        """Whether it speaks against the variant."""
        return self.relation in ("<", "<=", "is below")


def statement(reason: str) -> Statement | None:
    """The comparison that a reason states; None where it has none."""
    found = STATED.search(reason)
    if found is None:
        return None
    digits = len(found[1].partition(".")[2])
    return Statement(
        figure=float(found[1]),
        relation=found[2],
        gate=found[3] or "",
        threshold=float(found[4]),
        half_digit=0.5 * 10**-digits,
        has_unit="pp" in found[0],
    )


class Checked(NamedTuple):
    """A decision with what it states and the one comparison that this is about."""

    decision: Decision
    said: Statement
    each: Comparison

    @property
    def delta(self) -> float:
        """What was measured by the rule's metric, in percentage points."""
        return 100 * (self.each.delta if self.decision.d_acc is None else self.decision.d_acc)

    @property
    def records(self) -> list[str]:
        return [self.decision.source, *self.each.records]


def judge(history: History) -> Iterator[Finding]:
    """What was decided against the records, and what the rule asked for and was not decided."""
    compared = comparisons(history.runs)
    all_checked = checked(history)
    for one in all_checked:
        yield from _of_decision(one, compared)
    yield from _contradicting_each_other(history.decisions)
    yield from _unpruned(history.decisions, all_checked, compared)
    yield from _pruned_and_named_best(history.decisions)
    yield from _promotions(history, compared)


def checked(history: History) -> list[Checked]:
    """The decisions whose reason states a comparison of a delta that the records have."""
    measured = grouped(comparisons(history.runs), lambda each: _key(each.variant))
    first = first_stages(history.runs)
    found = []
    for decision in history.decisions:
        said = statement(decision.reason)
        is_first = decision.reason.startswith(("best_quick", "quick_"))
        stage = first.get(decision.round, "") if is_first else decision.stage
        of_decision = [
            each
            for each in measured.get((decision.round, decision.task, stage, decision.config), ())
            if decision.seed is None or each.variant.seed == decision.seed
        ]
        if said is not None and len(of_decision) == 1:
            one = Checked(decision, said, of_decision[0])
            found.append(one._replace(said=said.read_for(one.delta)))
    return found


def _key(run: Run) -> Key:
    return run.round, run.task, run.stage, run.config


def _of_decision(one: Checked, compared: Sequence[Comparison]) -> Iterator[Finding]:
    decision, said, delta = one.decision, one.said, one.delta
    what = f"{in_words(decision)}: {decision.status} because {decision.reason!r}"
    if not said.is_of(delta):
        yield _finding(f"{what}, while the records say {points(delta / 100)}", one.records, delta)
    elif not said.holds(delta):
        yield _finding(f"{what}, which is not so", one.records, delta)
    if said.is_against == (decision.status in (Verdict.PROMOTED, Verdict.CONFIRMED)):
        yield _finding(f"{what}, which says the opposite", one.records, delta)
    if "best_quick" in decision.reason:
        yield from _not_the_best(one, compared, what)
    yield from _cooldown(one)


def _not_the_best(one: Checked, compared: Sequence[Comparison], what: str) -> Iterator[Finding]:
    named = one.each
    of = (named.variant.round, named.variant.task, named.variant.stage)
    rivals = [each for each in compared if (each.variant.round, each.variant.task, each.variant.stage) == of]
    best = max(rivals, key=lambda each: each.delta)
    if best.delta > named.delta + ROUNDING:
        text = f"{what}, while {best.variant.config} was better at {points(best.delta)}"
        yield _finding(text, [*one.records, *best.records], 100 * best.delta)


def _cooldown(one: Checked) -> Iterator[Finding]:
    """The predecessor's rest of eight rounds, if and only if the delta was bad enough."""
    decision, stage = one.decision, one.each.variant.stage
    may_rest = not decision.is_own and has_policy(decision.round) and decision.status in RESTED
    if stage not in COOLDOWN_FROM or not may_rest:
        return
    due = one.delta <= 100 * (COOLDOWN_FROM[stage] + ROUNDING)
    until = int(decision.round) + COOLDOWN_ROUNDS if due else None
    if decision.cooldown_until != until:
        has = (
            f"a cooldown until round {decision.cooldown_until}" if decision.cooldown_until else "no cooldown"
        )
        expected = f"until round {until}" if until else "none"
        text = f"{in_words(decision)}: {points(one.delta / 100)} and {has}; the rule gives {expected}"
        yield _finding(text, one.records, one.delta)


def _contradicting_each_other(decisions: Sequence[Decision]) -> Iterator[Finding]:
    groups = grouped(decisions, lambda each: (each.round, each.task, each.stage, each.config, each.seed))
    for group in groups.values():
        statuses = list(dict.fromkeys(each.status for each in group))
        if len(statuses) > 1:
            text = f"{in_words(group[0])} was decided {' and '.join(statuses)}"
            yield Finding(Check.CONTRADICTED_RULE, text, [each.source for each in group])


def _unpruned(
    decisions: Sequence[Decision], all_checked: Sequence[Checked], compared: Sequence[Comparison]
) -> Iterator[Finding]:
    """Deltas below a threshold that was stated for their task or round, without a decision that says so."""
    thresholds = {
        _scope(one.decision): one.said.threshold
        for one in all_checked
        if one.decision.reason.startswith("quick_d")
    }
    decided = {(each.round, each.task, each.stage, each.config) for each in decisions}
    for pair in compared:
        run = pair.variant
        threshold = thresholds.get(_scope(run))
        if (
            threshold is not None
            and 100 * pair.delta < threshold - 100 * ROUNDING
            and _key(run) not in decided
        ):
            text = (
                f"{in_words(run)}: {points(pair.delta)} is below the stated "
                f"{points(threshold / 100)}, and nothing was decided"
            )
            yield _finding(text, pair.records, 100 * pair.delta)


def _scope(record: Run | Decision) -> tuple[str, str, str]:
    """Where a threshold holds: at a stage of a task, or of all tasks of the round."""
    return record.round, "" if has_policy(record.round) else record.task, record.stage


def _pruned_and_named_best(decisions: Sequence[Decision]) -> Iterator[Finding]:
    pruned: dict[tuple[str, str, str], Decision] = {}
    for each in decisions:
        if each.status == Verdict.PRUNED:
            pruned.setdefault((each.round, each.task, each.config), each)
    for each in decisions:
        earlier = pruned.get((each.round, each.task, each.config))
        if "best_quick" in each.reason and earlier is not None and earlier.stage != each.stage:
            text = (
                f"{in_words(each)}: named the best candidate though pruned before; pruning ended nothing, as every "
                "candidate had run by then"
            )
            yield Finding(Check.CONTRADICTED_RULE, text, [earlier.source, each.source])


def _promotions(history: History, compared: Sequence[Comparison]) -> Iterator[Finding]:
    """The predecessor's variants that went on below the gate of their round, or did not go on above it."""
    first = first_stages(history.runs)
    later = {
        (*setting_of(run), run.config)
        for run in history.runs
        if run.stage not in (first.get(run.round), PROBE) and not run.is_baseline
    }
    at_first = [
        each
        for each in compared
        if not each.variant.is_own and each.variant.stage == first[each.variant.round]
    ]
    for setting, group in grouped(at_first, lambda each: setting_of(each.variant)).items():
        gate = gate_of(group[0].variant.round, base_task(group[0].variant.task))
        if gate is None:
            continue
        for each in group:
            went_on = (*setting, each.variant.config) in later
            against = _kept_too_many(each, group, gate) if went_on else _kept_too_few(each, group, gate)
            if against:
                did = "went on" if went_on else "did not go on"
                what = f"{name_of(each.variant)} {each.variant.config}{seed_in_words(each.variant)}"
                yield _finding(
                    f"{what} {did} at {points(each.delta)}; {against}", each.records, 100 * each.delta
                )


def _kept_too_many(each: Comparison, group: Sequence[Comparison], gate: Gate) -> str:
    """Why a variant should not have gone on; nothing where it should."""
    better = sum(rival.delta > each.delta + ROUNDING for rival in group)
    if each.delta < gate.delta - ROUNDING:
        return f"the gate was {points(gate.delta)}"
    if gate.best is not None and better >= gate.best:
        return f"it was not among the best {gate.best:g}"
    return ""


def _kept_too_few(each: Comparison, group: Sequence[Comparison], gate: Gate) -> str:
    """Why a variant should have gone on; nothing where it need not."""
    as_good = sum(rival.delta >= each.delta - ROUNDING for rival in group)  # itself among them
    is_due = gate.best is not None and as_good <= gate.best
    return f"the gate was {points(gate.delta)}" if is_due and each.delta >= gate.delta - ROUNDING else ""


def _finding(text: str, records: Sequence[str], delta: float) -> Finding:
    return Finding(Check.CONTRADICTED_RULE, text, records, {"delta_pp": delta})
