"""Properties of the planner over random rounds and random outcomes."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.judged import Judged
from orchestrator.planner import Plan, State, plan
from orchestrator.points import difference, points
from orchestrator.rules import Threshold, TopK, Trial
from orchestrator.search import Decision, JobKey, Measurement, SearchSpec
from orchestrator.statistics.examples import Outcomes, standard_error
from orchestrator.verdicts import Verdict
from worker.job import BASELINE, Outcome

Results = dict[JobKey, Measurement]

VARIANTS = ("v1", "v2", "v3", "v4")
STAGES = ("quick", "med", "long")


@st.composite
def searches(draw: st.DrawFn) -> SearchSpec:
    variants = VARIANTS[: draw(st.integers(1, 4))]
    return SearchSpec(
        tasks=("t1", "t2")[: draw(st.integers(1, 2))],
        variants=variants,
        stages=STAGES[: draw(st.integers(1, 3))],
        seeds=tuple(range(draw(st.integers(1, 2)))),
        no_ops=frozenset(draw(st.sets(st.sampled_from(variants)))),
        rule=Threshold(min_delta=draw(st.sampled_from([0.0, 0.001, 0.01]))),
        parallel=draw(st.booleans()),
    )


measured = st.builds(
    Measurement,
    outcome=st.sampled_from([Outcome.OK, Outcome.CACHED]),
    score=st.integers(0, 1000).map(lambda n: n / 1000),
    loss=st.just(1.0),
)
failed = st.sampled_from(
    [
        *(
            Outcome.OOM,
            Outcome.DIVERGED,
            Outcome.STOPPED,
            Outcome.CRASHED,
            Outcome.LOST,
            Outcome.INFRA_FAILED,
        ),
        Outcome.BUILD_FAILED,
    ]
).map(lambda outcome: Measurement(outcome, reason="because"))
outcomes = st.one_of(measured, measured, measured, failed)


def run_to_end(
    spec: SearchSpec, oracle: dict[JobKey, Measurement], seed: int = 0
) -> tuple[Plan, Results, list[Plan]]:
    """Finishes a random waiting job at a time, as workers would, until nothing waits."""
    rng = random.Random(seed)
    results: Results = {}
    history = []
    while True:
        planned = plan(spec, results)
        history.append(planned)
        waiting = [key for key in planned.jobs if key not in results]
        if not waiting:
            return planned, results, history
        key = rng.choice(waiting)
        results[key] = oracle[key]


@st.composite
def runs(draw: st.DrawFn) -> tuple[SearchSpec, dict[JobKey, Measurement]]:
    spec = draw(searches())
    keys = [
        JobKey(task, stage, variant, seed)
        for task in spec.tasks
        for seed in spec.seeds
        for variant in (BASELINE, *spec.variants)
        for stage in spec.stages
    ]
    return spec, {key: draw(outcomes) for key in keys}


@given(runs())
def test_plan__terminates_with_every_arm_decided(run: tuple[SearchSpec, Results]) -> None:
    spec, oracle = run
    planned, results, _ = run_to_end(spec, oracle)
    assert planned.state is State.FINISHED
    arms = {(d.key.task, d.key.variant, d.key.seed) for d in planned.decisions}
    assert arms == {(t, v, s) for t in spec.tasks for v in spec.variants for s in spec.seeds}
    assert set(planned.jobs) == set(results)


@given(runs(), st.integers(0, 10))
def test_plan__independent_of_the_order_of_results(run: tuple[SearchSpec, Results], seed: int) -> None:
    spec, oracle = run
    assert run_to_end(spec, oracle, seed)[0] == run_to_end(spec, oracle)[0]


@given(runs())
def test_plan__independent_of_the_order_in_the_mapping(run: tuple[SearchSpec, Results]) -> None:
    spec, oracle = run
    _, results, _ = run_to_end(spec, oracle)
    assert plan(spec, dict(reversed(results.items()))) == plan(spec, results)


@given(runs())
def test_plan__only_adds(run: tuple[SearchSpec, Results]) -> None:
    """No job or decision of an earlier plan is ever missing from, or different in, a later one."""
    spec, oracle = run
    _, _, history = run_to_end(spec, oracle)
    for earlier, later in pairwise(history):
        assert set(earlier.steps) <= set(later.steps)


@given(runs())
def test_plan__variant_never_before_its_baseline(run: tuple[SearchSpec, Results]) -> None:
    spec, oracle = run
    results: Results = {}
    while waiting := [key for key in plan(spec, results).jobs if key not in results]:
        for key in waiting:
            if key.variant != BASELINE:
                assert results[key._replace(variant=BASELINE)].is_measured
        results[waiting[0]] = oracle[waiting[0]]


@given(runs())
def test_plan__only_promoted_reach_the_next_stage(run: tuple[SearchSpec, Results]) -> None:
    spec, oracle = run
    planned, results, _ = run_to_end(spec, oracle)
    verdicts = {d.key: d.verdict for d in planned.decisions}
    for key in results:
        index = spec.stages.index(key.stage)
        if key.variant == BASELINE and index:
            assert any(
                verdicts.get(key._replace(variant=v, stage=spec.stages[index - 1])) is Verdict.PROMOTED
                for v in spec.variants
            )
        elif key.variant != BASELINE and index:
            assert verdicts[key._replace(stage=spec.stages[index - 1])] is Verdict.PROMOTED


@given(runs())
def test_plan__serial_unless_parallel(run: tuple[SearchSpec, Results]) -> None:
    spec, oracle = run
    _, results, _ = run_to_end(spec, oracle)
    taken: Results = {}
    for key in results:
        waiting = [job for job in plan(spec, taken).jobs if job not in taken]
        limit = len(spec.tasks) * len(spec.seeds) if spec.parallel else 1
        assert len(waiting) <= limit
        assert len({(job.task, job.seed) for job in waiting}) == len(waiting)
        taken[key] = oracle[key]


@given(runs())
def test_plan__no_op_is_never_run(run: tuple[SearchSpec, Results]) -> None:
    spec, oracle = run
    planned, results, _ = run_to_end(spec, oracle)
    assert not {key.variant for key in results} & spec.no_ops
    no_ops = {d.key.variant for d in planned.decisions if d.verdict is Verdict.NO_OP}
    assert no_ops == spec.no_ops


@given(runs())
def test_plan__decisions_follow_the_rule(run: tuple[SearchSpec, Results]) -> None:
    spec, oracle = run
    planned, results, _ = run_to_end(spec, oracle)
    for decision in planned.decisions:
        variant, baseline = results.get(decision.key), results.get(decision.key._replace(variant=BASELINE))
        if decision.d_acc is None:
            continue
        assert variant is not None
        assert baseline is not None
        assert variant.score is not None
        assert baseline.score is not None
        above = round(1000 * variant.score) - round(1000 * baseline.score) >= 1000 * spec.rule.min_delta
        assert (decision.verdict is Verdict.PROMOTED) == above
        lost = Verdict.PRUNED if decision.key.stage == "quick" else Verdict.REJECTED
        assert decision.verdict in {Verdict.PROMOTED, lost}


SMALL = SearchSpec(tasks=("t",), variants=("v",), stages=("quick", "med"))


def key(stage: str, variant: str) -> JobKey:
    return JobKey("t", stage, variant, 0)


def ok(score: float) -> Measurement:
    return Measurement(Outcome.OK, score, 1.0)


def decide(baseline: Measurement, variant: Measurement) -> Decision:
    (decision,) = plan(SMALL, {key("quick", BASELINE): baseline, key("quick", "v"): variant}).decisions
    return decision


@pytest.mark.parametrize(
    ("baseline", "variant", "verdict"),
    [
        (0.2000, 0.2010, Verdict.PROMOTED),  # in binary 0.2010 - 0.2000 < 0.0010
        (0.3, 0.3010, Verdict.PROMOTED),
        (0.2000, 0.20099, Verdict.PRUNED),
        (0.2000, 0.2000, Verdict.PRUNED),
        (0.2000, 0.1000, Verdict.PRUNED),
    ],
)
def test_judge__at_the_threshold(baseline: float, variant: float, verdict: Verdict) -> None:
    assert decide(ok(baseline), ok(variant)).verdict is verdict


def test_judge__order_and_stage_baseline() -> None:
    results = {key("quick", BASELINE): ok(0.2), key("quick", "v"): ok(0.3)}
    assert plan(SMALL, results).jobs == (key("quick", BASELINE), key("quick", "v"), key("med", BASELINE))
    results[key("med", BASELINE)] = ok(0.4)
    assert plan(SMALL, results).jobs[-1] == key("med", "v")
    results[key("med", "v")] = ok(0.35)
    last = plan(SMALL, results).decisions[-1]
    assert (last.verdict, last.d_acc, last.reason) == (Verdict.REJECTED, -0.05, "-5.00 pp is below +0.10 pp")


def test_judge__diverged_is_a_verdict() -> None:
    decision = decide(ok(0.2), Measurement(Outcome.DIVERGED, reason="the loss is nan"))
    assert (decision.verdict, decision.reason) == (Verdict.PRUNED, "diverged: the loss is nan")


def test_judge__stopped_is_a_verdict_without_a_delta() -> None:
    decision = decide(ok(0.2), Measurement(Outcome.STOPPED, reason="at step 2"))
    assert (decision.verdict, decision.reason, decision.d_acc) == (Verdict.PRUNED, "stopped: at step 2", None)


def test_judge__out_of_memory_is_none() -> None:
    assert decide(ok(0.2), Measurement(Outcome.OOM, reason="too large")).verdict is Verdict.UNDECIDED


def test_plan__failed_baseline_blocks_its_chain_only() -> None:
    spec = SearchSpec(tasks=("t", "u"), variants=("v",), stages=("quick",))
    planned = plan(spec, {JobKey("t", "quick", BASELINE, 0): Measurement(Outcome.OOM, reason="too large")})
    (decision,) = planned.decisions
    assert decision.verdict is Verdict.UNDECIDED
    assert decision.reason == "the quick baseline failed: oom: too large"
    assert planned.jobs[-1] == JobKey("u", "quick", BASELINE, 0)


def test_points__more_digits_where_two_would_mislead() -> None:
    assert points(0.001) == "+0.10 pp"
    assert points(0.00099, beside=0.001) == "+0.09900 pp"
    assert points(-0.0, beside=0.001) == "+0.00 pp"
    assert points(-4.3e-19) == "+0.00 pp"
    assert points(-0.00006) == "-0.01 pp"


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**6))
def test_difference__is_exact_for_ratios(a: int, b: int, n: int) -> None:
    assert difference(a / n, b / n) == pytest.approx((a - b) / n, abs=1e-9)


def test_judge__a_run_without_a_score_is_undecided() -> None:
    for baseline, variant in ((ok(0.2), Measurement(Outcome.OK)), (Measurement(Outcome.OK), ok(0.3))):
        assert decide(baseline, variant).verdict is Verdict.UNDECIDED


TWO = Outcomes(right=(1, 0), of=(1, 1))


@pytest.mark.parametrize(
    ("variant", "baseline", "error"),
    [
        (TWO, Outcomes(right=(0, 0), of=(1, 1)), standard_error([1, 0], [1, 1])),
        (None, TWO, None),
        (TWO, None, None),
        (Outcomes(right=(1,), of=(2,)), Outcomes(right=(0,), of=(2,)), None),  # one example tells of no other
    ],
)
def test_judge__error_over_examples_where_both_runs_tell_of_several(
    variant: Outcomes | None, baseline: Outcomes | None, error: float | None
) -> None:
    judged = Judged(SMALL, key("quick", "v"))
    judged.add(
        0, Measurement(Outcome.OK, 0.5, outcomes=variant), Measurement(Outcome.OK, 0.4, outcomes=baseline)
    )
    assert judged.trials == [Trial(0, 0.1, error)]


def test_judge__delta_of_the_loss_where_both_have_one() -> None:
    baseline, variant = Measurement(Outcome.OK, 0.2, 1.5), Measurement(Outcome.OK, 0.3, 1.2)
    assert decide(baseline, variant).d_loss == -0.3
    for one, other in ((baseline, Measurement(Outcome.OK, 0.3)), (Measurement(Outcome.OK, 0.2), variant)):
        assert decide(one, other).d_loss is None


def test_judge__delta_of_the_loss_over_seeds_is_their_mean() -> None:
    losses = {(BASELINE, 0): 1.5, ("v", 0): 1.2, (BASELINE, 1): 1.5, ("v", 1): 1.4}
    results = {
        JobKey("t", "quick", arm, seed): Measurement(Outcome.OK, 0.5, loss)
        for (arm, seed), loss in losses.items()
    }
    spec = SearchSpec(("t",), ("v",), ("quick",), seeds=(0, 1), rule=TopK(keep=1, min_delta=-1))
    assert plan(spec, results).decisions[-1].d_loss == -0.2
    results[JobKey("t", "quick", "v", 1)] = Measurement(Outcome.OK, 0.5)
    assert plan(spec, results).decisions[-1].d_loss is None
