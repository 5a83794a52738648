"""A run that is stopped early: where, with what result, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from tests.worker.child.factories import QUOTA, SEEDED, run_in_child, run_stage, train_job, without_times
from tests.worker.factories import make_job
from worker.child.snapshots import Snapshots
from worker.job import Bound, EarlyStop, Evaluation, JobResult, JobSpec, Metric, Metrics, Outcome, so_far

UNREACHABLE, NOTHING = 2.0, -1.0


def bounded(spec: JobSpec, least: dict[int, float], metric: Metric = "best_val_tok_acc") -> JobSpec:
    bounds = tuple(Bound(step=step, least=value, baseline=0.5) for step, value in least.items())
    early_stop = EarlyStop(metric=metric, min_delta=0.001, error_rate=0.05, pairs=20, bounds=bounds)
    return spec.model_copy(update={"early_stop": early_stop})


def evaluation(step: int, token_accuracy: float, sequence_accuracy: float = 0.0) -> Evaluation:
    return Evaluation(
        step=step,
        seconds=1.0,
        tokens=10 * step,
        train_loss=1.0,
        val_loss=1.0,
        val_tok_acc=token_accuracy,
        val_seq_acc=sequence_accuracy,
        distinct_predictions=3,
        correct=(1,),
    )


@pytest.mark.parametrize(
    ("metric", "step"), [("best_val_tok_acc", None), ("final_val_tok_acc", 4), ("best_val_seq_acc", 2)]
)
def test_stop__by_the_metric_of_the_rule(metric: Metric, step: int | None) -> None:
    spec = bounded(make_job(), {2: 0.3, 4: 0.3}, metric)
    evaluations = [evaluation(2, 0.4, 0.1), evaluation(4, 0.2, 0.5)]
    assert spec.early_stop is not None
    stop = spec.early_stop.stop(evaluations)
    assert (stop and stop.step) == step


def test_stop__not_who_has_just_what_is_the_least() -> None:
    spec = bounded(make_job(), {2: 0.4})
    assert spec.early_stop is not None
    assert spec.early_stop.stop([evaluation(2, 0.4)]) is None


def test_stop__says_where_by_how_much_and_how_sure() -> None:
    spec = bounded(make_job(), {4: 0.4})
    assert spec.early_stop is not None
    assert spec.early_stop.stop([evaluation(2, 0.1), evaluation(4, 0.25)]) == (
        4,
        "at step 4, -25.00 pp from the baseline there; who has less than -10.00 pp does not end at +0.10 pp "
        "(error rate 0.05, from 20 pairs of whole runs)",
    )


def test_so_far__what_a_run_would_score_if_it_ended() -> None:
    assert so_far("best_val_tok_acc", [0.1, 0.3, 0.2]) == [0.1, 0.3, 0.3]
    assert so_far("final_val_tok_acc", [0.1, 0.3, 0.2]) == [0.1, 0.3, 0.2]


def test_train__ends_at_the_first_evaluation_below_its_bound() -> None:
    run, recorder = train_job(bounded(make_job(steps=8), {2: NOTHING, 4: UNREACHABLE, 6: UNREACHABLE}))
    assert [one.step for one in recorder.evaluations] == [2, 4]
    assert run.progress.step == 4


def test_train__bounds_that_are_not_met_change_no_bit_and_no_fingerprint() -> None:
    spec = make_job(steps=4, future_seed=SEEDED)
    within = bounded(spec, {2: NOTHING})
    (one, first), (two, second) = train_job(spec), train_job(within)
    assert without_times(first.evaluations) == without_times(second.evaluations)
    for name, parameter in one.model.named_parameters():
        assert torch.equal(parameter, two.model.get_parameter(name)), name
    assert (spec.fingerprint, spec.trajectory) == (within.fingerprint, within.trajectory)
    assert JobSpec.from_json(within.model_dump(mode="json")) == within


def test_restore__resumed_stops_where_the_whole_run_would(tmp_path: Path) -> None:
    """After a crash, bounds and what was evaluated before it hold as if there had been none."""
    spec = bounded(make_job(steps=8), {4: NOTHING, 6: UNREACHABLE})
    whole, _ = train_job(spec)
    snapshots = Snapshots(tmp_path, QUOTA)
    cut, _ = train_job(bounded(make_job(steps=8), {4: UNREACHABLE}))
    snapshots.save(spec, cut)

    resumed, started_from = run_stage(spec, snapshots)

    assert started_from == 4
    assert without_times(resumed.progress.evaluations) == without_times(whole.progress.evaluations)


def test_restore__from_a_run_without_bounds_that_came_further(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path, QUOTA)
    further, _ = train_job(make_job(steps=6))
    snapshots.save(make_job(steps=6), further)
    spec = bounded(make_job(steps=8), {4: UNREACHABLE})
    scratch, _ = train_job(spec)

    restored, _ = run_stage(spec, snapshots)

    assert [one.step for one in restored.progress.evaluations] == [2, 4]
    assert without_times(restored.progress.evaluations) == without_times(scratch.progress.evaluations)


def test_job__stopped_has_partial_numbers_and_leaves_no_snapshot_of_its_end(tmp_path: Path) -> None:
    ended = run_in_child(bounded(make_job(steps=8, continues=True), {2: UNREACHABLE}), tmp_path)

    assert (ended.outcome, ended.metrics) == (Outcome.STOPPED, None)
    assert ended.partial is not None
    assert ended.partial.steps == 2
    assert ended.reason is not None
    assert ended.reason.startswith("at step 2, ")
    assert not Snapshots(tmp_path, QUOTA).has(make_job(steps=8))
    assert JobResult.from_json(ended.model_dump(mode="json")) == ended


def test_job_result__stopped_never_has_the_numbers_of_a_whole_run() -> None:
    metrics = Metrics.of([evaluation(2, 0.5)])
    for values in (
        {"outcome": Outcome.STOPPED, "metrics": metrics},
        {"outcome": Outcome.OK, "partial": metrics},
        {"outcome": Outcome.STOPPED, "metrics": metrics, "partial": metrics},
    ):
        with pytest.raises(ValidationError, match="a stopped run"):
            JobResult.model_validate(values)
