"""Each rule as the pure function it is, and rules of others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError, model_validator

from orchestrator.errors import BadRound
from orchestrator.planner import State, plan
from orchestrator.points import ROUNDING, difference
from orchestrator.rules import (
    Evidence,
    Halving,
    Rivals,
    Rule,
    RuleFailed,
    Ruling,
    Scope,
    Threshold,
    TopK,
    Trial,
    rule_class,
)
from orchestrator.rules.registry import BUILT_IN, UnknownRule, parse_rule
from orchestrator.search import Confirmation, Decision, JobKey, Measurement, SearchSpec
from orchestrator.statistics.examples import Outcomes, standard_error
from orchestrator.verdicts import Verdict
from tasks import plug_ins
from tests.orchestrator.factories import resolve
from worker.job import BASELINE, Outcome

deltas = st.integers(-50, 50).map(lambda n: n / 1000)
trials = st.builds(Trial, seed=st.integers(0, 9), delta=deltas, standard_error=st.floats(0, 0.02))
EVIDENCE = Evidence(min_delta=0.001)


@given(st.lists(trials, min_size=1, max_size=5))
def test_evidence__prunes_below_promotes_above_and_buys_in_between(made: list[Trial]) -> None:
    bounds, ruling = EVIDENCE.bounds(made), EVIDENCE.judge(made, ())
    assert bounds is not None
    if bounds.high < EVIDENCE.min_delta:
        assert ruling is not None
        assert not ruling.promotes
    elif bounds.low > EVIDENCE.min_delta and len(made) > 1:
        assert ruling is not None
        assert ruling.promotes
    elif len(made) < 5:
        assert ruling is None
    else:
        assert ruling is not None
        assert ruling.promotes == (fmean(trial.delta for trial in made) >= EVIDENCE.min_delta - ROUNDING)


def test_evidence__a_mean_at_the_threshold_promotes() -> None:
    rule = Evidence(min_delta=0.001, max_seeds=3)
    made = [Trial(seed, difference(n / 3000, 0), 0.01) for seed, n in enumerate((1, 1, 7))]
    ruling = rule.judge(made, ())
    assert ruling is not None
    assert ruling.promotes


def test_evidence__one_seed_may_prune_but_not_promote() -> None:
    assert EVIDENCE.judge([Trial(0, 0.5, 0.001)], ()) is None
    pruned = EVIDENCE.judge([Trial(0, -0.05, 0.001)], ())
    assert pruned == Ruling(False, "-5.00 pp, 1 seed, 90% bounds [-5.13, -4.87] pp: below +0.10 pp")
    assert EVIDENCE.judge([Trial(0, -0.05, None)], ()) is None  # nothing is known of its examples


def test_evidence__arms_that_are_alike_are_pruned_at_once_only_on_many_examples() -> None:
    assert EVIDENCE.judge([Trial(0, 0.0, standard_error([0] * 24, [1] * 24))], ()) is None
    ruling = EVIDENCE.judge([Trial(0, 0.0, standard_error([0] * 5000, [1] * 5000))], ())
    assert ruling is not None
    assert not ruling.promotes


def test_evidence__equal_seeds_without_known_examples_are_not_certain() -> None:
    assert EVIDENCE.judge([Trial(0, 0.01), Trial(1, 0.01)], ()) is None


def test_evidence__seeds_go_on_from_those_of_the_round() -> None:
    assert EVIDENCE.seeds((0,)) == (0, 1, 2, 3, 4)
    assert EVIDENCE.seeds((7, 1)) == (7, 1, 0, 2, 3)
    assert Evidence(max_seeds=2).seeds((3, 4, 5)) == (3, 4)
    with pytest.raises(ValidationError, match="exceeds max_seeds"):
        Evidence(min_seeds=6)


@given(st.lists(deltas, min_size=1, max_size=8), st.integers(1, 4))
def test_top_k__the_best_go_on_and_ties_with_them(field: list[float], keep: int) -> None:
    rule = TopK(keep=keep, min_delta=-1)
    made = [[Trial(0, delta)] for delta in field]
    promoted = [
        delta
        for i, delta in enumerate(field)
        if rule.judge(made[i], [other for j, other in enumerate(made) if j != i]).promotes
    ]
    worst = sorted(field, reverse=True)[: min(keep, len(field))][-1]
    assert sorted(promoted) == sorted(delta for delta in field if delta >= worst - 1e-9)


@given(st.lists(st.lists(trials, min_size=1, max_size=2), min_size=1, max_size=6))
def test_rivals__those_of_each_in_a_field(field: list[list[Trial]]) -> None:
    everyone = Rivals.of(field)
    assert list(everyone) == field
    for place in range(len(field)):
        rivals = everyone.without(place)
        others = field[:place] + field[place + 1 :]
        assert list(rivals) == others
        for rule in (TopK(keep=2), Halving()):
            assert rule.judge(field[place], rivals) == rule.judge(field[place], others)


@pytest.mark.parametrize("rule", [TopK(), Halving()])
def test_plan__averages_each_variant_once_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch, rule: Rule
) -> None:
    averaged: list[int] = []
    monkeypatch.setattr(
        "orchestrator.rules.rule.fmean", lambda deltas: averaged.append(1) or fmean(list(deltas))
    )
    variants = tuple(f"v{number}" for number in range(200))
    spec = SearchSpec(("t",), variants, ("quick",), rule=rule)
    results = {JobKey("t", "quick", arm, 0): Measurement(Outcome.OK, 0.2) for arm in spec.arms}
    assert len(plan(spec, results).decisions) == 200
    assert len(averaged) == 2 * 200  # for the field, and as the variant is judged


def test_top_k__what_computes_the_same_takes_one_place() -> None:
    variants, deltas = ("a", "b", "c", "d"), {BASELINE: 0.2, "a": 0.5, "b": 0.5, "c": 0.4, "d": 0.3}
    results = {JobKey("t", "quick", arm, 0): Measurement(Outcome.OK, score) for arm, score in deltas.items()}
    spec = SearchSpec(("t",), variants, ("quick",), rule=TopK(keep=2), same_as={"b": "a"})
    decisions = plan(spec, results).decisions
    assert [one.verdict for one in decisions] == [Verdict.PROMOTED] * 3 + [Verdict.PRUNED]
    assert [one.reason.split(", ")[1].split(":")[0] for one in decisions] == [
        "rank 1 of 3",
        "rank 1 of 3",
        "rank 2 of 3",
        "rank 3 of 3",
    ]


def test_top_k__none_below_the_threshold() -> None:
    assert not TopK(keep=3).judge([Trial(0, 0.0)], [[Trial(0, -0.1)]]).promotes


@pytest.mark.parametrize(("n", "kept"), [(1, 1), (3, 1), (4, 2), (9, 3)])
def test_halving__keeps_a_third(n: int, kept: int) -> None:
    made = [[Trial(0, i / 100)] for i in range(n)]
    rule = Halving(eta=3, min_delta=-1)
    promoted = [rule.judge(made[i], made[:i] + made[i + 1 :]).promotes for i in range(n)]
    assert promoted == [False] * (n - kept) + [True] * kept


@pytest.mark.parametrize("rule", [Halving(eta=3, min_delta=-1), TopK(keep=1, min_delta=-1)])
@pytest.mark.parametrize(("control", "is_promoted"), [(0.52, False), (0.7, False), (0.9, True)])
def test_plan__a_control_arm_takes_the_place_of_the_worst(
    control: float, is_promoted: bool, rule: Rule
) -> None:
    """So many go on as without it, and it needs the rank that a variant needs."""
    scores = {BASELINE: 0.5, "v1": 0.8, "v2": 0.6, "v3": 0.55, "aa": control}
    spec = SearchSpec(("t",), ("v1", "v2", "v3", "aa"), ("quick",), rule=rule, control="aa")
    results = {
        JobKey("t", "quick", name, 0): Measurement(Outcome.OK, score=score) for name, score in scores.items()
    }
    verdicts = {one.key.variant: one for one in plan(spec, results).decisions}
    assert verdicts["v1"].verdict is Verdict.PROMOTED
    assert verdicts["v2"].verdict is Verdict.PRUNED
    assert (verdicts["aa"].verdict is Verdict.PROMOTED) is is_promoted
    assert "of 3: the best 1 go on" in verdicts["aa"].reason


def test_halving__goes_by_the_number_as_it_is_written() -> None:
    """21 / 1.4 is a little more than 15 in binary fractions."""
    made = [[Trial(0, i / 100)] for i in range(21)]
    rule = Halving(eta=1.4, min_delta=-1)
    assert sum(rule.judge(made[i], made[:i] + made[i + 1 :]).promotes for i in range(21)) == 15


class Greedy(Rule):
    scope = Scope.VARIANT
    rule: Literal["greedy"] = "greedy"

    def judge(self, trials: Sequence[Trial], rivals: Sequence[Sequence[Trial]]) -> None:
        """Never satisfied."""


def measured(rng: random.Random, gain: int) -> Measurement:
    right = tuple(min(10, max(0, rng.randint(2, 8) + gain)) for _ in range(20))
    return Measurement(Outcome.OK, sum(right) / 200, 1.0, outcomes=Outcomes(right, (10,) * 20))


def run(spec: SearchSpec, seed: int, gains: dict[str, int]) -> tuple[list[JobKey], dict[JobKey, Verdict]]:
    """Works through a round; the jobs in the order in which they ran, and what was decided."""
    rng = random.Random(seed)
    results: dict[JobKey, Measurement] = {}
    seen: set[object] = set()
    while True:
        planned = plan(spec, results)
        assert seen <= set(planned.steps)  # a later plan only adds
        seen = set(planned.steps)
        waiting = [key for key in planned.jobs if key not in results]
        if not waiting:
            assert planned.state is State.FINISHED
            return list(results), {one.key: one.verdict for one in planned.decisions}
        assert len(waiting) == 1
        results[waiting[0]] = measured(rng, gains.get(waiting[0].variant, 0))


SEARCH = SearchSpec(
    ("t",), ("bad", "none", "good"), ("quick", "med"), seeds=EVIDENCE.seeds((0,)), rule=EVIDENCE
)


@given(st.integers(0, 100))
def test_plan__evidence_buys_seeds_only_where_it_needs_them(seed: int) -> None:
    jobs, verdicts = run(SEARCH, seed, {"bad": -3, "good": 3})
    assert verdicts[JobKey("t", "quick", "bad", 0)] is Verdict.PRUNED
    assert verdicts[JobKey("t", "med", "good", 0)] is Verdict.PROMOTED
    assert [key.seed for key in jobs if key.variant == "bad"] == [0]
    quick_good = [key.seed for key in jobs if key.variant == "good" and key.stage == "quick"]
    assert quick_good == list(range(len(quick_good)))
    assert len(quick_good) >= 2
    for key in jobs:
        baseline = key._replace(variant=BASELINE)
        assert jobs.index(baseline) <= jobs.index(key)


def test_rule_class__of_two_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = tuple(EntryPoint("mine", f"{package}:Rule", "fsq.rules") for package in ("one", "two"))
    monkeypatch.setattr(plug_ins, "_entries", lambda _: entries)
    with pytest.raises(UnknownRule, match="'mine' is registered more than once: one:Rule, two:Rule"):
        rule_class("mine")


class Unfinished(Rule):
    """Has no `judge`."""


class Nowhere(Threshold):
    scope = "galaxy"  # type: ignore[assignment]


class Faulty(Threshold):
    rule: Literal["mine"] = "mine"  # type: ignore[assignment]

    @model_validator(mode="after")
    def check(self) -> Any:
        raise KeyError("x")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Unfinished", "does not define judge"),
        ("Nowhere", "the scope of .*:Nowhere is no Scope"),
        ("Faulty", "the prune rule 'mine' failed to check its settings: KeyError: 'x'"),
    ],
)
def test_parse_rule__of_a_faulty_plug_in(name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("mine", f"{__name__}:{name}", "fsq.rules")
    monkeypatch.setattr(plug_ins, "_entries", lambda _: (entry,))
    with pytest.raises(UnknownRule, match=said):
        parse_rule({"rule": "mine"})


class Mute(Exception):
    """One that cannot say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")


