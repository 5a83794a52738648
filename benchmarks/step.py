"""One training step: tokens a second, where its time goes, and what its activations take.

    python benchmarks/step.py [--repeat 15] [--device cpu|cuda] [--shape NAME...] [-o FILE]

The bound is the same model with the kernel replaced by the identity: what is left if WKV-7 cost nothing. Both take
turns, for some seconds at least. Milliseconds are medians, and so is the ratio of a step to the bound beside it:
machines are faster at one moment than at another, and then for both. The split is of one profiled step. Bytes are
what autograd keeps from the forward to the backward pass, counted storage by storage, plain and with activations
recomputed; on a GPU, also all that a step takes at most, weights and optimizer included. Stored in
benchmarks/results; chosen shapes only where -o says.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from operator import truediv
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from machine import machine
from torch import Tensor
from training_environment import as_in_training

from model import RWKV7, FutureSeedSettings, ModelShape, default_backend, random_state_dict, time_mix
from tasks import Example, parse_config
from worker.child.memory import kept_bytes
from worker.child.passes import Batch, answer_loss, answer_states, autocast
from worker.child.resources import ONE_THREAD_BELOW
from worker.child.run import Run, start_run
from worker.job import (
    Budget,
    JobSpec,
    ModelConfig,
    OptimizerConfig,
    RandomCheckpoint,
    RandomInit,
)
from worker.preparation import inspect_model

# layers, width, vocabulary, batch, prompt tokens, answer tokens
SHAPES = {
    "quickstart": (4, 64, 256, 16, 28, 16),
    "tiny": (3, 128, 512, 8, 240, 16),
    "small": (6, 256, 512, 8, 480, 32),
    "deep": (12, 256, 512, 8, 56, 16),
    "0.1B": (12, 768, 65536, 8, 3072, 160),
}
ON = {"cpu": ("quickstart", "tiny", "small"), "cuda": ("small", "0.1B")}
RESULTS = {
    "cpu": Path(__file__).parent / "results" / "step.json",
    "cuda": Path(__file__).parent / "results" / "step_gpu.json",
}
AT_LEAST_SECONDS = 20.0
SEEDED = FutureSeedSettings(layer_start=1, alpha_lr=1e-3)


def job(layers: int, dim: int, vocab: int, batch: int, dtype: Literal["bfloat16", "float32"]) -> JobSpec:
    model = ModelConfig(
        checkpoint=RandomCheckpoint(random=RandomInit(layers=layers, dim=dim, vocab=vocab)),
        tokenizer="bytes",
        dtype=dtype,
    )
    facts = inspect_model(model)
    task = {"kind": "sudoku", "size": 4, "blanks": 4, "batch_size": batch}
    return JobSpec(
        model=model,
        model_facts=facts,
        task=parse_config(task),
        examples_digest="",
        optimizer=OptimizerConfig(lr=1e-4),
        budget=Budget(steps=1),
        seed=0,
        future_seed=SEEDED.canonical(layers),
    )


def examples(vocab: int, batch: int, prompt: int, answer: int) -> list[Example]:
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(1, vocab, (batch, prompt + answer), generator=rng, dtype=torch.int32).numpy()
    return [Example(str(i), row[:prompt], row[prompt:]) for i, row in enumerate(ids)]


class Identity(torch.autograd.Function):
    """Instead of the kernel: y is v, every input gets the gradient of y; costs nothing."""

    @staticmethod
    def forward(
        ctx: Any, r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, s0: Tensor
    ) -> Any:
        return v.view_as(v), s0.view_as(s0)

    @staticmethod
    def backward(ctx: Any, dy: Tensor, ds: Tensor) -> Any:
        return dy, dy, dy, dy, dy, dy, ds


@contextmanager
def without_kernel() -> Iterator[None]:
    kernel = time_mix.wkv7
    time_mix.wkv7 = lambda *x, steps=None: Identity.apply(*x)
    try:
        yield
    finally:
        time_mix.wkv7 = kernel


class Phases:
    """A step in its parts, with the seconds of each."""

    def __init__(self, run: Run, spec: JobSpec, batch: list[Example], *, recompute: bool = False) -> None:
        self.run, self.spec, self.examples, self.recompute = run, spec, batch, recompute
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        if self.run.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds[part] += time.perf_counter() - began

    def step(self) -> None:
        run, spec = self.run, self.spec
        run.optimizer.zero_grad(set_to_none=True)
        with self.timed("data"):
            batch = Batch.of(self.examples, run.device)
        with self.timed("forward"), autocast(spec, run.device):
            hidden = answer_states(run.model, run.future_seed, batch, recompute=self.recompute)
            loss = answer_loss(run.model, hidden, batch.targets) / len(batch.targets)
        with self.timed("backward"):
            loss.backward()
        with self.timed("optimizer"):
            parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            run.optimizer.step()


# What the names of operators and of GPU kernels say, the first that fits.
KINDS = {
    "kernel": ("wkv7", "transitions", "scan", "outputs", "chunk_", "adjoints", "matrices", "_gradients"),
    "matrix products": ("mm", "linear", "matmul", "gemm", "cutlass", "nvjet"),
    "optimizer": ("optimizer", "adam", "foreach", "multi_tensor", "lerp_"),
}
REST = "element-wise and the rest"


def shares(step: Callable[[], None], device: str) -> dict[str, float]:
    """The share of each kind of operation in the profiled time of a step, in percent; on a GPU of its time."""
    activity = torch.profiler.ProfilerActivity
    with torch.profiler.profile(activities=[activity.CUDA if device == "cuda" else activity.CPU]) as profile:
        step()
    kinds: dict[str, float] = defaultdict(float)
    for event in profile.key_averages():
        name = event.key.lower()
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), REST)
        kinds[kind] += event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
    total = sum(kinds.values())
    return {kind: round(100 * value / total, 1) for kind, value in sorted(kinds.items())}


def step_times(phases: dict[str, Phases], repeat: int) -> dict[str, list[float]]:
    """Seconds of the steps of each, `bound` without the kernel; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in phases}
    for each in phases.values():  # warm-up
        each.step()
        each.seconds.clear()
    began = time.perf_counter()
    while len(times["bound"]) < repeat or time.perf_counter() - began < AT_LEAST_SECONDS:
        for name, each in phases.items():
            with without_kernel() if name == "bound" else nullcontext():
                start = time.perf_counter()
                each.step()
                times[name].append(time.perf_counter() - start)
    return times


