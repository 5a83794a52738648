"""Small real jobs: a random model on generated sudoku, seconds at most."""

from __future__ import annotations

from functools import cache
from typing import Any

from model import FutureSeedSettings
from tasks import parse_config
from worker.job import Budget, JobSpec, ModelConfig, OptimizerConfig, RandomCheckpoint, RandomInit
from worker.preparation import inspect_model

TINY = ModelConfig(
    checkpoint=RandomCheckpoint(random=RandomInit(layers=3, dim=64, vocab=256)),
    tokenizer="bytes",
    dtype="float32",
)


def task_options(**changes: Any) -> dict[str, Any]:
    options = {"kind": "sudoku", "size": 4, "blanks": 4, "train": 40, "val": 10, "batch_size": 4}
    return options | changes


@cache
def _digest(options: tuple[tuple[str, Any], ...]) -> str:
    from model.tokenizers import get_tokenizer
    from tasks import build

    return build(dict(options), get_tokenizer("bytes"))[2].digest


def make_job(
    steps: int = 6,
    *,
    seed: int = 0,
    eval_every: int = 2,
    future_seed: FutureSeedSettings | None = None,
    task: dict[str, Any] | None = None,
    model: ModelConfig = TINY,
    **changes: Any,
) -> JobSpec:
    options = task or task_options()
    facts = inspect_model(model)
    values: dict[str, Any] = {
        "model": model,
        "model_facts": facts,
        "task": parse_config(options),
        "examples_digest": _digest(tuple(options.items())),
        "optimizer": OptimizerConfig(lr=1e-3),
        "budget": Budget(steps=steps, eval_every=eval_every),
        "seed": seed,
        "future_seed": future_seed and future_seed.canonical(facts.n_layer),
    }
    return JobSpec(**(values | changes))