class Odd(Rule):
    """Judges by what it is told to give."""

    rule: Literal["odd"] = "odd"
    gives: ClassVar[Any]

    def judge(self, trials: Sequence[Trial], rivals: Sequence[Sequence[Trial]]) -> Any:
        if self.gives in (SystemExit, Mute):
            raise self.gives
        return self.gives


def decided_by_odd(gives: Any, monkeypatch: pytest.MonkeyPatch) -> Decision:
    monkeypatch.setattr(Odd, "gives", gives, raising=False)
    spec = SearchSpec(("t",), ("v",), ("quick",), rule=Odd(rule="odd"))
    results = {JobKey("t", "quick", arm, 0): Measurement(Outcome.OK, 0.5) for arm in (BASELINE, "v")}
    return plan(spec, results).decisions[0]


@pytest.mark.parametrize(
    "gives",
    [True, "yes", (True, "why"), Ruling("no", "why"), Ruling(True, b"why"), SystemExit, Mute],
    ids=repr,
)
def test_plan__a_rule_that_gives_no_ruling_has_failed(gives: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuleFailed, match="the prune rule 'odd' failed on t, v at quick"):
        decided_by_odd(gives, monkeypatch)


def test_plan__a_ruling_is_taken_as_every_database_and_terminal_can_have_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = decided_by_odd(Ruling(np.True_, "a\0b\ud800\x1b[31m\n" + "x" * 5000), monkeypatch)  # type: ignore[arg-type]
    assert found.verdict is Verdict.PROMOTED
    assert found.reason.startswith("a\\x00b\\ud800\\x1b[31m\\nxxx")
    assert len(found.reason) < 1000