def peak_bytes(step: Callable[[], None]) -> int:
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated()


def kept(run: Run, spec: JobSpec, batch: Batch, *, recompute: bool) -> int:
    with kept_bytes(run.model.parameters()) as count, autocast(spec, run.device):
        answer_states(run.model, run.future_seed, batch, recompute=recompute)
    return count()


def phases_of(name: str, device: str = "cpu") -> Phases:
    """The step of a shape, with as many threads as a job of its width has."""
    layers, dim, vocab, size, prompt, answer = SHAPES[name]
    spec = job(layers, dim, vocab, size, "bfloat16" if device == "cuda" else "float32")
    weights = random_state_dict(ModelShape.random(layers, dim, vocab), 0)
    run = start_run(spec, RWKV7.from_state_dict(weights, device=device))
    torch.set_num_threads(1 if dim < ONE_THREAD_BELOW else os.cpu_count() or 1)
    return Phases(run, spec, examples(vocab, size, prompt, answer))


def measure(name: str, device: str, repeat: int) -> dict[str, Any]:
    layers, dim, _, size, prompt, answer = SHAPES[name]
    real = phases_of(name, device)
    run, spec, batch = real.run, real.spec, real.examples
    phases = {"step": real, "bound": Phases(run, spec, batch)}
    if device == "cuda":
        phases["recomputed"] = Phases(run, spec, batch, recompute=True)
    times = step_times(phases, repeat)
    total = sum(real.seconds.values())
    made = Batch.of(batch, run.device)
    found = {
        "layers, width, batch, tokens": [layers, dim, size, prompt + answer],
        "kernel": default_backend(device),
        "threads": torch.get_num_threads(),
        "milliseconds": {kind: round(1000 * median(seconds), 2) for kind, seconds in times.items()},
        "times the bound": round(median(map(truediv, times["step"], times["bound"])), 3),
        "tokens per second": round(size * (prompt + answer) / median(times["step"])),
        "percent of the step by part": {
            part: round(100 * value / total, 1) for part, value in real.seconds.items()
        },
        "percent of the profiled time by kind": shares(real.step, device),
        "MiB kept for the backward pass": {
            how: round(kept(run, spec, made, recompute=recompute) / 2**20, 2)
            for how, recompute in (("plain", False), ("recomputed", True))
        },
    }
    if device == "cuda":
        found["MiB that a step takes at most"] = {
            name: round(peak_bytes(phases[name].step) / 2**20) for name in ("step", "recomputed")
        }
    return found


def main() -> None:
    as_in_training()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--device", choices=ON, default="cpu")
    parser.add_argument("--shape", choices=SHAPES, nargs="*")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    device = arguments.device
    found: dict[str, Any] = {
        "machine": machine(torch=torch.__version__),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    }
    for name in arguments.shape or ON[device]:
        found[name] = measure(name, device, arguments.repeat)
        print(json.dumps({name: found[name]}, indent=1), flush=True)
    if output := arguments.output or (None if arguments.shape else RESULTS[device]):
        output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
