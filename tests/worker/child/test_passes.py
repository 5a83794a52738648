"""Batches, and the loss of their answers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch.nn import functional as F

from model import FutureSeedSettings
from tasks import Example
from tasks.tokens import token_ids
from tests.worker.child.factories import SEEDED, fresh_model
from tests.worker.factories import TINY, make_job
from worker.child import passes
from worker.child.passes import Batch, answer_loss, answer_states
from worker.child.run import start_run


def test_batch__names_the_positions_that_predict() -> None:
    rows = [([1, 2, 3], [4]), ([5], [6, 7, 8])]
    batch = Batch.of(
        [Example(str(i), token_ids(prompt), token_ids(answer)) for i, (prompt, answer) in enumerate(rows)],
        torch.device("cpu"),
    )
    assert batch.prompt_lengths.tolist() == [3, 1]
    assert (batch.positions, batch.real_positions) == (10, 6)
    assert batch.answer.tolist() == [[0, 0], [6, 7]]
    assert batch.predicting.tolist() == [0, 3, 4, 5]  # of three positions a row, the first the prompt's last
    assert batch.targets.tolist() == [4, 6, 7, 8]


@pytest.mark.parametrize("future_seed", [None, SEEDED])
def test_answer_loss__batch_equals_the_examples_one_by_one(future_seed: FutureSeedSettings | None) -> None:
    """Mixed lengths, answers of a single token among them."""
    spec = make_job(future_seed=future_seed)
    run = start_run(spec, fresh_model())
    rows = [([1, 2, 3, 4, 5], [6]), ([7, 8], [9, 10, 11]), ([3] * 40, [1, 2])]
    mixed = [Example(str(i), token_ids(prompt), token_ids(answer)) for i, (prompt, answer) in enumerate(rows)]

    def loss(batch: Sequence[Example]) -> float:
        made = Batch.of(batch, torch.device("cpu"))
        hidden = answer_states(run.model, run.future_seed, made)
        return answer_loss(run.model, hidden, made.targets).item()

    assert loss(mixed) == pytest.approx(sum(loss([example]) for example in mixed), abs=1e-4)


def test_answer_loss__is_the_cross_entropy_of_one_pass() -> None:
    run = start_run(make_job(), fresh_model())
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6]])
    example = Example("x", token_ids([1, 2, 3]), token_ids([4, 5, 6]))
    batch = Batch.of([example], torch.device("cpu"))
    hidden, _ = run.model(tokens[:, :-1])
    expected = F.cross_entropy(run.model.logits(hidden)[0, 2:], tokens[0, 3:], reduction="sum")
    found = answer_loss(run.model, answer_states(run.model, None, batch), batch.targets)
    assert found.item() == pytest.approx(expected.item(), abs=1e-4)


def test_answer_loss__in_slices_equals_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fresh_model()
    generator = torch.Generator().manual_seed(0)
    hidden, targets = torch.randn(10, 64, generator=generator, requires_grad=True), torch.arange(10)
    whole = answer_loss(model, hidden, targets)
    (expected,) = torch.autograd.grad(whole, hidden)
    monkeypatch.setattr(passes, "LOGITS_AT_ONCE", 3)
    sliced = answer_loss(model, hidden, targets)
    (found,) = torch.autograd.grad(sliced, hidden)
    assert sliced.item() == pytest.approx(whole.item(), rel=1e-6)
    assert torch.allclose(found, expected, atol=1e-6)


def test_autocast__bfloat16_means_float32_on_the_cpu() -> None:
    spec = make_job(model=TINY.model_copy(update={"dtype": "bfloat16"}))
    with passes.autocast(spec, torch.device("cpu")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
