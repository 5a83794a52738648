"""What a protocol makes of arms that are all the same, and the smallest effect it can find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil, sqrt
from statistics import NormalDist, fmean

from pydantic import Field

from orchestrator.calibration.runs import Runs
from orchestrator.calibration.searches import World, search
from orchestrator.points import points
from orchestrator.rounds.resolved_round import ResolvedRound
from orchestrator.rounds.stored_round import as_broken_round
from orchestrator.rules import Evidence, Halving, Rule, Threshold, TopK
from orchestrator.search import SearchSpec
from orchestrator.views.shapes import View

POWER = 0.8
LEVEL = 0.05  # one-sided, of a test that must find the effect
LARGEST_EFFECT = 0.5
PRECISION = 0.0005  # of the smallest effect, a fraction


class RuleRates(View):
    """What a rule does with arms that are all the same."""

    rule: str
    promoted: float = Field(description="Share of the arms that it promotes at the first stage.")
    accepted: float = Field(description="Share of the arms that come through every stage.")
    searches: float = Field(description="Share of the searches in which some arm does.")


class Needs(View):
    """What a test would need to find an effect of min_delta with 80 % power at a level of 5 %, one-sided."""

    effect: float
    seeds: int | None = Field(description="With this validation set; null: no number suffices.")
    val: int | None = Field(
        description="Validation examples, with the round's seeds; null: no number suffices."
    )
    seeds_and_val: tuple[int, int] = Field(description="Where both share the doubt alike.")
    steps: int | None = Field(
        description="Training steps of one comparison with seeds_and_val; null: unknown."
    )


class TaskCalibration(View):
    """What a task's numbers can tell under a round's protocol."""

    task: str
    runs: int
    n_val: int
    run_sd: dict[str, float] = Field(description="Between runs, by stage; a fraction.")
    example_se: dict[str, float] = Field(description="Of a delta over examples, by stage; a fraction.")
    rules: tuple[RuleRates, ...] = Field(description="The round's own first.")
    smallest_effect: float | None = Field(
        description="Found by the round's own protocol in 80 % of the searches; null: none below 50 points; "
        "0: what has no effect is accepted as often."
    )
    needs: Needs


@dataclass(frozen=True)
class _Protocol:
    """One task's search, with runs to draw from."""

    runs: Runs
    spec: SearchSpec
    steps: Mapping[str, int]
    searches: int
    confirms_on: int  # examples

    def with_rule(self, rule: Rule, given: tuple[int, ...]) -> _Protocol:
        return replace(self, spec=replace(self.spec, rule=rule, seeds=rule.seeds(given)))

    def rates(self) -> RuleRates:
        arms = self.spec.candidates
        found = [search(self._world({}, number), self.spec, self.steps) for number in range(self.searches)]
        return RuleRates(
            rule=self.spec.rule.rule,
            promoted=fmean(len(one.promoted & set(arms)) / len(arms) for one in found),
            accepted=fmean(len(one.accepted & set(arms)) / len(arms) for one in found),
            searches=fmean(bool(one.accepted & set(arms)) for one in found),
        )

    def power(self, effect: float) -> float:
        """Share of the searches that accept the one variant that has the effect."""
        name = self.spec.candidates[0]
        worlds = (self._world({name: effect}, number) for number in range(self.searches))
        return fmean(name in search(world, self.spec, self.steps).accepted for world in worlds)

    def smallest_effect(self) -> float | None:
        """By bisection, to PRECISION; 0 where even none is found so often."""
        low, high = 0.0, LARGEST_EFFECT
        if self.power(high) < POWER:
            return None
        if self.power(low) >= POWER:
            return 0.0
        while high - low > PRECISION:
            middle = (low + high) / 2
            low, high = (low, middle) if self.power(middle) >= POWER else (middle, high)
        return round(high, 6)

    def _world(self, effects: Mapping[str, float], number: int) -> World:
        arms = {name: effects.get(name, 0.0) for name in self.spec.variants}
        return World(self.runs, arms, number, self.confirms_on)


def of_task(resolved: ResolvedRound, task: str, runs: Runs, searches: int) -> TaskCalibration:
    """The findings on one task of a round, from so many searches over runs of its baseline; raises BrokenRound."""
    with as_broken_round(resolved.spec.round):
        return _of_task(resolved, task, runs, searches)


