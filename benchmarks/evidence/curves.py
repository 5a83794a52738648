"""Real learning curves to resample: one tiny model, post-trained again and again from other seeds.

    python benchmarks/evidence/curves.py [--runs 40] [-o benchmarks/evidence/curves.npz]

A small RWKV-7 first learns 4x4 sudokus with four blanks. From that checkpoint, each run goes on with six; runs differ
by the seed of their data order alone, as arms of a round under other seeds do. Kept are the correct answer tokens of
each validation example at each evaluation.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import numpy as np
import torch

import tasks
from model import RWKV7, ModelShape, get_tokenizer, random_state_dict
from worker.child.run import start_run
from worker.child.training import train
from worker.job import Budget, Evaluation, JobSpec, ModelConfig, OptimizerConfig, RandomCheckpoint, RandomInit
from worker.preparation import inspect_model

LAYERS, WIDTH, VOCABULARY = 4, 64, 256
EVAL_EVERY = 20
STEPS = 160
BLANKS = 6  # answer tokens of an example
SUDOKU = {"kind": "sudoku", "size": 4, "mask_region": "random", "batch_size": 16}
BEFORE = SUDOKU | {"blanks": 4, "train": 4000, "val": 50}
TASK = SUDOKU | {"blanks": BLANKS, "train": 2000, "val": 400}


class Kept:
    """A report that only keeps evaluations."""

    def __init__(self) -> None:
        self.evaluations: list[Evaluation] = []

    def evaluated(self, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)

    def progressed(self, step: int, seconds: float, loss: float) -> None: ...
    def alive(self) -> None: ...


def job(options: dict[str, object], steps: int, lr: float, seed: int) -> JobSpec:
    model = ModelConfig(
        checkpoint=RandomCheckpoint(random=RandomInit(layers=LAYERS, dim=WIDTH, vocab=VOCABULARY)),
        tokenizer="bytes",
        dtype="float32",
    )
    return JobSpec(
        model=model,
        model_facts=inspect_model(model),
        task=options,
        examples_digest="",
        optimizer=OptimizerConfig(lr=lr),
        budget=Budget(steps=steps, eval_every=EVAL_EVERY),
        seed=seed,
        future_seed=None,
    )


def trained(spec: JobSpec, model: RWKV7) -> list[Evaluation]:
    train_set, val_set, _ = tasks.build(spec.task, get_tokenizer("bytes"))
    kept = Kept()
    train(start_run(spec, model), spec, train_set, val_set, kept)
    return kept.evaluations


def curves(runs: int) -> np.ndarray:
    """Correct tokens, uint8 (runs, evaluations, examples)."""
    shape = ModelShape.random(LAYERS, WIDTH, VOCABULARY)
    model = RWKV7.from_state_dict(random_state_dict(shape, 0), device="cpu")
    before = trained(job(BEFORE, 400, 3e-3, 0), model)
    print(f"before: {before[-1].val_tok_acc:.2%}", flush=True)
    checkpoint = copy.deepcopy(model.state_dict())
    found = []
    for seed in range(runs):
        model.load_state_dict(checkpoint)
        evaluations = trained(job(TASK, STEPS, 3e-4, seed), model)
        found.append([evaluation.correct for evaluation in evaluations])
        print(seed, *(f"{evaluation.val_tok_acc:.2%}" for evaluation in evaluations), flush=True)
    return np.array(found, dtype=np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).with_name("curves.npz"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    np.savez_compressed(
        arguments.output,
        correct=curves(arguments.runs),
        steps=range(EVAL_EVERY, STEPS + 1, EVAL_EVERY),
        tokens=BLANKS,
    )


if __name__ == "__main__":
    main()
