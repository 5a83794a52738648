"""What a run's evaluations come to."""

from __future__ import annotations

from typing import Any

import pytest

from worker.job import LONGEST_REASON, Evaluation, JobResult, Metric, Metrics, Outcome


def metrics(**changes: Any) -> Metrics:
    values = {
        "best_val_tok_acc": 0.6,
        "best_val_loss": 1.1,
        "best_val_seq_acc": 0.3,
        "final_val_tok_acc": 0.5,
        "best_step": 4,
        "steps": 8,
        "tokens": 80,
        "seconds": 4.0,
        "distinct_predictions": 4,
        "final_distinct_predictions": 6,
        "best_seq_distinct_predictions": 5,
        "best_seq_step": 6,
    }
    return Metrics.from_json(values | changes)


def test_metrics__the_best_of_each_kind_and_the_last() -> None:
    """Each best may come from another evaluation; of equal accuracies the earliest is the best."""
    rows = [(2, 0.3, 0.0, 1.5, 3), (4, 0.6, 0.1, 1.2, 4), (6, 0.6, 0.3, 1.1, 5), (8, 0.5, 0.2, 1.4, 6)]
    evaluations = [
        Evaluation(
            step=step,
            seconds=step / 2,
            tokens=10 * step,
            train_loss=1.0,
            val_loss=loss,
            val_tok_acc=by_token,
            val_seq_acc=by_sequence,
            distinct_predictions=distinct,
            correct=(1,),
        )
        for step, by_token, by_sequence, loss, distinct in rows
    ]
    assert Metrics.of(evaluations) == metrics()


@pytest.mark.parametrize(
    ("metric", "step", "distinct", "as_stored_before"),
    [
        ("best_val_tok_acc", 4, 4, (4, 4)),
        ("final_val_tok_acc", 8, 6, (8, 4)),
        ("best_val_seq_acc", 6, 5, (None, 4)),
    ],
)
def test_metrics__of_the_evaluation_that_a_metric_goes_by(
    metric: Metric, step: int, distinct: int, as_stored_before: tuple[int | None, int]
) -> None:
    """Earlier versions stored only what was so at the best token accuracy."""
    whole = metrics()
    assert (whole.step_of(metric), whole.distinct_at(metric)) == (step, distinct)
    names = ("final_distinct_predictions", "best_seq_distinct_predictions", "best_seq_step")
    before = metrics(**dict.fromkeys(names))
    assert (before.step_of(metric), before.distinct_at(metric)) == as_stored_before


@pytest.mark.parametrize(
    ("said", "stored"),
    [
        ("one\n  two\tthree ", "one two three"),
        ("nul\0 and half \ud800", "nul and half ?"),
        ("x" * (LONGEST_REASON + 1), "x" * LONGEST_REASON),
    ],
)
def test_job_result__a_reason_is_one_line_that_every_database_takes(said: str, stored: str) -> None:
    assert JobResult(outcome=Outcome.CRASHED, reason=said).reason == stored
