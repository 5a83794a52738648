"""Evaluation on a tiny real model."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from tasks import Example
from tasks.tokens import token_ids
from tests.worker.child.factories import SEEDED, Recorder, examples, fresh_model, train_job
from tests.worker.factories import make_job
from worker.child import evaluation, training
from worker.child.passes import Batch, answer_states
from worker.child.run import start_run


def test_predict__scores_are_float32_where_training_has_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (training, evaluation):
        monkeypatch.setattr(module, "autocast", lambda *_: torch.autocast("cpu", torch.bfloat16))
    spec, (train_set, _) = make_job(future_seed=SEEDED), examples()
    run = start_run(spec, fresh_model())
    dtypes: list[torch.dtype] = []
    run.model.head.register_forward_hook(lambda *x: dtypes.append(x[-1].dtype))
    evaluation.predict(run, spec, Batch.of(train_set[:4], run.device))
    assert dtypes == [torch.float32]
    training.gradients(run, spec, train_set[:4])
    assert dtypes == [torch.float32, torch.bfloat16]


def test_evaluate__counts_every_example() -> None:
    _, recorder = train_job(make_job(steps=2))
    evaluation = recorder.evaluations[-1]
    _, val_set = examples()
    n_tokens = sum(len(example.answer) for example in val_set)
    assert len(evaluation.correct) == len(val_set)
    assert evaluation.val_tok_acc == sum(evaluation.correct) / n_tokens


def test_evaluate__accuracies_and_loss_are_those_of_single_examples() -> None:
    """Of answers of several lengths; those of one token are what the model says."""
    spec = make_job(steps=1, eval_every=2, future_seed=SEEDED)
    run, _ = train_job(spec)

    def scores(one: Example) -> torch.Tensor:
        with torch.no_grad():
            return run.model.logits(answer_states(run.model, run.future_seed, Batch.of([one], run.device)))

    val_set, right, losses, guessed = [], [], [], set()
    for place, one in enumerate(examples()[1]):
        answer = one.answer[: 1 + place % 4] if place % 4 else token_ids(scores(one)[:1].argmax(-1).tolist())
        val_set.append(Example(one.id, one.prompt, answer))
        logits, targets = scores(val_set[-1]), torch.as_tensor(answer, dtype=torch.int64)
        right.append(int((logits.argmax(-1) == targets).sum()))
        losses.append(F.cross_entropy(logits, targets, reduction="sum").item())
        guessed.update(logits.argmax(-1).tolist())
    found = evaluation._evaluate_all(run, spec, val_set, Recorder())
    n_tokens = sum(len(one.answer) for one in val_set)
    whole = [count == len(one.answer) for count, one in zip(right, val_set, strict=True)]
    assert 0 < sum(whole) < len(whole)
    assert found.correct == tuple(right)
    assert (found.val_tok_acc, found.val_seq_acc) == (sum(right) / n_tokens, sum(whole) / len(whole))
    assert found.val_loss == pytest.approx(sum(losses) / n_tokens, abs=1e-4)
    assert found.distinct_predictions == len(guessed)
