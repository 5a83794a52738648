"""Training on a tiny real model."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from model import RWKV7, FutureSeedSettings, ModelShape, random_state_dict, time_mix, wkv7
from tasks import Example
from tests.worker.child.factories import SEEDED, Clock, Recorder, examples, fresh_model, train_job
from tests.worker.factories import make_job
from worker.child import training
from worker.child.passes import Batch, answer_loss, answer_states
from worker.child.run import Run, start_run
from worker.child.training import learning_rate_factor, train
from worker.errors import Diverged, OutOfMemory
from worker.job import Budget, JobSpec, OptimizerConfig


def test_train__evaluates_on_the_grid_and_at_the_end() -> None:
    run, recorder = train_job(make_job(steps=5, eval_every=2))
    assert [evaluation.step for evaluation in recorder.evaluations] == [2, 4, 5]
    assert recorder.steps == [1, 2, 3, 4, 5]
    assert run.progress.evaluations == recorder.evaluations


def test_train__ends_with_its_seconds() -> None:
    spec = make_job(budget=Budget(steps=100, seconds=7.5, eval_every=3))
    run, recorder = train_job(spec)
    assert recorder.evaluations[-1].step == run.progress.step < 100
    assert run.progress.seconds >= 7.5


def test_train__ends_with_its_seconds_alone() -> None:
    run, recorder = train_job(make_job(budget=Budget(seconds=7.5, eval_every=3)))
    assert recorder.evaluations[-1].step == run.progress.step > 0
    assert run.progress.seconds >= 7.5


def test_train__goes_on_from_its_seconds_and_counts_none_of_keeping() -> None:
    spec, clock = make_job(steps=4, eval_every=2), Clock()
    run = start_run(spec, fresh_model())
    run.progress.seconds = 100.0

    def keep() -> None:
        clock.now += 1000.0

    train(run, spec, *examples(), Recorder(), keep=keep, clock=clock)
    assert 100.0 < run.progress.seconds < 120.0


def test_train__is_kept_after_each_evaluation_but_the_last() -> None:
    spec, recorder, kept = make_job(steps=6, eval_every=2), Recorder(), list[int]()
    run = start_run(spec, fresh_model())
    train(run, spec, *examples(), recorder, keep=lambda: kept.append(run.progress.step), clock=Clock())
    assert kept == [2, 4]
    assert recorder.evaluations[-1].seconds == run.progress.seconds  # its own are among them


def test_train__evaluations_tell_the_mean_training_loss_since_the_one_before() -> None:
    told: list[float] = []

    class Losses(Recorder):
        def progressed(self, step: int, seconds: float, loss: float) -> None:
            told.append(loss)

    recorder, spec = Losses(), make_job(steps=5, eval_every=2)
    train_set, val_set = examples()
    run = start_run(spec, fresh_model())
    train(run, spec, train_set, val_set, recorder, clock=Clock())
    parts = [told[:2], told[2:4], told[4:]]
    assert [one.train_loss for one in recorder.evaluations] == pytest.approx([sum(p) / len(p) for p in parts])
    a_batch = 4 * (len(train_set[0].prompt) + len(train_set[0].answer))  # all are of one length
    assert [one.tokens for one in recorder.evaluations] == [2 * a_batch, 4 * a_batch, 5 * a_batch]
    assert run.progress.real_positions == 5 * (a_batch - 4)  # an answer's last token is only a target
    assert run.progress.positions == run.progress.real_positions


def test_train__is_bit_identical() -> None:
    spec = make_job(steps=4, future_seed=SEEDED)
    (one, first), (two, second) = train_job(spec), train_job(spec)
    assert first.evaluations == second.evaluations
    for name, parameter in one.model.named_parameters():
        assert torch.equal(parameter, two.model.get_parameter(name)), name


def test_train__reads_no_memory_that_nothing_wrote() -> None:
    """Training processes do not have torch fill fresh memory with NaN, as here, which would tell it."""
    spec = make_job(steps=5, eval_every=2, future_seed=SEEDED)
    run, recorder = train_job(spec)
    torch.set_deterministic_debug_mode("error")
    try:
        assert torch.empty(2).isnan().all()
        filled, told = train_job(spec)
    finally:
        torch.set_deterministic_debug_mode("default")
    assert told.evaluations == recorder.evaluations
    assert all(weight.grad is None for weight in run.model.parameters())  # an evaluation has their memory
    for name, weight in run.model.state_dict().items():
        assert torch.equal(weight, filled.model.state_dict()[name]), name


class Operations(TorchDispatchMode):
    """What is computed inside, backward passes too: names of torch's operators, and their first tensor's dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, torch.dtype | None]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        dtype = args[0].dtype if args and isinstance(args[0], torch.Tensor) else None
        self.seen.add((func._opname, dtype))
        return func(*args, **(kwargs or {}))


