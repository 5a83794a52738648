"""How a run goes about its batches; under a real limit of memory: see test_memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from model import FutureSeedSettings
from tasks import Example
from tasks.tokens import token_ids
from tests.worker.child.factories import examples, fresh_model
from tests.worker.factories import TINY, make_job
from worker.child import evaluation, fitting
from worker.child.fitting import Fitting, Shapes, activations, fit
from worker.child.memory import kept_bytes
from worker.child.passes import Batch, answer_loss, answer_states
from worker.child.run import Progress, Run, start_run
from worker.child.training import gradients
from worker.job import JobSpec

SEEDED = FutureSeedSettings(layer_start=1, alpha_lr=1e-2)


@pytest.mark.parametrize(("activation_bytes", "recompute"), [(0, True), (2**40, False)])
def test_fit__recomputes_activations_that_would_take_more(activation_bytes: int, recompute: bool) -> None:
    run, known = start_run(make_job(), fresh_model()), dict[Shapes, Fitting]()
    fit(run, make_job(), *examples(), known, activation_bytes)
    assert run.recompute is recompute
    assert run.micro_batch == 4
    again = start_run(make_job(), fresh_model())
    fit(again, make_job(), *examples(), known, 1 - activation_bytes)
    assert again.recompute is recompute  # remembered


@pytest.mark.parametrize(
    ("changes", "longer"),
    [
        ({"future_seed": SEEDED}, None),
        ({"model": TINY.model_copy(update={"dtype": "bfloat16"})}, None),
        ({"model_facts": make_job().model_facts.model_copy(update={"n_embd": 128})}, None),
        ({}, "train"),
        ({}, "val"),
    ],
)
def test_fit__remembers_each_shape_by_itself(changes: dict[str, Any], longer: str | None) -> None:
    known, (train_set, val_set) = dict[Shapes, Fitting](), examples()
    fit(start_run(make_job(), fresh_model()), make_job(), train_set, val_set, known, 0)
    more = [Example("longer", token_ids([1] * 90), token_ids([2]))]
    sets = (
        [*train_set, *(more if longer == "train" else [])],
        [*val_set, *(more if longer == "val" else [])],
    )
    other = make_job(**changes)
    fit(start_run(other, fresh_model()), other, *sets, known, 0)
    assert len(known) == 2


@pytest.mark.parametrize("future_seed", [None, SEEDED])
def test_gradients__recomputed_are_the_same_bits(future_seed: FutureSeedSettings | None) -> None:
    spec = make_job(future_seed=future_seed)
    found = []
    for recompute in (False, True):
        run = start_run(spec, fresh_model())
        run.recompute = recompute
        loss = gradients(run, spec, examples()[0][:4])
        found.append((loss, [p.grad for group in run.optimizer.param_groups for p in group["params"]]))
    (loss, plain), (same_loss, recomputed) = found
    assert loss == same_loss
    assert all(gradient.any() for gradient in plain)
    assert all(torch.equal(*pair) for pair in zip(plain, recomputed, strict=True))


def test_fit__what_is_tried_is_as_large_as_any_batch() -> None:
    """A long prompt and a long answer need not be one example's to be padded beside each other."""
    rows = [([1] * 30, [2]), ([1], [2] * 20), ([1] * 5, [2] * 5)]
    mixed = [Example(str(i), token_ids(prompt), token_ids(answer)) for i, (prompt, answer) in enumerate(rows)]
    tried = fitting._largest(mixed, 2)
    assert [(len(example.prompt), len(example.answer)) for example in tried] == [(5, 5), (30, 20)]


def test_fit__what_is_tried_leaves_no_trace() -> None:
    spec, (train_set, val_set) = make_job(future_seed=SEEDED), examples()
    run = start_run(spec, fresh_model())
    fitting._try(run, spec, train_set[:4], val_set)
    assert run.progress == Progress()
    assert all(p.grad is None for group in run.optimizer.param_groups for p in group["params"])


def test_fit__weights_in_bfloat16_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast matrix products keep the weights as they took them, however large the batch."""
    monkeypatch.setattr(fitting, "autocast", lambda *_: torch.autocast("cpu", torch.bfloat16))
    spec, (train_set, _) = make_job(), examples()
    run = start_run(spec, fresh_model())
    batch = train_set[:1] * 4
    whole = activations(run, spec, batch)
    assert not fitting._takes_more(run, spec, batch, int(1.02 * whole))
    assert fitting._takes_more(run, spec, batch, int(0.98 * whole))
    assert 4 * activations(run, spec, batch[:1]) > 1.3 * whole


def test_fit__tries_the_evaluation_of_the_most_examples_too(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def at_most_6(run: Run, spec: JobSpec, batch: Batch) -> None:
        sizes.append(len(batch.sizes))
        if len(batch.sizes) > 6:
            raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(evaluation, "predict", at_most_6)
    one_long = [Example("long", token_ids([1] * 50), token_ids([2]))]
    many_short = [Example(str(i), token_ids([1] * 3), token_ids([2])) for i in range(20)]
    run = start_run(make_job(), fresh_model())
    run.evaluation_tokens = 60
    evaluation.try_evaluation(run, make_job(), [*one_long, *many_short])
    assert sizes == [1, 15, 1, 7, 1, 3]
    assert run.evaluation_tokens == 15


def test_fit__recomputes_what_cannot_even_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_much(*_: object) -> int:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(fitting, "activations", too_much)
    run = start_run(make_job(), fresh_model())
    fit(run, make_job(), *examples(), {}, 2**40)
    assert run.recompute


def kept(run: Run, batch: Batch, *, recompute: bool) -> int:
    with kept_bytes(run.model.parameters()) as count:
        hidden = answer_states(run.model, run.future_seed, batch, recompute=recompute)
    assert answer_loss(run.model, hidden, batch.targets).requires_grad
    return count()


def test_activations__are_what_autograd_keeps() -> None:
    spec, (train_set, _) = make_job(future_seed=SEEDED), examples()
    run = start_run(spec, fresh_model())
    batch = Batch.of(train_set[:4], torch.device("cpu"))
    whole, recomputed = kept(run, batch, recompute=False), kept(run, batch, recompute=True)
    assert 4 * activations(run, spec, train_set[:1]) == pytest.approx(whole, rel=0.1)
    assert whole > 4 * batch.positions * run.model.shape.n_layer * run.model.shape.n_embd * 20  # float32
    assert recomputed < whole / 4
