"""What a run's evaluations come to."""

from __future__ import annotations

from worker.job import Evaluation, Metrics


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
    assert Metrics.of(evaluations) == Metrics(
        best_val_tok_acc=0.6,
        best_val_loss=1.1,
        best_val_seq_acc=0.3,
        final_val_tok_acc=0.5,
        best_step=4,
        steps=8,
        tokens=80,
        seconds=4.0,
        distinct_predictions=4,
        final_distinct_predictions=6,
        best_seq_distinct_predictions=5,
        best_seq_step=6,
    )