# What raises on CUDA where only reproducible algorithms may run: torch.use_deterministic_algorithms tells.
REFUSED = re.compile(
    r"cumsum|histc|median|kthvalue|put_|bincount|nll_loss2d.*|resize_"
    r"|(avg_pool3d|adaptive_.*|fractional_.*|max_unpool.*|upsample.*|reflection_pad.*|grid_sampler.*)_backward"
    r"|_ctc_loss_backward|_embedding_bag.*"
)


@pytest.mark.parametrize("backend", ["chunked", "reference"])
@pytest.mark.parametrize("gate", ["scalar", "head", "input"])
def test_train__nothing_in_it_is_refused_on_cuda(
    backend: str, gate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_mix, "wkv7", partial(wkv7, backend=backend))
    settings = FutureSeedSettings(layer_start=1, gate=gate, alpha_lr=1e-2, norm=True, clip=1.0)
    with Operations() as operations:
        train_job(make_job(steps=2, eval_every=1, future_seed=settings))
    assert {"mm", "embedding_dense_backward"} <= {name for name, _ in operations.seen}
    refused = {name for name, dtype in operations.seen if REFUSED.fullmatch(name) and dtype != torch.int64}
    assert not refused


def test_train__learns() -> None:
    spec = make_job(steps=60, eval_every=60, optimizer=OptimizerConfig(lr=3e-3))
    _, recorder = train_job(spec, RWKV7.from_state_dict(random_state_dict(ModelShape.random(3, 64, 256), 0)))
    # from log 256 = 5.5; a uniform guess of four digits is 1.39
    assert recorder.evaluations[-1].val_loss < 1.6


def test_train__moves_the_gates_only_when_they_have_a_learning_rate() -> None:
    trained, _ = train_job(make_job(steps=2, future_seed=SEEDED))
    fixed, _ = train_job(make_job(steps=2, future_seed=FutureSeedSettings(layer_start=1)))
    assert trained.future_seed is not None
    assert fixed.future_seed is not None
    assert (trained.future_seed.get_parameter("alpha")[1:] != -2.0).all()
    assert (fixed.future_seed.get_parameter("alpha") == -2.0).all()


def test_train__diverged() -> None:
    spec = make_job(steps=50, optimizer=OptimizerConfig(lr=1e12, grad_clip=0.0))
    with pytest.raises(Diverged, match=r"the (training loss|validation loss|gradient's norm) is (nan|inf)"):
        train_job(spec)


def test_step__diverged_is_told_before_the_weights_change() -> None:
    """Of a loss that is not finite, and of gradients alone."""
    spec, (train_set, _) = make_job(), examples()
    of_loss, of_gradient = (start_run(spec, fresh_model()) for _ in range(2))
    of_loss.model.ln_out.weight.data.fill_(math.nan)
    of_gradient.model.head.weight.register_hook(lambda gradient: gradient * math.inf)
    for run, message in ((of_loss, "the training loss is nan"), (of_gradient, "the gradient's norm is")):
        before = run.model.emb.weight.clone()
        with pytest.raises(Diverged, match=f"{message}.* at step 1"):
            training._step(run, spec, train_set[:4])
        assert torch.equal(run.model.emb.weight, before)


def assert_close(found: Tensor | None, expected: Tensor) -> None:
    """Of gradients: equal but for the order of sums, and there is something to be equal."""
    largest = expected.abs().max().item()
    assert largest > 0
    assert found is not None
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * largest)


