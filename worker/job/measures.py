"""What a run measures, and the metrics that rules go by."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, Self

from worker.job.values import Strict

Metric = Literal["best_val_tok_acc", "final_val_tok_acc", "best_val_seq_acc"]


def accuracy_of(metric: Metric) -> Literal["val_tok_acc", "val_seq_acc"]:
    """The accuracy of each evaluation that a metric goes by."""
    return "val_seq_acc" if is_of_whole_answers(metric) else "val_tok_acc"


def is_of_whole_answers(metric: Metric) -> bool:
    """Whether a metric counts answers with every token right, not tokens."""
    return metric == "best_val_seq_acc"


def is_of_last_evaluation(metric: Metric) -> bool:
    """Whether a metric goes by a run's last evaluation, not by its best."""
    return metric == "final_val_tok_acc"


def so_far(metric: Metric, accuracies: Sequence[float]) -> list[float]:
    """What a run would score if it ended at each evaluation: the best yet, or the last."""
    return list(accuracies) if is_of_last_evaluation(metric) else list(accumulate(accuracies, max))


class Evaluation(Strict):
    """One pass over the whole validation set."""

    step: int
    seconds: float  # of training and evaluation since the start of the run, earlier stages included
    tokens: int  # prompt and answer tokens trained on so far
    train_loss: float  # nats per answer token, mean since the last evaluation
    val_loss: float  # nats per answer token
    val_tok_acc: float  # share of answer tokens predicted, teacher-forced
    val_seq_acc: float  # share of answers with every token right
    distinct_predictions: int  # different tokens among all predictions; 1: a constant answer
    correct: tuple[int, ...]  # correct answer tokens of each validation example, in their order


class Metrics(Strict):
    """A run in a few numbers; the best of each kind may come from different evaluations."""

    best_val_tok_acc: float
    best_val_loss: float
    best_val_seq_acc: float
    final_val_tok_acc: float
    best_step: int  # of best_val_tok_acc, the earliest of equals
    steps: int
    tokens: int
    seconds: float
    distinct_predictions: int  # at best_step
    final_distinct_predictions: int | None = None  # None where an earlier version stored them
    best_seq_distinct_predictions: int | None = None
    best_seq_step: int | None = None  # of best_val_seq_acc, the earliest of equals

    def step_of(self, metric: Metric) -> int | None:
        """The step of the evaluation that a metric goes by; None where an earlier version did not store it."""
        if is_of_last_evaluation(metric):
            return self.steps
        return self.best_seq_step if is_of_whole_answers(metric) else self.best_step

    def distinct_at(self, metric: Metric) -> int:
        """Different tokens predicted by the evaluation that a metric goes by."""
        found: int | None = self.distinct_predictions
        if is_of_last_evaluation(metric):
            found = self.final_distinct_predictions
        elif is_of_whole_answers(metric):
            found = self.best_seq_distinct_predictions
        return self.distinct_predictions if found is None else found

    @classmethod
    def of(cls, evaluations: Sequence[Evaluation]) -> Self:
        """Summarises a run from its evaluations, at least one."""
        best = max(evaluations, key=lambda evaluation: (evaluation.val_tok_acc, -evaluation.step))
        best_by_sequence = max(evaluations, key=lambda evaluation: (evaluation.val_seq_acc, -evaluation.step))
        last = evaluations[-1]
        return cls(
            best_val_tok_acc=best.val_tok_acc,
            best_val_loss=min(evaluation.val_loss for evaluation in evaluations),
            best_val_seq_acc=best_by_sequence.val_seq_acc,
            final_val_tok_acc=last.val_tok_acc,
            best_step=best.step,
            steps=last.step,
            tokens=last.tokens,
            seconds=last.seconds,
            distinct_predictions=best.distinct_predictions,
            final_distinct_predictions=last.distinct_predictions,
            best_seq_distinct_predictions=best_by_sequence.distinct_predictions,
            best_seq_step=best_by_sequence.step,
        )