@pytest.mark.parametrize(
    "gives",
    [
        (),
        ("a",),
        (-1, 2),
        (2**31,),
        (1, 1),
        [0],
        (True,),
        None,
        ValueError("none left"),
        ValueError("\x1b[31mred\n" + "x" * 5000),
        Mute(),
    ],
)
def test_round__a_rule_must_name_seeds(gives: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seeds(*_: Any) -> Any:
        if isinstance(gives, Exception):
            raise gives
        return gives

    monkeypatch.setattr(TopK, "seeds", seeds)
    wanted = "the rule 'top_k' must name seeds, each once, at least one; its seeds"
    with pytest.raises(BadRound, match=wanted) as refused:
        resolve(tmp_path, prune={"rule": "top_k"})
    (problem,) = refused.value.problems
    assert str(problem).isprintable()
    assert len(str(problem)) < 1000


def test_plan__a_rule_that_is_never_satisfied_prunes_when_the_seeds_are_over() -> None:
    spec = SearchSpec(("t",), ("v",), ("quick",), seeds=(0, 1), rule=Greedy(rule="greedy"))
    jobs, verdicts = run(spec, 0, {"v": 5})
    assert verdicts == {JobKey("t", "quick", "v", 0): Verdict.PRUNED}
    assert len(jobs) == 4


@pytest.mark.parametrize("rule", [TopK(keep=1, min_delta=-1), Halving(eta=3, min_delta=-1)])
def test_plan__ranks_are_taken_once_a_stage_is_complete(rule: Rule) -> None:
    spec = SearchSpec(
        ("t",), ("a", "no", "b", "c"), ("quick", "med"), seeds=(0, 1), no_ops=frozenset({"no"}), rule=rule
    )
    jobs, verdicts = run(spec, 1, {"b": 4})
    assert verdicts == {
        JobKey("t", "quick", "no", 0): Verdict.NO_OP,
        JobKey("t", "quick", "a", 0): Verdict.PRUNED,
        JobKey("t", "quick", "b", 0): Verdict.PROMOTED,
        JobKey("t", "quick", "c", 0): Verdict.PRUNED,
        JobKey("t", "med", "b", 0): Verdict.PROMOTED,
    }
    assert [(key.stage, key.variant, key.seed) for key in jobs[8:]] == [
        ("med", BASELINE, 0),
        ("med", "b", 0),
        ("med", BASELINE, 1),
        ("med", "b", 1),
    ]


@pytest.mark.parametrize("rule", [TopK(keep=1), Halving(eta=3)])
def test_plan__the_control_takes_no_place_from_a_variant(rule: Rule) -> None:
    spec = SearchSpec(("t",), ("v", "w", "aa"), ("quick",), rule=rule, control="aa")
    scores = {BASELINE: 0.2, "v": 0.22, "w": 0.21, "aa": 0.23}
    results = {JobKey("t", "quick", arm, 0): Measurement(Outcome.OK, score) for arm, score in scores.items()}
    verdicts = {one.key.variant: one.verdict for one in plan(spec, results).decisions}
    assert verdicts == {"v": Verdict.PROMOTED, "w": Verdict.PRUNED, "aa": Verdict.PROMOTED}


@st.composite
def searches(draw: st.DrawFn) -> SearchSpec:
    """Rounds of any kind: every scope, control seeds, a control arm, a confirm stage, side by side or not."""
    rule = draw(st.sampled_from([Threshold(), Evidence(max_seeds=3), TopK(keep=1), Halving(eta=2)]))
    variants = draw(st.sampled_from([("a",), ("a", "b"), ("a", "b", "aa")]))
    return SearchSpec(
        tasks=draw(st.sampled_from([("t",), ("t", "u")])),
        variants=variants,
        stages=draw(st.sampled_from([("quick",), ("quick", "med")])),
        seeds=rule.seeds(draw(st.sampled_from([(0,), (0, 1)]))),
        no_ops=draw(st.sampled_from([frozenset(), frozenset({"a"})])),
        rule=rule,
        parallel=draw(st.booleans()),
        baseline_seeds=draw(st.sampled_from([(), (7, 8)])),
        confirmation=draw(st.sampled_from([None, Confirmation("confirm", (1000, 1001))])),
        control="aa" if "aa" in variants else None,
    )


@given(searches(), st.integers(0, 1000))
def test_plan__any_round_ends_with_everything_decided_and_nothing_taken_back(
    spec: SearchSpec, seed: int
) -> None:
    rng = random.Random(seed)
    results: dict[JobKey, Measurement] = {}
    seen: set[object] = set()
    while True:
        planned = plan(spec, results)
        assert seen <= set(planned.steps)
        assert len(set(planned.steps)) == len(planned.steps)
        seen = set(planned.steps)
        waiting = [key for key in planned.jobs if key not in results]
        lanes = [spec.lane_of(key.task, key.seed) for key in waiting]
        assert len(set(lanes)) == len(lanes) <= (len(spec.lanes) if spec.parallel else 1)
        assert set(lanes) <= planned.open_lanes
        for lane in planned.open_lanes:  # a lane by itself comes to the same
            if not spec.parallel and lane not in lanes:
                continue
            alone = plan(spec.of_lane(lane), results)
            assert set(alone.steps) <= seen
        if not waiting:
            break
        key = rng.choice(waiting)
        fails = rng.random() < 0.1
        results[key] = Measurement(Outcome.OOM) if fails else measured(rng, 2 if key.variant == "b" else 0)
    assert planned.state is State.FINISHED
    assert set(planned.jobs) <= set(spec.largest_plan())
    assert len(set(spec.largest_plan())) == spec.most_jobs
    per_seed = spec.rule.scope is Scope.SEED
    seeds = spec.seeds if per_seed else spec.seeds[:1]
    decided = {one.key for one in planned.decisions}
    assert {key for key in decided if key.stage == "quick"} == {
        JobKey(task, "quick", variant, seed)
        for task in spec.tasks
        for variant in spec.variants
        for seed in seeds
    }
    for one in planned.decisions:
        if one.verdict is Verdict.CONFIRMED:
            assert one.key.stage == "confirm"
            assert one.seeds == (1000, 1001)
            assert one.key.variant != spec.control
        assert one.verdict is not Verdict.PROMOTED or one.key.stage != "confirm"


def test_plan__failures_over_seeds() -> None:
    ok = Measurement(Outcome.OK, 0.5, 1.0)
    keys = [JobKey("t", "quick", variant, seed) for seed in (0, 1) for variant in (BASELINE, "good")]
    base = dict.fromkeys(keys[:3], ok)
    spec = SearchSpec(("t",), ("good",), ("quick",), seeds=(0, 1), rule=TopK(keep=1, min_delta=-1))
    (diverged,) = plan(spec, base | {keys[3]: Measurement(Outcome.DIVERGED, reason="nan")}).decisions
    (lost,) = plan(spec, base | {keys[3]: Measurement(Outcome.LOST)}).decisions
    assert (diverged.verdict, lost.verdict) == (Verdict.PRUNED, Verdict.UNDECIDED)


def test_parse_rule() -> None:
    assert parse_rule({"min_delta": 0.01}) == Threshold(min_delta=0.01)
    assert parse_rule({"rule": "evidence", "max_seeds": 7}) == Evidence(max_seeds=7)
    assert {name: rule_class(name) for name in BUILT_IN} == BUILT_IN
    with pytest.raises(UnknownRule, match="there is no prune rule 'evidenc'; did you mean 'evidence'"):
        parse_rule({"rule": "evidenc"})