def test_accumulate__micro_batches_give_the_same_gradients() -> None:
    spec = make_job()
    train_set, _ = examples()
    gradients = []
    for micro_batch in (4, 1):
        run = start_run(spec, fresh_model())
        run.micro_batch = micro_batch
        training._accumulate(run, spec, train_set[:4])
        gradients.append({name: p.grad for name, p in run.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient)


@pytest.mark.parametrize("micro_batch", [4, 1])
def test_gradients__are_of_the_mean_loss_of_all_answer_tokens(micro_batch: int) -> None:
    spec, (train_set, _) = make_job(future_seed=SEEDED), examples()
    run = start_run(spec, fresh_model())
    batch = Batch.of(train_set[:4], run.device)
    hidden = answer_states(run.model, run.future_seed, batch)
    expected = answer_loss(run.model, hidden, batch.targets) / len(batch.targets)
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    wanted = torch.autograd.grad(expected, parameters)
    run.micro_batch = micro_batch
    assert training.gradients(run, spec, train_set[:4]) == pytest.approx(expected.item(), rel=1e-5)
    for parameter, gradient in zip(parameters, wanted, strict=True):
        assert_close(parameter.grad, gradient)


def test_gradients__nothing_counts_of_an_attempt_that_did_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, (train_set, _) = make_job(), examples()
    expected, run = (start_run(spec, fresh_model()) for _ in range(2))
    expected.micro_batch = run.micro_batch = 2
    loss = training.gradients(expected, spec, train_set[:4])
    calls: list[int] = []

    def too_much_once(model: RWKV7, hidden: Tensor, targets: Tensor) -> Tensor:
        calls.append(len(targets))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("out of memory")
        return answer_loss(model, hidden, targets)

    monkeypatch.setattr(training, "answer_loss", too_much_once)
    assert training.gradients(run, spec, train_set[:4]) == loss
    assert len(calls) == 4
    assert run.progress == expected.progress
    for name, parameter in expected.model.named_parameters():
        found = run.model.get_parameter(name).grad
        assert (found is None) == (parameter.grad is None), name
        assert found is None or torch.equal(found, parameter.grad), name


def test_step__has_the_learning_rate_and_the_clipped_gradient_of_its_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the schedule asks for, of each group's own rate; the norm is of all parameters together."""
    optimizer = OptimizerConfig.from_json(
        {"lr": 1e-3, "warmup_steps": 4, "grad_clip": 1e-3, "weight_decay": 0.1}
    )
    spec, (train_set, _) = make_job(optimizer=optimizer, future_seed=SEEDED), examples()
    run = start_run(spec, fresh_model())
    assert [group["weight_decay"] for group in run.optimizer.param_groups] == [0.1, 0.0]
    rates, norms = [], []

    def step() -> None:
        groups = run.optimizer.param_groups
        rates.append([group["lr"] for group in groups])
        gradients = [p.grad.flatten() for group in groups for p in group["params"] if p.grad is not None]
        norms.append(torch.cat(gradients).norm().item())

    monkeypatch.setattr(run.optimizer, "step", step)
    for n in (0, 1, 4):
        run.progress.step = n
        training._step(run, spec, train_set[:4])
    assert rates == [pytest.approx([share * 1e-3, share * 1e-2]) for share in (0.25, 0.5, 1.0)]
    assert norms == pytest.approx([1e-3] * 3, rel=1e-3)


@pytest.mark.parametrize("fitting", [2, 1])
def test_step__halves_the_micro_batch_when_memory_is_short(
    fitting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_job()
    run = start_run(spec, fresh_model())
    accumulate = training._accumulate

    def only_some_fit(run: Run, spec: JobSpec, examples: Sequence[Example]) -> float:
        if run.micro_batch > fitting:
            raise torch.OutOfMemoryError("out of memory")
        return accumulate(run, spec, examples)

    monkeypatch.setattr(training, "_accumulate", only_some_fit)
    assert math.isfinite(training._step(run, spec, examples()[0][:4]))
    assert run.micro_batch == fitting
    assert run.recompute  # which came first

    def nothing_fits(run: Run, spec: JobSpec, examples: Sequence[Example]) -> float:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(training, "_accumulate", nothing_fits)
    with pytest.raises(OutOfMemory):
        training._step(run, spec, examples()[0][:4])


@pytest.mark.parametrize(
    ("schedule", "steps", "factors"),
    [("constant", 8, [0.5, 1.0, 1.0, 1.0]), ("cosine", 6, [0.5, 1.0, 1.0, (1 + math.cos(math.pi / 4)) / 2])],
)
def test_learning_rate_factor__warms_up_then_follows_the_schedule(
    schedule: str, steps: int, factors: list[float]
) -> None:
    spec = make_job(
        steps=steps, optimizer=OptimizerConfig.from_json({"warmup_steps": 2, "schedule": schedule})
    )
    assert [learning_rate_factor(spec, step) for step in range(4)] == pytest.approx(factors)


@pytest.mark.parametrize(
    "changed",
    ["", "options.update(size=9, blanks=40, batch_size=30)", "run.recompute = True"],
    ids=["nothing recomputed", "logits recomputed", "activations recomputed"],
)
def test_train__does_not_import_the_compiler_in_the_time_of_a_run(changed: str) -> None:
    """A budget of seconds would be less for the first run of a process, which is a baseline."""
    script = f"""
import sys, time
from model import get_tokenizer
from tasks import build
from tests.worker.child.factories import SEEDED, Recorder, fresh_model
from tests.worker.factories import make_job, task_options
from worker.child.fitting import fit
from worker.child.run import start_run
from worker.child.training import train
options, seen = task_options(), []
{changed if changed.startswith("options") else ""}
spec = make_job(steps=2, task=options, future_seed=SEEDED)
train_set, val_set, _ = build(options, get_tokenizer("bytes"))
run = start_run(spec, fresh_model())
fit(run, spec, train_set, val_set, {{}}, 2**40)
{changed if changed.startswith("run") else ""}
def clock():
    seen.append(set(sys.modules))
    return time.monotonic()
train(run, spec, train_set, val_set, Recorder(), clock=clock)
print(run.progress.step, sorted(name for name in set(sys.modules) - seen[0] if name == "torch._dynamo"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "2 []\n"