def _of_task(resolved: ResolvedRound, task: str, runs: Runs, searches: int) -> TaskCalibration:
    spec = replace(resolved.search.distinct, tasks=(task,), parallel=False)
    steps = {stage.name: stage.steps or 0 for stage in resolved.spec.stages}
    confirm = resolved.spec.stages[-1].confirm
    n_val = len(runs.of)
    own = _Protocol(runs, spec, steps, searches, (confirm and confirm.val) or n_val)
    given = resolved.spec.seeds
    delta = resolved.spec.prune.min_delta
    others = [rule for rule in _rules(resolved.spec.prune) if rule != resolved.spec.prune]
    return TaskCalibration(
        task=task,
        runs=runs.n,
        n_val=n_val,
        run_sd={stage: round(runs.spread(stage), 6) for stage in spec.stages},
        example_se={stage: round(sqrt(runs.example_variance(stage) / n_val), 6) for stage in spec.stages},
        rules=tuple(one.rates() for one in (own, *(own.with_rule(rule, given) for rule in others))),
        smallest_effect=own.smallest_effect(),
        needs=needs(runs, spec, delta, steps),
    )


def _rules(own: Rule) -> Iterator[Rule]:
    """The built-in ones, with the round's threshold and metric."""
    for kind in (Threshold, Evidence, TopK, Halving):
        yield kind(min_delta=own.min_delta, metric=own.metric)


def needs(runs: Runs, spec: SearchSpec, effect: float, steps: Mapping[str, int]) -> Needs:
    """By the normal approximation: (z_level + z_power)^2 (v / n_val + 2 sd^2 / seeds) must not exceed effect^2.

    A gain only: of an effect of 0 or less there is nothing to find.
    v is the variance over examples, sd the spread between runs; both arms have it.
    """
    stage = spec.stages[-1]
    normal = NormalDist()
    z = normal.inv_cdf(1 - LEVEL) + normal.inv_cdf(POWER)
    room = (max(effect, 0.0) / z) ** 2
    if not room:
        return Needs(effect=effect, seeds=None, val=None, seeds_and_val=(0, 0), steps=None)
    over_examples, over_runs = runs.example_variance(stage), 2 * runs.spread(stage) ** 2
    left_for_runs = room - over_examples / len(runs.of)
    left_for_examples = room - over_runs / len(spec.seeds)
    both = max(1, ceil(2 * over_runs / room)), max(2, ceil(2 * over_examples / room))
    return Needs(
        effect=effect,
        seeds=max(1, ceil(over_runs / left_for_runs)) if left_for_runs > 0 else None,
        val=max(2, ceil(over_examples / left_for_examples)) if left_for_examples > 0 else None,
        seeds_and_val=both,
        steps=2 * both[0] * steps[stage] if steps.get(stage) else None,
    )


def as_text(found: TaskCalibration, resolved: ResolvedRound) -> str:
    """One task's findings for people."""
    stage = resolved.search.stages[-1]
    confirms = resolved.search.confirmation is not None
    lines = [
        f"{found.task}: {found.runs} runs of the baseline, {found.n_val} validation examples",
        f"  runs differ by {points(found.run_sd[stage])[1:]} (standard deviation at {stage}); the choice of examples "
        f"moves a delta by {points(found.example_se[stage])[1:]} (standard error)",
        f"  arms that are all the same, {len(resolved.search.rivals)} in a search:",
    ]
    last = "confirms" if confirms else "promotes at last"
    for rule in found.rules:
        lines.append(
            f"    {rule.rule:<10} promotes {rule.promoted:.1%} of them at {resolved.search.stages[0]}, {last} "
            f"{rule.accepted:.1%}; some in {rule.searches:.1%} of the searches"
        )
    if confirms:
        lines.append(f"    (confirmations are drawn from the runs at {stage}, whatever their own budget)")
    if found.smallest_effect is None:
        lines.append("  no effect below +50 pp is found in 80 % of the searches")
    elif found.smallest_effect == 0:
        lines.append(
            "  a variant without any effect is accepted in at least 80 % of the searches: to be accepted says nothing"
        )
    else:
        lines.append(
            f"  smallest effect that this round finds in 80 % of the searches: {points(found.smallest_effect)}"
        )
    needed = found.needs
    wanted = points(needed.effect)
    if needed.seeds_and_val != (0, 0):
        seeds, val = needed.seeds_and_val
        cost = f", {needed.steps:,} training steps a comparison" if needed.steps else ""
        lines.append(f"  to find {wanted}: {seeds:,} seeds and {val:,} validation examples{cost}")
        lines.append(
            f"    with these {found.n_val} examples: "
            + (f"{needed.seeds:,} seeds" if needed.seeds else "no number of seeds suffices")
            + f"; with {len(resolved.search.seeds)} seed(s): "
            + (f"{needed.val:,} examples" if needed.val else "no number of examples suffices")
        )
    return "\n".join(lines)
